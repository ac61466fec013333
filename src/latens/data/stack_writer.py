"""Writing of TIFF stacks page by page: files of any size need the memory of one page."""

from __future__ import annotations

import struct
import zlib
from fractions import Fraction
from typing import BinaryIO

import numpy as np

from latens.errors import LimitExceeded

BITS, DESCRIPTION = 258, 270  # tags
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT, CENTIMETER = 282, 283, 296, 3
UM_PER_CM = 10_000
ASCII, RATIONAL = 2, 5  # types of an entry
MASKS = b"msk\0"  # description of a page that is the mask of one object; four bytes fit into an entry
CLASSIC_LIMIT = 2**32 - 2**20  # bytes that a TIFF with 32-bit offsets can address, minus space for the last directory

Entry = tuple[int, int, int, int | bytes]  # tag, type, number of values, and the values


class StackWriter:
    """Write a TIFF page by page into an open file: gray (H, W) of 8, 16 or 32 bits, or 8-bit color (H, W, 3).

    Pages are losslessly compressed.

    `big` selects 64-bit offsets (BigTIFF); without it, LimitExceeded is raised at 4 GB. Pages are not kept in memory. `masks`
    marks every page as the mask of one object (`labels` reads the mark). `pixel_um`, the width and height of a pixel in
    micrometers, is written as pixels per centimeter, which Fiji reads.
    """

    def __init__(
        self, target: BinaryIO, *, big: bool = False, masks: bool = False, pixel_um: tuple[float, float] | None = None
    ) -> None:
        self._target = target
        self._big = big
        self._masks = masks
        self._scale = () if pixel_um is None else tuple(_rational(UM_PER_CM / size) for size in pixel_um)
        self.pages = 0
        target.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0) if big else struct.pack("<2sHI", b"II", 42, 0))
        self._position = 16 if big else 8
        self._link = 8 if big else 4  # position at which the offset of the next directory is written

    def write(self, page: np.ndarray, description: str = "") -> None:
        """Append a page of uint8, uint16 or uint32 values; other types are converted to uint8. The description is ASCII."""
        kept = page.ndim == 2 and page.dtype in (np.uint16, np.uint32)
        plain = np.ascontiguousarray(page, page.dtype.newbyteorder("<") if kept else np.uint8)
        data = zlib.compress(plain.data, 6)
        if not self._big and self._position + len(data) > CLASSIC_LIMIT:
            raise LimitExceeded("a TIFF of masks or overlays would exceed 4 GB", hint="segment fewer frames at once")
        channels = 1 if page.ndim == 2 else page.shape[2]
        gap = len(data) % 2  # directories start at even offsets
        start, directory = self._position, self._position + len(data) + gap
        bits = struct.pack(f"<{channels}H", *[8 * plain.itemsize] * channels)
        text = MASKS if self._masks else f"{description}\0".encode("ascii") if description else b""
        entries: list[Entry] = [
            (256, 4, 1, page.shape[1]), (257, 4, 1, page.shape[0]), (BITS, 3, channels, bits), (259, 3, 1, 8),
            (262, 3, 1, 1 if channels == 1 else 2),
            *([(DESCRIPTION, ASCII, len(text), text)] if text else ()),
            (273, 16 if self._big else 4, 1, start), (277, 3, 1, channels),
            (278, 4, 1, page.shape[0]), (279, 16 if self._big else 4, 1, len(data)),
            *((tag, RATIONAL, 1, value) for tag, value in zip((X_RESOLUTION, Y_RESOLUTION), self._scale, strict=False)),
            *([(RESOLUTION_UNIT, 3, 1, CENTIMETER)] if self._scale else ()),
        ]  # fmt: skip
        packed = self._directory(entries, directory)
        self._target.write(data + bytes(gap) + packed)
        self._position = directory + len(packed)
        self._target.seek(self._link)
        self._target.write(struct.pack("<Q" if self._big else "<I", directory))
        self._target.seek(self._position)
        self._link = directory + (8 + 20 * len(entries) if self._big else 2 + 12 * len(entries))
        self.pages += 1

    def _directory(self, entries: list[Entry], place: int) -> bytes:
        """The directory at `place`: number of entries, entries, no next directory, and values too wide for an entry."""
        count, entry, end, fitting = ("<Q", "<HHQQ", "<Q", 8) if self._big else ("<H", "<HHII", "<I", 4)
        after = place + struct.calcsize(count) + len(entries) * struct.calcsize(entry) + struct.calcsize(end)
        tail = b""
        packed = struct.pack(count, len(entries))
        for tag, kind, number, value in entries:
            if isinstance(value, int):
                stored = value
            elif len(value) <= fitting:
                stored = int.from_bytes(value, "little")
            else:
                stored = after + len(tail)
                tail += value + bytes(-len(value) % 4)
            packed += struct.pack(entry, tag, kind, number, stored)
        return packed + struct.pack(end, 0) + tail


def _rational(value: float) -> bytes:
    """A number as a TIFF rational: numerator and denominator. Clamped to what fits."""
    found = Fraction(min(max(value, 2.0**-31), 2.0**31)).limit_denominator(max(1, int(2**31 / max(value, 1))))
    found = found or Fraction(1, 2**31)
    return struct.pack("<II", found.numerator, found.denominator)
