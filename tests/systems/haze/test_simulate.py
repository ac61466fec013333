"""Simulated streets: exact depth, reproducible and diverse scenes."""

from __future__ import annotations

import numpy as np
import pytest

from latens.systems.haze.simulator.render import GROUND, SKY, Box, trace
from latens.systems.haze.simulator.streets import street

SIZE = (48, 72)


def rays(height: int = 60, width: int = 80) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    directions = np.stack([(columns - width / 2) / width, (height / 2 - rows) / width, np.ones_like(rows)], -1)
    unit: np.ndarray = (directions / np.linalg.norm(directions, axis=-1, keepdims=True)).astype(np.float32)
    return unit


EYE = np.array([0.5, 1.5, 0], np.float32)


def test_points_lie_on_their_surfaces() -> None:
    boxes = [
        Box((-2, 0, 10), (2, 3, 12), (1, 1, 1)),
        Box((3, 0, 1), (4, 8, 30), (1, 1, 1)),
        Box((-6, 1, 15), (-3, 5, 18), (1, 1, 1), crown=True),
    ]
    directions = rays()
    distance, owner = trace(directions, EYE, boxes)
    points = EYE + directions * np.where(np.isfinite(distance), distance, 0)[..., None]
    assert set(np.unique(owner)) == {SKY, GROUND, 0, 1, 2}
    assert np.abs(points[owner == GROUND][:, 1]).max() < 1e-3
    assert np.isinf(distance[owner == SKY]).all()
    for index in (0, 1):
        low, high = np.array(boxes[index].low), np.array(boxes[index].high)
        on_box = points[owner == index]
        faces = np.minimum(np.abs(on_box - low), np.abs(on_box - high)).min(1)
        assert faces.max() < 1e-3
        assert ((on_box > low - 1e-3) & (on_box < high + 1e-3)).all()
    middle, radii = np.array([-4.5, 3, 16.5]), np.array([1.5, 2, 1.5])
    assert (((points[owner == 2] - middle) / radii) ** 2).sum(1) == pytest.approx(1, abs=1e-3)


def test_the_nearest_surface_is_independent_of_the_order() -> None:
    boxes = [Box((-2, 0, 10), (2, 3, 12), (1, 1, 1)), Box((-1, 0, 5), (1, 2, 6), (1, 1, 1))]
    first, _ = trace(rays(), EYE, boxes)
    second, _ = trace(rays(), EYE, boxes[::-1])
    assert np.array_equal(first, second)
    straight = first[30, 40] * rays()[30, 40, 2]
    assert straight == pytest.approx(5, abs=1e-4)


def test_scenes_are_reproducible() -> None:
    a, b, other = street(4, SIZE), street(4, SIZE), street(5, SIZE)
    assert np.array_equal(a.image, b.image)
    assert np.array_equal(a.depth, b.depth)
    assert not np.array_equal(a.image, other.image)
    assert a.image.shape == (*SIZE, 3)
    assert a.image.dtype == np.uint8


def test_scenes_look_like_streets() -> None:
    scenes = [street(seed, SIZE) for seed in range(8)]
    for scene in scenes:
        near = scene.depth[-4:]
        assert np.isfinite(near).all()  # the camera stands on the road
        assert near.max() < 30
        assert scene.depth.min() > 0.3
        assert scene.image.std() > 15
    assert sum(bool(np.isinf(scene.depth).any()) for scene in scenes) >= 5  # most contain sky
    assert len({scene.image.mean().round() for scene in scenes}) > 5  # different light
