"""Format of a packed folder (.ltp): groups of files in the container of `codes.clip_stream`, written and read sequentially.

Profile "LTP2". Header: SHA-256 of the frozen flow, SHA-256 of its tables. Every section is a group of at most 128 files (its
`first` is the number of the first file from 0, its `frames` the number of files):

    length of the list u32, the list, CRC-32 of these bytes u32, then the parts in order

The list holds for every part its kind u8, its length as a base-128 number and its CRC-32 u32. The first part has kind 1:

    kind 1  names and times, deflated JSON
    kind 2  an image coded by the flow, in bands of rows
    kind 3  an image as lossless WebP
    kind 4  an image as raw pixels
    kind 5  a file, unchanged
    kind 6  a file, deflated

The payload of an image begins with its `description`. Damage to a part loses that file, or the names of its group. Damage to a
list loses its group. Groups are found by the index at the end of the archive or by the marks of the sections, so damage to the
archive's header, to the head of a section or to the index alone loses nothing.
"""

from __future__ import annotations

import json
import ntpath
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from itertools import accumulate, pairwise
from pathlib import PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import BinaryIO, NamedTuple

from latens.codes.clip_stream import (
    FOOT_BYTES,
    HEAD_BYTES,
    MAX_PAYLOAD,
    ClipDamage,
    ClipHeader,
    ClipSection,
    ClipWriter,
    IndexEntry,
    read_header,
    read_sections,
    written_index,
)
from latens.codes.stream import SIGNATURE as SINGLE_FILES
from latens.codes.stream import wrong_kind
from latens.errors import Corrupt, NotOurFile, UnsupportedVersion
from latens.systems.flow.pack.description import number, parsed

PROFILE, OLD_PROFILE = "LTP2", "LTP1"
GROUP = 80  # section kind
NAMES, MODEL, WEBP, RAW, STORED, DEFLATED = range(1, 7)
KINDS: Mapping[int, str] = MappingProxyType({GROUP: "files"})
GROUP_FILES = 128  # maximum number of files of a group
MAX_BYTES = MAX_PAYLOAD - (1 << 24)  # maximum size of one file; the remainder of the payload is for names
MAX_NAMES = 1 << 24  # maximum size of the names of a group in bytes
_HEADER = struct.Struct("<32s32s")
_MIN_ENTRY_BYTES = 6  # minimum size of a list entry
_U32 = struct.Struct("<I")


class Member(NamedTuple):
    """A file of an archive: relative path, modification time in nanoseconds, kind and bytes of its part.

    In a damaged archive a lost name is "", a lost time None, and lost bytes are None; `reason` then describes the damage.
    """

    name: str
    time: int | None
    kind: int
    payload: bytes | None
    reason: str = ""


class Opened(NamedTuple):
    """Header of an archive; the hashes are "" if it is damaged."""

    flow_hash: str
    table_hash: str
    model_id: bytes


class Group(NamedTuple):
    """Files from number `first` on. `damage` describes damage that belongs to no single member, for example a truncated end."""

    first: int
    members: tuple[Member, ...]
    damage: str = ""


class Writer:
    """Appends groups of files to a stream, which may be unseekable. `close` writes the index. Raises LimitExceeded."""

    def __init__(self, stream: BinaryIO, opened: Opened) -> None:
        header = _HEADER.pack(bytes.fromhex(opened.flow_hash), bytes.fromhex(opened.table_hash))
        self.clip = ClipWriter(stream, ClipHeader(PROFILE, opened.model_id, header))
        self.count = 0

    def append(self, members: list[Member]) -> None:
        """Writes a group of at most `GROUP_FILES` files."""
        if len(members) > GROUP_FILES:
            raise ValueError(f"{len(members)} files exceed the {GROUP_FILES} of a group")
        plain = json.dumps([[one.name for one in members], _steps([one.time or 0 for one in members])], separators=(",", ":"))
        parts = [(NAMES, zlib.compress(plain.encode(), 9)), *((one.kind, one.payload or b"") for one in members)]
        entries = b"".join(bytes([kind]) + number(len(data)) + _U32.pack(zlib.crc32(data)) for kind, data in parts)
        head = _U32.pack(len(entries)) + entries
        payload = b"".join([head, _U32.pack(zlib.crc32(head)), *(data for _, data in parts)])
        self.clip.append(ClipSection(GROUP, payload, self.count, len(members)))
        self.count += len(members)

    def close(self) -> None:
        self.clip.close()

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self.clip.offset


def open_archive(stream: BinaryIO) -> Opened:
    """Header of an archive in a seekable stream. Raises StreamError for other files and for a truncated header."""
    start = stream.read(14)
    stream.seek(0)
    if start.startswith(SINGLE_FILES):
        profile = start[10:].decode("ascii", "replace")
        if profile == OLD_PROFILE:
            what = f"packed by an earlier latens (format {profile}, this one reads {PROFILE})"
            raise UnsupportedVersion(what, hint="unpack it with the version of latens that packed it")
        raise wrong_kind(profile)
    try:
        header = read_header(stream)
    except (Corrupt, NotOurFile) as error:
        if isinstance(error, NotOurFile) and not written_index(stream):
            raise NotOurFile("the file is not an archive of `latens density pack`") from None
        return Opened("", "", b"")
    if header.profile != PROFILE:
        raise wrong_kind(header.profile)
    flow_hash, table_hash = _HEADER.unpack(header.header)
    return Opened(flow_hash.hex(), table_hash.hex(), header.model_id)


def groups(stream: BinaryIO) -> Iterator[Group]:
    """Groups of an archive in a seekable stream; of a damaged archive all intact parts."""
    index = written_index(stream)
    yield from _scanned(stream) if index is None else _indexed(stream, index)


def _indexed(stream: BinaryIO, index: list[IndexEntry]) -> Iterator[Group]:
    """Groups found by the index, also those with a damaged section head."""
    stream.seek(-FOOT_BYTES, os.SEEK_END)
    ends = [*(entry.offset for entry in index[1:]), int.from_bytes(stream.read(8), "little")]
    for entry, end in zip(index, ends, strict=True):
        found = next(read_sections(stream, offset=entry.offset))
        section = found if isinstance(found, ClipSection) else found.section
        if section is not None:
            yield _group(section.payload, section.first, section.frames, "")
        else:
            stream.seek(entry.offset + HEAD_BYTES)
            payload = stream.read(max(end - entry.offset - HEAD_BYTES, 0))
            yield _group(payload, entry.first, entry.frames, "the head of a section is damaged")


def _scanned(stream: BinaryIO) -> Iterator[Group]:
    """Groups found by the marks of the sections."""
    stream.seek(0)
    try:
        read_header(stream)
    except Corrupt:
        stream.seek(0)
    count, reason = 0, "the index at the end is damaged"
    for found in read_sections(stream):
        if isinstance(found, ClipDamage) and found.section is None:
            reason = f"{found.reason} (at byte {found.offset:,})"
            continue
        section = found.section if isinstance(found, ClipDamage) else found
        assert section is not None
        if section.first > count:
            missing = min(section.first - count, stream.tell() // _MIN_ENTRY_BYTES)  # a forged number must not fill the memory
            yield Group(count, (Member("", None, 0, None, reason),) * missing)
        group = _group(section.payload, section.first, section.frames, "")
        count = section.first + section.frames
        yield group
    yield Group(count, (), f"{reason}; files after file {count:,} may be missing")


def _group(payload: bytes, first: int, count: int, damage: str) -> Group:
    """Parses a group whose bytes may be damaged or truncated."""
    try:
        entries, place = _entries(payload, count)
    except (Corrupt, IndexError, struct.error):
        lost = Member("", None, 0, None, "the list of the group is damaged")
        return Group(first, (lost,) * min(count, GROUP_FILES), damage)
    parts = []
    for kind, length, crc in entries:
        data = payload[place : place + length]
        place += length
        reason = _fault(data, length, crc)
        parts.append((kind, None if reason else data, reason))
    names = _names(parts[0][1], count)
    members = [Member(name, time, *part) for (name, time), part in zip(names, parts[1:], strict=True)]
    return Group(first, tuple(members), damage)


def _fault(data: bytes, length: int, crc: int) -> str:
    if len(data) < length:
        return "the archive is truncated here"
    return "" if zlib.crc32(data) == crc else "the checksum does not match"


def _entries(payload: bytes, count: int) -> tuple[list[tuple[int, int, int]], int]:
    """(kind, length, CRC-32) of every part, and the offset of the first. Raises Corrupt, IndexError, struct.error."""
    length = _U32.unpack_from(payload)[0]
    end = _U32.size + length
    if zlib.crc32(payload[:end]) != _U32.unpack_from(payload, end)[0]:
        raise Corrupt("the list is damaged")
    found, place = [], _U32.size
    while place < end:
        kind = payload[place]
        size, place = parsed(payload, place + 1)
        found.append((kind, size, _U32.unpack_from(payload, place)[0]))
        place += _U32.size
    if len(found) != count + 1 or found[0][0] != NAMES or place != end:
        raise Corrupt("the list does not fit its group")
    return found, end + _U32.size


def _steps(times: list[int]) -> list[int]:
    return [time - before for before, time in pairwise([0, *times])]


def _names(data: bytes | None, count: int) -> list[tuple[str, int | None]]:
    """Names and times; ("", None) for every file if they are damaged."""
    lost: list[tuple[str, int | None]] = [("", None)] * count
    if data is None:
        return lost
    try:
        names, steps = json.loads(zlib.decompressobj().decompress(data, MAX_NAMES))
        fits = len(names) == len(steps) == count and all(isinstance(one, str) for one in names)
        return list(zip(names, accumulate(steps), strict=True)) if fits and all(type(one) is int for one in steps) else lost
    except (ValueError, TypeError, RecursionError, zlib.error):
        return lost


def is_safe(name: str, *, windows: bool = os.name == "nt") -> bool:
    """True if the path stays within the folder into which it is unpacked."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
        return False
    if not windows:
        return True
    there = PureWindowsPath(name)
    function = getattr(ntpath, "isreserved", None)  # from Python 3.13 on, where the method of paths is deprecated
    reserved = there.is_reserved() if function is None else function(name)
    return not (there.drive or there.root or ".." in there.parts or ":" in name or reserved)
