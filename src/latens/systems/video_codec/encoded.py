"""Writing of a `.ltv` file group by group, and the record of the result."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

from latens.codes.clip_stream import ClipSection, ClipWriter
from latens.data.clips.clip import Clip, ClipFrame
from latens.data.regions.pairing import Regions
from latens.systems.video_codec.exact import AMPLIFIER_STEPS, QUALITY_STEPS
from latens.systems.video_codec.format import FRAMES, VideoHeader, pack_qualities, pack_times
from latens.systems.video_codec.groups import Frame, GroupCoder, Setting
from latens.systems.video_codec.latents import Packer
from latens.systems.video_codec.rate_control import RateController


class EncodedClip(NamedTuple):
    """Size, rate, quality and contents of a written file."""

    bytes: int
    width: int
    height: int
    frames: int
    duration: float  # seconds
    quality: float  # mean over the frames
    lowest_quality: float
    highest_quality: float
    wanted: int | None  # target size in bytes
    gain: float | None  # gain amplifier; None: no region
    kbps: float
    bits: dict[str, int]  # by part
    region: float | None  # mean share of the region in the frame; None: no region
    without_region: int  # frames with an empty region
    lost_at: float | None  # time in seconds at which tracking lost the region
    damaged: int  # packets or images of the source that could not be decoded
    missing: int  # frames that the source announces but does not contain
    seconds: float  # wall-clock time of encoding
    notes: tuple[str, ...]  # assumptions, conversions and losses in reading the source


class GroupWriter:
    """Collects frames and writes a section for every group of frames."""

    def __init__(
        self,
        coder: GroupCoder,
        writer: ClipWriter,
        setting: Setting,
        header: VideoHeader,
        controller: RateController | None = None,
    ) -> None:
        self._coder, self._writer, self._how, self._tick, self._controller = (
            coder,
            writer,
            setting,
            header.time_base,
            controller,
        )
        self._held: list[tuple[Frame, Any, int, int]] = []
        self.frames, self.empty, self.region, self.last = 0, 0, 0.0, -1
        self.duration = Fraction(0)
        self.bits: dict[str, int] = {}
        self.qualities: list[int] = []  # of the frames so far, in 1/256

    def add(self, frame: ClipFrame, mask: Any) -> None:
        if mask is not None:
            share = float(mask.mean()) / 255
            self.region += share
            self.empty += share == 0
        self.last = frame.number
        end = frame.time + frame.duration
        self._held.append((frame.rgb(), mask, round(frame.time / self._tick), round(end / self._tick)))
        self.duration += frame.duration
        if len(self._held) == self._coder.config.group:
            self.flush()

    def flush(self) -> None:
        """Write the collected frames as a group; nothing without any."""
        if not self._held:
            return
        images, masks, starts, ends = zip(*self._held, strict=True)
        packed = Packer()
        times = pack_times([*starts, ends[-1]])
        if self._controller is not None:
            self._controller.open_group(self._writer.offset + self._writer.closing, len(times), len(images))
        self._coder.encode(packed, images, masks if self._how.region else None, self._how, self._controller)
        qualities = pack_qualities(packed.qualities) if self._how.varied else b""
        self._writer.append(ClipSection(FRAMES, times + qualities + packed.data(), self.frames, len(images)))
        self.frames += len(images)
        used = packed.qualities or [self._how.quality]
        self.qualities += [used[min(index // self._coder.unit, len(used) - 1)] for index in range(len(images))]
        own = {"times": 8 * len(times)} | ({"qualities": 8 * len(qualities)} if qualities else {})
        for name, bits in {**packed.bits, **own}.items():
            self.bits[name] = self.bits.get(name, 0) + bits
        self._held = []


def note_depth(clip: Clip) -> None:
    """Add a note to the clip if its frames are converted to 8 bits."""
    if clip.info.color.wide and not clip.info.rgb:
        clip.note("HDR or BT.2020 color converted to BT.709 with 8 bits")
    elif clip.info.bits > 8:
        clip.note(f"{clip.info.bits} bits reduced to 8")


def header_of(clip: Clip, setting: Setting, group: int) -> VideoHeader:
    """The header of the file of a clip."""
    info = clip.info
    return VideoHeader(info.width, info.height, setting, group, info.time_base, info.rate, info.aspect)


def record_of(
    clip: Clip,
    regions: Regions | None,
    written: GroupWriter,
    size: int,
    setting: Setting,
    wanted: float | None,
    notes: list[str],
) -> EncodedClip:
    """The record of a file of `size` bytes; the caller sets `seconds`."""
    duration = float(written.duration)
    return EncodedClip(
        bytes=size,
        width=clip.info.width,
        height=clip.info.height,
        frames=written.frames,
        duration=round(duration, 6),
        quality=round(sum(written.qualities) / max(written.frames, 1) / QUALITY_STEPS, 4),
        lowest_quality=min(written.qualities, default=setting.quality) / QUALITY_STEPS,
        highest_quality=max(written.qualities, default=setting.quality) / QUALITY_STEPS,
        wanted=None if wanted is None else int(wanted),
        gain=2.0 ** (setting.amplifier / AMPLIFIER_STEPS) if setting.region else None,
        kbps=round(8e-3 * size / max(duration, 1e-6), 3),
        bits=written.bits | {"container": 8 * size - sum(written.bits.values())},
        region=None if regions is None else round(written.region / max(written.frames, 1), 5),
        without_region=written.empty,
        lost_at=None if regions is None else regions.lost_at,
        damaged=clip.damaged,
        missing=clip.missing,
        seconds=0.0,
        notes=(*clip.notes, *([] if regions is None else regions.notes), *notes),
    )
