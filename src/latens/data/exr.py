"""Reader of one channel of an OpenEXR file: single part, scan lines, 16- or 32-bit floats, no compression, RLE, ZIPS or ZIP.

Renderers write depth in these formats. Needs only NumPy; all sizes in files are checked.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np

from latens.data.limits import current_limits
from latens.errors import InputError, UnreadableInput

MAGIC = b"\x76\x2f\x31\x01"
TILED, DEEP, MULTIPART = 0x200, 0x800, 0x1000
TYPES: dict[int, np.dtype[Any]] = {0: np.dtype("<u4"), 1: np.dtype("<f2"), 2: np.dtype("<f4")}
LINES = {0: 1, 1: 1, 2: 1, 3: 16}  # scan lines per block, by compression: none, RLE, ZIPS, ZIP
NAMES = ("none", "RLE", "ZIPS", "ZIP", "PIZ", "PXR24", "B44", "B44A", "DWAA", "DWAB")
# Names of depth, in order of preference; Blender writes ViewLayer.Depth.Z
DEPTH_NAMES = (r"Z", r"(.*\.)?depth\.[ZVY]", r"(.*\.)?depth", r"[YV]")

Array = np.ndarray[Any, np.dtype[np.float32]]


class Channel(NamedTuple):
    name: str
    dtype: np.dtype[Any]


def read_exr(data: bytes, channel: str | None = None) -> Array:
    """The channel of this name (None: the depth channel), (H, W) float32.

    Raises UnreadableInput, InputError for an unsupported kind or an unknown channel, or LimitExceeded.
    """
    try:
        return _read(data, channel)
    except (struct.error, IndexError, ValueError, OverflowError, zlib.error) as error:
        raise UnreadableInput(f"the EXR file is truncated or damaged ({error})", hint="copy or write it again") from error


def _read(data: bytes, channel: str | None) -> Array:
    if data[:4] != MAGIC:
        raise UnreadableInput("this is not an OpenEXR file")
    if struct.unpack_from("<I", data, 4)[0] & (TILED | DEEP | MULTIPART):
        raise InputError("tiled, deep and multi-part EXR files are not supported", hint="save it in scan lines, as one part")
    attributes, position = _attributes(data)
    compression = attributes["compression"][0]
    if compression not in LINES:
        name = NAMES[compression] if compression < len(NAMES) else str(compression)
        raise InputError(f"EXR compression {name} is not supported", hint="save it with ZIP or without compression")
    left, top, right, bottom = struct.unpack("<4i", attributes["dataWindow"])
    width, height = right - left + 1, bottom - top + 1
    if width < 1 or height < 1:
        raise UnreadableInput("the EXR file has no pixels")
    current_limits().check(width, height, "the EXR file")
    channels = _channels(attributes["channels"])
    chosen = _depth_channel([each.name for each in channels], channel)
    before = sum(each.dtype.itemsize for each in channels[:chosen]) * width
    line = sum(each.dtype.itemsize for each in channels) * width
    dtype = channels[chosen].dtype
    result = np.empty((height, width), np.float32)
    seen = np.zeros(height, bool)
    blocks = -(-height // LINES[compression])
    for offset in struct.unpack_from(f"<{blocks}Q", data, position):
        first, size = struct.unpack_from("<iI", data, offset)
        rows = min(LINES[compression], bottom + 1 - first)
        packed = data[offset + 8 : offset + 8 + size]
        if len(packed) < size or not top <= first <= bottom:
            raise ValueError(f"block at line {first}")
        raw = _unpack(packed, compression, rows * line)
        for row in range(rows):
            result[first - top + row] = np.frombuffer(raw, dtype, width, row * line + before)
            seen[first - top + row] = True
    if not seen.all():
        raise ValueError("lines are missing")
    return result


def _depth_channel(names: list[str], wanted: str | None) -> int:
    """The channel `wanted`, else that of depth; the only one may have any name. Raises InputError where names do not tell."""
    if wanted is not None:
        if wanted not in names:
            raise InputError(f"there is no channel {wanted}", hint=f"its channels are {', '.join(names)}")
        return names.index(wanted)
    if len(names) == 1:
        return 0
    for pattern in DEPTH_NAMES:
        hits = [index for index, name in enumerate(names) if re.fullmatch(pattern, name, re.I)]
        if len(hits) == 1:
            return hits[0]
        if hits:
            names = [names[index] for index in hits]
            break
    what = f"the names do not tell which channel is depth: {', '.join(names)}"
    raise InputError(what, hint=f"choose one: --depth-channel {names[0]}, or DepthFormat(channel='{names[0]}')")


def _attributes(data: bytes) -> tuple[dict[str, bytes], int]:
    """Values by name, and the position after the header."""
    found: dict[str, bytes] = {}
    position = 8
    while data[position]:
        name, position = _text(data, position)
        _, position = _text(data, position)  # the name implies the type
        (size,) = struct.unpack_from("<I", data, position)
        found[name] = data[position + 4 : position + 4 + size]
        position += 4 + size
    missing = {"channels", "compression", "dataWindow"} - found.keys()
    if missing:
        raise ValueError(f"no {', '.join(sorted(missing))}")
    return found, position + 1


def _channels(table: bytes) -> list[Channel]:
    channels: list[Channel] = []
    position = 0
    while table[position]:
        name, position = _text(table, position)
        kind, _, across, down = struct.unpack_from("<iIii", table, position)
        if kind not in TYPES or (across, down) != (1, 1):
            raise InputError(f"EXR channel {name!r} is subsampled or has an unknown type")
        channels.append(Channel(name, TYPES[kind]))
        position += 16
    return channels


def _text(data: bytes, position: int) -> tuple[str, int]:
    end = data.index(b"\0", position)
    return data[position:end].decode("latin-1"), end + 1


def _unpack(packed: bytes, compression: int, size: int) -> bytes:
    """The decompressed lines of a block. Blocks that compression does not shrink are stored uncompressed."""
    if compression == 0 or len(packed) == size:
        raw = packed
    else:
        if compression == 1:
            coded = _run_lengths(packed)
        else:
            coded = zlib.decompressobj().decompress(packed, size + 1)
        differences = np.frombuffer(coded, np.uint8).astype(np.int64)
        differences[1:] -= 128
        values = (np.cumsum(differences) & 255).astype(np.uint8)
        joined = np.empty_like(values)
        joined[0::2], joined[1::2] = np.split(values, [(len(values) + 1) // 2])
        raw = joined.tobytes()
    if len(raw) != size:
        raise ValueError(f"a block holds {len(raw)} of {size} bytes")
    return raw


def _run_lengths(packed: bytes) -> bytes:
    out = bytearray()
    position = 0
    while position < len(packed):
        (count,) = struct.unpack_from("<b", packed, position)
        if count < 0:
            out += packed[position + 1 : position + 1 - count]
            position += 1 - count
        else:
            out += packed[position + 1 : position + 2] * (count + 1)
            position += 2
    return bytes(out)
