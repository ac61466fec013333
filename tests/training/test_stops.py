"""Whatever ends a run, its best weights are exported, and its steps can be continued; otherwise it is an error."""

from __future__ import annotations

import math
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from latens.catalogue import recipe_of
from latens.contract import open_system
from latens.data.source import parse_sources
from latens.errors import Diverged, UnreadableInput
from latens.settings import override
from latens.systems.image_codec.dataset import CropData
from latens.training.checkpoint import load_latest
from latens.training.loop import Loop, stop_requests
from latens.training.objective import Step
from latens.training.run import RunResult, train

SHORT = {"run.steps": "4", "run.checkpoint_every": "100", "run.validate_every": "100", "run.log_every": "1", "data.batch": "1"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index in range(2):
        Image.fromarray(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return folder


def start(photos: Path, folder: Path, changes: dict[str, str] | None = None, **more: Any) -> RunResult:
    config = override(recipe_of("image_codec", "tiny"), {**SHORT, **(changes or {})})
    return train(open_system("image_codec").build, config, parse_sources([photos]), folder, device="cpu", **more)


def step_of(run: Path) -> int:
    found = load_latest(run / "checkpoints")
    assert found is not None
    return found.step


def exported(run: Path) -> bool:
    return (run / "best" / "config.json").is_file()


def test_a_run_without_steps_left_exports_its_weights(photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A branch of a finished run, a finished run whose best weights were deleted, and zero steps."""
    start(photos, tmp_path / "run")
    assert start(photos, tmp_path / "branch", branch=tmp_path / "run").step == 4
    assert exported(tmp_path / "branch")
    assert "no steps are left" in caplog.text
    shutil.rmtree(tmp_path / "run" / "best")
    assert start(photos, tmp_path / "run", resume=True).ended == "finished"
    assert exported(tmp_path / "run")
    assert start(photos, tmp_path / "zero", {"run.steps": "0"}).step == 0
    assert exported(tmp_path / "zero")


@pytest.mark.parametrize("part", ["batch", "validation"])
def test_data_that_become_unreadable(part: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of step 2 comes after validation and checkpoint; that of the held-out data after the checkpoint."""
    read = getattr(CropData, part)

    def failing(data: CropData, *step: int) -> Any:
        if step in ((), (2, 0)):
            raise UnreadableInput("the disk is gone", where="a.png")
        return read(data, *step)

    with monkeypatch.context() as patched:
        patched.setattr(CropData, part, failing)
        with pytest.raises(UnreadableInput):
            start(photos, tmp_path)
    assert step_of(tmp_path) == (2 if part == "batch" else 4)
    assert exported(tmp_path) == (part == "batch")
    assert start(photos, tmp_path, resume=True).ended == "finished"
    assert exported(tmp_path)


def test_a_run_that_diverges_exports_what_it_had(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Loop, "apply", lambda loop, update, factor: False)  # as after gradients that are not finite
    with pytest.raises(Diverged, match="consecutive steps"):
        start(photos, tmp_path, {"run.steps": "30"})
    assert exported(tmp_path)


def test_an_error_of_values_that_are_not_finite_is_no_internal_error(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sampling(loop: Loop, update: Step, factor: float) -> bool:
        raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")

    monkeypatch.setattr(Loop, "apply", sampling)
    with pytest.raises(Diverged, match="values are not finite in step 0"):
        start(photos, tmp_path)


@pytest.mark.parametrize("broken", ["weights", "loss"])
def test_a_run_without_a_finite_validation_is_an_error(
    broken: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Loop.train_step

    def damaging(loop: Loop, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
        numbers = step(loop, batch)
        if broken == "weights":
            for weight in loop.candidate().parameters():
                weight.data.fill_(math.nan)
        else:
            monkeypatch.setattr(loop.objective, "validate", lambda model, batches: {"loss": math.inf})
        return numbers

    monkeypatch.setattr(Loop, "train_step", damaging)
    with pytest.raises(Diverged, match="no validation loss was finite"):
        start(photos, tmp_path, max_time=0)
    assert step_of(tmp_path) == 1


def test_a_signal_before_the_first_step_ends_after_it(photos: Path, tmp_path: Path) -> None:
    """While the data are read, as in a large folder."""
    build = open_system("image_codec").build

    def slow(config: Any, sources: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return build(config, sources)

    config = override(recipe_of("image_codec", "tiny"), SHORT)
    with pytest.raises(KeyboardInterrupt):
        train(slow, config, parse_sources([photos]), tmp_path, device="cpu")
    assert step_of(tmp_path) == 1
    assert exported(tmp_path)


def test_a_run_that_is_killed_in_the_validation_after_a_signal_keeps_its_steps(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(loop: Loop, log: Any) -> None:
        raise SystemExit

    step = Loop.train_step

    def signalled(loop: Loop, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
        if loop.step == 1:
            signal.raise_signal(signal.SIGTERM)
        return step(loop, batch)

    monkeypatch.setattr(Loop, "validate", killed)
    monkeypatch.setattr(Loop, "train_step", signalled)
    with pytest.raises(SystemExit):
        start(photos, tmp_path)
    assert step_of(tmp_path) == 2


def test_two_signals_at_once_are_one_request() -> None:
    """`timeout` sends a process two; a later second one raises at once."""
    with stop_requests() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert len(stop) == 2


def test_a_closed_terminal_is_a_request_unless_it_is_ignored() -> None:
    """Under nohup, SIGHUP is ignored."""
    with stop_requests() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert len(stop) == 1
    earlier = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop
    finally:
        signal.signal(signal.SIGHUP, earlier)
