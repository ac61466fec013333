"""Training through the one loop: every member learns, resumes to the same bits and leaves a model folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from latens.errors import UsageError
from latens.hub import load_model
from latens.systems.parts.variants import EVERY
from latens.training.run import train

SHORT = {"run.steps": "4", "run.validate_every": "2", "run.checkpoint_every": "2", "run.log_every": "1", "data.batch": "4"}


def test_tiny_training_lowers_its_loss_and_reports_parts(labelled: Path, tmp_path: Path) -> None:
    found = train("parts", recipe="tiny", data=[labelled], run_dir=tmp_path / "run", overrides={}, device="cpu")
    assert (found.ended, found.step) == ("finished", 40)
    lines = [json.loads(line) for line in (found.folder / "metrics.jsonl").read_text().splitlines()]
    scores = [line for line in lines if line["kind"] == "validation"]
    assert scores[1]["loss"] < scores[0]["loss"]
    assert {"psnr", "active_parts", "parts_per_cell", "kl_occ", "kl_app"} <= set(scores[0])
    assert list((found.folder / "samples").glob("reconstructions-*.png"))
    saved = load_model(found.folder / "best")
    assert (saved.config["system"], saved.config["model"]["kind"]) == ("parts", "patchvae")


@pytest.mark.parametrize("name", [name for name in EVERY if name != "random"])
def test_every_variant_trains_by_settings_alone(name: str, labelled: Path, tmp_path: Path) -> None:
    overrides = {**SHORT, **EVERY[name], "run.steps": "2", "run.precision": "bf16"}
    found = train("parts", recipe="tiny", data=[labelled], run_dir=tmp_path / "run", overrides=overrides, device="cpu")
    saved = load_model(found.folder / "best")
    assert not any(key.startswith(("judge", "generator")) for key in saved.weights)
    assert saved.config["model"]["classes"] == (2 if name == "supervised" else 0)
    assert all(np.isfinite(value) for value in saved.config["scores"].values())


@pytest.mark.parametrize("extra", [{}, {"objective.adversarial": "10.0"}], ids=["plain", "adversarial"])
def test_resuming_gives_the_same_weights(extra: dict[str, str], labelled: Path, tmp_path: Path) -> None:
    settings = {**SHORT, **extra}
    whole = train("parts", recipe="tiny", data=[labelled], run_dir=tmp_path / "whole", overrides=settings, device="cpu")
    parts = tmp_path / "parts"
    ended = train("parts", recipe="tiny", data=[labelled], run_dir=parts, overrides=settings, device="cpu", max_time=0.0)
    assert ended.ended == "time"
    train("parts", recipe="tiny", data=[labelled], run_dir=parts, overrides=settings, device="cpu", resume=True)
    assert newest(parts) == newest(whole.folder)


def newest(run: Path) -> str:
    last = sorted(run.glob("checkpoints/step-*"))[-1]
    return hashlib.sha256((last / "model.safetensors").read_bytes()).hexdigest()


def test_bad_requests_are_refused(labelled: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="learned from pictures"):
        train("parts", recipe="tiny", data=[], run_dir=tmp_path / "a", overrides={}, device="cpu")
    settings = {"model.kind": "supervised"}
    with pytest.raises(UsageError, match="needs labels"):
        train("parts", recipe="tiny", data=[labelled / "a"], run_dir=tmp_path / "b", overrides=settings, device="cpu")
    for settings in ({"data.batch": "1"}, {"data.smallest_crop": "0"}, {"model.size": "20"}):
        with pytest.raises(UsageError):
            train("parts", recipe="tiny", data=[labelled], run_dir=tmp_path / "c", overrides=settings, device="cpu")
    odd = (
        ("prior", "1.5"),
        ("prior", "-0.5"),
        ("masked", "1.0"),
        ("annealing.floor", "0.0"),
        ("beta_occ", "-1.0"),
        ("beta_app", "NaN"),
    )
    for name, value in odd:
        settings = {f"objective.{name}": value}
        with pytest.raises(UsageError, match=f"objective.{name}"):
            train("parts", recipe="tiny", data=[labelled], run_dir=tmp_path / "c", overrides=settings, device="cpu")
