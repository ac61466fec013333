"""Who lies in front: an order of all objects from predictions of what is visible of each."""

from __future__ import annotations

import numpy as np

from latens.shapes import Bool, Float, Int


def front_margins(amodal: Bool[np.ndarray, "N H W"], visible: Float[np.ndarray, "N H W"]) -> Float[np.ndarray, "N N"]:
    """Where i and j overlap: mean probability that i is visible there, minus that of j; 0 for pairs that do not touch."""
    n = len(amodal)
    margins = np.zeros((n, n))
    extents = [_extent(mask) for mask in amodal]
    for i in range(n):
        for j in range(i):
            window = _common(extents[i], extents[j])
            both = amodal[(i, *window)] & amodal[(j, *window)]
            if both.any():
                margins[i, j] = visible[(i, *window)][both].mean() - visible[(j, *window)][both].mean()
                margins[j, i] = -margins[i, j]
    return margins


def _extent(mask: Bool[np.ndarray, "H W"]) -> tuple[int, int, int, int]:
    """Top, bottom, left, right; zeros for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _common(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> tuple[slice, slice]:
    """The window that two extents share, empty where they do not meet."""
    top, bottom, left, right = max(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), min(a[3], b[3])
    return slice(top, max(top, bottom)), slice(left, max(left, right))


def layers_of(margins: Float[np.ndarray, "N N"]) -> Int[np.ndarray, "N"]:
    """Ranks, 0 in front, that contradict the margins as little as a greedy choice can: the least covered goes first."""
    left = list(range(len(margins)))
    rank = np.zeros(len(margins), dtype=np.int64)
    for position in range(len(margins)):
        covered = [sum(max(0.0, float(margins[j, i])) for j in left) for i in left]
        first = left.pop(int(np.argmin(covered)))
        rank[first] = position
    return rank
