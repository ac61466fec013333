"""The outermost elements of MP4 and Matroska files, whose sizes show that no end of the file is missing."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

EBML, SEGMENT = bytes.fromhex("1A45DFA3"), bytes.fromhex("18538067")  # elements of Matroska
AFTER_FRAMES = tuple(bytes.fromhex(name) for name in ("1C53BB6B", "1254C367", "1941A469", "1043A770", "114D9B74"))
NEAR = 64  # bytes between the data of a packet and the next element: headers and durations of the packet


def is_complete_mp4(path: Path) -> bool:
    """True if the boxes of an MP4 file end exactly at the end of the file."""
    size, place = path.stat().st_size, 0
    with path.open("rb") as file:
        while place < size:
            file.seek(place)
            head = file.read(16)
            length = struct.unpack(">I", head[:4])[0] if len(head) >= 8 else 0
            if length == 1 and len(head) == 16:
                length = struct.unpack(">Q", head[8:])[0]
            if length < 8:  # 0: the box extends to the end, wherever that is
                return False
            place += length
    return place == size


def is_complete_matroska(path: Path, last: int) -> bool:
    """True if the segment of a Matroska file ends within the file, and no frame follows the data that ends at byte `last`."""
    with path.open("rb") as file:
        _, header = _element(file, EBML)
        file.seek(header or 0, 1)
        start, length = _element(file, SEGMENT)
        if header is None or length is None or start + length > path.stat().st_size:
            return False
        file.seek(max(0, last - NEAR))
        rest = file.read(2 * NEAR)
    return start + length - last <= NEAR or any(name in rest for name in AFTER_FRAMES)


def _element(file: BinaryIO, name: bytes) -> tuple[int, int | None]:
    """Start and size of the content of an element at the place of the file; no size if it is unknown or another element."""
    head = file.read(5)
    if len(head) < 5 or head[:4] != name or not head[4]:
        return file.tell(), None
    more = 8 - head[4].bit_length()  # leading zeros: further bytes of the size
    size = int.from_bytes(bytes([head[4] & (0x7F >> more)]) + file.read(more), "big")
    return file.tell(), None if size == (1 << 7 * (more + 1)) - 1 else size
