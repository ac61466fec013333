"""The `.ltv` profile of the video codecs: header, groups of frames, sound. The container is `latens.codes.clip_stream`.

Profile "VID1". The profile header, little-endian and unsigned:

    width, height          4 + 4   pixels of the upright frames
    quality                2       in 1/256; approximate mean if bit 1 of the flags is set
    amplifier              1       gain amplifier in half octaves
    flags                  1       bit 0: the clip has a region; bit 1: groups store qualities
    group                  2       maximum number of frames of a group
    time base              4 + 4   seconds, as a fraction
    rate                   4 + 4   mean frames per second, as a fraction
    aspect                 4 + 4   width of a pixel over its height, as a fraction

A section of kind FRAMES (1) holds one group, a section of kind SOUND (2) a piece of an audio-only Matroska file. The payload
of a group contains the times of its frames (`pack_times`), the qualities of its units of frames (`pack_qualities`; only if
bit 1 of the flags is set), and its parts. A part is its length and its bytes; the length has 7 bits per byte, lowest first,
and the highest bit of a byte is set if another byte follows. The parts of a group are

    map       one part, `codes.adaptive.encode_maps`: the map of OBIC, or the quality map of a region; absent for other methods
    latents   scale-space flow, for each frame: the gain latent (latent scaling only), the motion latent (not for the first
              frame), and the latent of the first frame or of the residual; chunk codec: one latent for each chunk

A latent is one part with the hyper-latent z for each hyper-codec (OBIC: region, then background), then one part with y: the low
16 bits of the CRC-32 of its table indices (2 bytes), and its symbols. `codes.coder` describes the coding of symbols.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType
from typing import BinaryIO, NamedTuple

from latens.codes.clip_stream import ClipDamage, ClipHeader, ClipSection, IndexEntry, read_header, read_index, read_sections
from latens.codes.stream import wrong_kind
from latens.data.limits import current_limits
from latens.errors import Corrupt, UnsupportedFeature
from latens.systems.video_codec.exact import MAX_AMPLIFIER
from latens.systems.video_codec.groups import Setting
from latens.systems.video_codec.latents import Unpacker, varint

PROFILE = "VID1"
FRAMES, SOUND = 1, 2
KINDS: Mapping[int, str] = MappingProxyType({FRAMES: "frames", SOUND: "sound"})
REGION, VARIED = 1, 2  # flags
MAX_GROUP = 1024  # frames
SOUND_PIECE = 8 << 20  # maximum bytes of a section of sound

_HEADER = struct.Struct("<IIHBBH6I")


class VideoHeader(NamedTuple):
    width: int
    height: int
    setting: Setting
    group: int
    time_base: Fraction  # seconds
    rate: Fraction  # frames per second
    aspect: Fraction

    def pack(self) -> bytes:
        current_limits().check(self.width, self.height, "a frame")  # a file that could not be read again
        setting = self.setting
        fractions = [part for value in self[4:] for part in _halves(value)]
        flags = REGION * setting.region + VARIED * setting.varied
        return _HEADER.pack(self.width, self.height, setting.quality, setting.amplifier, flags, self.group, *fractions)


def _halves(value: Fraction) -> tuple[int, int]:
    held = value if max(value.numerator, value.denominator) < 1 << 32 else value.limit_denominator(1 << 16)
    return held.numerator, held.denominator


def read_video_header(packed: bytes) -> VideoHeader:
    """The fields of a profile header. Raises Corrupt, UnsupportedFeature or LimitExceeded."""
    if len(packed) != _HEADER.size:
        raise Corrupt(f"the clip header has {len(packed)} bytes instead of {_HEADER.size}", section="header")
    width, height, quality, amplifier, flags, group, *parts = _HEADER.unpack(packed)
    if flags & ~(REGION | VARIED):
        raise UnsupportedFeature("the clip uses a feature that this version of latens does not know", hint="update latens")
    if min(width, height, group, *parts) < 1 or group > MAX_GROUP or amplifier > MAX_AMPLIFIER:
        raise Corrupt("a field of the clip header has an impossible value", section="header")
    current_limits().check(width, height, "a frame")
    fractions = [Fraction(parts[i], parts[i + 1]) for i in (0, 2, 4)]
    setting = Setting(quality, amplifier, bool(flags & REGION), bool(flags & VARIED))
    return VideoHeader(width, height, setting, group, *fractions)


def pack_times(ticks: Sequence[int]) -> bytes:
    """The bytes of the times of the frames of a group, and of the end of the last frame, in units of the time base.

    The first time and the differences between neighbors, as integers with 7 bits per byte. Equal differences are stored once.
    """
    steps = [after - before for before, after in itertools.pairwise(ticks)]
    constant = len(set(steps)) == 1
    head = bytes([constant]) + varint(_zigzag(ticks[0]))
    return head + b"".join(varint(_zigzag(step)) for step in (steps[:1] if constant else steps))


def read_times(unpacker: Unpacker, count: int) -> tuple[int, ...]:
    """The `count` + 1 times of `pack_times`. Raises Corrupt."""
    constant = unpacker.number()
    found = [_signed(unpacker.number())]
    steps = [_signed(unpacker.number())] * count if constant else [_signed(unpacker.number()) for _ in range(count)]
    for step in steps:
        found.append(found[-1] + step)
    return tuple(found)


def pack_qualities(qualities: Sequence[int]) -> bytes:
    """The bytes of the qualities of the units of a group, in 1/256: number, first quality, and differences."""
    steps = [after - before for before, after in itertools.pairwise(qualities)]
    return varint(len(qualities)) + varint(qualities[0]) + b"".join(varint(_zigzag(step)) for step in steps)


def read_qualities(unpacker: Unpacker, count: int) -> tuple[int, ...]:
    """The qualities of `pack_qualities`, for a group of `count` frames. Raises Corrupt."""
    number = unpacker.number()
    if not 1 <= number <= count:
        raise Corrupt(f"a group holds {number} qualities for {count} frames", section="frames")
    found = [unpacker.number()]
    for _ in range(number - 1):
        found.append(found[-1] + _signed(unpacker.number()))
    return tuple(found)


def _zigzag(value: int) -> int:
    return 2 * value if value >= 0 else -2 * value - 1


def _signed(value: int) -> int:
    return value // 2 if value % 2 == 0 else -(value + 1) // 2


class OpenedStream(NamedTuple):
    """The start of a file; its sections follow in the stream."""

    header: VideoHeader
    model_id: str  # 16 hexadecimal digits
    version: tuple[int, int]


def open_stream(stream: BinaryIO) -> OpenedStream:
    """Read the header. Raises StreamError or LimitExceeded."""
    found: ClipHeader = read_header(stream)
    if found.profile != PROFILE:
        raise wrong_kind(found.profile)
    return OpenedStream(read_video_header(found.header), found.model_id.hex(), found.version)


def sections(stream: BinaryIO, header: VideoHeader, offset: int | None = None) -> Iterator[ClipSection | ClipDamage]:
    """Sections and damage in the order of the file. Raises Corrupt for a group with too many frames."""
    for part in read_sections(stream, known_kinds=KINDS, offset=offset):
        if isinstance(part, ClipSection) and part.kind == FRAMES and not 1 <= part.frames <= header.group:
            raise Corrupt(f"a group holds {part.frames} frames, but at most {header.group} are possible", section="frames")
        yield part


def group_at(stream: BinaryIO, frame: int, begin: int) -> IndexEntry | None:
    """The group that holds a frame, or the next group; None after the end. `begin` is the position of the file in the stream.

    Moves the position of the stream.
    """
    entries = [entry for entry in read_index(stream, begin) if entry.kind == FRAMES and entry.first + entry.frames > frame]
    return min(entries, key=lambda entry: entry.first, default=None)
