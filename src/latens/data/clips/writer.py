"""Atomic writing of clips frame by frame, with time stamps, color tags and copied sound."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.filter

from latens.data.clips.clip import ClipInfo
from latens.data.clips.color import (
    REC709,
    Chain,
    Color,
    change_format,
    color_of,
    guessed,
    is_rgb,
    pad_filters,
    rgb_to_yuv,
    tag,
    to_rgb,
    tone_map,
)
from latens.data.clips.formats import APPLE_ENDINGS, ENCODERS, Encoder, check_container
from latens.data.clips.sound import AUDIBLE, SoundCopy, fitting_streams
from latens.data.files import prepare_folder, replace_durably, temporary_beside, write_error
from latens.data.notes import note_once
from latens.errors import UsageError

logger = logging.getLogger(__name__)

GIF_BASE = Fraction(1, 100)
UNORDERED = 2  # frames: so short clips have no frame that is coded before an earlier one
MAX_RATE = 1000  # frames per second; higher rates are clamped


class Coding(NamedTuple):
    """An encoder of FFmpeg and its options; `keep_depth` selects 10 bits if both clip and encoder support them."""

    library: str
    options: Mapping[str, str]
    keep_depth: bool = True


class Fit:
    """Converts upright frames of a clip for an encoder: pixel format, color, even sides."""

    def __init__(self, info: ClipInfo, coding: Coding) -> None:
        encoder = ENCODERS[coding.library]
        deep = coding.keep_depth and info.bits > 8 and encoder.deepest > 8
        self.notes: list[str] = []
        self.format = "yuv420p10le" if deep else "yuv420p"
        self.tone_maps = not info.rgb and info.color.wide and not deep
        self.color = self._color(info)
        self.width, self.height = padded(info.width, encoder), padded(info.height, encoder)
        self._pad: Chain | None = None
        if (self.width, self.height) != (info.width, info.height):
            self.notes.append(f"padded from {info.width} x {info.height} to {self.width} x {self.height}")
            self._pad = Chain(pad_filters(info.width, info.height, self.width, self.height, self.format))
        if self.tone_maps:
            self.notes.append("HDR or BT.2020 color converted to BT.709 with 8 bits")
        elif info.bits > 8 and not deep:
            self.notes.append(f"{info.bits} bits reduced to 8")
        elif info.color.hdr:
            self.notes.append("HDR kept without the metadata of the mastering display")

    def _color(self, info: ClipInfo) -> Color:
        if info.rgb or self.tone_maps:
            return REC709
        return guessed(info.color, info.height)

    def __call__(self, image: Any) -> Any:
        """The converted frame: `format`, `width` x `height`, tagged."""
        if is_rgb(image):
            made = rgb_to_yuv(image, self.format)
        elif self.tone_maps:
            made = tone_map(image)
        else:
            made = change_format(image, self.format, guessed(color_of(image), image.height))
        return tag(self._pad(made) if self._pad else made, self.color)


def padded(side: int, encoder: Encoder) -> int:
    """The padded side of a frame for an encoder of 4:2:0: even, and at least the encoder's minimum."""
    return max(side + side % 2, encoder.smallest)


class ClipWriter:
    """An open output. Frames are converted by `fit` and written in temporal order."""

    def __init__(self, container: Any, kind: str, info: ClipInfo, coding: Coding, path: Path, threads: int) -> None:
        self.kind, self.path = kind, path
        self.fit: Any = Fit(info, coding) if coding.library != "gif" else _GifFit(info)
        self.notes: list[str] = list(self.fit.notes)
        self.frames = 0
        self.time_base = _time_base(kind, info)
        self._container = container
        self._sound: SoundCopy | None = None
        self._durations: dict[int, int] = {}
        self._last, self._end = -1, 0  # start and end of the last frame, in units of the time base
        self._first: tuple[int, int] | None = None  # presentation and decoding time of the first packet
        self._decoded: int | None = None  # decoding time of the last packet so far
        self._constant = 1 / info.rate if kind == "avi" else None
        self._stream = self._add_stream(info, coding, threads)

    def _add_stream(self, info: ClipInfo, coding: Coding, threads: int) -> Any:
        _silence(coding.library)
        rate = info.rate if info.rate <= MAX_RATE else Fraction(MAX_RATE)
        stream = self._container.add_stream(coding.library, rate=rate.limit_denominator(1 << 16))
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = self.fit.width, self.fit.height, self.fit.format
        stream.time_base = context.time_base = self.time_base
        context.thread_count = threads
        context.options = dict(coding.options)
        if self.kind != "gif":
            tag(context, self.fit.color)
            context.sample_aspect_ratio = info.aspect
        if coding.library == "libx265" and self.path.suffix.lower() in APPLE_ENDINGS:
            context.codec_tag = "hvc1"
        return stream

    def copy_sound(self, source: Path, indices: list[int]) -> None:
        self._sound = SoundCopy(source, indices, self._container, self.kind, self.note)

    def write(self, image: Any, time: Fraction, duration: Fraction) -> None:
        """Encode a frame converted by `fit`; time and duration in seconds."""
        if self._constant is not None:
            if abs(time - self.frames * self._constant) > max(self._constant, AUDIBLE):
                self.note("AVI stores one frame rate: frames are shown at other times")
            time, duration = self.frames * self._constant, self._constant
        pts = round(time / self.time_base)
        if pts <= self._last:
            pts = self._last + 1
            if self.frames:
                self.note("frames closer than the time resolution of the container were delayed")
        self._last = pts
        self._durations[pts] = max(1, round(duration / self.time_base))
        self._end = pts + self._durations[pts]
        image.pts, image.time_base = pts, self.time_base
        image.pict_type = 0  # the encoder chooses
        packets = self._stream.encode(image)
        if not self.frames and (unknown := self._stream.codec_context.options):  # what opening the encoder has not taken
            what = f"{self._stream.codec_context.name} has no option {', '.join(map(repr, unknown))}"
            raise UsageError(what, where="encoder_options", hint="check its spelling, and whether it belongs to this encoder")
        self._mux(packets)
        self.frames += 1
        if self._sound is not None:
            self._sound.until(time)

    def _mux(self, packets: Any) -> None:
        for packet in packets:
            self._first = self._first or (packet.pts, packet.dts)
            self._decoded = packet.dts
            packet.duration = self._durations.pop(packet.pts, packet.duration)  # otherwise the last duration is lost
            self._container.mux(packet)

    def _decode_until_end(self, packets: Sequence[Any]) -> None:
        """Make the last packet end with the clip: an MP4 ends after the decoding time and the duration of its last packet.

        Encoders decode frames earlier than they are shown. Without a constant rate, this is by other times than at the start.
        """
        last, (shown, decoded) = packets[-1], self._first or (packets[0].pts, packets[0].dts)
        end, own = self._end - (shown - decoded), self._durations.get(last.pts, last.duration)
        before = packets[-2].dts if len(packets) > 1 else self._decoded
        last.dts = max(last.dts if before is None else before + 1, min(last.pts, end - own))
        self._durations[last.pts] = max(own, end - last.dts)

    def finish(self) -> None:
        if not self.frames:
            raise UsageError("there are no frames to write", where=str(self.path))
        packets = self._stream.encode(None)
        if self.frames <= UNORDERED:
            for packet in packets:
                packet.dts = packet.pts  # x265 leaves it uninitialized in clips shorter than its delay
        if packets and self.kind in ("mp4", "mov"):
            self._decode_until_end(packets)
        self._mux(packets)
        if self._sound is not None:
            self._sound.until(None)

    def close_sound(self) -> None:
        if self._sound is not None:
            self._sound.close()

    def note(self, text: str) -> None:
        note_once(self.notes, self.path, text)


class _GifFit:
    """Converts frames for GIF with one palette per frame, which needs only one pass over the clip."""

    format = "pal8"

    def __init__(self, info: ClipInfo) -> None:
        self.width, self.height, self.color = info.width, info.height, REC709
        self.notes: list[str] = ["reduced to 256 colors per frame"]
        self._graph: Any = None

    def __call__(self, image: Any) -> Any:
        frame = av.VideoFrame.from_ndarray(to_rgb(image), format="rgb24")
        if self._graph is None:
            self._build(frame)
        frame.pts, frame.time_base = self._count, GIF_BASE
        self._count += 1
        self._source.push(frame)
        return self._sink.pull()

    def _build(self, frame: Any) -> None:
        self._count = 0
        self._graph = graph = av.filter.Graph()
        self._source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=GIF_BASE)
        split, palette, use = graph.add("split"), graph.add("palettegen", "stats_mode=single"), graph.add("paletteuse", "new=1")
        self._sink = graph.add("buffersink")
        self._source.link_to(split)
        split.link_to(use, 0, 0)
        split.link_to(palette, 1, 0)
        palette.link_to(use, 0, 1)
        use.link_to(self._sink)
        graph.configure()


def _time_base(kind: str, info: ClipInfo) -> Fraction:
    if kind == "gif":
        return GIF_BASE
    if kind == "avi":
        return (1 / info.rate).limit_denominator(1 << 16)
    return info.time_base if info.time_base <= 1 / info.rate else 1 / info.rate


def _silence(library: str) -> None:
    if library == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # only errors; the library writes to stderr


@contextlib.contextmanager
def open_writer(
    path: Path,
    info: ClipInfo,
    coding: Coding,
    *,
    sound: Path | None = None,
    threads: int = 0,
    rename_to: Path | None = None,
) -> Iterator[ClipWriter]:
    """A writer whose clip replaces `path` (or `rename_to`) at the end of the block, and is deleted if the block raises.

    The sound of the file `sound` is copied if the container supports its codec; otherwise a note names the dropped codec.
    Raises UsageError for a wrong ending, a wrong encoder or no frames, and StorageFull.
    """
    kind = check_container(path, coding.library)
    indices, refused = fitting_streams(sound, kind) if sound is not None and kind != "gif" else ([], [])
    target = Path(os.path.realpath(rename_to or path))
    temporary = temporary_beside(Path(os.path.realpath(path)))
    options = {"movflags": "+faststart"} if kind in ("mp4", "mov") else {}
    try:
        for folder in {target.parent, temporary.parent}:
            prepare_folder(folder)
        with av.open(str(temporary), "w", format=kind, options=options) as container:
            writer = ClipWriter(container, kind, info, coding, path, threads)
            if indices and sound is not None:
                writer.copy_sound(sound, indices)
            if refused or (kind == "gif" and sound is not None):
                writer.notes.append(f"sound dropped: {path.suffix} does not support it ({', '.join(refused) or 'any'})")
            for text in writer.notes:
                logger.warning("%s: %s", path, text)
            try:
                yield writer
                writer.finish()
            finally:
                writer.close_sound()
        replace_durably(temporary, target)
    except av.FFmpegError as error:
        if isinstance(error, OSError) and error.errno is not None and 0 < error.errno < 256:
            raise write_error(path, error) from error
        raise UsageError(f"{coding.library} failed ({error})", where=str(path), hint="choose another --codec") from error
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
