"""Settings of the amodal system: invalid values, rules between fields, configurations of earlier versions."""

from __future__ import annotations

import dataclasses
from typing import cast

import pytest

from latens.legacy import upgrade_run
from latens.settings import SettingsError, decode_like, override, to_dict
from latens.systems.amodal import experiments
from latens.systems.amodal.recipes import RECIPES, AmodalTraining, cpu, cpu_fcn


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("data.turns", "true", "no setting 'data.turns'"),
        ("model.size", "100", "multiple of 32"),
        ("model.size", "32", "greater than or equal to 64"),
        ("model.code.size", "7", "power of two"),
        ("model.code.size", "21", "power of two"),
        ("model.code.size", "30", "power of two"),
        ("model.head.resolution", "42", "power of two"),
        ("model.head.dense", "0", "fully connected"),
        ("model.detector.anchors", "8,16", "at least 5"),
        ("model.classes", "a,a", "must be distinct"),
        ("objective.code_steps", "-1", "greater than or equal to 0"),
    ],
)
def test_invalid_values_are_refused(name: str, value: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        override(cpu(), {name: value})


def test_rules_depend_on_the_variant() -> None:
    assert override(cpu_fcn(), {"model.head.dense": "0"}).model.head.dense == 0
    small = {"model.code.size": "20", "model.code.grid": "5"}
    assert override(cpu(), {**small, "model.head.refine": "false"}).model.code.halvings == 2
    with pytest.raises(SettingsError, match="multiple of 14"):
        override(cpu(), small)


@pytest.mark.parametrize("name", [name for name in RECIPES if not name.startswith("cells")])
def test_runs_saved_before_the_renaming_load(name: str) -> None:
    recipe = cast("AmodalTraining", RECIPES[name]())
    saved = to_dict(recipe)
    del saved["model"]["kind"]  # the system had one model
    saved["data"]["turns"] = saved["data"].pop("rotate") or True
    found = decode_like(recipe, upgrade_run(saved))
    assert found == dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, rotate=True))


def test_rows_of_a_scale_are_known_variants() -> None:
    scale = experiments.SCALES["tiny"]
    assert override(scale, {"rows": "vq,fcn-plain"}).rows == ("vq", "fcn-plain")
    for changes in ({"rows": "gan"}, {"seeds": "0"}, {"recipe": "desk"}):
        with pytest.raises(SettingsError):
            override(scale, changes)
