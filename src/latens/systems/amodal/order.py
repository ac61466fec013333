"""Who lies in front: an order of all objects from predictions of what is visible of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def front_margins(amodal: Bool[np.ndarray, "N H W"], visible: Float[np.ndarray, "N H W"]) -> Float[np.ndarray, "N N"]:
    """Where i and j overlap: mean probability that i is visible there, minus that of j; 0 for pairs that do not touch."""
    n = len(amodal)
    margins = np.zeros((n, n))
    for i in range(n):
        for j in range(i):
            both = amodal[i] & amodal[j]
            if both.any():
                margins[i, j] = visible[i][both].mean() - visible[j][both].mean()
                margins[j, i] = -margins[i, j]
    return margins


def layers_of(margins: Float[np.ndarray, "N N"]) -> Int[np.ndarray, "N"]:
    """Ranks, 0 in front, that contradict the margins as little as a greedy choice can: the least covered goes first."""
    left = list(range(len(margins)))
    rank = np.zeros(len(margins), dtype=np.int64)
    for position in range(len(margins)):
        covered = [sum(max(0.0, float(margins[j, i])) for j in left) for i in left]
        first = left.pop(int(np.argmin(covered)))
        rank[first] = position
    return rank
