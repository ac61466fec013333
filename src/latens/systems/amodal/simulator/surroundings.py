"""Embryos that fill a part of the image, among what lies around them in a dish: the wall of the well, bubbles, debris, and a
second embryo that the border cuts. Only the whole embryo is annotated.

Everything is drawn as a phase before the optics, with lengths relative to the side of the part that the embryo fills.
"""

from __future__ import annotations

import math

import numpy as np

from latens.data.instances import Layers, Sample
from latens.shapes import Float
from latens.systems.amodal.config import EmbryoConfig
from latens.systems.amodal.simulator.embryos import FOCAL_PLANES, body_of, camera, embryo_phase, modulation_contrast

SMALLEST_SHARE = 0.2  # of the side of the image
SECOND, WALL = 0.4, 0.6  # shares of images with a second embryo and with the wall of a well
BUBBLES, DEBRIS = 3, 14  # largest numbers
RIM = 16  # pixels drawn beyond the border: the optics are periodic


def surrounded(rng: np.random.Generator, size: int, share: float) -> Sample:
    """An image of `size` pixels with an embryo whose own image would have `share` of its side.

    Raises ValueError for a share outside of SMALLEST_SHARE to 1.
    """
    if not SMALLEST_SHARE <= share <= 1:
        raise ValueError(f"share must be between {SMALLEST_SHARE} and 1, not {share}")
    part = EmbryoConfig(size=max(16, round(share * size)))
    phase = np.zeros((FOCAL_PLANES, size + 2 * RIM, size + 2 * RIM), dtype=np.float32)
    own, layers = embryo_phase(rng, part)
    top, left = (int(start) for start in rng.integers(0, size - part.size + 1, 2))
    middle = np.array([top, left]) + part.size / 2 + RIM
    if share < 1:
        if rng.random() < SECOND:
            _second_embryo(rng, phase, middle, part)
        if rng.random() < WALL:
            phase[0] += _wall(rng, middle, part.size, phase.shape[1])
        _scatter(rng, phase, middle, part.size)
    phase[:, RIM + top : RIM + top + part.size, RIM + left : RIM + left + part.size] += own
    signal = modulation_contrast(rng, phase, part)[RIM : RIM + size, RIM : RIM + size]
    window = (slice(top, top + part.size), slice(left, left + part.size))
    return Sample(camera(rng, signal, size), _on_canvas(layers, window, size))


def _on_canvas(layers: Layers, window: tuple[slice, slice], size: int) -> Layers:
    """Masks of a part of an image as masks of the image."""
    amodal, visible = (np.zeros((len(masks), size, size), dtype=bool) for masks in (layers.amodal, layers.visible))
    amodal[:, *window], visible[:, *window] = layers.amodal, layers.visible
    return layers._replace(amodal=amodal, visible=visible)


def _second_embryo(rng: np.random.Generator, phase: np.ndarray, middle: np.ndarray, part: EmbryoConfig) -> None:
    """Another embryo of the same size, at least a third of which is beyond the border of the image."""
    size, side = phase.shape[1], part.size
    other, _ = embryo_phase(rng, part)
    place = rng.uniform(0, size, 2)
    axis, end = int(rng.integers(2)), int(rng.integers(2))
    beyond = rng.uniform(-0.2, 0.15) * side  # of the center
    place[axis] = size + beyond if end else -beyond
    if float(np.hypot(*(place - middle))) < 0.85 * side:
        return
    low = np.round(place - side / 2).astype(int)
    start, stop = np.clip(low, 0, size), np.clip(low + side, 0, size)
    a, b = start - low, stop - low
    phase[:, start[0] : stop[0], start[1] : stop[1]] += other[:, a[0] : b[0], a[1] : b[1]]


def _wall(rng: np.random.Generator, middle: np.ndarray, side: int, size: int) -> Float[np.ndarray, "H W"]:
    """Phase of the edge of a round well in which the embryo lies: a step, and a ridge."""
    radius = rng.uniform(0.6, 2.0) * side
    turn, out = rng.uniform(0, 2 * math.pi), rng.uniform(0, max(radius - 0.5 * side, 0))
    y = np.arange(size, dtype=np.float32)[:, None] - np.float32(middle[0] + out * math.sin(turn))
    x = np.arange(size, dtype=np.float32)[None] - np.float32(middle[1] + out * math.cos(turn))
    distance = (np.sqrt(y * y + x * x) - np.float32(radius)) / np.float32(side)
    width = np.float32(rng.uniform(0.008, 0.04))
    step = np.float32(rng.normal(0, 0.08)) / (1 + np.exp(-np.clip(distance / width, -30, 30)))
    return np.asarray(step + np.float32(rng.uniform(-0.06, 0.1)) * np.exp(-((distance / width) ** 2)))


def _scatter(rng: np.random.Generator, phase: np.ndarray, middle: np.ndarray, side: int) -> None:
    """Bubbles and debris outside of the embryo, at any depth."""
    size = phase.shape[1]
    bubbles = int(rng.integers(BUBBLES + 1))
    for number in range(bubbles + int(rng.integers(DEBRIS + 1))):
        is_bubble = number < bubbles
        radius = side * (rng.uniform(0.04, 0.25) if is_bubble else rng.uniform(0.005, 0.04))
        center = rng.uniform(0, size, 2)
        if float(np.hypot(*(center - middle))) < 0.45 * side + radius:
            continue
        body = body_of(rng, center, radius, size, wave=0.004 if is_bubble else 0.15)
        profile = np.sqrt(np.clip(1 - body.inside**2, 0, None))
        amount = -rng.uniform(0.8, 2.0) if is_bubble else rng.uniform(0.5, 1.5)  # a bubble has a lower refractive index
        plane = int(rng.integers(FOCAL_PLANES))
        phase[plane, body.rows, body.columns] += profile * np.float32(amount * radius / side)
