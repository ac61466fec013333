"""Inspection of a file without its model: sizes, rates, qualities, and the bits of every latent.

The parts of a group have lengths but no names. Their number and the order in which coders write them identify the method, and
thus the names, for groups of two frames or more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple

from latens.codes.clip_stream import HEAD_BYTES, ClipDamage, ClipSection, described
from latens.errors import Corrupt
from latens.systems.video_codec.exact import AMPLIFIER_STEPS, QUALITY_STEPS
from latens.systems.video_codec.format import (
    FRAMES,
    VideoHeader,
    open_stream,
    read_qualities,
    read_times,
    sections,
)
from latens.systems.video_codec.latents import Unpacker, varint

_HYPER, _GAIN = ("{0}_hyper", "{0}"), ("{0}_gain_hyper", "{0}_gain")


class Layout(NamedTuple):
    """Names of the parts of a group in order: of its first unit of frames and of each later one."""

    model: str
    first: tuple[str, ...]
    later: tuple[str, ...]
    chunks: bool = False  # a unit has several frames
    map: bool | None = None  # a map comes first; None: if the clip has a region

    def names(self, frames: int, count: int, region: bool) -> list[str] | None:
        """The names of the `count` parts of a group of `frames`; None if this layout has another number of parts."""
        start = ["map"] if (region if self.map is None else self.map) else []
        units = frames
        if self.chunks:  # the file does not contain their length, which is two frames or more
            units = (count - len(start)) // len(self.first)
            if not 1 <= units <= -(-frames // 2):
                return None
        found = [*start, *self.first, *self.later * (units - 1)]
        return found if len(found) == count else None


def _parts(*kinds: tuple[str, tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(part.format(name) for name, parts in kinds for part in parts)


_TWO_HYPER = ("{0}_hyper", "{0}_hyper", "{0}")  # of region and background
_MOTION = ("motion", _HYPER)
LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "plain": Layout(
            "scale-space flow", _parts(("intra", _HYPER)), _parts(_MOTION, ("residual", _HYPER))
        ),
        "implicit": Layout(
            "scale-space flow, implicit", _parts(("intra", _HYPER)), _parts(_MOTION, ("residual", _HYPER)), map=False
        ),
        "obic": Layout(
            "scale-space flow, OBIC", _parts(("intra", _TWO_HYPER)), _parts(_MOTION, ("residual", _TWO_HYPER)), map=True
        ),
        "scaling": Layout(
            "scale-space flow, latent scaling",
            _parts(("intra", _GAIN), ("intra", _HYPER)),
            _parts(("residual", _GAIN), _MOTION, ("residual", _HYPER)),
            map=False,
        ),
        "chunk": Layout("chunks", _parts(("latent", _HYPER)), _parts(("latent", _HYPER)), chunks=True),
    }
)  # fmt: skip


class VideoInfo(NamedTuple):
    """Sizes and rates of a file."""

    width: int
    height: int
    frames: int  # decodable frames
    seconds: float
    fps: float
    quality: float  # mean over the frames
    lowest_quality: float
    highest_quality: float
    gain: float | None  # gain amplifier; None: the clip has no region
    group: int
    model_id: str
    layout: str  # of the groups; "unknown" if several layouts fit
    format: str
    bytes: int
    bpp: float | None  # None: the file has no decodable frame
    kbps: float | None
    bits: dict[str, int]  # by part
    damage: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dict, with the share of every part in the bits in percent."""
        shares = {name: round(100 * bits / max(8 * self.bytes, 1), 2) for name, bits in self.bits.items()}
        found = self._asdict()
        del found["damage"]
        return {**found, "percent_of_bits": shares, "damage": list(self.damage)}


class _Group(NamedTuple):
    """One section of frames."""

    frames: int
    ticks: int  # its duration in units of the time base
    qualities: tuple[int, ...]  # of the frames, in 1/256
    bits: dict[str, int]  # of times and qualities
    parts: tuple[int, ...]  # bits of the parts


class _Sections(NamedTuple):
    """All sections of a file."""

    groups: list[_Group]
    heads: int  # bits of the header of the file and of the heads of its sections
    sound: int  # bits
    damage: list[str]


def inspect_stream(stream: BinaryIO) -> VideoInfo:
    """Inspect a file without its model. Raises StreamError or LimitExceeded."""
    opened = open_stream(stream)
    header = opened.header
    found = _read_sections(stream, header)
    groups, size = found.groups, stream.seek(0, 2)
    layout, bits = _named(groups, header)
    bits["sound"] = found.sound
    rest = 8 * size - sum(bits.values())
    bits |= {"container": found.heads, "unreadable": rest - found.heads} if found.damage else {"container": rest}
    frames = sum(group.frames for group in groups)
    seconds = float(sum(group.ticks for group in groups) * header.time_base)
    qualities = [quality / QUALITY_STEPS for group in groups for quality in group.qualities]
    qualities = qualities or [header.setting.quality / QUALITY_STEPS]
    return VideoInfo(
        width=header.width,
        height=header.height,
        frames=frames,
        seconds=round(seconds, 6),
        fps=float(header.rate),
        quality=round(sum(qualities) / len(qualities), 4),
        lowest_quality=min(qualities),
        highest_quality=max(qualities),
        gain=2.0 ** (header.setting.amplifier / AMPLIFIER_STEPS) if header.setting.region else None,
        group=header.group,
        model_id=opened.model_id,
        layout=layout,
        format=f"video {opened.version[0]}.{opened.version[1]}",
        bytes=size,
        bpp=8 * size / (header.width * header.height * frames) if frames else None,
        kbps=8e-3 * size / seconds if seconds else None,
        bits=bits,
        damage=tuple(found.damage),
    )


def _read_sections(stream: BinaryIO, header: VideoHeader) -> _Sections:
    """The sections from the position of the stream on."""
    groups: list[_Group] = []
    damage: list[str] = []
    heads, sound = 8 * stream.tell(), 0
    for part in sections(stream, header):
        if isinstance(part, ClipDamage):
            damage.append(f"at byte {part.offset:,}: {part.reason}")
            continue
        heads += 8 * HEAD_BYTES
        if part.kind != FRAMES:
            sound += 8 * len(part.payload)
            continue
        try:
            groups.append(_read_group(part, header))
        except Corrupt as error:
            damage.append(f"{described(part)}: {error.what}")
    return _Sections(groups, heads, sound, damage)


def _read_group(part: ClipSection, header: VideoHeader) -> _Group:
    """The numbers of a group. Raises Corrupt."""
    unpacker = Unpacker(part.payload)
    times = read_times(unpacker, part.frames)
    after_times = unpacker.position
    qualities: tuple[int, ...] = (header.setting.quality,)
    if header.setting.varied:
        qualities = read_qualities(unpacker, part.frames)
    bits = {"times": 8 * after_times}
    if unpacker.position > after_times:
        bits["qualities"] = 8 * (unpacker.position - after_times)
    unit = -(-part.frames // len(qualities))
    frames = tuple(qualities[index // unit] for index in range(part.frames))
    return _Group(part.frames, times[-1] - times[0], frames, bits, tuple(_part_bits(unpacker)))


def _part_bits(unpacker: Unpacker) -> Iterator[int]:
    """Bits of the remaining parts, their lengths included."""
    while not unpacker.done:
        length = len(unpacker.take())
        yield 8 * (length + len(varint(length)))


def _named(groups: list[_Group], header: VideoHeader) -> tuple[str, dict[str, int]]:
    """The layout that fits all groups, and the bits by name; all parts have one name if several layouts fit."""
    region = header.setting.region
    fitting = [
        layout
        for layout in LAYOUTS.values()
        if groups and all(layout.names(group.frames, len(group.parts), region) is not None for group in groups)
    ]
    kinds = {(layout.first, layout.later) for layout in fitting}
    known = fitting[0] if len(kinds) == 1 else None
    bits: dict[str, int] = {}
    for group in groups:
        names = known.names(group.frames, len(group.parts), region) if known else ["frames"] * len(group.parts)
        assert names is not None
        for name, size in [*zip(names, group.parts, strict=True), *group.bits.items()]:
            bits[name] = bits.get(name, 0) + size
    return known.model if known else "unknown", bits or {"frames": 0}
