"""Lossless coding of equal-sized images with a frozen integer flow."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from latens.shapes import UInt8
from latens.systems.flow.pack.color import to_pixels
from latens.systems.flow.pack.frozen import FrozenFlow, Predicted, coded_groups, with_luma
from latens.systems.flow.pack.model import Group, PhaseContext
from latens.systems.flow.pack.phases import PHASES, canvas_of, phase_size, sizes
from latens.systems.flow.pack.stack import Readers, Writers


def encode(flow: FrozenFlow, pixels: UInt8[np.ndarray, "B H W 3"], *, gray: bool = False) -> list[bytes]:
    """One stream per image. `gray`: the three channels are equal, and only the first is coded."""
    groups = [(_rows(symbols), _rows(table)) for symbols, table in coded_groups(flow, _planes_of(pixels), gray=gray)]
    writers = Writers(flow.rows, len(pixels))
    for symbols, table in reversed(groups):
        writers.push(symbols, table)
    return writers.data()


def decode(
    flow: FrozenFlow, streams: list[bytes], height: int, width: int, *, gray: bool = False
) -> list[UInt8[np.ndarray, "H W 3"] | None]:
    """Images of streams of one size; None for a damaged stream. Other streams are unaffected."""
    readers = Readers(streams, flow.rows)
    planes = torch.zeros(len(streams), 3, 1, 1, dtype=torch.int32)
    base, channels = flow.base, 1 if gray else 3
    planes[:, :channels] = _values(readers, base, channels)
    for level, (rows, columns) in reversed(list(enumerate(sizes(height, width)[:-1]))):
        canvas = canvas_of(planes, rows, columns)
        for number, phase in enumerate(PHASES):
            size = phase_size(rows, columns, phase)
            if 0 in size:
                continue
            group = Group(min(level, flow.config.levels - 1), number)
            context = PhaseContext.of(canvas, phase, size)
            target = torch.zeros(len(streams), 3, *size, dtype=torch.int32)
            target[:, :1] = _values(readers, flow.luma(context, group, phase, size))
            if not gray:
                chroma = flow.chroma(context, with_luma(canvas, target, phase), group, phase, size)
                target[:, 1:2] = _values(readers, chroma.orange())
                target[:, 2:] = _values(readers, chroma.cyan(target[:, 1:2]))
            canvas[:, :, phase.row :: 2, phase.column :: 2] = target
        planes = canvas
    values = to_pixels(planes)
    inside = ((values >= 0) & (values <= 255)).flatten(1).all(1)
    pixels = values.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return [one if intact and fits else None for one, intact, fits in zip(pixels, readers.intact(), inside, strict=True)]


def _values(readers: Readers, expected: Predicted, channels: int = 1) -> Tensor:
    """Decoded values (B, C, h, w) of one group."""
    table = expected.table[:, :channels].expand(len(readers.coders), -1, -1, -1)
    symbols = readers.pop(_rows(table))
    return torch.from_numpy(symbols).reshape(table.shape) + expected.floor[:, :channels].to(torch.int32)


def _rows(values: Tensor) -> np.ndarray:
    """(B, C, h, w) as (B, n), int32."""
    return values.to(torch.int32).flatten(1).contiguous().numpy()


def _planes_of(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
