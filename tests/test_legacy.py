"""Settings of earlier versions are converted to current names; new ones are unchanged."""

from __future__ import annotations

from typing import Any

import pytest

from latens import legacy
from latens.catalogue import MODELS, ModelEntry, recipe_of
from latens.hub import load_model
from latens.legacy import dropped, renamed, upgrade_model, upgrade_run
from latens.settings import to_dict


def changed(plain: dict[str, Any], *changes: Any) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(legacy, "CHANGES", {"toy": changes})
        return upgrade_model({"system": "toy", **plain})


def test_a_setting_is_renamed_moved_dropped_or_reworded() -> None:
    old = {"model": {"work": 240, "kind": "old", "judge": {"scales": 3}}}
    assert changed(old, renamed("model.work", "model.short_side"))["model"]["short_side"] == 240
    moved = changed(old, renamed("model.judge.scales", "loss.scales"))
    assert moved["loss"] == {"scales": 3}
    assert "scales" not in moved["model"]["judge"]
    assert "judge" not in changed(old, dropped("model.judge"))["model"]
    assert "judge" in changed(old, dropped("model.judge", when=lambda plain: plain["model"]["kind"] == "new"))["model"]
    assert old["model"]["work"] == 240  # the original is left alone


def test_absent_settings_stay_absent() -> None:
    plain = {"model": {}, "flat": 3}
    changes = [renamed("a.b", "a.c"), dropped("flat.x"), renamed("model.x", "model.y")]
    assert changed(plain, *changes) == {"system": "toy", **plain}


def test_one_class_of_optimizer_settings_became_three() -> None:
    common = {"lr": 1e-3, "warmup": 5}
    assert upgrade_run({"optim": {**common, "beta1": 0.5, "muon_lr": 0.0}})["optim"] == {**common, "beta1": 0.5, "kind": "adam"}
    assert upgrade_run({"optim": {**common, "beta1": 0.9, "muon_lr": 2e-3}})["optim"] == {
        **common,
        "muon_lr": 2e-3,
        "kind": "muon",
    }
    assert upgrade_run({"recipe": "desk_mmd"})["recipe"] == "cpu_mmd"


@pytest.mark.parametrize("entry", MODELS.values(), ids=lambda entry: entry.name)
def test_upgrading_twice_changes_nothing(entry: ModelEntry) -> None:
    once = load_model(entry.folder).config
    assert upgrade_model(once) == once


@pytest.mark.parametrize(("share", "shrink"), [(0.5, 2.0), (0.0, 1.0), (0.7, None)])
def test_shrinking_has_one_setting(share: float, shrink: float | None) -> None:
    saved = {**to_dict(recipe_of("image_codec", "cpu")), "system": "image_codec"}
    saved["data"] |= {"shrink": 2.0, "shrink_share": share}
    upgraded = upgrade_run(saved)["data"]
    assert (upgraded.get("shrink_share"), upgraded["shrink"]) == ((None, shrink) if shrink else (share, 2.0))


def test_image_codecs_without_a_kind_are_hyperpriors() -> None:
    saved = {"system": "image_codec", "model": {"hidden": 8}}
    assert upgrade_model(saved)["model"] == {"hidden": 8, "kind": "hyperprior"}
    assert upgrade_model({"system": "image_codec", "model": {"kind": "context"}})["model"] == {"kind": "context"}
