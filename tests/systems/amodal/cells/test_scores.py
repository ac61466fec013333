"""Comparison of label maps against brute force, the fit of the scores, and short training runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from latens.data.instances import Placed
from latens.data.source import Source
from latens.errors import UsageError
from latens.settings import SettingsError, override
from latens.systems.amodal.cells.baseline import otsu_watershed, three_classes
from latens.systems.amodal.cells.calibrate import Judged, chosen_fit, logistic, recognizer, right_objects
from latens.systems.amodal.cells.fields import field_image
from latens.systems.amodal.cells.measure import calibration_error, compare, overlap_table, quality_of
from latens.systems.amodal.cells.network import StarNet
from latens.systems.amodal.cells.scores import Fit
from latens.systems.amodal.cells.training import quality_on
from latens.systems.amodal.recipes import cells_tiny, tiny
from latens.systems.amodal.system import build


def squares(*corners: tuple[int, int], side: int = 10) -> np.ndarray:
    labels = np.zeros((60, 60), dtype=np.int32)
    for number, (y, x) in enumerate(corners, start=1):
        labels[y : y + side, x : x + side] = number
    return labels


def test_intersections_equal_those_of_masks() -> None:
    rng = np.random.default_rng(0)
    true, found = rng.integers(0, 5, (30, 30)), rng.integers(0, 4, (30, 30))
    table = overlap_table(true, found)
    for i in range(4):
        for j in range(3):
            a, b = true == i + 1, found == j + 1
            assert table[i, j] == pytest.approx((a & b).sum() / (a | b).sum())


def test_counts_and_ap() -> None:
    true = squares((0, 0), (20, 20), (40, 40))
    found = squares((0, 0), (20, 23), (0, 40))  # exact; IoU 7 / 13 = .54; false
    counts = compare("a", true, found)
    assert counts.matched.tolist() == [2, *[1] * 9]
    quality = quality_of([counts])
    assert quality.f1_50 == pytest.approx(4 / 6)
    assert quality.ap == pytest.approx((2 / 4 + 9 * 1 / 5) / 10)
    assert (quality.images, quality.fields, quality.objects) == (1, 1, 3)
    with pytest.raises(ValueError, match="no images"):
        quality_of([])


def test_right_objects_are_unique() -> None:
    true = squares((10, 10))
    full = np.ones((10, 10), dtype=bool)
    placed = [Placed(10, 12, full, full), Placed(10, 10, full, full), Placed(40, 40, full, full)]
    assert right_objects(true, placed).tolist() == [False, True, False]  # the second has the larger IoU


def test_calibration_error_of_known_scores() -> None:
    scores = np.array([0.85] * 100 + [0.25] * 100)
    right = np.array([1] * 85 + [0] * 15 + [1] * 45 + [0] * 55)
    assert calibration_error(scores, right) == pytest.approx(0.1)


def test_fitted_scores_are_probabilities() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4000, 4))
    chance = 1 / (1 + np.exp(-(features @ [1.0, -0.5, 0.3, 0.0] + 0.4)))
    right = rng.random(4000) < chance
    fit = Fit({"fluorescent": logistic(features, right)})
    assert np.abs(fit.scores(features, "fluorescent") - chance).mean() < 0.03
    assert Fit.from_dict(fit.to_dict()) == fit
    plain = Fit().scores(np.array([[0.0, 1, 1, 1]]), "stained")
    assert plain.tolist() == [0.5]


def test_the_recognizer_keeps_known_images() -> None:
    rng = np.random.default_rng(0)
    known, unknown = rng.normal(2, 1, (200, 7)), rng.normal(-2, 1, (50, 7))
    fit = Fit(image=recognizer(known, unknown))
    assert sum(fit.known(each) >= 0.5 for each in known) >= 0.96 * 200
    assert sum(fit.known(each) >= 0.5 for each in unknown) <= 1
    mixed = Fit(image=recognizer(known, rng.normal(1.5, 1, (400, 7))))  # known images count as much as the more frequent others
    assert sum(mixed.known(each) >= 0.5 for each in known) >= 0.96 * 200
    assert Fit().known(known[0]) == 1


def test_a_fit_of_earlier_versions_only_warns() -> None:
    fit = Fit(image=(-1.0, 1.0, 0.0, 0.0, 0.0, 0.0))
    assert fit.decides
    assert [fit.known(np.array([first, *[9.0] * 6])) for first in (0.9, 1.1)] == [0, 1]
    assert not Fit(image=(0.0,) * 8).decides


def judged(rng: np.random.Generator, field: str, weights: list[float], count: int) -> Judged:
    """Objects of a field that are right with a probability of these log odds; the last feature is a trap of the field."""
    features = rng.normal(size=(count, 4))
    features[:, 3] = rng.normal()
    chance = 1 / (1 + np.exp(-(features @ np.array(weights))))
    return Judged(field, features, rng.random(count) < chance)


def test_the_fit_leaves_out_features_that_do_not_carry_over_to_other_fields() -> None:
    """Each field has a value of the last feature and a share of right objects of its own, without a relation of the two."""
    rng = np.random.default_rng(3)
    found = []
    for number in range(6):
        one = judged(rng, str(number), [2.0, 1.0, 0.0, 0.0], 300)
        found.append(one._replace(right=one.right & (rng.random(300) < 0.5 + 0.5 * rng.random())))
    weights = chosen_fit(found)
    assert len(weights) == 5
    assert weights[4] == 0
    assert weights[1] > 1
    everything = [each._replace(right=np.ones(300, dtype=bool)) for each in found]
    sure = Fit({"stained": chosen_fit(everything)}).scores(found[0].features, "stained")
    assert (sure > 0.99).all()


def test_the_baseline_separates_two_nuclei() -> None:
    y, x = np.mgrid[0:60, 0:80]
    inside = ((y - 30) ** 2 + (x - 28) ** 2 < 144) | ((y - 30) ** 2 + (x - 50) ** 2 < 144)
    light = np.where(inside, 200, 20)[..., None].repeat(3, axis=2).astype(np.uint8)
    assert otsu_watershed(light, "fluorescent").max() == 2
    assert otsu_watershed(255 - light, "stained").max() == 2
    inner = np.where(inside, 255, 0).astype(np.uint8)
    contact = np.zeros_like(inner)
    contact[:, 38:41] = inner[:, 38:41]
    assert three_classes(inner, contact, (120, 160)).max() == 2
    assert otsu_watershed(np.zeros((20, 20, 3), dtype=np.uint8), "fluorescent").max() == 0


def test_settings_of_different_models_are_refused() -> None:
    with pytest.raises(SettingsError):
        override(tiny(), {"model.kind": "star"})
    with pytest.raises(UsageError, match="multiple of 64"):
        build(override(cells_tiny(), {"model.widths": "8,8,8,8,8,8", "data.crop": "32"}), [])
    with pytest.raises(UsageError, match="cannot be trained on"):
        build(cells_tiny(), [Source("nuclei", "x")])


def test_a_short_training_lowers_the_loss(tmp_path: Path) -> None:
    from latens.training.run import train

    config = override(cells_tiny(), {"run.steps": "30", "run.validate_every": "15", "optim.lr": "0.003"})
    result = train(build, config, [], tmp_path / "run", device="cpu")
    assert result.best is not None
    from latens.systems.amodal.predict import load

    first = build(config, [])
    batches = first.data.validation()
    with torch.no_grad():
        start = first.objective.validate(first.model.eval(), batches)["loss"]
    assert result.best < start
    assert load(tmp_path / "run" / "best", device="cpu").classes == ("nucleus",)


def test_validation_counts_objects_on_held_out_images() -> None:
    """An untrained network finds no square of three fields of a kind, and F1 is that of the label maps."""
    config = cells_tiny()
    model = StarNet(config.model).eval()
    with torch.no_grad():
        model.out.weight.zero_()  # the same everywhere: no object has a peak
        next(p for name, p in model.named_parameters() if name == "out.bias").fill_(-20)
    image = field_image(
        "a", "a", np.where(squares((5, 5))[..., None] > 0, 200, 10).repeat(3, axis=2).astype(np.uint8), squares((5, 5))
    )
    assert quality_on(model, [image], []) == {"fluorescent_f1": 0.0, "fluorescent_ap": 0.0}
    assert quality_on(model, [], [image.pixels]) == {"false_objects": 0.0}
