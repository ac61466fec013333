"""Postprocessing of predicted mask grids: masks at full size, depth order, visible parts."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from latens.data.instances import Layers, paint
from latens.data.masks import paste
from latens.shapes import Bool, Float, Int

SCORE_THRESHOLD = 0.5  # smallest score of a reported object, and probability above which a pixel belongs to a mask


def paste_each(grids: Float[Tensor, "N S S"], boxes: Float[Tensor, "N 4"], size: tuple[int, int]) -> np.ndarray:
    """`latens.data.masks.paste`, computed only inside each box: (N, H, W) float32."""
    height, width = size
    whole = np.zeros((len(grids), height, width), dtype=np.float32)
    for index, (grid, box) in enumerate(zip(grids.float(), boxes, strict=True)):
        x0, y0 = (max(0, int(value) - 1) for value in box[:2].tolist())
        x1, y1 = min(width, int(box[2]) + 2), min(height, int(box[3]) + 2)
        if x1 > x0 and y1 > y0:
            shifted = box - box.new_tensor([x0, y0, x0, y0])
            whole[index, y0:y1, x0:x1] = paste(grid[None], shifted[None], (y1 - y0, x1 - x0))[0].cpu().numpy()
    return whole


def ordered(amodal: np.ndarray, visible: np.ndarray, scores: np.ndarray, label: np.ndarray) -> Layers:
    """Depth order and visible masks by the painter's rule. Objects below the score threshold go behind and hide nothing."""
    confident = np.flatnonzero(scores >= SCORE_THRESHOLD)
    rest = np.flatnonzero(scores < SCORE_THRESHOLD)
    layer = np.empty(len(scores), dtype=np.int64)
    layer[confident] = layers_of(front_margins(amodal[confident], visible[confident]))
    layer[rest] = len(confident) + np.arange(len(rest))
    seen = amodal & (visible > SCORE_THRESHOLD)
    if len(confident):
        seen[confident] = paint(amodal[confident], layer[confident]).visible
    return Layers(amodal, seen, layer, label)


def front_margins(amodal: Bool[np.ndarray, "N H W"], visible: Float[np.ndarray, "N H W"]) -> Float[np.ndarray, "N N"]:
    """Mean over the overlap of i and j of P(i visible) - P(j visible); 0 for pairs that do not overlap."""
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
    """The intersection of two extents; empty if they do not overlap."""
    top, bottom, left, right = max(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), min(a[3], b[3])
    return slice(top, max(top, bottom)), slice(left, max(left, right))


def layers_of(margins: Float[np.ndarray, "N N"]) -> Int[np.ndarray, "N"]:
    """Ranks (0 in front), chosen greedily: the next object is the one with the smallest sum of margins against it."""
    left = list(range(len(margins)))
    rank = np.zeros(len(margins), dtype=np.int64)
    for position in range(len(margins)):
        covered = [sum(max(0.0, float(margins[j, i])) for j in left) for i in left]
        first = left.pop(int(np.argmin(covered)))
        rank[first] = position
    return rank
