"""Visible parts of annotated objects: clipped to the whole outline, and derived where only whole outlines are drawn."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from latens.data.instances import Instance
from latens.data.masks import Rle, area, complement, intersection, overlapping_pairs
from latens.errors import InputError, counted

logger = logging.getLogger(__name__)


class Drawn(NamedTuple):
    """An object as drawn: `visible` is None if only the whole outline is known."""

    amodal: Rle
    visible: Rle | None
    category: int
    layer: int | None = None
    score: float = 1.0


@dataclass
class Repairs:
    """Number of assumptions about the objects of a file, for one note each."""

    clipped: int = 0  # visible parts that extended beyond their outline
    unordered: int = 0  # pairs of overlapping outlines without visible parts and without depth order
    crowds: int = 0  # regions of several objects, left out
    empty: int = 0  # objects without pixels, left out

    def log(self, where: Path) -> None:
        """Log the assumptions about a file as warnings."""
        if self.clipped:
            parts = counted(self.clipped, "visible part")
            logger.warning("%s: %s outside the whole outline, clipped to it", where, parts)
        if self.unordered:
            what = f"{counted(self.unordered, 'overlap')} of outlines without visible parts or depth order"
            logger.warning("%s: %s; each overlap counts as hidden in both objects", where, what)
        if self.crowds:
            logger.warning("%s: %s (iscrowd) left out", where, counted(self.crowds, "region"))
        if self.empty:
            what = f"{counted(self.empty, 'object')} without pixels left out"
            logger.warning("%s: %s; a box without a segmentation is no outline", where, what)


def visible_inside(amodal: Rle, visible: Rle, repairs: Repairs) -> Rle:
    """The visible part inside the whole outline. Raises InputError if none of it is inside."""
    inside = intersection(amodal, visible)
    kept, drawn = area(inside), area(visible)
    if kept == drawn:
        return visible
    if not kept:
        raise InputError(
            "the visible part is completely outside the whole outline",
            hint="draw the whole outline around the visible part, or correct the group",
        )
    repairs.clipped += 1
    return inside


def completed(objects: Sequence[Drawn], repairs: Repairs) -> tuple[Instance, ...]:
    """Objects with visible parts.

    An object without a drawn visible part is hidden where it overlaps others without one: behind an object of a smaller layer;
    without layers, behind an outline that lies inside its own; otherwise the overlap is hidden in both objects. Objects without
    pixels are left out.
    """
    with_pixels = [each for each in objects if area(each.amodal)]
    repairs.empty += len(objects) - len(with_pixels)
    objects = with_pixels
    visible = [each.amodal if each.visible is None else each.visible for each in objects]
    whole = [index for index, each in enumerate(objects) if each.visible is None]
    for a, b in overlapping_pairs([objects[i].amodal for i in whole]):
        for behind, front in _hidden(whole[a], whole[b], objects, repairs):
            visible[behind] = intersection(visible[behind], complement(objects[front].amodal))
    return tuple(
        Instance(amodal=each.amodal, visible=seen, category=each.category, layer=each.layer, score=each.score)
        for each, seen in zip(objects, visible, strict=True)
    )


def _hidden(one: int, two: int, objects: Sequence[Drawn], repairs: Repairs) -> list[tuple[int, int]]:
    """Pairs (behind, front) of two overlapping objects."""
    layers = objects[one].layer, objects[two].layer
    if layers[0] is not None and layers[1] is not None and layers[0] != layers[1]:
        return [(one, two) if layers[1] < layers[0] else (two, one)]
    areas = area(objects[one].amodal), area(objects[two].amodal)
    if areas[0] != areas[1] and area(intersection(objects[one].amodal, objects[two].amodal)) == min(areas):
        return [(one, two) if areas[1] < areas[0] else (two, one)]
    repairs.unordered += 1
    return [(one, two), (two, one)]
