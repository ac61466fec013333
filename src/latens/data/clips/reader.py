"""Reading of clips frame by frame in bounded memory. Frames are upright and time-stamped; damaged packets are counted."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image

from latens.data.clips.clip import FOLDER_RATE, Clip, ClipFrame, ClipInfo, frame_rate, limit_size
from latens.data.clips.color import THREADS, bits_of, color_of, guessed, has_alpha, is_rgb, upright
from latens.data.clips.damage import Expected
from latens.data.clips.formats import CLIP_ENDINGS, DEMUXERS
from latens.data.clips.frame_folder import open_folder
from latens.data.clips.gif import is_cut_gif, timed_gif
from latens.data.files import reading
from latens.data.images import IMAGE_ENDINGS
from latens.errors import UnreadableInput, UsageError

AGAIN = "copy or download the file again"
A_CLIP_OF_IMAGES = "`latens compress` takes images; a clip of images is given as their folder"
MAX_SILENT = 100  # damaged packets at the start, before any frame, after which a clip counts as unreadable


@contextlib.contextmanager
def open_clip(path: Path, *, fps: Fraction | float | None = None) -> Iterator[Clip]:
    """Open a clip: a file, or a folder of images of one size, in natural order of their names at `fps` frames per second.

    Raises UnreadableInput for input that is not a clip, LimitExceeded for too large frames, UsageError for `fps` with a file.
    """
    if fps is not None and path.is_file():
        what = "the clip has its own time stamps; the frame rate applies only to a folder of images"
        raise UsageError(what, where=str(path), hint="omit --fps")
    with reading(path), open(path, "rb") if not path.is_dir() else contextlib.nullcontext():
        pass
    if path.is_dir():
        yield open_folder(path, None if fps is None else frame_rate(fps))
        return
    if path.is_file() and not path.stat().st_size:
        raise UnreadableInput("the file is empty", where=str(path), hint=AGAIN)
    import av

    try:
        container = open_container(path)
    except (av.FFmpegError, ValueError) as error:
        hint = A_CLIP_OF_IMAGES if path.suffix.lower() in IMAGE_ENDINGS - CLIP_ENDINGS else AGAIN
        raise UnreadableInput(f"this is not a clip of a known format ({_short(error)})", where=str(path), hint=hint) from error
    with container:
        clip = _open_file(path, container)
        if timed_gif(path) is not None:
            clip.note("frames without a delay are shown for 0.1 s each")
        yield clip


def is_clip(path: Path) -> bool:
    """True if a file is a clip, by its ending; a GIF with a single frame is an image."""
    ending = path.suffix.lower()
    if ending not in CLIP_ENDINGS or ending not in IMAGE_ENDINGS:
        return ending in CLIP_ENDINGS
    try:
        with Image.open(path) as image:
            return bool(getattr(image, "is_animated", False))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False  # reading it as an image reports the error


def open_container(path: Path) -> Any:
    """The file opened by FFmpeg; formats that refer to other files (playlists, lists of clips) are refused.

    Raises av.FFmpegError or ValueError.
    """
    import av

    timed = timed_gif(path)
    source: Any = str(path) if timed is None else io.BytesIO(timed)
    # From version 19 on, PyAV keeps text in other encodings as surrogates; before, it raised an error by default.
    text = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
    return av.open(source, options={"format_whitelist": DEMUXERS}, **text)  # type: ignore[call-overload]


def _short(error: Exception) -> str:
    return (str(getattr(error, "strerror", None) or error) or type(error).__name__).splitlines()[0]


# ---------------------------------------------------------------------------------------------------------------- files


def _open_file(path: Path, container: Any) -> Clip:
    if not container.streams.video:
        raise UnreadableInput("this file has no video stream", where=str(path))
    stream = container.streams.video[0]
    if stream.codec_context is None or not stream.codec_context.width:
        what = "the clip is truncated within its first frame, or its codec is unknown"
        raise UnreadableInput(what, where=str(path), hint=AGAIN)
    limit_size(path, stream.codec_context.width, stream.codec_context.height)
    reader = _FileReader(path, container, stream)
    first = next(reader.decoded, None)
    if first is None:
        what = "the clip is truncated or damaged: no frame can be decoded"
        raise UnreadableInput(what, where=str(path), hint=AGAIN)
    clip = reader.clip = Clip(path, reader.info(first))
    clip.source = reader.frames(first)
    _note_properties(clip, container, first)
    return clip


def _note_properties(clip: Clip, container: Any, first: Any) -> None:
    if clip.info.alpha:
        clip.note("transparency is ignored")
    if not clip.info.rgb and clip.info.color.matrix == 2:
        kind = "BT.709" if guessed(clip.info.color, clip.info.height).matrix == 1 else "BT.601"
        clip.note(f"the colors are not tagged: {kind} is assumed")
    if len(container.streams.video) > 1:
        clip.note("only the first video stream is used")
    if first.interlaced_frame:
        clip.note("the clip is interlaced and is not deinterlaced")


class _FileReader:
    def __init__(self, path: Path, container: Any, stream: Any) -> None:
        self.path, self.container, self.stream = path, container, stream
        self.clip: Clip | None = None
        self.rate = Fraction(stream.average_rate or stream.base_rate or stream.guessed_rate or FOLDER_RATE)
        self.damaged = 0
        self.expected = Expected(path, container, stream, self.rate)
        self.size: tuple[int, int, str] | None = None
        stream.thread_type = "AUTO"
        self.decoded = self._decode()

    def info(self, first: Any) -> ClipInfo:
        stream, rotation = self.stream, first.rotation % 360
        width, height = (first.height, first.width) if rotation in (90, 270) else (first.width, first.height)
        aspect = Fraction(stream.codec_context.sample_aspect_ratio or 1) or Fraction(1)
        length = stream.duration * stream.time_base if stream.duration else None
        if length is None and self.container.duration:
            length = Fraction(self.container.duration, 1_000_000)
        return ClipInfo(
            width,
            height,
            self.rate,
            stream.frames,
            None if length is None else float(length),
            Fraction(stream.time_base),
            rotation,
            min(bits_of(first), 16),
            color_of(first),
            is_rgb(first),
            stream.metadata.get("alpha_mode") == "1" or has_alpha(first),
            bool(self.container.streams.audio),
            1 / aspect if rotation in (90, 270) else aspect,
        )

    def _decode(self) -> Iterator[Any]:
        """Decodable frames; damaged packets are counted and skipped."""
        import av

        packets, any_frame = self.container.demux(), False
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                self.damaged += 1
                packet = None
            if packet is None:
                return
            self.expected.count_packet(packet)
            if packet.stream.index != self.stream.index:
                continue
            try:
                for frame in packet.decode():
                    any_frame = True
                    yield frame
            except (av.FFmpegError, ValueError):  # ValueError for a codec that PyAV does not know
                self.damaged += 1
            if not any_frame and self.damaged > MAX_SILENT:
                return

    def frames(self, first: Any) -> Iterator[ClipFrame]:
        """Upright frames with times and durations, which may be 0."""
        clip = self.clip
        assert clip is not None
        turn, last, held, number = upright(clip.info.rotation), Fraction(-1) / self.rate, Fraction(0), 0
        frame = first
        while frame is not None:
            base = Fraction(frame.time_base or clip.info.time_base)
            if frame.pts is None:
                clip.note("frames without a time stamp are placed at the mean frame rate")
                time = last + 1 / self.rate
            else:
                time = frame.pts * base
            self.damaged += frame.is_corrupt
            self.expected.count_frame(time)
            self.expected.fields |= frame.interlaced_frame
            held = (frame.duration or 0) * base
            yield ClipFrame(self._fit(turn(frame) if turn else frame, clip), time, held, number)
            last, number = time, number + 1
            frame = next(self.decoded, None)
        if self.expected.impossible:
            clip.note("the file is cut, or the number of frames or the duration in its header is wrong")
        self.damaged = max(self.damaged, is_cut_gif(self.path))
        clip.damaged = self.damaged + self.expected.impossible
        clip.missing = self.expected.missing(self.damaged)
        clip.end = self.expected.declared_end(last, held)

    def _fit(self, frame: Any, clip: Clip) -> Any:
        """The frame, scaled to the size of the first frame if it differs."""
        if (frame.width, frame.height) == (clip.info.width, clip.info.height):
            return frame
        limit_size(self.path, frame.width, frame.height)
        clip.note("frames of another size were scaled to the size of the first frame")
        return frame.reformat(width=clip.info.width, height=clip.info.height, threads=THREADS)
