"""Container of latens files: a header with a checksum, then the bytes of the sections.

All numbers are little-endian and unsigned. n is the length of the profile header, k the number of sections.

    offset    bytes  field
    0             8  signature 89 4C 54 4E 0D 0A 1A 0A: "LTN" between bytes that text-mode and 7-bit transfers change
    8             1  major version; another major is another layout
    9             1  minor version; a newer minor may add sections
    10            4  profile, ASCII: what the sections mean ("IMG1")
    14            8  model id: the first 8 bytes of the SHA-256 of the model's canonical weights and tables
    22            4  length of the whole file
    26            2  n, at most 4,096
    28            2  k
    30            n  profile header, opaque here
    30+n       10 k  section table, per section: kind (1), flags (1), length (4), CRC-32 of the payload (4)
    30+n+10k      4  CRC-32 of everything before it
    34+n+10k         the payloads in table order, with nothing between or after them

Flag bit 0: a reader that does not know the kind must refuse the file; without it, the reader skips the section. Other bits are
0. Every bit of a file is covered by exactly one CRC. The header holds all lengths, so the sections after a damaged one remain
readable. A file of two sections has an overhead of 54 bytes plus its profile header.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from latens.errors import Corrupt, LimitExceeded, NotOurFile, Truncated, UnsupportedFeature, UnsupportedVersion

SIGNATURE = b"\x89LTN\r\n\x1a\n"
SIGNATURES = (SIGNATURE, b"\x89LTV\r\n\x1a\n")  # of single files and of streams, see `codes.clip_stream`
PROFILE_PLACE = slice(10, 14)  # in both
KINDS = {"IMG1": ("an image", "decompress"), "VID1": ("a clip", "video decompress"), "LTP2": ("an archive", "density unpack")}
VERSION = (1, 0)
REQUIRED = 1  # flag bit 0
MAX_HEADER = 4096

_FIXED = struct.Struct("<8sBB4s8sIHH")
_ENTRY = struct.Struct("<BBII")
_CRC = struct.Struct("<I")
_SMALLEST = _FIXED.size + _CRC.size

# Signatures after transfers in text mode.
_TEXT_DAMAGE = {
    b"\x89LTN\n\x1a\n": "CR LF became LF",
    b"\x89LTN\r\r\n\x1a": "LF became CR LF",
    b"\x89LTN\r\x1a\r": "LF became CR",
    b"\x09LTN\r\n\x1a\n": "the eighth bit was cut off",
    b"\xc2\x89LTN": "the bytes were re-encoded as UTF-8",
    b"\xef\xbf\xbdLTN": "the bytes were re-encoded as UTF-8",
}
_OTHER_FILES = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"RIFF": "a WebP, AVI or WAV file",
    b"GIF8": "a GIF image",
    b"PK\x03\x04": "a zip archive",
    b"%PDF": "a PDF document",
}


@dataclass(frozen=True, kw_only=True)
class StreamLimits:
    """Upper bounds, checked before any allocation."""

    file_bytes: int = 1 << 30
    section_bytes: int = 256 << 20
    sections: int = 65_535


@dataclass(frozen=True)
class Section:
    """One part of a file. `kind` is 0..255; a reader that does not know a `required` kind refuses the file."""

    kind: int
    payload: bytes
    required: bool = True


@dataclass(frozen=True)
class Container:
    """Contents of a file. `profile` is 4 ASCII characters, `model_id` 8 bytes, `header` at most 4,096 bytes."""

    profile: str
    model_id: bytes
    header: bytes
    sections: tuple[Section, ...]
    version: tuple[int, int] = VERSION


@dataclass(frozen=True)
class Damage:
    """A damaged or missing section; `index` is its position in the file, from 0."""

    kind: int
    index: int
    reason: str


class Unpacked(NamedTuple):
    """Result of `unpack`; `damaged` is empty unless `partial=True`."""

    container: Container
    damaged: tuple[Damage, ...]
    extra: int = 0  # bytes after the end of the file, with `partial`


class _Entry(NamedTuple):
    kind: int
    required: bool
    offset: int
    length: int
    crc: int


class _Head(NamedTuple):
    container: Container  # without sections
    entries: tuple[_Entry, ...]
    total: int


def pack(container: Container) -> bytes:
    """The bytes of a file. Raises ValueError for fields of the wrong size, LimitExceeded above the default `StreamLimits`."""
    profile = container.profile.encode("ascii")
    if len(profile) != 4 or len(container.model_id) != 8 or len(container.header) > MAX_HEADER:
        raise ValueError("need a profile of 4 characters, a model id of 8 bytes and a header of at most 4,096 bytes")
    if not all(0 <= section.kind <= 255 for section in container.sections):
        raise ValueError("section kinds are 0..255")
    table = b"".join(
        _ENTRY.pack(section.kind, REQUIRED * section.required, len(section.payload), zlib.crc32(section.payload))
        for section in container.sections
    )
    total = _SMALLEST + len(container.header) + len(table) + sum(len(section.payload) for section in container.sections)
    _check_limits(total, [len(section.payload) for section in container.sections], StreamLimits())
    fixed = _FIXED.pack(
        SIGNATURE,
        *container.version,
        profile,
        container.model_id,
        total,
        len(container.header),
        len(container.sections),
    )
    head = fixed + container.header + table
    return b"".join([head, _CRC.pack(zlib.crc32(head)), *(section.payload for section in container.sections)])


def unpack(
    data: bytes,
    *,
    known_kinds: Mapping[int, str] | None = None,
    limits: StreamLimits | None = None,
    partial: bool = False,
) -> Unpacked:
    """Read a complete file. Only bytes that `pack` could have written are accepted.

    `known_kinds` maps the section kinds that the caller understands to names for messages. Required sections of other kinds
    raise UnsupportedFeature; optional ones are omitted. None keeps every kind. With `partial` the header must be intact, but
    damaged or truncated sections are listed in `damaged` instead of raising an error. Raises NotOurFile, UnsupportedVersion,
    UnsupportedFeature, Truncated, Corrupt or LimitExceeded, and no other error.
    """
    head = _read_head(data, limits or StreamLimits())
    if not partial:
        _check_length(data, head, known_kinds)
    sections: list[Section] = []
    damaged: list[Damage] = []
    for index, entry in enumerate(head.entries):
        payload = data[entry.offset : entry.offset + entry.length]
        reason = _fault(entry, payload)
        if reason is not None and not partial:
            name = _name(entry, index, known_kinds)
            raise Corrupt(f"{name} is damaged: {reason}", section=name, offset=entry.offset)
        if not _wanted(entry, head, known_kinds):
            continue
        if reason is None:
            sections.append(Section(entry.kind, payload, entry.required))
        else:
            damaged.append(Damage(entry.kind, index, reason))
    return Unpacked(replace(head.container, sections=tuple(sections)), tuple(damaged), max(len(data) - head.total, 0))


def model_of(data: bytes) -> str:
    """The id of the model that a file names, in hexadecimal. Raises StreamError for files without an intact header."""
    return _read_head(data, StreamLimits()).container.model_id.hex()


def head_bytes(data: bytes) -> int:
    """Bytes before the first section of a file. Raises StreamError for files without an intact header."""
    head = _read_head(data, StreamLimits())
    return head.total - sum(entry.length for entry in head.entries)


def _read_head(data: bytes, limits: StreamLimits) -> _Head:
    """Read and check the header. Fields are trusted only after the CRC has been verified."""
    _check_signature(data)
    if len(data) >= 10:
        _check_version(data[8], data[9])
    if len(data) < _SMALLEST:
        raise _truncated(len(data), _SMALLEST, "within its header")
    _, major, minor, profile, model_id, total, header_length, count = _FIXED.unpack_from(data)
    end = _SMALLEST + header_length + _ENTRY.size * count
    if end > total:
        raise _corrupt_header("its lengths contradict each other")
    if len(data) < end:
        raise _truncated(len(data), total, "within its header")
    body = end - _CRC.size
    if zlib.crc32(memoryview(data)[:body]) != _CRC.unpack_from(data, body)[0]:
        raise _corrupt_header("the checksum does not match")
    table = _FIXED.size + header_length
    lengths = [_ENTRY.unpack_from(data, table + _ENTRY.size * i)[2] for i in range(count)]
    _check_limits(total, lengths, limits)
    if end + sum(lengths) != total or header_length > MAX_HEADER or not profile.isascii():
        raise _corrupt_header("a field has an impossible value")
    header = data[_FIXED.size : table]
    entries = _read_table(data[table:body], end)
    return _Head(Container(profile.decode("ascii"), model_id, header, (), (major, minor)), entries, total)


def _read_table(table: bytes, offset: int) -> tuple[_Entry, ...]:
    entries = []
    for kind, flags, length, crc in _ENTRY.iter_unpack(table):
        if flags & ~REQUIRED:
            raise UnsupportedFeature(f"a section has unknown flags ({flags:#04x})", hint="update latens")
        entries.append(_Entry(kind, bool(flags & REQUIRED), offset, length, crc))
        offset += length
    return tuple(entries)


def _check_signature(data: bytes) -> None:
    if not data:
        raise NotOurFile("the file is empty")
    if data[: len(SIGNATURE)] == SIGNATURE[: len(data)]:
        return
    for damage, how in _TEXT_DAMAGE.items():
        if data.startswith(damage):
            raise Corrupt(
                f"the file was damaged by a transfer in text mode ({how})",
                section="signature",
                hint="copy it again in binary mode",
            )
    if (other := other_kind(data)) is not None:
        raise other
    what = next((name for start, name in _OTHER_FILES.items() if data.startswith(start)), None)
    raise NotOurFile("this is not a latens file" + (f" but {what}" if what else ""))


def other_kind(start: bytes) -> UnsupportedFeature | None:
    """The error for a latens file of another kind than the caller reads, by its first 14 bytes; None for other files."""
    known = start[: len(SIGNATURE)] in SIGNATURES and len(start) >= PROFILE_PLACE.stop
    return wrong_kind(start[PROFILE_PLACE].decode("ascii", "replace")) if known else None


def wrong_kind(profile: str) -> UnsupportedFeature:
    """The error for a latens file of a profile that the caller does not read."""
    what, verb = KINDS.get(profile, (f"of a kind that this version does not know ({profile!r})", ""))
    hint = f"`latens {verb}` reads it" if verb else "update latens: pip install --upgrade latens"
    return UnsupportedFeature(f"this latens file is {what}", hint=hint)


def _check_version(major: int, minor: int) -> None:
    if major > VERSION[0]:
        raise UnsupportedVersion(
            f"written by a newer latens (format {major}.{minor}, this one reads up to {VERSION[0]}.x)",
            hint="update latens: pip install --upgrade latens",
        )
    if major < 1:
        raise _corrupt_header(f"there is no format {major}.{minor}")


def _check_limits(total: int, lengths: list[int], limits: StreamLimits) -> None:
    checks = [
        ("file size", total, limits.file_bytes),
        ("number of sections", len(lengths), limits.sections),
        ("largest section", max(lengths, default=0), limits.section_bytes),
    ]
    for what, value, limit in checks:
        if value > limit:
            raise LimitExceeded(f"the {what} is {value:,}, above the limit of {limit:,}")


def _check_length(data: bytes, head: _Head, names: Mapping[int, str] | None) -> None:
    if len(data) > head.total:
        extra = len(data) - head.total
        raise Corrupt(f"{extra:,} bytes follow the end of the file", section="end", offset=head.total)
    if len(data) == head.total:
        return
    cut = next(i for i, entry in enumerate(head.entries) if entry.offset + entry.length > len(data))
    where = f"section {cut + 1} of {len(head.entries)}, {_name(head.entries[cut], cut, names)}"
    whole = [
        _name(entry, i, names)
        for i, entry in enumerate(head.entries)
        if _fault(entry, data[entry.offset : entry.offset + entry.length]) is None
    ]
    raise _truncated(len(data), head.total, where, tuple(whole))


def _fault(entry: _Entry, payload: bytes) -> str | None:
    if len(payload) < entry.length:
        return f"the file ends after {len(payload):,} of its {entry.length:,} bytes" if payload else "it is missing"
    return None if zlib.crc32(payload) == entry.crc else "the checksum does not match"


def _wanted(entry: _Entry, head: _Head, known_kinds: Mapping[int, str] | None) -> bool:
    if known_kinds is None or entry.kind in known_kinds:
        return True
    if entry.required:
        major, minor = head.container.version
        raise UnsupportedFeature(
            f"the file (format {major}.{minor}) has a required section of kind {entry.kind}, which this latens does not know",
            hint="update latens: pip install --upgrade latens",
        )
    return False


def _name(entry: _Entry, index: int, names: Mapping[int, str] | None) -> str:
    return (names or {}).get(entry.kind, f"section {index} (kind {entry.kind})")


def _truncated(have: int, need: int, where: str, intact: tuple[str, ...] = ()) -> Truncated:
    return Truncated(f"file ends after {have:,} of {need:,} bytes ({where})", have=have, need=need, intact=intact)


def _corrupt_header(why: str) -> Corrupt:
    return Corrupt(f"the header is damaged: {why}", section="header", offset=0)
