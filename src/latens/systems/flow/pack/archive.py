"""Contents of a packed folder, .ltp, inside the container of `codes.stream`.

Profile "LTP1". Header: SHA-256 of the frozen flow, SHA-256 of its tables, number of files (u32). Sections, all required:

    kind 1  names and times of up to 256 files, deflated JSON
    kind 2  an image coded by the flow, in bands of rows
    kind 3  an image as lossless WebP
    kind 4  an image as plain pixels
    kind 5  a file as it is
    kind 6  a file, deflated

The sections of files stand in the order of the names, 256 behind every section of names. An image begins with its description:
flags u8 (bit 0 gray, bit 1 chunks of a PNG follow, bits 2 and 3 format), then width, height, and length and deflated bytes of
the chunks, lengths as base-128 numbers. Every section is under a CRC of its own: damage loses a file, or names of 256 files.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from latens.codes.stream import Container, Section, StreamLimits, pack, unpack
from latens.errors import Corrupt, LimitExceeded, UnsupportedFeature
from latens.systems.flow.pack.files import MOST_EXTRAS, PLAIN_FORMATS, PlainImage

PROFILE = "LTP1"
INDEX, MODEL, WEBP, RAW, STORED, DEFLATED = range(1, 7)
KINDS: Mapping[int, str] = MappingProxyType(
    {INDEX: "names", MODEL: "coded image", WEBP: "WebP image", RAW: "plain image", STORED: "file", DEFLATED: "deflated file"}
)
AT_ONCE = 256  # files of one section of names
MOST_PIXELS = 64 * 2**20
_HEADER = struct.Struct("<32s32sI")
_GRAY, _EXTRAS = 1, 2


class Member(NamedTuple):
    """A file of an archive: relative path, time of its last change in nanoseconds, kind and payload of its section."""

    name: str
    time: int
    kind: int
    payload: bytes


class Description(NamedTuple):
    """What an image's payload begins with."""

    width: int
    height: int
    gray: bool
    format: str
    before: bytes
    behind: bytes


class Opened(NamedTuple):
    """An archive; a member that is damaged is None, and a name or time that is lost is "" and -1."""

    flow_hash: str
    table_hash: str
    model_id: bytes
    members: tuple[Member | None, ...]
    names: tuple[tuple[str, int], ...]  # of all members
    reasons: Mapping[int, str]  # why a member is damaged, by its place


def write(members: list[Member], *, flow_hash: str, table_hash: str, model_id: bytes) -> bytes:
    """The bytes of an archive. Raises LimitExceeded."""
    sections = []
    for start in range(0, len(members), AT_ONCE):
        part = members[start : start + AT_ONCE]
        plain = json.dumps([[one.name for one in part], _steps([one.time for one in part])], separators=(",", ":"))
        sections.append(Section(INDEX, zlib.compress(plain.encode("utf-8", "surrogateescape"), 9)))
        sections += [Section(one.kind, one.payload) for one in part]
    if len(sections) > StreamLimits().sections:
        what = f"{len(members):,} files are too many for one archive"
        raise LimitExceeded(what, hint="pack folders of at most 65,000 files")
    header = _HEADER.pack(bytes.fromhex(flow_hash), bytes.fromhex(table_hash), len(members))
    return pack(Container(PROFILE, model_id, header, tuple(sections)))


def read(data: bytes) -> Opened:
    """An archive, damaged sections left out. Raises StreamError where its header is damaged or it is no archive."""
    container, damaged = unpack(data, known_kinds=KINDS, partial=True)
    if container.profile != PROFILE:
        what = f"this latens file holds {container.profile}, not packed images"
        raise UnsupportedFeature(what, hint="`latens inspect` says what it is")
    flow_hash, table_hash, count = _HEADER.unpack(container.header)
    reasons = {one.index: one.reason for one in damaged}
    total = len(container.sections) + len(damaged)
    intact = iter(container.sections)
    slots: list[Section | None] = [None if place in reasons else next(intact) for place in range(total)]
    if count != total - -(-count // AT_ONCE):
        raise Corrupt("the header is damaged: the number of files does not fit", section="header")
    members: list[Member | None] = []
    names: list[tuple[str, int]] = []
    lost: dict[int, str] = {}
    for start in range(0, total, AT_ONCE + 1):
        part = slots[start + 1 : start + 1 + AT_ONCE]
        known = _index(slots[start], len(part))
        for offset, (section, (name, time)) in enumerate(zip(part, known, strict=True)):
            if section is None:
                lost[len(members)] = reasons[start + 1 + offset]
            members.append(None if section is None else Member(name, time, section.kind, section.payload))
            names.append((name, time))
    return Opened(flow_hash.hex(), table_hash.hex(), container.model_id, tuple(members), tuple(names), lost)


def _steps(times: list[int]) -> list[int]:
    return [time - before for before, time in zip([0, *times], times, strict=False)]


def _index(section: Section | None, count: int) -> list[tuple[str, int]]:
    """Names and times; empty names where the section is damaged."""
    if section is None or section.kind != INDEX:
        return [("", -1)] * count
    names, steps = json.loads(zlib.decompress(section.payload).decode("utf-8", "surrogateescape"))
    if len(names) != count or len(steps) != count:
        raise Corrupt("the names do not fit the files", section="names")
    return list(zip(names, np.cumsum(np.array(steps, dtype=object)).tolist(), strict=True))


def is_safe(name: str) -> bool:
    """Whether a name stays within the folder that is unpacked into."""
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and "\0" not in name and "\\" not in name


def describe(image: PlainImage) -> bytes:
    """The description that an image's payload begins with."""
    extras = image.before + image.behind
    flags = _GRAY * image.gray | _EXTRAS * bool(extras) | PLAIN_FORMATS.index(image.format) << 2
    parts = [bytes([flags]), number(image.pixels.shape[1]), number(image.pixels.shape[0])]
    if extras:
        small = zlib.compress(number(len(image.before)) + extras, 9)
        parts += [number(len(small)), small]
    return b"".join(parts)


def described(payload: bytes) -> tuple[Description, bytes]:
    """The description and the rest of a payload. Raises Corrupt."""
    try:
        flags = payload[0]
        width, place = parsed(payload, 1)
        height, place = parsed(payload, place)
        before = behind = b""
        if flags & _EXTRAS:
            length, place = parsed(payload, place)
            unpacker = zlib.decompressobj()
            plain = unpacker.decompress(payload[place : place + length], MOST_EXTRAS + 8)
            first, start = parsed(plain, 0)
            before, behind, place = plain[start : start + first], plain[start + first :], place + length
        found = Description(width, height, bool(flags & _GRAY), PLAIN_FORMATS[flags >> 2], before, behind)
    except (IndexError, zlib.error) as error:
        raise Corrupt(f"the description of an image is damaged: {error}") from None
    if not 0 < width * height <= MOST_PIXELS:
        raise LimitExceeded(f"an image of {width:,} x {height:,} pixels")
    return found, payload[place:]


def number(value: int) -> bytes:
    """A number from 0 in base 128, lowest digits first."""
    digits = bytearray()
    while value >= 128:
        digits.append(value & 127 | 128)
        value >>= 7
    digits.append(value)
    return bytes(digits)


def parsed(data: bytes, place: int) -> tuple[int, int]:
    """The number at a place, and the place behind it. IndexError at the end of the data."""
    value = shift = 0
    while data[place] & 128:
        value |= (data[place] & 127) << shift
        place, shift = place + 1, shift + 7
        if shift > 35:
            raise IndexError("a number is too long")
    return value | data[place] << shift, place + 1
