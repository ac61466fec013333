"""Cases are timed in turns, with one call that does not count."""

from __future__ import annotations

import json
import os
import resource
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from latens.errors import StorageFull, UsageError
from latens.experiments.bench import Case, append_history, bench, check_history

CPU = torch.device("cpu")


def test_cases_take_turns_and_the_first_call_does_not_count() -> None:
    order: list[str] = []

    def slow_at_first() -> None:
        order.append("a")
        time.sleep(0.3 if len(order) == 1 else 0.01)

    cases = [Case("a", slow_at_first, 2.0, "Mpx"), Case("b", lambda: order.append("b"))]
    calls: list[tuple[int, str]] = []
    report = bench(cases, "toy", CPU, repeats=3, on_call=lambda done, name: calls.append((done, name)))
    assert order == ["a", "b"] * 4 == [name for _, name in calls]
    assert [done for done, _ in calls] == list(range(8))
    timing = report.timings[0]
    assert 0.01 <= timing.best <= timing.wall < 0.3
    assert timing.cpu < timing.wall  # it slept
    assert "Mpx/s" in report.table()
    assert json.loads(json.dumps(report.to_dict()))["timings"][1]["name"] == "b"
    assert report.peak_memory > 1e6


def test_memory_is_the_rise_during_the_first_call() -> None:
    kept = np.ones(2**22)  # 32 MiB that are resident before

    def fill() -> None:
        np.ones(2**23).sum()  # 64 MiB

    large, small = bench([Case("large", fill), Case("small", lambda: kept.sum())], "toy", CPU, repeats=1).timings
    if large.memory is None or small.memory is None:
        pytest.skip("this kernel does not tell the peak")
    assert 60e6 < large.memory < 100e6
    assert small.memory < 8e6


def test_a_history_grows_by_a_line_each_time(tmp_path: Path) -> None:
    path = tmp_path / "new" / "history.jsonl"
    report = bench([Case("a", lambda: None, bits=0.5, peer=True)], "toy", CPU, repeats=1)
    assert "a *" in report.table()
    assert "0.500" in report.table()
    for _ in range(2):
        check_history(path)
        append_history(path, "toy", report, version="1")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["system"] for line in lines] == ["toy", "toy"]
    assert lines[0]["machine"]["cores"] >= 1
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="no history"):
        check_history(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.fixture
def line_of_a_history(tmp_path: Path) -> bytes:
    check_history(tmp_path / "first.jsonl")
    append_history(tmp_path / "first.jsonl", "toy", bench([Case("a", lambda: None)], "toy", CPU, repeats=1), version="1")
    return (tmp_path / "first.jsonl").read_bytes()


def test_histories_that_cannot_be_continued_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # reading it would wait forever
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "missing" / "file")
    places = [tmp_path / name for name in ("pipe", "folder", "link")]
    for path in (*places, Path("/dev/zero"), Path("-")):  # a device may have no end
        with pytest.raises(UsageError, match="no history"):
            check_history(path)


def test_a_history_without_a_last_line_end_is_continued(tmp_path: Path, line_of_a_history: bytes) -> None:
    path = tmp_path / "edited.jsonl"
    path.write_bytes(line_of_a_history.rstrip(b"\n"))
    check_history(path)
    append_history(path, "toy", bench([Case("a", lambda: None)], "toy", CPU, repeats=1), version="2")
    assert [json.loads(line)["latens"] for line in path.read_text().splitlines()] == ["1", "2"]


def test_a_full_disk_leaves_a_history_as_it_was(tmp_path: Path, line_of_a_history: bytes) -> None:
    path = tmp_path / "full.jsonl"
    path.write_bytes(line_of_a_history)
    report = bench([Case("a", lambda: None)], "toy", CPU, repeats=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(line_of_a_history) + 20, hard))  # a part of the line fits
    try:
        with pytest.raises(StorageFull):
            append_history(path, "toy", report, version="2")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == line_of_a_history


def test_no_repeat_is_refused() -> None:
    with pytest.raises(UsageError):
        bench([], "toy", CPU, repeats=0)
