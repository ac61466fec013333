"""Simulated distributions in two dimensions with their true densities: two circles, checkerboard, two moons.

The distributions are those of the released code of Residual Flows (Chen et al. 2019), with angles drawn uniformly. `ENTROPY`
gives their entropies in nats, the lower bound of the expected negative log-likelihood of any model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

import numpy as np

from latens.shapes import Float

PointsName: TypeAlias = Literal["circles", "checkerboard", "moons"]
NAMES: tuple[PointsName, ...] = get_args(PointsName)
ENTROPY: Mapping[PointsName, float] = MappingProxyType({"circles": 3.2681, "checkerboard": math.log(32), "moons": 2.3939})
RADII, CIRCLE_NOISE = (3.0, 1.5), 0.24
MOON_RADIUS, MOON_NOISE = 2.0, 0.2
MOON_CENTERS = ((-1.0, -0.2), (1.0, 0.8))  # centers of the upper and the lower half circle
SQUARE = 2.0  # side of a square of the checkerboard, which covers [-4, 4] x [-4, 4]
NODES = 64  # Gauss-Legendre nodes over the angle of a moon
CHUNK = 10_000


def draw(name: PointsName, count: int, rng: np.random.Generator) -> Float[np.ndarray, "n 2"]:
    """`count` independent points."""
    if name == "checkerboard":
        x = rng.random(count) * 4 - 2
        y = rng.random(count) - 2 * rng.integers(2, size=count) + np.floor(x) % 2
        return np.stack([x, y], axis=1) * SQUARE
    first = rng.random(count) < 0.5
    if name == "circles":
        angle = rng.uniform(0, 2 * np.pi, count)
        radius = np.where(first, *RADII)
        points = np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius[:, None]
        return points + rng.normal(scale=CIRCLE_NOISE, size=points.shape)
    angle = rng.uniform(0, np.pi, count)
    sign = np.where(first, 1.0, -1.0)
    center = np.where(first[:, None], *MOON_CENTERS)
    points = center + MOON_RADIUS * sign[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return points + rng.normal(scale=MOON_NOISE, size=points.shape)


def log_density(name: PointsName, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n"]:
    """Natural logarithm of the true density; -inf outside the squares of the checkerboard."""
    parts = [_log_density(name, points[start : start + CHUNK]) for start in range(0, len(points), CHUNK)]
    return np.concatenate(parts) if parts else np.zeros(0)


def _log_density(name: PointsName, points: np.ndarray) -> np.ndarray:
    if name == "checkerboard":
        scaled = points / SQUARE
        inside = (np.abs(scaled) < 2).all(axis=1) & (np.floor(scaled).sum(axis=1) % 2 == 0)
        with np.errstate(divide="ignore"):
            return np.log(inside / 32.0)
    if name == "circles":
        distance = np.hypot(*points.T)
        parts = [_ring(distance, radius) for radius in RADII]
    else:
        parts = [_arc(points - np.array(center), sign) for center, sign in zip(MOON_CENTERS, (1, -1), strict=True)]
    log_mean: np.ndarray = np.logaddexp(*parts) - math.log(2)
    return log_mean


def _ring(distance: np.ndarray, radius: float) -> np.ndarray:
    """Log-density of a Gaussian averaged over centers on a circle (a Bessel function of the distance from the middle)."""
    variance = CIRCLE_NOISE**2
    argument = distance * radius / variance
    log_bessel = np.log(np.i0(np.minimum(argument, 50.0)))
    large = argument > 50  # two terms of the asymptotic series, relative error below 1e-4 / argument
    safe = np.where(large, argument, 50.0)
    log_bessel = np.where(
        large, safe - 0.5 * np.log(2 * np.pi * safe) + np.log1p(1 / (8 * safe) + 9 / (128 * safe**2)), log_bessel
    )
    result: np.ndarray = log_bessel - (distance**2 + radius**2) / (2 * variance) - math.log(2 * np.pi * variance)
    return result


def _arc(points: np.ndarray, sign: int) -> np.ndarray:
    """Log-density of a Gaussian averaged over centers on a half circle, by Gauss-Legendre quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    angle = (nodes + 1) * np.pi / 2
    centers = MOON_RADIUS * sign * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    squares = ((points[:, None] - centers) ** 2).sum(axis=2)
    exponents = -squares / (2 * MOON_NOISE**2) + np.log(weights / 2)
    largest = exponents.max(axis=1)
    total = np.log(np.exp(exponents - largest[:, None]).sum(axis=1)) + largest
    result: np.ndarray = total - math.log(2 * np.pi * MOON_NOISE**2)
    return result
