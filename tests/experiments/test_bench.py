"""Cases are timed in turns, with one call that does not count."""

from __future__ import annotations

import json
import time

import pytest
import torch

from latens.errors import UsageError
from latens.experiments.bench import Case, bench


def test_cases_take_turns_and_the_first_call_does_not_count() -> None:
    order: list[str] = []

    def slow_at_first() -> None:
        order.append("a")
        time.sleep(0.3 if len(order) == 1 else 0.01)

    cases = [Case("a", slow_at_first, 2.0, "Mpx"), Case("b", lambda: order.append("b"))]
    report = bench(cases, "toy", torch.device("cpu"), repeats=3)
    assert order == ["a", "b"] * 4
    timing = report.timings[0]
    assert 0.01 <= timing.best <= timing.wall < 0.3
    assert timing.cpu < timing.wall  # it slept
    assert "Mpx/s" in report.table()
    assert json.loads(json.dumps(report.to_dict()))["timings"][1]["name"] == "b"
    assert report.peak_memory > 1e6


def test_no_repeat_is_refused() -> None:
    with pytest.raises(UsageError):
        bench([], "toy", torch.device("cpu"), repeats=0)
