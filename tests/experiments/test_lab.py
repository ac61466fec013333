"""The laboratory trains and measures once, finds results again, and shares work between processes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from latens.data.folders import claim
from latens.data.source import Source
from latens.experiments.journal import digest
from latens.experiments.lab import CLAIMS, JOURNAL, RUNS, WHAT, Claimed, ExperimentRunner
from latens.settings import Count, settings, to_dict
from latens.training.config import Adam, RunConfig, TrainConfig


@settings
class Scale:
    steps: Count = 3  # of training


def lab(folder: Path, *sources: str) -> ExperimentRunner[Path, Scale]:
    return ExperimentRunner(
        build=lambda config, given: pytest.fail("built"),
        open_model=lambda place: place or Path("bundled"),
        sources=[Source("", source) for source in sources],
        scale=Scale(),
        recipe="tiny",
        folder=folder,
        device="cpu",
    )


def config(**run: Any) -> TrainConfig[Scale, Scale, Scale]:
    return TrainConfig(
        system="toy", recipe="tiny", model=Scale(), data=Scale(), objective=Scale(), optim=Adam(), run=RunConfig(**run)
    )


def test_a_measurement_is_made_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def measure() -> list[float]:
        calls.append(1)
        return [1.5]

    key = {"config": config(), "probe": "linear"}
    assert lab(tmp_path).once(key, measure) == lab(tmp_path).once(key, measure) == [1.5]
    assert lab(tmp_path).once({**key, "probe": "knn"}, measure) == [1.5]
    assert lab(tmp_path).once({**key, "config": config(seed=1)}, measure) == [1.5]
    assert len(calls) == 3


def test_a_measurement_of_none_is_one_too(tmp_path: Path) -> None:
    assert lab(tmp_path).once({"a": 1}, lambda: None) is None
    assert lab(tmp_path).once({"a": 1}, lambda: pytest.fail("again")) is None


def test_a_new_setting_with_a_default_orphans_nothing(tmp_path: Path) -> None:
    key = {"config": config(seed=5)}
    lab(tmp_path).once(key, lambda: "old")
    journal = tmp_path / JOURNAL
    record = json.loads(journal.read_text())
    del record["key"]["config"]["run"]["keep"], record["key"]["config"]["model"]["steps"]  # as a version without them wrote
    journal.write_text(json.dumps(record) + "\n")
    assert lab(tmp_path).once(key, lambda: pytest.fail("again")) == "old"


def test_damaged_lines_are_skipped(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_text('{"key": {"a"\n[1]\n{"key": 3, "value": 1}\n{"key": {"a": 1}}\n')
    assert lab(tmp_path).once({"a": 1}, lambda: 7) == 7


def test_claimed_tasks_come_last(tmp_path: Path) -> None:
    ours, order = lab(tmp_path), []
    busy = tmp_path / CLAIMS / digest({"task": 0})

    def task(number: int) -> None:
        ours.once({"task": number}, lambda: order.append(number))

    held = claim(busy, wait=False)
    assert held.__enter__()

    def release() -> None:
        held.__exit__(None, None, None)

    ours.complete([lambda: task(0), lambda: task(1), release])
    assert order == [1, 0]


HOLDER = """
import sys, time
from pathlib import Path
from latens.data.folders import claim
with claim(Path(sys.argv[1]), wait=True):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_claim_ends_with_its_process(tmp_path: Path) -> None:
    folder = tmp_path / CLAIMS / digest({"task": 0})
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        ours = lab(tmp_path)
        ours.waits = False
        with pytest.raises(Claimed):
            ours.once({"task": 0}, lambda: pytest.fail("not ours"))
        process.kill()
    assert lab(tmp_path).once({"task": 0}, lambda: 1) == 1


def test_a_finished_run_is_found_by_everything_that_determines_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Path] = []

    def pretend(self: ExperimentRunner[Any, Any], folder: Path, what: dict[str, Any], *rest: Any) -> None:
        trained.append(folder)
        (folder / "best").mkdir()
        (folder / "done").touch()
        (folder / WHAT).write_text(json.dumps({**what, "config": to_dict(what["config"])}))

    monkeypatch.setattr(ExperimentRunner, "_train", pretend)
    first = lab(tmp_path, "photos").trained(config(), name="row")
    assert first.parent.parent == tmp_path / RUNS
    assert lab(tmp_path, "photos").trained(config(), name="other name") == first
    assert lab(tmp_path, "others").trained(config(), name="row") != first
    assert lab(tmp_path, "photos").trained(config(), name="row", identity=["more photos"]) != first
    assert lab(tmp_path, "photos").trained(replace(config(), run=RunConfig(seed=2)), name="row") != first
    assert len(trained) == 4


def test_the_users_model_is_loaded_when_it_is_asked_for(tmp_path: Path) -> None:
    assert lab(tmp_path).loaded == Path("bundled")
