"""Comparison of label maps: matched objects at every IoU threshold, F1 and AP by field, calibration of scores.

AP is that of StarDist and cellpose: TP / (TP + FP + FN) of every image, averaged over images and over IoU 0.50 to 0.95.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from latens.shapes import Float, Int

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
DRAWS, SEED = 1000, 0  # of the bootstrap
BINS = 10  # of the calibration error


class Counts(NamedTuple):
    """One image. `matched` holds the number of matched objects for every threshold of THRESHOLDS."""

    field: str
    true: int
    found: int
    matched: Int[np.ndarray, "10"]


def overlap_table(true: Int[np.ndarray, "H W"], found: Int[np.ndarray, "H W"]) -> Float[np.ndarray, "T F"]:
    """IoU of the objects of two label maps, numbered from 1."""
    rows, columns = int(true.max(initial=0)) + 1, int(found.max(initial=0)) + 1
    both = np.bincount(true.ravel().astype(np.int64) * columns + found.ravel(), minlength=rows * columns)
    both = both.reshape(rows, columns).astype(np.float64)
    union = both.sum(axis=1, keepdims=True) + both.sum(axis=0, keepdims=True) - both
    return np.asarray((both / np.maximum(union, 1))[1:, 1:])


def compare(field: str, true: Int[np.ndarray, "H W"], found: Int[np.ndarray, "H W"]) -> Counts:
    """Matched objects of two label maps. Above an IoU of one half a match is unique."""
    iou = overlap_table(true, found)
    real = np.bincount(true.ravel())[1:]  # numbers may be missing
    made = np.bincount(found.ravel())[1:]
    matched = np.array([int((iou > threshold - 1e-9).any(axis=0).sum()) for threshold in THRESHOLDS], dtype=np.int64)
    return Counts(field, int((real > 0).sum()), int((made > 0).sum()), matched)


class Quality(NamedTuple):
    """F1 at three thresholds and AP, with the standard deviations of a bootstrap over fields of F1 at 0.5 and of AP."""

    f1_50: float
    f1_70: float
    f1_90: float
    ap: float
    f1_50_deviation: float
    ap_deviation: float
    images: int
    fields: int
    objects: int


def quality_of(counts: Sequence[Counts]) -> Quality:
    """The measures of a set of images. Raises ValueError for an empty set."""
    if not counts:
        raise ValueError("no images")
    fields = sorted({each.field for each in counts})
    by_field = [[each for each in counts if each.field == field] for field in fields]
    rng = np.random.default_rng(SEED)
    draws = []
    for _ in range(DRAWS):
        chosen = [each for index in rng.integers(len(fields), size=len(fields)) for each in by_field[index]]
        draws.append((f1_of(chosen), ap_of(chosen)))
    deviation = np.std(np.array(draws), axis=0)
    return Quality(
        f1_of(counts), f1_of(counts, 4), f1_of(counts, 8), ap_of(counts), float(deviation[0]), float(deviation[1]),
        len(counts), len(fields), sum(each.true for each in counts),
    )  # fmt: skip


def f1_of(counts: Sequence[Counts], place: int = 0) -> float:
    """F1 over all objects of a set of images, at the IoU threshold of a place in THRESHOLDS."""
    matched = sum(int(each.matched[place]) for each in counts)
    return 2 * matched / max(sum(each.true + each.found for each in counts), 1)


def ap_of(counts: Sequence[Counts]) -> float:
    """AP of every image, averaged; images without true and found objects are left out."""
    values = [each.matched / np.maximum(each.true + each.found - each.matched, 1) for each in counts if each.true + each.found]
    return float(np.mean(values)) if values else 1.0


def calibration_error(scores: Float[np.ndarray, "N"], right: Float[np.ndarray, "N"]) -> float:
    """Mean difference between score and share of right objects, over BINS bins of equal width, weighted by their objects."""
    place = np.minimum((scores * BINS).astype(int), BINS - 1)
    total = 0.0
    for number in range(BINS):
        inside = place == number
        if inside.any():
            total += float(inside.sum()) * abs(float(scores[inside].mean()) - float(right[inside].mean()))
    return total / max(len(scores), 1)
