"""Holes of depth maps, filled from their surroundings at several resolutions."""

from __future__ import annotations

from typing import Any

import numpy as np

from latens.shapes import Float


def fill_holes(depth: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    """Fill NaN with averages over blocks of increasing size, excluding sky. In a block of sky, holes become sky."""
    hole = np.isnan(depth)
    if not hole.any():
        return depth
    finite = np.isfinite(depth)
    total = np.where(finite, depth, 0).astype(np.float64)
    levels = [(total, finite.astype(np.float64), np.isposinf(depth).astype(np.float64))]
    while max(levels[-1][0].shape) > 1:
        levels.append(tuple(_halve(part) for part in levels[-1]))  # type: ignore[arg-type]
    filled = _mean(*levels[-1])
    for total, count, sky in reversed(levels[:-1]):
        coarse = _smooth(filled.repeat(2, 0).repeat(2, 1)[: total.shape[0], : total.shape[1]])
        own = _mean(total, count, sky)
        filled = np.where(np.isnan(own), coarse, own)
    return np.where(hole, filled, depth).astype(np.float32)


def _halve(part: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    height, width = part.shape
    padded = np.pad(part, ((0, height % 2), (0, width % 2)))
    total: np.ndarray[Any, Any] = padded[0::2, 0::2] + padded[1::2, 0::2] + padded[0::2, 1::2] + padded[1::2, 1::2]
    return total


def _smooth(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Smoothing with weights 1, 2, 1 along both axes; neighbors of sky are unchanged."""
    blurred = values
    for axis in (0, 1):
        lower, upper = np.roll(blurred, 1, axis), np.roll(blurred, -1, axis)
        first = (slice(0, 1), slice(None)) if axis == 0 else (slice(None), slice(0, 1))
        last = (slice(-1, None), slice(None)) if axis == 0 else (slice(None), slice(-1, None))
        lower[first], upper[last] = blurred[first], blurred[last]
        blurred = (lower + 2 * blurred + upper) / 4
    return np.where(np.isfinite(blurred), blurred, values)


def _mean(total: np.ndarray[Any, Any], count: np.ndarray[Any, Any], sky: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Mean of the measurements in a block; infinite for a block of sky, NaN for a block of holes."""
    nothing = np.where(sky > 0, np.inf, np.nan)
    return np.where(count > 0, total / np.maximum(count, 1), nothing)
