"""Planning of a file of a target size: a rate model from sampled groups, for the pass of `rate_control`.

The clip is read once to count its frames and to collect spans, the first frames of a few groups spread over the clip. The spans
are coded at one to four qualities, and at the lowest and highest quality if the target size seems out of reach. A trial codes
one span of 3 frames (chunk codec: 8) for about every 20 frames of the clip, and at most 8 spans.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from latens.codes.clip_stream import ENTRY_BYTES, HEAD_BYTES
from latens.data.clips.clip import Clip
from latens.errors import UsageError
from latens.systems.video_codec.exact import QUALITY_STEPS
from latens.systems.video_codec.format import SOUND_PIECE
from latens.systems.video_codec.groups import Frame, GroupCoder, Mask, Setting
from latens.systems.video_codec.latents import Packer
from latens.systems.video_codec.rate_control import TARGET_SHARE, RateController, RateModel, Shape, highest_within
from latens.systems.video_codec.source import Source

if TYPE_CHECKING:
    from latens.systems.video_codec.predict import VideoCodec

MAX_SPANS = 8
SPAN_UNITS, SPAN_FRAMES = 2, 3  # minimum units and frames of a span
FRAMES_PER_SPAN = 20  # frames of the clip per coded span
SPAN_BYTES = 256 << 20  # maximum memory of the collected frames
NEAR = 0.05  # relative error of the expected size at which the search stops
MAX_TRIALS = 4  # maximum trials of the search for a quality
OUT_OF_REACH = 1.15  # possible error of a sample; targets beyond it are refused before encoding
TYPICAL_BPP, TYPICAL_QUALITY, TYPICAL_SLOPE = 0.2, 4.0, 0.3  # bpp at a quality, growth of ln(bpp) per quality
FILE_BYTES = 80  # bytes of header and end of a file
BYTES_PER_KBIT = 125.0

Span = list[tuple[Frame, "Mask | None"]]


class Scan(NamedTuple):
    """Size of a clip, and a sample of its frames."""

    frames: int
    seconds: Fraction
    pixels: int  # pixels of a frame
    sound: int  # bytes
    spans: list[Span]  # first frames of groups


class Plan(NamedTuple):
    """Coding options and rate model of a file of `wanted` bytes."""

    wanted: float
    setting: Setting
    shape: Shape
    model: RateModel
    highest: int  # highest quality of the model, in 1/256

    def controller(self, earlier: RateController | None = None) -> RateController:
        return RateController(self.wanted, self.shape, self.model, QUALITY_STEPS, self.highest, earlier)


def check_target(frames: object, quality: float | None, size: float | None, kbps: float | None) -> None:
    """Raise UsageError for several targets, for one that is not positive, and for frames that can be read only once."""
    targets = {"quality": quality, "size": size, "kbps": kbps}
    given = [name for name, value in targets.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other", hint="give one of them")
    for name in ("size", "kbps"):
        value = targets[name]
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UsageError(f"{name} {value:g} is not a positive number", hint="give a positive number")
    if given not in ([], ["quality"]) and isinstance(frames, Iterator):
        raise UsageError(f"{given[0]} needs frames that can be read twice", hint="give a path or an array, or use quality")


def make_plan(codec: VideoCodec, source: Source, gain: float | None, size: float | None, kbps: float | None) -> Plan:
    """Plan a file of `size` bytes or of `kbps`. Raises UsageError if it is out of reach, and the errors of `Source.open`."""
    coder = codec.coder
    scan = scan_clip(source, coder)
    wanted = float(size) if size is not None else BYTES_PER_KBIT * (kbps or 0.0) * float(scan.seconds)
    shape = Shape(scan.frames, coder.config.group, coder.unit)
    model = RateModel(len(scan.spans))
    lowest, highest = QUALITY_STEPS, round(QUALITY_STEPS * codec.best_quality)

    def setting(quality: int) -> Setting:
        return codec.setting(source.roi is not None, quality / QUALITY_STEPS, gain)[0]

    def expected(quality: int) -> float:
        return FILE_BYTES + scan.sound + model.total(quality, shape)

    def measure(quality: int) -> float:
        add_trial(model, coder, scan.spans, setting(quality))
        return expected(quality)

    bpp = 8 * wanted / max(scan.pixels * scan.frames, 1)
    guess = TYPICAL_QUALITY + math.log(bpp / TYPICAL_BPP) / TYPICAL_SLOPE
    quality = round(QUALITY_STEPS * min(max(guess, 1.0), codec.best_quality))
    tried: dict[int, float] = {}
    while quality not in tried and len(tried) < MAX_TRIALS:
        tried[quality] = measure(quality)
        if abs(tried[quality] / (TARGET_SHARE * wanted) - 1) <= NEAR:
            break
        quality = highest_within(expected, TARGET_SHARE * wanted, lowest, highest)
    if tried.get(lowest, 0.0) > OUT_OF_REACH * wanted or tried.get(highest, math.inf) * OUT_OF_REACH < wanted:
        ends = [tried.get(end) or measure(end) for end in (lowest, highest)]
        raise out_of_reach(wanted, size is None, float(scan.seconds), ends[0], ends[1], codec.best_quality)
    return Plan(wanted, setting(quality)._replace(varied=True), shape, model, highest)


def out_of_reach(wanted: float, rate: bool, seconds: float, low: float, high: float, best: float) -> UsageError:
    """The error for a size or bit rate outside the range of the model; `wanted`, `low` and `high` are in bytes."""
    scale = 8e-3 / max(seconds, 1e-6) if rate else 1.0
    shown = [f"{scale * value:,.0f}" if scale * value >= 10 else f"{scale * value:.3g}" for value in (wanted, low, high)]
    what = f"out of reach: {shown[0]} {'kbit/s' if rate else 'B'} asked for"
    what += f", about {shown[1]} (quality 1) to {shown[2]} (quality {best:g}) possible on this clip"
    hint = "choose a target in that range, or give --quality; the range with a region depends on --gain"
    return UsageError(what, hint=hint)


def too_large(wanted: float, size: int, lowest: float) -> UsageError:
    """The error for a written file that exceeds the target size."""
    what = f"out of reach: {wanted:,.0f} B asked for, the file has {size:,} at quality {lowest:.3g} and above"
    return UsageError(what, hint="ask for a larger file, or make the clip smaller or shorter")


def scan_clip(source: Source, coder: GroupCoder) -> Scan:
    """Read the clip once. Masks are read for the frames of spans, and for every frame if `source` records them."""
    group, recording = coder.config.group, source.recorded is not None
    span = min(group, max(SPAN_FRAMES, SPAN_UNITS * coder.unit))
    held: dict[int, Span] = {}
    stride, count, seconds, last = 1, 0, Fraction(0), -1
    with source.open() as (clip, regions):
        pixels = clip.info.width * clip.info.height
        most = min(MAX_SPANS, max(1, SPAN_BYTES // (4 * pixels * span)))
        for count, frame in enumerate(clip.frames(), 1):
            index, place = divmod(count - 1, group)
            seconds, last = seconds + frame.duration, frame.number
            wanted = index % stride == 0 and place < span
            mask = regions.of(frame) if regions is not None and (wanted or recording) else None
            if not wanted:
                continue
            held.setdefault(index, []).append((frame.rgb(), mask))
            while len(held) > most:  # the number of frames is not known yet, so every second span is dropped
                stride *= 2
                held = {each: part for each, part in held.items() if each % stride == 0}
        if regions is not None and recording:
            regions.finish(last + 1)
        sound = sound_bytes(clip) if clip.info.sound else 0
    spans = list(held.values())
    number = min(len(spans), max(1, round(count / FRAMES_PER_SPAN)))
    return Scan(count, seconds, pixels, sound, [spans[int((i + 0.5) * len(spans) / number)] for i in range(number)])


def sound_bytes(clip: Clip) -> int:
    """Bytes of the sound in the file, with the heads of its sections and their entries in the index."""
    from latens.data.clips.sound import copied_sound

    size = len(copied_sound(clip.path)[0])
    return size + -(-size // SOUND_PIECE) * (HEAD_BYTES + ENTRY_BYTES)


class _Tally:
    """A `groups.RateControl` with one quality for all units, which records their ends in the group."""

    def __init__(self, quality: int) -> None:
        self._quality, self.ends = quality, [0]

    def quality(self) -> int:
        return self._quality

    def accept(self, size: int) -> bool:
        self.ends.append(size)
        return True


def add_trial(model: RateModel, coder: GroupCoder, spans: Sequence[Span], setting: Setting) -> None:
    """Code the spans and add the mean sizes of their units to the model."""
    firsts: list[int] = []
    later: list[int] = []
    maps = 0.0
    for span in spans:
        frames, masks = [part[0] for part in span], [part[1] for part in span if part[1] is not None]
        packer, tally = Packer(), _Tally(setting.quality)
        coder.encode(packer, frames, masks if setting.region else None, setting, tally)
        map_bytes = packer.bits.get("map", 0) / 8
        sizes = [after - before for before, after in zip(tally.ends, tally.ends[1:], strict=False)]
        firsts.append(sizes[0] - round(map_bytes))
        later += sizes[1:]
        maps += map_bytes * coder.config.group / len(span) / len(spans)
    model.map_bytes = maps
    model.add(setting.quality, sum(firsts) / len(firsts), sum(later) / len(later) if later else None)
