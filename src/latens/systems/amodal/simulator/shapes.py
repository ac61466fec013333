"""Simulated occluded shapes with exact amodal masks: ellipses, polygons, superquadrics, stars, letters, cars.

Shapes are opaque or translucent. Some images contain a single object, so that a model does not learn to extend every object.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from latens.data.instances import Sample, paint
from latens.data.masks import window_of
from latens.systems.amodal.config import ShapesConfig

LETTERS = "ABCDEFGHJKLMNPRSTUVXYZ2345679&@"
SMALLEST = 40  # pixels; smaller masks are dropped


def shapes(rng: np.random.Generator, config: ShapesConfig) -> Sample:
    """One simulated image; layer 0 is in front. All objects are of one class."""
    size = config.size
    count = int(rng.integers(config.shapes[0], config.shapes[1] + 1))
    masks = [mask for mask in (_mask(rng, size) for _ in range(count)) if mask.sum() >= SMALLEST]
    if not masks:
        masks = [_fill(size, [_ellipse(size / 4) + size / 2])]
    amodal = np.stack(masks)  # painted in order: the last is in front
    layers = paint(amodal, np.arange(len(masks))[::-1])
    image = _ground(rng, size)
    for mask in masks:
        alpha = np.float32(1.0 if config.opaque else rng.uniform(0.2, 1.0))
        rows, columns = window_of(mask)
        inside = mask[rows, columns, None]
        color = _paintwork(rng, inside.shape[:2])
        under = image[rows, columns]
        image[rows, columns] = np.where(inside, under + alpha * (color - under), under)
        if rng.random() < 0.5:
            edge = mask[rows, columns] & ~_eroded(mask[rows, columns])
            image[rows, columns][edge] *= np.float32(rng.uniform(0.3, 0.8))
    return Sample(_camera(rng, image), layers)


# ---------------------------------------------------------------------------------------------------------- outlines


def _mask(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size) bool: one shape at random scale, aspect ratio, rotation and position."""
    radius = size * rng.uniform(0.08, 0.24)
    kind = rng.choice(["ellipse", "polygon", "superquadric", "star", "letter", "car"])
    if kind == "letter":
        return _letter(rng, size, radius)
    if kind == "ellipse":
        outlines = [_ellipse(radius)]
    elif kind == "polygon":
        outlines = [_polygon(radius, int(rng.integers(3, 9)), 1.0)]
    elif kind == "star":
        outlines = [_polygon(radius, 2 * int(rng.integers(4, 8)), rng.uniform(0.4, 0.75))]
    elif kind == "superquadric":
        outlines = [_superquadric(radius, rng.uniform(0.5, 5.0))]
    else:
        outlines = _car(rng, radius)
    stretch = np.array([rng.uniform(0.55, 1.0), 1.0])
    turn = rng.uniform(0, 2 * math.pi)
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    place = rng.uniform(0.15, 0.85, 2) * size
    return _fill(size, [(points * stretch) @ rotation.T + place for points in outlines])


def _fill(size: int, outlines: list[np.ndarray]) -> np.ndarray:
    image = Image.new("L", (size, size))
    draw = ImageDraw.Draw(image)
    for points in outlines:
        draw.polygon([(float(x), float(y)) for x, y in points], fill=1)
    return np.asarray(image, dtype=bool)


def _angles(count: int) -> np.ndarray:
    return np.arange(count) * (2 * math.pi / count)


def _ellipse(radius: float) -> np.ndarray:
    return _superquadric(radius, 2.0)


def _superquadric(radius: float, power: float) -> np.ndarray:
    """The curve |x|^power + |y|^power = radius^power."""
    cosine, sine = np.cos(_angles(72)), np.sin(_angles(72))
    unit = (np.abs(cosine) ** power + np.abs(sine) ** power) ** (-1 / power)
    return radius * unit[:, None] * np.stack((cosine, sine), axis=1)


def _polygon(radius: float, corners: int, inner: float) -> np.ndarray:
    """A regular polygon; for `inner` below 1 a star, whose every other corner is at `inner` times the radius."""
    angles = _angles(corners)
    radii = np.where(np.arange(corners) % 2, inner, 1.0) * radius
    return radii[:, None] * np.stack((np.cos(angles), np.sin(angles)), axis=1)


def _car(rng: np.random.Generator, radius: float) -> list[np.ndarray]:
    """Overlapping outlines of body, cabin and wheels of a car in side view."""
    long, high = radius, radius * rng.uniform(0.22, 0.35)
    body = np.array([(-long, 0), (-long, high), (long, high), (long, high * 0.3), (long * 0.9, 0)])
    front, back = rng.uniform(0.2, 0.6), rng.uniform(0.4, 0.9)
    cabin = np.array([(-back * long, 0), (-back * long * 0.7, -high), (front * long * 0.6, -high), (front * long, 0)])
    wheels = [_ellipse(high * 0.55) + np.array([place * long, high]) for place in (-0.55, 0.6)]
    return [body, cabin, *wheels]


def _letter(rng: np.random.Generator, size: int, radius: float) -> np.ndarray:
    font = ImageFont.load_default(size=max(10.0, radius * 2.4))
    image = Image.new("L", (size, size))
    place = rng.uniform(0.15, 0.85, 2) * size
    letter = LETTERS[rng.integers(len(LETTERS))]
    stroke = max(1.0, round(radius * 0.06))
    ImageDraw.Draw(image).text((place[0], place[1]), letter, fill=255, font=font, anchor="mm", stroke_width=stroke)
    turned = image.rotate(float(rng.uniform(-40, 40)), center=(place[0], place[1]))
    return np.asarray(turned) > 127


# ------------------------------------------------------------------------------------------------------------ colors


def _eroded(mask: np.ndarray) -> np.ndarray:
    inner = mask.copy()
    for axis in (0, 1):
        inner &= np.roll(mask, 1, axis) & np.roll(mask, -1, axis)
    return inner


def _paintwork(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """(h, w, 3) float32: one color with a linear gradient, sometimes with stripes or smooth noise."""
    height, width = shape
    color = rng.uniform(20, 235, 3).astype(np.float32)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    a, b = rng.normal(0, 0.12, 2).astype(np.float32)
    shade = 1 + a * x + b * y
    kind = rng.random()
    if kind < 0.25:
        pitch, turn = rng.uniform(4, 14), rng.uniform(0, math.pi)
        shade = shade + np.float32(0.2) * np.sin(pitch * (x * math.cos(turn) + y * math.sin(turn))).astype(np.float32)
    elif kind < 0.5:
        shade = shade + np.float32(0.2) * _blotches(rng, height, width, 6)
    return np.asarray(color * shade[..., None])


def _blotches(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """Smooth noise of about unit variance."""
    small = rng.standard_normal((cells, cells)).astype(np.float32)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def _ground(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size, 3) float32 background: a smooth random mixture of two colors."""
    first, second = rng.uniform(20, 235, (2, 3)).astype(np.float32)
    share = 0.5 + 0.25 * _blotches(rng, size, size, int(rng.integers(2, 12)))
    return np.asarray(first + (second - first) * share[..., None].astype(np.float32))


def _camera(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    size = canvas.shape[0]
    image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(size / 500 * rng.uniform(0.5, 1.2))), dtype=np.float32)
    noise = rng.standard_normal((size, size), dtype=np.float32)[..., None] * np.float32(rng.uniform(1, 8))
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)
