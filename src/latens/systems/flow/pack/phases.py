"""Geometry of the integer flow: a plane splits into four phases; the first is the next coarser plane.

A phase is identified by the parities (row, column) of its pixels. The order is (0, 0), known from the coarser level, then
(1, 1), (0, 1) and (1, 0). A phase is predicted from pixels at fixed offsets, minus the mean of the nearest known pixels. Planes
are extended by reflection, which preserves the parity of pixels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from latens.shapes import Int

PAD = 3  # maximum offset in rows and columns
CENTER = 128  # center of the range of luma
STRIPE = 32  # magnitude of the inputs that encode the position in the 8 x 8 block
Offset = tuple[int, int]


class Phase(NamedTuple):
    """Pixels of one parity, and the offsets (rows, columns) of the pixels that predict them."""

    row: int
    column: int
    nearest: tuple[Offset, Offset, Offset, Offset]
    known: tuple[Offset, ...]  # all offsets within `PAD` of earlier phases, sorted by distance

    def within(self, square: int) -> tuple[Offset, ...]:
        """Known offsets of at most this squared distance."""
        return tuple(one for one in self.known if one[0] ** 2 + one[1] ** 2 <= square)


def _phase(row: int, column: int, before: set[Offset]) -> Phase:
    span = range(-PAD, PAD + 1)
    known = [(y, x) for y in span for x in span if ((row + y) % 2, (column + x) % 2) in before]
    known.sort(key=lambda one: (one[0] ** 2 + one[1] ** 2, one))
    first, second, third, fourth = known[:4]
    return Phase(row, column, (first, second, third, fourth), tuple(known))


PHASES = (
    _phase(1, 1, {(0, 0)}),
    _phase(0, 1, {(0, 0), (1, 1)}),
    _phase(1, 0, {(0, 0), (1, 1), (0, 1)}),
)
SAME = ((0, -2), (0, 2), (-2, 0), (2, 0))  # neighbors of the same phase, whose luma is known when chroma is coded


def sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Sizes of the planes from fine to coarse; the last is 1 x 1."""
    found = [(height, width)]
    while found[-1] != (1, 1):
        height, width = -(-height // 2), -(-width // 2)
        found.append((height, width))
    return found


def phase_size(height: int, width: int, phase: Phase) -> tuple[int, int]:
    """Height and width of a phase; either may be 0."""
    return (height + 1 - phase.row) // 2, (width + 1 - phase.column) // 2


def canvas_of(coarse: Int[Tensor, "B 3 h w"], height: int, width: int) -> Int[Tensor, "B 3 H W"]:
    """Plane that contains the pixels of the coarser plane; unknown pixels are copies of known neighbors."""
    return coarse.repeat_interleave(2, 2)[:, :, :height].repeat_interleave(2, 3)[..., :width].contiguous()


@lru_cache(maxsize=256)
def reflected(length: int) -> Tensor:
    """Indices that extend a side by `PAD` on both ends by reflection."""
    if length == 1:
        return torch.zeros(1 + 2 * PAD, dtype=torch.int64)
    index = np.abs(np.arange(-PAD, length + PAD)) % (2 * (length - 1))
    return torch.from_numpy(np.minimum(index, 2 * (length - 1) - index))


def extended(plane: Tensor) -> Tensor:
    """A plane (B, C, H, W), extended by reflection by PAD pixels on all sides."""
    rows, columns = reflected(plane.shape[2]), reflected(plane.shape[3])
    return plane.index_select(2, rows.to(plane.device)).index_select(3, columns.to(plane.device))


def pixels_at(wide: Tensor, phase: Phase, offset: Offset, size: tuple[int, int]) -> Tensor:
    """For every pixel of a phase, the pixel at `offset` (rows, columns) from it: (B, C, h, w) from a plane made by `extended`.

    `size` is (h, w), that of the phase.
    """
    top, left = PAD + phase.row + offset[0], PAD + phase.column + offset[1]
    return wide[:, :, top : top + 2 * size[0] : 2, left : left + 2 * size[1] : 2]


def fourfold_mean(wide: Tensor, phase: Phase, size: tuple[int, int]) -> Tensor:
    """Four times the mean of the nearest known pixels of every pixel of a phase."""
    first, second, third, fourth = (pixels_at(wide, phase, one, size) for one in phase.nearest)
    return first + second + third + fourth


def stripes(size: tuple[int, int]) -> Int[Tensor, "6 h w"]:
    """Position in the 8 x 8 block as signs times `STRIPE`: three planes for rows, three for columns."""

    def signs(length: int) -> Tensor:
        place = torch.arange(length)
        low, high = 1 - 2 * (place & 1), 1 - 2 * (place >> 1 & 1)
        return torch.stack([low, high, low * high]).to(torch.int32)

    rows, columns = signs(size[0])[:, :, None].expand(-1, *size), signs(size[1])[:, None, :].expand(-1, *size)
    return torch.cat([rows, columns]) * STRIPE
