"""Frames without data: chunks of AVI files that repeat the frame before them, and packets that are not shown."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

LISTS = (b"RIFF", b"LIST")
MAX_DEPTH = 4  # RIFF, movi, rec
NOTHING_CODED = 16  # bytes; a packet of MPEG-4 below it holds no frame, it repeats the last one
FRAME_MARKER, SUPERFRAME = 0b10, 0b110  # first bits of a frame of VP9, and of the last byte of several frames in one packet


def skipped_in_avi(path: Path, index: int) -> int:
    """The number of frames of the stream `index` of an AVI file that were dropped when it was written: chunks of no size.

    Such a frame repeats the one before it. Damage ends the count.
    """
    name = b"%02d" % index
    with path.open("rb") as file:
        end = path.stat().st_size
        return _skipped(file, 0, end, (name + b"dc", name + b"db"), 0)


def _skipped(file: BinaryIO, start: int, end: int, names: tuple[bytes, bytes], depth: int) -> int:
    found = 0
    while start + 8 <= end:
        file.seek(start)
        head = file.read(12)
        if len(head) < 8:
            return found
        name, size = struct.unpack("<4sI", head[:8])
        if name in LISTS and depth < MAX_DEPTH:
            found += _skipped(file, start + 12, min(end, start + 8 + size), names, depth + 1)
        found += name in names and size == 0
        start += 8 + size + size % 2
    return found


def is_shown(codec: str, packet: Any) -> bool:
    """True if the decoder makes a frame of an undamaged packet; some codecs have packets that only serve later frames."""
    size = packet.size
    if codec == "mpeg4":
        return bool(size >= NOTHING_CODED)
    if codec == "vp8":
        return bool(bytes(packet)[0] >> 4 & 1)
    if codec == "vp9":
        data = bytes(packet)
        return data[-1] >> 5 == SUPERFRAME or _is_shown_vp9(data[0])
    return True


def _is_shown_vp9(first: int) -> bool:
    """The bit show_frame of a frame of VP9, or its bit show_existing_frame; True for other data."""
    shift = 1 if first >> 4 & 0b11 != 0b11 else 0  # profile 3 has one bit more
    existing, shown = first >> (2 + shift) & 1, first >> shift & 1
    return first >> 6 != FRAME_MARKER or bool(existing or shown)
