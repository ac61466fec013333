"""Plants of one tray: grade, vigor, emergence and growth, drawn once for all days (Perugachi-Diaz 2024, section 3.3.1).

The grade is drawn first and determines the distribution of all visible traits. The sensitivity and specificity of a model are
therefore the same for lots with different shares of successes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np

Preset = Literal["easy", "thesis", "hard"]

SUCCESS = 0.855  # share of grades 5 and 6 (Table 3.1)
GRADE_6 = 0.55  # share of grade 6 among the successes
FAILED = (0.34, 0.22, 0.22, 0.22)  # shares of the grades 1 to 4 among the failures
VIGOR = (-1.9, -1.5, -1.15, -0.75, 0.15, 0.6)  # mean vigor of the grades 1 to 6, in standard deviations
NEVER = (0.75, 0.08, 0.0, 0.0, 0.0, 0.0)  # probability that a seed of this grade never emerges
ABNORMAL = (0.5, 0.55, 0.5, 0.35, 0.03, 0.01)  # probability of a malformed seedling: one cotyledon, small leaves


class Difficulty(NamedTuple):
    """Noise between the grade and the visible traits."""

    vigor_noise: float  # standard deviation of vigor within a grade
    emergence_noise: float  # days
    growth_noise: float  # of the logarithm of the growth rate
    tray_noise: float  # standard deviation of the emergence between trays, days


DIFFICULTY: Mapping[Preset, Difficulty] = MappingProxyType(
    {
        "easy": Difficulty(0.35, 0.20, 0.08, 0.05),
        "thesis": Difficulty(0.55, 0.32, 0.16, 0.15),
        "hard": Difficulty(0.80, 0.60, 0.25, 0.25),
    }
)
MEAN_EMERGENCE = 3.60  # day of emergence of a plant of vigor 0
DAYS_PER_VIGOR = 0.42  # days by which a plant of vigor 1 emerges earlier


class Plants(NamedTuple):
    """Plants of a tray. Arrays have one value per cell, row by row from the top left."""

    grade: np.ndarray  # 1 to 6, given on day 14
    emergence: np.ndarray  # day of emergence; inf: never
    growth: np.ndarray  # factor on the leaf length
    abnormal: np.ndarray  # malformed
    turn: np.ndarray  # orientation of the cotyledons, radians
    offset: np.ndarray  # (n, 2), position of the stem relative to the center of the cell, in pitches
    light: np.ndarray  # reflectance of the leaves, 0 to 1
    moss: np.ndarray  # day from which moss grows in the cell; inf: none

    @property
    def success(self) -> np.ndarray:
        """Grades 5 and 6."""
        found: np.ndarray = self.grade >= 5
        return found


def draw_plants(seed: int, tray: int, count: int, preset: Preset = "thesis", success: float = SUCCESS) -> Plants:
    """`count` plants of one tray. `success` is the expected share of grades 5 and 6. Equal arguments give equal plants."""
    rng = np.random.default_rng([seed, tray, 11])
    noise = DIFFICULTY[preset]
    good = rng.random(count) < success
    grade = np.where(good, np.where(rng.random(count) < GRADE_6, 6, 5), 1 + rng.choice(4, count, p=FAILED))
    vigor = np.take(VIGOR, grade - 1) + noise.vigor_noise * rng.standard_normal(count)
    tray_shift = noise.tray_noise * rng.standard_normal()
    emergence = MEAN_EMERGENCE + tray_shift - DAYS_PER_VIGOR * vigor + noise.emergence_noise * rng.standard_normal(count)
    emergence = np.where(rng.random(count) < np.take(NEVER, grade - 1), np.inf, np.maximum(emergence, 2.0))
    abnormal = rng.random(count) < np.take(ABNORMAL, grade - 1)
    growth = np.exp(0.13 * vigor + noise.growth_noise * rng.standard_normal(count)) * np.where(abnormal, 0.7, 1.0)
    moss_chance = np.where(good, 0.10, 0.35)
    moss = np.where(rng.random(count) < moss_chance, 2.5 + 3.5 * rng.random(count), np.inf)
    return Plants(
        grade=grade,
        emergence=emergence,
        growth=growth,
        abnormal=abnormal,
        turn=rng.uniform(0, np.pi, count),
        offset=np.clip(0.055 * rng.standard_normal((count, 2)), -0.16, 0.16),
        light=np.clip(0.66 + 0.035 * vigor + 0.06 * rng.standard_normal(count), 0.4, 0.95),
        moss=moss,
    )


class Leaf(NamedTuple):
    """Soft ellipse in pitches, relative to the center of the cell."""

    x: float
    y: float
    length: float  # long half axis
    width: float  # short half axis
    angle: float  # of the long axis, radians
    light: float


def leaves(plants: Plants, index: int, day: float) -> list[Leaf]:
    """Cotyledons of one plant and, 2.5 days after emergence, true leaves; none before emergence."""
    age = day - float(plants.emergence[index])
    if not age > 0:
        return []
    growth, turn = float(plants.growth[index]), float(plants.turn[index])
    x, y = plants.offset[index]
    light = float(plants.light[index])
    size = growth * (0.06 + 0.145 * (1 - np.exp(-0.75 * age)) / (1 - np.exp(-3.0)))
    sides = (0.0,) if plants.abnormal[index] and growth < 0.8 else (0.0, np.pi)
    made = [_leaf(x, y, turn + side, size, 0.72, light) for side in sides]
    if age > 2.5:
        true = growth * min(0.09 * (age - 2.5) ** 0.8, 0.22)
        made += [_leaf(x, y, turn + np.pi / 2 + side + 0.2, true, 0.5, 0.94 * light) for side in (0.0, np.pi)]
    return made


def _leaf(x: float, y: float, angle: float, length: float, ratio: float, light: float) -> Leaf:
    offset = 0.95 * length  # the stem ends at the inner tip of the blade
    return Leaf(x + offset * np.cos(angle), y + offset * np.sin(angle), length, ratio * length, angle, light)


def is_visible(plants: Plants, day: float) -> np.ndarray:
    """Mask of the plants that emerged before this day."""
    found: np.ndarray = plants.emergence < day
    return found
