"""Training through the one loop: every member learns, resumes to the same bits and leaves a model folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latens.data.source import Source
from latens.errors import UsageError
from latens.hub import load_model
from latens.settings import SettingsError, override
from latens.systems.parts.build import build
from latens.systems.parts.recipes import tiny
from latens.systems.parts.variants import EVERY, Member, Variant, plain
from latens.training.run import RunResult, train

SHORT = {"run.steps": "4", "run.validate_every": "2", "run.checkpoint_every": "2", "run.log_every": "1", "data.batch": "4"}


def run(folder: Path, data: Path, changes: dict[str, str], variant: Variant = plain, **options: Any) -> RunResult:
    config = variant(override(tiny(), changes))
    return train(build, config, [Source("", str(data))], folder, device="cpu", **options)


def test_tiny_training_lowers_its_loss_and_reports_parts(labelled: Path, tmp_path: Path) -> None:
    found = run(tmp_path / "run", labelled, {})
    assert (found.ended, found.step) == ("finished", 40)
    lines = [json.loads(line) for line in (found.folder / "metrics.jsonl").read_text().splitlines()]
    scores = [line for line in lines if line["kind"] == "validation"]
    assert scores[1]["loss"] < scores[0]["loss"]
    assert {"psnr", "active_parts", "parts_per_cell", "kl_occ", "kl_app"} <= set(scores[0])
    assert list((found.folder / "samples").glob("reconstructions-*.png"))
    saved = load_model(found.folder / "best")
    assert (saved.config["system"], saved.config["model"]["kind"]) == ("parts", "patchvae")


@pytest.mark.parametrize("name", [name for name in EVERY if name != "random"])
def test_every_variant_trains(name: Member, labelled: Path, tmp_path: Path) -> None:
    changes = {**SHORT, "run.steps": "2", "run.precision": "bf16"}
    found = run(tmp_path / "run", labelled, changes, EVERY[name])
    saved = load_model(found.folder / "best")
    assert not any(key.startswith(("discriminator", "generator")) for key in saved.weights)
    assert saved.config["model"]["classes"] == (2 if name == "supervised" else 0)
    assert all(np.isfinite(value) for value in saved.config["scores"].values())


@pytest.mark.parametrize("extra", [{}, {"objective.adversarial": "10.0"}], ids=["plain", "adversarial"])
def test_resuming_gives_the_same_weights(extra: dict[str, str], labelled: Path, tmp_path: Path) -> None:
    settings = {**SHORT, **extra}
    whole, parts = run(tmp_path / "whole", labelled, settings), tmp_path / "parts"
    assert run(parts, labelled, settings, max_time=0.0).ended == "time"
    run(parts, labelled, settings, resume=True)
    assert newest(parts) == newest(whole.folder)


def newest(run: Path) -> str:
    last = sorted(run.glob("checkpoints/step-*"))[-1]
    return hashlib.sha256((last / "model.safetensors").read_bytes()).hexdigest()


def test_bad_requests_are_refused(labelled: Path) -> None:
    with pytest.raises(UsageError, match="learned from images"):
        build(tiny(), [])
    with pytest.raises(UsageError, match="needs labels"):
        build(override(tiny(), {"model.kind": "supervised"}), [Source("", str(labelled / "a"))])
    odd = (
        ("data.batch", "1"),
        ("data.smallest_crop", "0"),
        ("model.size", "20"),
        ("objective.prior", "1.5"),
        ("objective.prior", "-0.5"),
        ("objective.masked", "1.0"),
        ("objective.annealing.floor", "0.0"),
        ("objective.beta_occ", "-1.0"),
        ("objective.beta_app", "NaN"),
    )
    for name, value in odd:
        with pytest.raises(SettingsError, match=name.partition(".")[2]):
            override(tiny(), {name: value})
