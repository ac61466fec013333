"""Training of every row of Table 1; invalid settings; run folders of earlier versions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from latens.data.source import Source
from latens.errors import UsageError
from latens.hub import load_model
from latens.legacy import upgrade_run
from latens.settings import SettingsError, decode_like, override
from latens.systems.parts.recipes import RECIPES, TABLE_1_ROWS, PartsTraining, Row, cpu, tiny
from latens.systems.parts.system import build
from latens.training.run import train


def short(config: PartsTraining) -> PartsTraining:
    run = replace(config.run, steps=2, validate_every=2, checkpoint_every=2, log_every=1, precision="bf16")
    return replace(config, run=run, data=replace(config.data, batch=4))


@pytest.mark.parametrize("name", [name for name in TABLE_1_ROWS if name != "random"])
def test_every_row_trains(name: Row, labeled_source: Source, tmp_path: Path) -> None:
    found = train(build, TABLE_1_ROWS[name](short(tiny())), [labeled_source], tmp_path / "run", device="cpu")
    saved = load_model(found.folder / "best")
    assert not any(key.startswith(("judge", "generator", "projector")) for key in saved.weights)
    assert saved.config["model"].get("classes") == (2 if name == "supervised" else None)
    assert all(np.isfinite(value) for value in saved.config["scores"].values())
    assert list((found.folder / "samples").glob("*.png"))


def test_row_names_match_the_type() -> None:
    assert get_args(Row) == tuple(TABLE_1_ROWS)


def test_unusable_data_are_refused(labeled: Path, labeled_source: Source) -> None:
    with pytest.raises(UsageError, match="training needs images"):
        build(tiny(), [])
    supervised = TABLE_1_ROWS["supervised"](tiny())
    with pytest.raises(UsageError, match="needs labels"):
        build(supervised, [Source("", str(labeled / "a"))])
    with pytest.raises(UsageError, match="the data have 2 classes"):
        build(override(supervised, {"model.classes": "3"}), [labeled_source])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.kind": "bigan"}, "objective.kind"),
        ({"model.size": "20"}, "--set model: size 20 is not a multiple of 8"),
        ({"model.encoder": "resnet", "model.blocks": "4", "model.size": "48"}, "multiple of 32"),
        ({"model.encoder": "resnet", "model.blocks": "5"}, "model.blocks"),
        ({"model.blocks": "3"}, "blocks 3 has no effect with the local encoder"),
        ({"model.parts": "1"}, "model.parts"),
        ({"model.kind": "mae", "objective.kind": "mae", "model.parts": "5"}, "no setting 'model.parts'"),
        ({"objective.masked": "0.5"}, "no setting 'objective.masked'"),
        ({"objective.prior": "1.5"}, "objective.prior"),
        ({"objective.beta_occ": "-1"}, "objective.beta_occ"),
        ({"objective.beta_app": "NaN"}, "objective.beta_app"),
        ({"objective.annealing.floor": "2"}, "floor 2 is above start 1"),
        ({"model.categorical": "true", "objective.prior": "0.1"}, "objective.prior has no effect"),
        ({"objective.iic_weight": "1"}, "one part per cell"),
        ({"objective.iic_weight": "1", "model.categorical": "true"}, "no cell to compare"),
        ({"objective.adversarial": "1", "objective.contrastive_weight": "1"}, "cannot be used together"),
        ({"data.smallest_crop": "0"}, "data.smallest_crop"),
    ],
)
def test_invalid_settings_are_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        override(tiny(), changes)


def test_settings_that_kinds_share_are_kept() -> None:
    found = override(tiny(), {"model.kind": "betavae", "objective.kind": "betavae", "model.appearance": "5"})
    assert (found.model.kind, found.model.size, getattr(found.model, "appearance", None)) == ("betavae", 16, 5)


@pytest.mark.parametrize("name", RECIPES)
def test_settings_of_earlier_runs_load(name: str) -> None:
    """Earlier versions had one class of model settings and one of losses, with other names."""
    everything = {"adversarial": 0.0, "agreement": 0.2, "constancy": 0.1, "penalty": 1.0, "masked": 0.6, "prior": 0.0}
    old = {
        "system": "parts",
        "recipe": "desk",
        "model": {"kind": "patchvae", "size": 64, "encoder": "local", "blocks": 2, "parts": 8, "appearance": 3}
        | {"categorical": True, "classes": 0},
        "data": {"batch": 8, "validation_most": 9},
        "objective": {"beta_app": 0.1, "beta_occ": 0.2, "weighted": True, **everything, "annealing": {"rate": 0.5}},
        "optim": {"lr": 1e-3},
        "run": {"steps": 7},
    }
    found = decode_like(RECIPES[name](), upgrade_run(old))
    assert (found.recipe, found.data.validation_limit) == ("cpu", 9)
    assert found.model.kind == found.objective.kind == "patchvae"
    assert (found.objective.contrastive_weight, found.objective.iic_weight) == (0.2, 0.1)
    old["model"]["kind"] = "mae"  # type: ignore[index]
    assert decode_like(cpu(), upgrade_run(old)).objective.masked == 0.6  # type: ignore[union-attr]
