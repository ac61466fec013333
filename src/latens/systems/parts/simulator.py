"""Simulated scenes with known parts: motifs of a few kinds on a textured background, and the mask of every kind.

Motifs of a kind have the same form; position, size, color and shade vary. The background is smooth colored noise, which has
gradient energy but no repeated parts. A scene is a function of (seed, number).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from latens.errors import UsageError
from latens.shapes import Bool, Float, UInt8

KINDS = ("disc", "cross", "stripes", "ring", "triangle", "checks")
COLORS = ((0.9, 0.25, 0.2), (0.2, 0.75, 0.95), (0.98, 0.88, 0.25), (0.95, 0.55, 0.9), (0.35, 0.9, 0.35), (0.97, 0.97, 0.97))
MOTIFS = (1, 4)  # smallest and largest number in a scene
SIDES = (0.30, 0.40)  # smallest and largest side of a motif, as a share of the scene
DARK = 0.12  # gray level of the dark pixels of a motif


class Scenes(NamedTuple):
    images: UInt8[np.ndarray, "P S S 3"]
    masks: Bool[np.ndarray, "P K S S"]  # pixels of every kind of motif


def simulate_scenes(count: int, *, size: int = 64, kinds: int = 4, seed: int = 0) -> Scenes:
    """`count` scenes with the first `kinds` of `KINDS`. Raises UsageError for an invalid number of kinds or a size below 16."""
    if not 1 <= kinds <= len(KINDS) or size < 16:
        raise UsageError(
            f"scenes with {kinds} kinds of motif and {size} pixels are not supported",
            hint=f"give 1 to {len(KINDS)} kinds, 16 pixels or more",
        )
    images = np.empty((count, size, size, 3), np.uint8)
    masks = np.zeros((count, kinds, size, size), bool)
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        scene = ground(rng, size)
        for _ in range(rng.integers(MOTIFS[0], MOTIFS[1] + 1)):
            _put(scene, masks[number], rng)
        images[number] = np.rint(255 * scene.clip(0, 1))
    return Scenes(images, masks)


def ground(rng: np.random.Generator, size: int) -> Float[np.ndarray, "S S 3"]:
    """Smooth noise in shades of one unsaturated color."""
    grain = sum(_noise(rng, size, cells) / 2**octave for octave, cells in enumerate((3, 6, 12)))
    base = rng.uniform(0.25, 0.55, 3)
    tint = rng.uniform(-0.18, 0.18, 3)
    return base + tint * np.asarray(grain)[..., None] + rng.normal(0, 0.02, (size, size, 1))


def _noise(rng: np.random.Generator, size: int, cells: int) -> Float[np.ndarray, "S S"]:
    """Random values on a lattice, smoothly interpolated, in about -1 to 1."""
    lattice = rng.uniform(-1, 1, (cells + 2, cells + 2))
    position = np.linspace(0, cells, size, endpoint=False)
    low = position.astype(int)
    share = position - low
    share = share * share * (3 - 2 * share)
    rows = lattice[low] * (1 - share[:, None]) + lattice[low + 1] * share[:, None]
    return rows[:, low] * (1 - share) + rows[:, low + 1] * share


def _put(scene: Float[np.ndarray, "S S 3"], masks: Bool[np.ndarray, "K S S"], rng: np.random.Generator) -> None:
    """Draw one motif of a random kind at a random free position; draw nothing if no free position is found."""
    size, kind = len(scene), int(rng.integers(len(masks)))
    side = round(size * rng.uniform(*SIDES))
    for _ in range(10):
        top, left = rng.integers(size - side + 1, size=2)
        window = (slice(top, top + side), slice(left, left + side))
        if not masks[:, *window].any():
            break
    else:
        return
    middle = (np.arange(side) + 0.5) / side * 2 - 1
    form = FORMS[KINDS[kind]](middle[:, None], middle[None])
    color = np.clip(np.array(COLORS[kind]) * rng.uniform(0.85, 1.1) + rng.normal(0, 0.03, 3), 0, 1)
    shade = 1 + 0.15 * (middle[:, None] + middle[None]) * rng.uniform(-1, 1)
    inked = form.ink[..., None] * (color * shade[..., None]) + (1 - form.ink[..., None]) * DARK
    scene[window][form.inside] = inked[form.inside]
    masks[kind][window] |= form.inside


class Form(NamedTuple):
    inside: Bool[np.ndarray, "s s"]  # pixels that belong to the motif
    ink: Float[np.ndarray, "s s"]  # 1 in the color of the kind, 0 dark


def _disc(y: np.ndarray, x: np.ndarray) -> Form:
    radius = np.hypot(y, x)
    return Form(radius < 1, (radius < 0.82).astype(float))


def _ring(y: np.ndarray, x: np.ndarray) -> Form:
    radius = np.hypot(y, x)
    return Form(radius < 1, ((radius > 0.5) & (radius < 0.9)).astype(float))


def _cross(y: np.ndarray, x: np.ndarray) -> Form:
    arms = (abs(y) < 0.3) | (abs(x) < 0.3)
    return Form(np.broadcast_to(np.maximum(abs(y), abs(x)) < 1, arms.shape), arms.astype(float))


def _stripes(y: np.ndarray, x: np.ndarray) -> Form:
    bars = np.sin(3 * np.pi * y + 0 * x) > 0
    return Form(np.maximum(abs(y), abs(x)) < 1, bars.astype(float))


def _triangle(y: np.ndarray, x: np.ndarray) -> Form:
    inside = abs(x) < (y + 1) / 2
    return Form(inside, ((abs(x) < (y + 1) / 2 - 0.15) & (y < 0.85)).astype(float))


def _checks(y: np.ndarray, x: np.ndarray) -> Form:
    field = np.sin(2 * np.pi * y) * np.sin(2 * np.pi * x) > 0
    return Form(np.maximum(abs(y), abs(x)) < 1, field.astype(float))


FORMS: dict[str, Callable[[np.ndarray, np.ndarray], Form]] = {
    "disc": _disc, "cross": _cross, "stripes": _stripes, "ring": _ring, "triangle": _triangle, "checks": _checks
}  # fmt: skip
