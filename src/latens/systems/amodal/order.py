"""Postprocessing of predicted mask grids: masks at full size, depth order, visible parts.

All masks are computed in windows around the objects, so memory grows with their area and not with that of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from latens.data.instances import Placed, paint_placed
from latens.data.masks import paste_part, window_of
from latens.shapes import Float, Int

SCORE_THRESHOLD = 0.5  # smallest score of a reported object, and probability above which a pixel belongs to a mask
STRIP = 2**20  # pixels that are sampled at once

Rectangle = tuple[slice, slice]  # rows and columns of an image
Chance = Callable[[int, Rectangle], Float[np.ndarray, "h w"]]  # probability that an object is visible, in a rectangle


class SoftMask(NamedTuple):
    """A predicted mask: a grid on a box, sampled bilinearly in the pixels around this box and 0 elsewhere."""

    grid: Float[Tensor, "S S"]
    box: Float[Tensor, "4"]  # x0, y0, x1, y1 in pixels
    size: tuple[int, int]  # height and width of the image

    @property
    def window(self) -> Rectangle:
        """The pixels of the image around the box; without rows or columns if the box is outside."""
        height, width = self.size
        left, top = (max(0, int(value) - 1) for value in self.box[:2].tolist())
        right, bottom = min(width, int(self.box[2]) + 2), min(height, int(self.box[3]) + 2)
        return slice(top, max(top, bottom)), slice(left, max(left, right))

    def values(self, part: Rectangle) -> Float[np.ndarray, "h w"]:
        """Values in [0, 1] in a part of the window."""
        window = self.window
        top, left = (side.start for side in window)
        shifted = (self.box - self.box.new_tensor([left, top, left, top]))[None]
        rows, columns = (slice(side.start - start, side.stop - start) for side, start in zip(part, (top, left), strict=True))
        found = np.empty((rows.stop - rows.start, columns.stop - columns.start), dtype=np.float32)
        step = max(1, STRIP // max(1, found.shape[1]))
        for start in range(rows.start, rows.stop if found.size else rows.start, step):
            strip = slice(start, min(start + step, rows.stop))
            pasted = paste_part(self.grid.float()[None], shifted, strip, columns)[0]
            found[strip.start - rows.start : strip.stop - rows.start] = pasted.cpu().numpy()
        return found

    def whole(self) -> Float[np.ndarray, "H W"]:
        """Values at the size of the image."""
        found = np.zeros(self.size, dtype=np.float32)
        found[self.window] = self.values(self.window)
        return found


class Objects(NamedTuple):
    """The objects with at least one pixel."""

    kept: list[int]  # their numbers among the detections
    placed: list[Placed]
    whole: list[SoftMask]
    visible: list[SoftMask]


def objects_of(
    whole: Float[Tensor, "N S S"],
    visible: Float[Tensor, "N S S"],
    boxes: Float[Tensor, "N 4"],
    scores: Float[np.ndarray, "N"],
    label: Int[np.ndarray, "N"],
    size: tuple[int, int],
) -> Objects:
    """Masks, depth order and visible parts of detections in an image of `size` (H, W): grids on boxes in its pixels."""
    found = Objects([], [], [], [])
    for number, box in enumerate(boxes):
        mask = SoftMask(whole[number], box, size)
        top, left = (side.start for side in mask.window)
        inside = mask.values(mask.window) > SCORE_THRESHOLD
        if inside.any():
            y, x = window_of(inside)
            tight = inside[y, x].copy()
            found.kept.append(number)
            found.placed.append(Placed(top + y.start, left + x.start, tight, tight, category=int(label[number])))
            found.whole.append(mask)
            found.visible.append(SoftMask(visible[number], box, size))
    return found._replace(placed=ordered(found.placed, lambda i, part: found.visible[i].values(part), scores[found.kept], size))


def ordered(placed: Sequence[Placed], chance: Chance, scores: np.ndarray, size: tuple[int, int]) -> list[Placed]:
    """Depth order and visible masks by the painter's rule. Objects below the score threshold go behind and hide nothing."""
    confident = np.flatnonzero(scores >= SCORE_THRESHOLD).tolist()
    rest = np.flatnonzero(scores < SCORE_THRESHOLD).tolist()
    margins = front_margins([placed[i] for i in confident], lambda i, part: chance(confident[i], part))
    found = list(placed)
    painted = [placed[i]._replace(layer=int(layer)) for i, layer in zip(confident, layers_of(margins), strict=True)]
    for index, each in zip(confident, paint_placed(painted, size), strict=True):
        found[index] = each
    for layer, index in enumerate(rest, start=len(confident)):
        each = placed[index]
        seen = each.amodal & (chance(index, each.window) > SCORE_THRESHOLD)
        found[index] = each._replace(visible=seen, layer=layer)
    return found


def front_margins(placed: Sequence[Placed], chance: Chance) -> Float[np.ndarray, "N N"]:
    """Mean over the overlap of i and j of P(i visible) - P(j visible); 0 for pairs that do not overlap."""
    n = len(placed)
    margins = np.zeros((n, n))
    for i in range(n):
        for j in range(i):
            part = _common(placed[i].window, placed[j].window)
            both = _cut(placed[i], part) & _cut(placed[j], part)
            if both.any():
                margins[i, j] = chance(i, part)[both].mean() - chance(j, part)[both].mean()
                margins[j, i] = -margins[i, j]
    return margins


def _common(a: Rectangle, b: Rectangle) -> Rectangle:
    """The intersection of two rectangles; empty if they do not overlap."""
    (top, bottom), (left, right) = ((max(s.start, t.start), min(s.stop, t.stop)) for s, t in zip(a, b, strict=True))
    return slice(top, max(top, bottom)), slice(left, max(left, right))


def _cut(placed: Placed, part: Rectangle) -> np.ndarray:
    """The whole mask of an object in a part of its window."""
    rows, columns = part
    top, left = placed.top, placed.left
    return placed.amodal[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]


def layers_of(margins: Float[np.ndarray, "N N"]) -> Int[np.ndarray, "N"]:
    """Ranks (0 in front), chosen greedily: the next object is the one with the smallest sum of margins against it."""
    left = list(range(len(margins)))
    rank = np.zeros(len(margins), dtype=np.int64)
    for position in range(len(margins)):
        covered = [sum(max(0.0, float(margins[j, i])) for j in left) for i in left]
        first = left.pop(int(np.argmin(covered)))
        rank[first] = position
    return rank
