"""Container of clips (.ltv) and packed folders (.ltp).

It is written and read section by section, so no file has to fit in memory.

All numbers are little-endian and unsigned. n is the length of the profile header.

    offset    bytes  field
    0             8  signature 89 4C 54 56 0D 0A 1A 0A: "LTV" between bytes that text-mode and 7-bit transfers change
    8             1  major version; another major is another layout
    9             1  minor version; a newer minor may add kinds of sections
    10            4  profile, ASCII: what the sections mean ("VID1", "LTP2")
    14            8  model id: the first 8 bytes of the SHA-256 of the model's canonical weights and tables
    22            2  n, at most 4,096
    24            n  profile header, opaque here
    24+n          4  CRC-32 of everything before it

Sections follow, each with a head of 38 bytes:

    0             4  mark C5 4C 54 53, by which a reader resynchronizes after damage
    4             1  kind; 255 is the index
    5             1  flags; bit 0: a reader that does not know the kind must refuse the file
    6             4  number of the section in the file, from 0
    10            8  first frame of the section (0 if it has no frames)
    18            4  number of frames
    22            8  length of the payload
    30            4  CRC-32 of the payload
    34            4  CRC-32 of the 34 bytes before it
    38               the payload

The index is the last section. It has one entry per earlier section: offset (8), kind (1), first frame (8) and number of frames
(4). The file ends with 16 bytes: offset of the index (8), mark C5 4C 54 45 (4), CRC-32 of these 12 bytes (4). Index and end
only speed up seeking; a truncated file is readable up to the cut. Every bit is covered by exactly one CRC.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from latens.codes.byte_stream import ByteStream
from latens.codes.stream import SIGNATURES, other_kind
from latens.errors import Corrupt, LimitExceeded, NotOurFile, Truncated, UnsupportedFeature, UnsupportedVersion

SIGNATURE = SIGNATURES[1]
VERSION = (1, 0)
REQUIRED = 1  # flag bit 0
INDEX = 255  # kind of the index
MAX_HEADER = 4096
MAX_PAYLOAD = 256 << 20  # bytes of one section
MAX_SECTIONS = 10_000_000
SEARCH = 1 << 16  # bytes read at a time in the search for the next section

_MARK, _END = b"\xc5LTS", b"\xc5LTE"
_FIXED = struct.Struct("<8sBB4s8sH")
_HEAD = struct.Struct("<4sBBIQIQI")
_ENTRY = struct.Struct("<QBQI")
_FOOT = struct.Struct("<Q4s")
_CRC = struct.Struct("<I")
HEAD_BYTES = _HEAD.size + _CRC.size
FOOT_BYTES = _FOOT.size + _CRC.size
ENTRY_BYTES = _ENTRY.size  # bytes of the index per section


class ClipHeader(NamedTuple):
    """The start of a file. `profile` is 4 ASCII characters, `model_id` 8 bytes, `header` at most 4,096 bytes."""

    profile: str
    model_id: bytes
    header: bytes
    version: tuple[int, int] = VERSION


class ClipSection(NamedTuple):
    """One section: a group of frames, or data of the whole clip (frames = 0)."""

    kind: int  # 0..254
    payload: bytes
    first: int = 0  # index of the first frame
    frames: int = 0
    required: bool = True


class ClipDamage(NamedTuple):
    """An unreadable range of the file: its offset in bytes and the reason."""

    offset: int
    reason: str
    cut: bool = False  # True if the file is truncated here
    section: ClipSection | None = None  # the section with the rest of its payload, if its head is intact


class IndexEntry(NamedTuple):
    """Position and contents of one section."""

    offset: int
    kind: int
    first: int
    frames: int


class ClipWriter:
    """Append sections to a stream, which need not be seekable; `close` writes the index.

    Raises ValueError for fields of the wrong size, LimitExceeded for a payload or a number of sections above the limits.
    """

    def __init__(self, stream: ByteStream, header: ClipHeader) -> None:
        profile = header.profile.encode("ascii")
        if len(profile) != 4 or len(header.model_id) != 8 or len(header.header) > MAX_HEADER:
            raise ValueError("need a profile of 4 characters, a model id of 8 bytes and a header of at most 4,096 bytes")
        self.stream = stream
        self.entries: list[IndexEntry] = []
        fixed = _FIXED.pack(SIGNATURE, *header.version, profile, header.model_id, len(header.header))
        self.offset = self._write(_checked(fixed + header.header))

    def append(self, section: ClipSection) -> None:
        """Write a section. It is readable as soon as its bytes are on the disk."""
        if not 0 <= section.kind < INDEX:
            raise ValueError(f"section kinds are 0..{INDEX - 1}")
        if len(section.payload) > MAX_PAYLOAD or len(self.entries) >= MAX_SECTIONS:
            raise LimitExceeded(f"a section of {len(section.payload):,} bytes, or too many sections")
        self.entries.append(IndexEntry(self.offset, section.kind, section.first, section.frames))
        self.offset += self._section(section)

    @property
    def closing(self) -> int:
        """Bytes that `close` will write."""
        return HEAD_BYTES + ENTRY_BYTES * len(self.entries) + FOOT_BYTES

    def close(self) -> None:
        """Write the index and the end of the file. The stream stays open."""
        index = b"".join(_ENTRY.pack(*entry) for entry in self.entries)
        start = self.offset
        self.offset += self._section(ClipSection(INDEX, index, required=False))
        self.offset += self._write(_checked(_FOOT.pack(start, _END)))

    def _section(self, section: ClipSection) -> int:
        number = len(self.entries) - (section.kind != INDEX)
        flags, length = REQUIRED * section.required, len(section.payload)
        crc = zlib.crc32(section.payload)
        head = _HEAD.pack(_MARK, section.kind, flags, number, section.first, section.frames, length, crc)
        return self._write(_checked(head)) + self._write(section.payload)

    def _write(self, data: bytes) -> int:
        self.stream.write(data)
        return len(data)


def _checked(data: bytes) -> bytes:
    return data + _CRC.pack(zlib.crc32(data))


def _is_checked(data: bytes) -> bool:
    return bool(zlib.crc32(data[: -_CRC.size]) == _CRC.unpack(data[-_CRC.size :])[0])


def read_header(stream: ByteStream) -> ClipHeader:
    """Read the start of a file. Raises NotOurFile, UnsupportedVersion, Truncated or Corrupt."""
    data = stream.read(_FIXED.size)
    if not data or data[: len(SIGNATURE)] != SIGNATURE[: len(data)]:
        raise other_kind(data) or NotOurFile("the file is empty" if not data else "this is not a latens clip")
    if len(data) >= 10 and data[8] > VERSION[0]:
        what = f"written by a newer latens (format {data[8]}.{data[9]}, this one reads up to {VERSION[0]}.x)"
        raise UnsupportedVersion(what, hint="update latens: pip install --upgrade latens")
    if len(data) < _FIXED.size:
        raise _cut(len(data), _FIXED.size)
    _, major, minor, profile, model_id, length = _FIXED.unpack(data)
    if length > MAX_HEADER or major < 1:
        raise Corrupt("the header is damaged: a field has an impossible value", section="header")
    data += stream.read(length + _CRC.size)
    if len(data) < _FIXED.size + length + _CRC.size:
        raise _cut(len(data), _FIXED.size + length + _CRC.size)
    if not _is_checked(data) or not profile.isascii():
        raise Corrupt("the header is damaged: the checksum does not match", section="header")
    return ClipHeader(profile.decode("ascii"), model_id, data[_FIXED.size : -_CRC.size], (major, minor))


def _cut(have: int, need: int) -> Truncated:
    return Truncated(f"file ends after {have:,} of at least {need:,} bytes (within its header)", have=have, need=need)


def read_sections(
    stream: ByteStream, *, known_kinds: Mapping[int, str] | None = None, offset: int | None = None
) -> Iterator[ClipSection | ClipDamage]:
    """Yield the sections of a seekable stream in order, from its position or from `offset`, and damage where it occurs.

    After damage, reading resumes at the next intact section. A file that ends without its index yields a last ClipDamage with
    `cut`. Raises UnsupportedFeature for a required section of an unknown kind, and no other error.
    """
    place = stream.tell() if offset is None else stream.seek(offset)
    while True:
        stream.seek(place)
        head = stream.read(HEAD_BYTES)
        if not head:
            yield ClipDamage(place, "the file ends without its index", cut=True)
            return
        if len(head) < HEAD_BYTES:
            yield ClipDamage(place, f"the file ends {len(head)} bytes into a section", cut=True)
            return
        entry = _parse_head(head)
        if entry is None:
            found = _next_mark(stream, place + 1)
            yield ClipDamage(place, f"{found - place:,} bytes are damaged" if found else "damaged to the end", cut=not found)
            if not found:
                return
            place = found
            continue
        section, length, crc = entry
        if section.kind == INDEX:
            yield from _damage_of_end(stream, place, length, crc)
            return
        _check_kind(section, known_kinds)
        payload = stream.read(length)
        if len(payload) < length:
            have = f"{len(payload):,} of {length:,} bytes"
            left = section._replace(payload=payload)
            yield ClipDamage(place, f"the file ends after {have} of {described(section)}", cut=True, section=left)
            return
        if zlib.crc32(payload) != crc:
            what = f"the checksum of {described(section)} does not match"
            yield ClipDamage(place, what, section=section._replace(payload=payload))
        elif known_kinds is None or section.kind in known_kinds:
            yield section._replace(payload=payload)
        place += HEAD_BYTES + length


def _damage_of_end(stream: ByteStream, place: int, length: int, crc: int) -> Iterator[ClipDamage]:
    """Damage of the index, whose head at `place` was read, of the end of the file, and bytes after it."""
    data = stream.read(length + FOOT_BYTES)
    end = stream.tell()
    more = stream.seek(0, 2) - end
    if len(data) < length + FOOT_BYTES:
        yield ClipDamage(place, "the file ends within its index", cut=True)
    elif zlib.crc32(data[:length]) != crc or not _is_checked(data[length:]):
        yield ClipDamage(place, "the index is damaged, which no frame needs")
    elif more:
        yield ClipDamage(end, f"{more:,} bytes follow the end of the file")


def _parse_head(head: bytes) -> tuple[ClipSection, int, int] | None:
    """(section without payload, length, CRC) of a section head; None if the head is damaged."""
    if not head.startswith(_MARK) or not _is_checked(head):
        return None
    _, kind, flags, _, first, frames, length, crc = _HEAD.unpack_from(head)
    if length > MAX_PAYLOAD:
        return None
    return ClipSection(kind, b"", first, frames, bool(flags & REQUIRED)), length, crc


def _check_kind(section: ClipSection, known_kinds: Mapping[int, str] | None) -> None:
    if known_kinds is not None and section.required and section.kind not in known_kinds:
        what = f"the file has a required section of kind {section.kind}, which this version of latens does not know"
        raise UnsupportedFeature(what, hint="update latens: pip install --upgrade latens")


def _next_mark(stream: ByteStream, place: int) -> int:
    """Offset of the next intact section head, or 0."""
    kept = b""
    stream.seek(place)
    while chunk := stream.read(SEARCH):
        window = kept + chunk
        start = window.find(_MARK)
        while start >= 0:
            stream.seek(place - len(kept) + start)
            head = stream.read(HEAD_BYTES)
            if len(head) == HEAD_BYTES and _parse_head(head) is not None:
                return place - len(kept) + start
            start = window.find(_MARK, start + 1)
        place += len(chunk)
        kept = window[-(len(_MARK) - 1) :]
        stream.seek(place)
    return 0


def described(section: ClipSection) -> str:
    """The frames of a section, for messages."""
    if section.frames < 2:
        return f"frame {section.first}" if section.frames else "a section without frames"
    return f"frames {section.first} to {section.first + section.frames - 1}"


def read_index(stream: ByteStream, begin: int = 0) -> list[IndexEntry]:
    """Index of a file that begins at the position `begin` of a stream, to which the offsets of the entries refer.

    If it is damaged or absent, the index is rebuilt by scanning the sections. The stream must be seekable; its position
    afterwards is undefined. Damaged sections are omitted.
    """
    return written_index(stream, begin) or _scanned_index(stream, begin)


def written_index(stream: ByteStream, begin: int = 0) -> list[IndexEntry] | None:
    """The index at the end of a seekable stream; None if it is damaged or absent. `begin` as in `read_index`."""
    size = stream.seek(0, 2) - begin
    if size < FOOT_BYTES:
        return None
    stream.seek(begin + size - FOOT_BYTES)
    foot = stream.read(FOOT_BYTES)
    start, mark = _FOOT.unpack_from(foot)
    if mark != _END or not _is_checked(foot) or start + HEAD_BYTES > size:
        return None
    stream.seek(begin + start)
    entry = _parse_head(stream.read(HEAD_BYTES))
    if entry is None or entry[0].kind != INDEX or entry[1] % _ENTRY.size or entry[1] > size:
        return None
    payload = stream.read(entry[1])
    if zlib.crc32(payload) != entry[2]:
        return None
    return [IndexEntry(*fields) for fields in _ENTRY.iter_unpack(payload)]


def _scanned_index(stream: ByteStream, begin: int) -> list[IndexEntry]:
    stream.seek(begin)
    read_header(stream)
    place = stream.tell()
    entries: list[IndexEntry] = []
    while True:
        stream.seek(place)
        entry = _parse_head(stream.read(HEAD_BYTES).ljust(HEAD_BYTES, b"\0"))
        if entry is None:
            place = _next_mark(stream, place + 1)
            if not place:
                return entries
            continue
        section, length, _ = entry
        if section.kind == INDEX:
            return entries
        entries.append(IndexEntry(place - begin, section.kind, section.first, section.frames))
        place += HEAD_BYTES + length
