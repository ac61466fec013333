"""Procedural street scenes with exact depth: road, curbs, pavements, buildings, cars, trees, lamps, sky.

A scene is a list of shapes in meters (boxes along the street, ellipsoids for tree crowns) and a pinhole camera. Rays are
intersected with the shapes, so depth is exact. x is right, y is up, z is forward; the ground is y = 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from latens.systems.haze.simulator.render import (
    FAR,
    GROUND,
    Array,
    Box,
    Ground,
    Light,
    noise_table,
    paint_box,
    paint_ground,
    sky,
    trace,
)


class Street(NamedTuple):
    image: np.ndarray[Any, np.dtype[np.uint8]]  # (H, W, 3)
    depth: Array  # (H, W), meters along the ray; infinite in the sky


def street(seed: int, size: tuple[int, int] = (256, 384)) -> Street:
    """The street scene of a seed at (height, width); the same arguments give the same bytes on the same machine."""
    rng = np.random.default_rng([seed, 0x57])
    ground = _ground(rng)
    boxes = _buildings(rng, ground) + _cars(rng, ground) + _trees(rng, ground) + _lamps(rng, ground)
    light = _light(rng)
    rays = _rays(rng, size)
    eye = np.array([rng.uniform(-0.4, 0.4) * ground.half_road, rng.uniform(1.2, 2.4), 0.0], np.float32)
    distance, owner = trace(rays, eye, boxes)
    points = eye + rays * np.where(np.isfinite(distance), distance, 0)[..., None]
    color = sky(rays, light, rng)
    table = noise_table(rng)
    paint_ground(color, points, owner == GROUND, ground, boxes, light, table)
    for index in np.unique(owner[owner >= 0]):
        paint_box(color, points, owner == index, boxes[index], light, table, int(index))
    return Street(_develop(color, rng), distance.astype(np.float32))


# ------------------------------------------------------------------------------------------------------------- scene


def _ground(rng: np.random.Generator) -> Ground:
    verge = (0.2, 0.27, 0.12) if rng.random() < 0.5 else (0.45, 0.42, 0.38)
    return Ground(
        rng.uniform(3.2, 8), rng.uniform(1.5, 4), rng.uniform(0.14, 0.34), rng.uniform(0.6, 0.9), rng.uniform(2, 5), verge
    )


def _buildings(rng: np.random.Generator, ground: Ground) -> list[Box]:
    boxes: list[Box] = []
    for side in (-1, 1):
        z = rng.uniform(-5, 15)
        height = rng.uniform(6, 22)
        while z < FAR:
            length = rng.uniform(8, 30)
            if rng.random() < 0.85:
                near = (
                    ground.half_road + ground.pavement + rng.uniform(0, 3) + (rng.uniform(4, 15) if rng.random() < 0.2 else 0)
                )
                top = max(3.5, height * rng.uniform(0.6, 1.5))
                low_x, high_x = sorted((side * near, side * (near + rng.uniform(8, 20))))
                cells = (
                    (rng.uniform(1.8, 4), rng.uniform(2.7, 3.6), rng.uniform(0.25, 0.6)) if rng.random() < 0.92 else (0, 0, 0)
                )
                bright = rng.uniform(0.02, 0.3)
                glass = (bright, bright * rng.uniform(1, 1.2), bright * rng.uniform(1, 1.5))
                color = _wall(rng)
                boxes.append(Box((low_x, 0, z), (high_x, top, z + length), color, cells, glass, rng.uniform(0.05, 0.25)))
                if rng.random() < 0.4:  # a wider roof of another color
                    roof = (rng.uniform(0.2, 0.5), rng.uniform(0.15, 0.3), rng.uniform(0.1, 0.3))
                    boxes.append(
                        Box((low_x - 0.3, top, z - 0.3), (high_x + 0.3, top + rng.uniform(0.3, 1.5), z + length + 0.3), roof)
                    )
            z += length + (rng.uniform(0, 2) if rng.random() < 0.7 else rng.uniform(4, 25))
    if rng.random() < 0.3:  # a building across the end of the street
        z = rng.uniform(80, 300)
        boxes.append(Box((-60, 0, z), (60, rng.uniform(8, 35), z + 20), _wall(rng), (3, 3, 0.4)))
    return boxes


def _wall(rng: np.random.Generator) -> tuple[float, float, float]:
    """Color of plaster, brick, stone or concrete."""
    bright = rng.uniform(0.2, 0.8)
    tint = np.array([[1, 0.93, 0.8], [1, 0.6, 0.48], [0.95, 0.95, 0.9], [0.95, 1, 1.03], [1, 0.85, 0.6]])[rng.integers(5)]
    red, green, blue = np.clip(bright * tint * rng.uniform(0.92, 1.08, 3), 0.03, 0.95)
    return float(red), float(green), float(blue)


def _cars(rng: np.random.Generator, ground: Ground) -> list[Box]:
    boxes: list[Box] = []
    for _ in range(rng.integers(2, 14)):
        lane = rng.choice([-1, 1]) * (
            ground.half_road - 1.1 if rng.random() < 0.6 else rng.uniform(0.3, 0.6) * ground.half_road
        )
        boxes += _car(rng, float(lane), float(6 + 120 * rng.random() ** 1.5))
    return boxes


def _car(rng: np.random.Generator, x: float, z: float) -> list[Box]:
    tall = rng.random() < 0.2  # a van
    long, wide, high = rng.uniform(3.8, 5), rng.uniform(0.82, 0.95), rng.uniform(0.75, 0.95) + 0.8 * tall
    paint = rng.uniform(0.03, 0.9) * (np.ones(3) if rng.random() < 0.6 else rng.uniform(0.1, 1, 3))
    color = tuple(float(value) for value in np.clip(paint, 0.02, 0.95))
    glass = (0.05, 0.06, 0.07)
    body = Box((x - wide, 0.3, z), (x + wide, high, z + long), color, rough=0.03)  # type: ignore[arg-type]
    front, back = z + 0.15 * long, z + (0.95 if tall else 0.75) * long
    cabin = Box((x - 0.9 * wide, high, front), (x + 0.9 * wide, high + 0.55, back), glass, rough=0.05)
    roof = Box((x - 0.85 * wide, high + 0.55, front + 0.1), (x + 0.85 * wide, high + 0.62, back - 0.1), color, rough=0.03)  # type: ignore[arg-type]
    wheels = [
        Box((x + s * wide - 0.12, 0, z + p * long), (x + s * wide + 0.12, 0.62, z + p * long + 0.6), (0.03, 0.03, 0.03))
        for s in (-0.9, 0.9)
        for p in (0.12, 0.72)
    ]
    lamps = [
        Box((x + s * wide - 0.15, 0.6, z - 0.03), (x + s * wide + 0.15, 0.75, z + 0.05), (0.6, 0.03, 0.03), rough=0)
        for s in (-0.8, 0.8)
    ]
    return [body, cabin, roof, *wheels, *lamps]


def _trees(rng: np.random.Generator, ground: Ground) -> list[Box]:
    boxes: list[Box] = []
    if rng.random() < 0.3:
        return boxes
    for side in (-1, 1):
        z, spacing = rng.uniform(3, 20), rng.uniform(7, 25)
        while z < 160:
            if rng.random() < 0.7:
                x = side * (ground.half_road + rng.uniform(0.6, ground.pavement + 2))
                trunk, radius, tall = rng.uniform(1.8, 3.5), rng.uniform(1.2, 3), rng.uniform(1.5, 3.5)
                thick = rng.uniform(0.1, 0.25)
                green = (rng.uniform(0.08, 0.3), rng.uniform(0.16, 0.34), rng.uniform(0.03, 0.12))
                boxes.append(Box((x - thick, 0, z - thick), (x + thick, trunk + 1, z + thick), (0.2, 0.15, 0.11), rough=0.3))
                low, high = (x - radius, trunk, z - radius), (x + radius, trunk + 2 * tall, z + radius)
                boxes.append(Box(low, high, green, rough=0.7, crown=True))
            z += spacing * rng.uniform(0.6, 1.4)
    return boxes


def _lamps(rng: np.random.Generator, ground: Ground) -> list[Box]:
    boxes: list[Box] = []
    z, side = rng.uniform(5, 25), rng.choice([-1, 1])
    gray = rng.uniform(0.1, 0.5)
    while z < 150 and rng.random() < 0.95:
        x, top = side * (ground.half_road + 0.5), rng.uniform(4, 8)
        boxes.append(Box((x - 0.07, 0, z - 0.07), (x + 0.07, top, z + 0.07), (gray, gray, gray)))
        if rng.random() < 0.5:
            sign = [(0.05, 0.15, 0.5), (0.7, 0.08, 0.06), (0.8, 0.8, 0.75)][rng.integers(3)]
            boxes.append(Box((x - 0.35, 2.1, z - 0.12), (x + 0.35, 2.8, z - 0.08), sign))
        z += rng.uniform(12, 35)
        side = -side if rng.random() < 0.3 else side
    return boxes


def _light(rng: np.random.Generator) -> Light:
    overcast, height, around = rng.random(), rng.uniform(0.15, 1.2), rng.uniform(0, 2 * np.pi)
    direction = (float(np.cos(height) * np.sin(around)), float(np.sin(height)), float(np.cos(height) * np.cos(around)))
    warmth = np.array([1, 0.75 + 0.2 * np.sin(height), 0.5 + 0.45 * np.sin(height)])
    sun = (1 - overcast) * rng.uniform(0.6, 1.1) * warmth
    ambient = rng.uniform(0.35, 0.6) * np.array([0.95, 1.0, 1.0 + 0.12 * (1 - overcast)])
    gray = rng.uniform(0.55, 1.0)
    zenith = overcast * gray + (1 - overcast) * np.array([0.22, 0.4, 0.75]) * rng.uniform(0.7, 1.2)
    horizon = overcast * gray + (1 - overcast) * np.array([0.75, 0.83, 0.92])
    return Light(direction, *(tuple(map(float, v)) for v in (sun, ambient, zenith * np.ones(3), horizon * np.ones(3))))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------ camera


def _rays(rng: np.random.Generator, size: tuple[int, int]) -> Array:
    """Unit ray directions (H, W, 3) of a camera with small random yaw and pitch."""
    height, width = size
    focal = rng.uniform(0.7, 1.3) * width
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    horizon = height * rng.uniform(0.38, 0.6)
    middle = width * rng.uniform(0.3, 0.7)
    rays = np.stack([(columns - middle) / focal, (horizon - rows) / focal, np.ones_like(rows)], -1)
    unit: Array = (rays / np.linalg.norm(rays, axis=-1, keepdims=True)).astype(np.float32)
    return unit


def _develop(color: Array, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Exposure, white balance, sensor noise and gamma of a camera."""
    exposed = color * rng.uniform(0.75, 1.35) * rng.uniform(0.94, 1.06, 3)
    noisy = exposed + rng.normal(0, rng.uniform(0.001, 0.008), color.shape)
    softened = np.where(noisy > 0.8, 0.8 + 0.2 * np.tanh((noisy - 0.8) / 0.2), noisy)
    developed: np.ndarray[Any, np.dtype[np.uint8]] = np.rint(255 * np.clip(softened, 0, 1) ** (1 / 2.2)).astype(np.uint8)
    return developed
