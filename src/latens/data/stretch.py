"""Contrast stretch of microscope images, which use a part of the range of their values only."""

from __future__ import annotations

import logging

import numpy as np

from latens.data.image_arrays import Pixels

logger = logging.getLogger(__name__)

STRETCH = (0.1, 99.9)  # percentiles
DRAWN, FAR = 0.001, 2  # of a scale bar: share of the pixels; its value over the next smaller one, above the smallest
ROW_BLOCK = 64  # rows that are scaled at once


def stretch(values: np.ndarray) -> Pixels:
    """Contrast stretch of values (H, W) or (H, W, 3) from the 0.1 to the 99.9 percentile, as uint8 (H, W, 3).

    Constant pages and non-finite values become black, the latter with a warning. Needs little memory besides one copy of float
    values.
    """
    _warn_of_missing(values)
    low, high = _percentiles(values)
    result = np.zeros((*values.shape[:2], 3), np.uint8)
    for top in range(0, len(values) if high > low else 0, ROW_BLOCK):
        block = np.asarray(values[top : top + ROW_BLOCK], dtype=np.float64)
        scaled = (np.where(np.isfinite(block), block, low) - low) / (high - low)
        scaled = np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
        result[top : top + ROW_BLOCK] = scaled[:, :, None] if scaled.ndim == 2 else scaled
    return result


def _warn_of_missing(values: np.ndarray) -> None:
    missing = values.size - np.count_nonzero(np.isfinite(values)) if values.dtype.kind == "f" else 0
    if missing:
        logger.warning("%d of %d values of the image are not finite; they become black", missing, values.size)


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    """The 0.1 and 99.9 percentile of the finite values; 0 and 0 without any.

    A largest value that more than DRAWN of the pixels have, far above all others, is a drawn scale bar or saturation; the
    percentiles are those of the other pixels.
    """
    if values.dtype.kind != "f" and values.size and values.dtype.itemsize <= 2:
        low, high = _histogram_percentiles(values)
        return float(low), float(high)
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values.ravel()
    if not finite.size:
        return 0.0, 0.0
    top = finite.max()
    if np.count_nonzero(finite == top) > DRAWN * finite.size:
        rest = finite[finite < top]
        least, most = (float(rest.min()), float(rest.max())) if rest.size else (0.0, 0.0)
        if least < most and float(top) - least > FAR * (most - least):
            finite = rest
    low, high = np.percentile(finite, STRETCH, overwrite_input=values.dtype.kind == "f")
    return float(low), float(high)


def _histogram_percentiles(values: np.ndarray) -> list[float]:
    """The same of 8- or 16-bit integers, without a copy of the values."""
    start = int(values.min())
    counts = np.zeros(1 << 16, np.int64)
    for top in range(0, len(values), ROW_BLOCK):
        counts += np.bincount(values[top : top + ROW_BLOCK].ravel().astype(np.int64) - start, minlength=1 << 16)
    present = np.flatnonzero(counts)
    if len(present) > 2 and counts[present[-1]] > DRAWN * values.size and present[-1] > FAR * present[-2]:
        counts[present[-1]] = 0
    ends, size = np.cumsum(counts), int(counts.sum())
    found: list[float] = []
    for share in STRETCH:
        place = (size - 1) * share / 100  # between two values in order
        below, above = np.searchsorted(ends, [int(place), min(int(place) + 1, size - 1)], "right").tolist()
        found.append(start + below + (above - below) * (place - int(place)))
    return found
