"""GIF files whose frames lack a delay, as Pillow writes them without a duration.

FFmpeg takes all frames between two graphic control extensions for one. A frame without this extension gets one here, with the
delay that browsers use. Standard library only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

GIF_LIMIT = 2**29  # bytes; larger files are read as they are
SIGNATURES = (b"GIF87a", b"GIF89a")
EXTENSION, IMAGE, CONTROL = 0x21, 0x2C, 0xF9  # introducers of blocks; label of the graphic control extension
TABLE = 0x80  # flag of a color table
DELAY = bytes.fromhex("21f904000a000000")  # a graphic control extension of 0.1 s


def with_delays(data: bytes) -> bytes:
    """The file with a delay for every frame; the same bytes if none lacks it, or for other files."""
    if data[:6] not in SIGNATURES or len(data) < 13:
        return data
    parts, controlled, place = [data[: _first_block(data)]], False, _first_block(data)
    with contextlib.suppress(IndexError):  # the file is cut
        for place, end in _blocks(data):
            if data[place] == EXTENSION:
                controlled |= data[place + 1] == CONTROL
            else:
                parts += [] if controlled else [DELAY]
                controlled = False
            parts.append(data[place:end])
            place = end
    return b"".join([*parts, data[place:]])


def _first_block(data: bytes) -> int:
    return 13 + _table(data[10])


def _blocks(data: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of every extension and image. Raises IndexError in a block that the file does not hold to its end."""
    place = _first_block(data)
    while place < len(data) and data[place] in (EXTENSION, IMAGE):
        more = 2 if data[place] == EXTENSION else 11 + _table(data[place + 9])
        end = _after_blocks(data, place + more)
        yield place, end
        place = end


def _table(flags: int) -> int:
    """Number of bytes of the color table that these flags announce."""
    return 3 << (flags & 7) + 1 if flags & TABLE else 0


def _after_blocks(data: bytes, place: int) -> int:
    """The position after the data blocks that begin at `place`. Raises IndexError at the end of the file."""
    while data[place]:
        place += 1 + data[place]
    return place + 1


def timed_gif(path: Path) -> bytes | None:
    """The content of a GIF file with a delay for every frame; None for other files, and if no delay is missing."""
    if path.suffix.lower() != ".gif" or path.stat().st_size > GIF_LIMIT:
        return None
    data = path.read_bytes()
    timed = with_delays(data)
    return None if timed == data else timed


def is_cut_gif(path: Path) -> bool:
    """True for a GIF file that ends within a frame, of which FFmpeg decodes the first lines without an error."""
    if path.suffix.lower() != ".gif" or path.stat().st_size > GIF_LIMIT:
        return False
    data = path.read_bytes()
    if data[:6] not in SIGNATURES or len(data) < 13:
        return False
    try:
        for _ in _blocks(data):
            pass
    except IndexError:
        return True
    return False
