"""Regions as block rectangles with quantizer offsets, attached to frames by FFmpeg's filter `addroi`."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from latens.data.clips.color import color_of, linear_graph, tag
from latens.data.regions.masks import Weights
from latens.shapes import Int

BLOCK = 16  # pixels; the macroblock of H.264
LEVELS = 4  # steps of a soft mask
MAX_RECTANGLES = 160  # per frame; for more, blocks of twice the side are used
KEPT_GRAPHS = 4  # number of cached filter graphs, since regions often do not move


class Rectangle(NamedTuple):
    """Blocks of one level, in pixels."""

    x: int
    y: int
    width: int
    height: int
    level: int  # 1 to LEVELS: weight of the region


def block_levels(weights: Weights, block: int = BLOCK) -> Int[np.ndarray, "h w"]:
    """Level of every block, 0 to LEVELS: its largest weight, rounded up."""
    height, width = weights.shape
    if height % block or width % block:
        weights = np.pad(weights, ((0, -height % block), (0, -width % block)))
    rows = weights.reshape(-1, block, weights.shape[1]).max(axis=1)
    heaviest = rows.reshape(len(rows), -1, block).max(axis=2)
    levels: np.ndarray = (heaviest.astype(np.int32) * LEVELS + 254) // 255
    return levels


def rectangles(weights: Weights) -> tuple[Rectangle, ...]:
    """Disjoint rectangles that cover all blocks of level 1 or more: runs of a row, merged with equal runs of rows below."""
    block = BLOCK
    while True:
        found = _rectangles(block_levels(weights, block), block)
        if len(found) <= MAX_RECTANGLES:
            return tuple(found)
        block *= 2


def _rectangles(levels: Int[np.ndarray, "h w"], block: int) -> list[Rectangle]:
    open_runs: OrderedDict[tuple[int, int, int], int] = OrderedDict()  # (start, end, level) -> first row
    done: list[Rectangle] = []
    for row in range(len(levels) + 1):
        runs = _runs(levels[row]) if row < len(levels) else []
        for run in [run for run in open_runs if run not in runs]:
            top = open_runs.pop(run)
            start, end, level = run
            done.append(Rectangle(start * block, top * block, (end - start) * block, (row - top) * block, level))
        for run in runs:
            open_runs.setdefault(run, row)
    return done


def _runs(row: Int[np.ndarray, "w"]) -> list[tuple[int, int, int]]:
    """(start, end, level) of the runs of equal level, except level 0."""
    edges = np.flatnonzero(np.diff(row, prepend=-1, append=-1))
    return [(int(a), int(b), int(row[a])) for a, b in itertools.pairwise(edges) if row[a]]


class RegionSideData:
    """Attaches regions to frames. Offsets are relative to the quantizer range, -1 to 1; negative is finer."""

    def __init__(self, inside: float, outside: float) -> None:
        self.inside, self.outside = inside, outside
        self._last: tuple[Weights, tuple[Rectangle, ...]] | None = None
        self._graphs: OrderedDict[tuple[Rectangle, ...], tuple[Any, Any, Any]] = OrderedDict()

    def __call__(self, frame: Any, weights: Weights) -> Any:
        """The frame with its regions; pixels and tags are unchanged."""
        if self._last is None or self._last[0] is not weights:  # a fixed region is the same array in every frame
            self._last = weights, rectangles(weights)
        _, source, sink = self._graph(frame, self._last[1])
        color = color_of(frame)
        source.push(frame)
        return tag(sink.pull(), color)

    def _graph(self, frame: Any, found: tuple[Rectangle, ...]) -> tuple[Any, Any, Any]:
        if found in self._graphs:
            self._graphs.move_to_end(found)
            return self._graphs[found]
        filters = []
        for x, y, width, height, level in (*found, Rectangle(0, 0, frame.width, frame.height, 0)):  # the first match applies
            width, height = min(width, frame.width - x), min(height, frame.height - y)
            offset = self.outside + (self.inside - self.outside) * level / LEVELS
            if width <= 0 or height <= 0:  # a block entirely in the padding
                continue
            share = Fraction(offset).limit_denominator(1000)
            filters.append(("addroi", f"x={x}:y={y}:w={width}:h={height}:qoffset={share}"))
        self._graphs[found] = linear_graph(frame, filters)
        if len(self._graphs) > KEPT_GRAPHS:
            self._graphs.popitem(last=False)
        return self._graphs[found]
