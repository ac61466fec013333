"""The painter's algorithm, derived numbers, and the two forms of a scene."""

from __future__ import annotations

import numpy as np
import pytest

from latens.data.instances import check_classes, paint, scene_of
from latens.errors import InputError


def two_squares() -> np.ndarray:
    masks = np.zeros((2, 6, 8), dtype=bool)
    masks[0, 1:5, 1:5] = True
    masks[1, 1:5, 3:7] = True
    return masks


def test_painters_algorithm() -> None:
    layers = paint(two_squares(), np.array([5, 2]))
    assert layers.layer.tolist() == [1, 0]
    assert layers.visible.sum((1, 2)).tolist() == [8, 16]
    assert layers.hidden_fraction().tolist() == [0.5, 0.0]
    assert np.array_equal(layers.occlusion, layers.amodal.all(0))


def test_both_forms_are_equivalent() -> None:
    layers = paint(two_squares(), np.array([0, 1]), np.array([1, 0]))
    scene = scene_of(layers, "a.png", [0.5, 0.25])
    back = scene.layers()
    assert all(np.array_equal(a, b) for a, b in zip(back, layers, strict=True))
    assert [instance.score for instance in scene.instances] == [0.5, 0.25]
    assert [instance.hidden_fraction for instance in scene.instances] == [0.0, 0.5]
    assert scene.instances[1].box == (3.0, 1.0, 4.0, 4.0)
    assert scene_of(paint(np.zeros((0, 4, 5), dtype=bool), np.zeros(0))).layers().amodal.shape == (0, 4, 5)


def test_classes_must_be_equal() -> None:
    check_classes(["a", "b"], ["a", "b"], "x.json")
    with pytest.raises(InputError, match=r"x\.json"):
        check_classes(["a", "b"], ["b", "a"], "x.json")
