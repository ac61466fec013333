"""Images of one size to bytes and back, bit-exactly, with a frozen integer flow."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from latens.errors import Corrupt
from latens.shapes import UInt8
from latens.systems.flow.pack.color import to_pixels
from latens.systems.flow.pack.frozen import FrozenFlow, Predicted, coded_groups, with_luma
from latens.systems.flow.pack.model import Group, Seen
from latens.systems.flow.pack.phases import PHASES, canvas_of, phase_size, sizes
from latens.systems.flow.pack.stack import Reader, Writer, ideal_bits


def encode(flow: FrozenFlow, pixels: UInt8[np.ndarray, "B H W 3"], *, gray: bool = False) -> list[bytes]:
    """One stream an image. `gray`: the three channels are equal, and the first alone is coded."""
    groups = [(_rows(symbols), _rows(table)) for symbols, table in coded_groups(flow, _planes_of(pixels), gray=gray)]
    streams = []
    for image in range(len(pixels)):
        writer = Writer(flow.rows)
        for symbols, table in reversed(groups):
            writer.push(symbols[image], table[image])
        streams.append(writer.data())
    return streams


def code_lengths(flow: FrozenFlow, pixels: UInt8[np.ndarray, "B H W 3"], *, gray: bool = False) -> list[float]:
    """Bits of every image under the tables, without what the coder adds."""
    groups = [(_rows(symbols), _rows(table)) for symbols, table in coded_groups(flow, _planes_of(pixels), gray=gray)]
    return [sum(ideal_bits(s[image], t[image], flow.tables) for s, t in groups) for image in range(len(pixels))]


def decode(
    flow: FrozenFlow, streams: list[bytes], height: int, width: int, *, gray: bool = False
) -> list[UInt8[np.ndarray, "H W 3"] | None]:
    """The images of streams of one size; None for a damaged stream, which does not touch the others."""
    readers = Readers(flow, streams)
    planes = torch.zeros(len(streams), 3, 1, 1, dtype=torch.int32)
    base, channels = flow.base, 1 if gray else 3
    planes[:, :channels] = readers.pop(base, channels)
    for level, (rows, columns) in reversed(list(enumerate(sizes(height, width)[:-1]))):
        canvas = canvas_of(planes, rows, columns)
        for number, phase in enumerate(PHASES):
            size = phase_size(rows, columns, phase)
            if 0 in size:
                continue
            group = Group(min(level, flow.config.levels - 1), number)
            seen = Seen.of(canvas, phase, size)
            target = torch.zeros(len(streams), 3, *size, dtype=torch.int32)
            target[:, :1] = readers.pop(flow.luma(seen, group, phase, size))
            if not gray:
                chroma = flow.chroma(seen, with_luma(canvas, target, phase), group, phase, size)
                target[:, 1:2] = readers.pop(chroma.orange())
                target[:, 2:] = readers.pop(chroma.cyan(target[:, 1:2]))
            canvas[:, :, phase.row :: 2, phase.column :: 2] = target
        planes = canvas
    readers.finish()
    values = to_pixels(planes)
    inside = ((values >= 0) & (values <= 255)).flatten(1).all(1)
    pixels = values.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return [pixels[i] if readers.open[i] is not None and inside[i] else None for i in range(len(streams))]


class Readers:
    """One stack an image; an image whose stack is damaged goes on with zeros, so that the others are decoded."""

    def __init__(self, flow: FrozenFlow, streams: list[bytes]) -> None:
        self.open: list[Reader | None] = []
        for data in streams:
            try:
                self.open.append(Reader(data, flow.rows))
            except Corrupt:
                self.open.append(None)

    def pop(self, expected: Predicted, channels: int = 1) -> Tensor:
        """The values (B, C, h, w) of a group of all images."""
        count = len(self.open)
        table = expected.table[:, :channels].expand(count, -1, -1, -1)
        levels = _rows(table)
        symbols = np.zeros(levels.shape, dtype=np.int32)
        for number, reader in enumerate(self.open):
            if reader is None:
                continue
            try:
                symbols[number] = reader.pop(levels[number])
            except (Corrupt, ValueError, AssertionError):  # the coder runs out of words
                self.open[number] = None
        return torch.from_numpy(symbols).reshape(table.shape) + expected.floor[:, :channels].to(torch.int32)

    def finish(self) -> None:
        for number, reader in enumerate(self.open):
            try:
                if reader is not None:
                    reader.finish()
            except Corrupt:
                self.open[number] = None


def _rows(values: Tensor) -> np.ndarray:
    """(B, C, h, w) as (B, n), int32."""
    return values.to(torch.int32).flatten(1).contiguous().numpy()


def _planes_of(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
