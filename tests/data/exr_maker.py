"""EXR files written from the specification, for tests."""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Callable

import numpy as np


def exr(planes: dict[str, np.ndarray], kind: str = "zip", top: int = 0) -> bytes:
    """An EXR file written from its specification (slow), as a reference for the reader."""
    code, lines = {"none": (0, 1), "rle": (1, 1), "zips": (2, 1), "zip": (3, 16), "piz": (4, 32)}[kind]
    names = sorted(planes)
    height, width = planes[names[0]].shape
    types = {"f2": 1, "f4": 2}
    listed = b"".join(
        name.encode() + b"\0" + struct.pack("<iIii", types[planes[name].dtype.str[1:]], 0, 1, 1) for name in names
    )
    window = struct.pack("<4i", 0, top, width - 1, top + height - 1)
    header = struct.pack("<II", 20000630, 2)
    for name, kind_name, value in (
        ("channels", "chlist", listed + b"\0"),
        ("compression", "compression", bytes([code])),
        ("dataWindow", "box2i", window),
        ("displayWindow", "box2i", window),
    ):
        header += name.encode() + b"\0" + kind_name.encode() + b"\0" + struct.pack("<I", len(value)) + value
    header += b"\0"
    blocks = []
    for row in range(0, height, lines):
        raw = b"".join(planes[name][y].tobytes() for y in range(row, min(row + lines, height)) for name in names)
        packed = raw if code in (0, 4) else pack(raw, run_lengths if kind == "rle" else zlib.compress)
        blocks.append(struct.pack("<iI", top + row, len(packed)) + packed)
    position = len(header) + 8 * len(blocks)
    offsets = b""
    for block in blocks:
        offsets += struct.pack("<Q", position)
        position += len(block)
    return header + offsets + b"".join(blocks)


def pack(raw: bytes, compress: Callable[[bytes], bytes]) -> bytes:
    parted = raw[0::2] + raw[1::2]
    differences = bytes([parted[0], *((b - a + 128) % 256 for a, b in itertools.pairwise(parted))])
    packed = compress(differences)
    return packed if len(packed) < len(raw) else raw


def run_lengths(data: bytes) -> bytes:
    out = b""
    for value, run in ((value, len(list(group))) for value, group in itertools.groupby(data)):
        while run:
            taken = min(run, 128)
            out += (
                struct.pack("<b", taken - 1) + bytes([value])
                if taken > 2
                else struct.pack("<b", -taken) + bytes([value]) * taken
            )
            run -= taken
    return out
