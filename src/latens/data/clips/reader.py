"""Reading of clips frame by frame in bounded memory. Frames are upright and time-stamped; damaged packets are counted."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from latens.arguments import real
from latens.data.clips.color import REC709, THREADS, Color, bits_of, color_of, guessed, has_alpha, is_rgb, to_rgb, upright
from latens.data.clips.damage import Expected
from latens.data.clips.formats import CLIP_ENDINGS, DEMUXERS
from latens.data.clips.gif import is_cut_gif, timed_gif
from latens.data.files import reading
from latens.data.images import IMAGE_ENDINGS, Pixels, read_image
from latens.data.inputs import natural_key
from latens.data.limits import current_limits
from latens.data.notes import note_once
from latens.data.origins import without_drawn
from latens.errors import InputError, UnreadableInput, UsageError, counted

FOLDER_RATE = Fraction(25)  # default frames per second of a folder of images
FASTEST = 1_000_000  # frames per second, the largest rate that is accepted
AGAIN = "copy or download the file again"
A_CLIP_OF_IMAGES = "`latens compress` takes images; a clip of images is given as their folder"
MAX_SILENT = 100  # damaged packets at the start, before any frame, after which a clip counts as unreadable


class ClipInfo(NamedTuple):
    """Properties of a clip from its header. Sizes are those of the upright frames."""

    width: int
    height: int
    rate: Fraction  # mean frames per second
    frames: int  # according to the file; 0: unknown
    seconds: float | None  # according to the file
    time_base: Fraction  # time stamps are multiples of it
    rotation: int  # degrees of the counterclockwise rotation that makes stored frames upright
    bits: int  # bits per sample
    color: Color
    rgb: bool  # stored as RGB
    alpha: bool
    sound: bool
    aspect: Fraction  # width to height of one pixel


class ClipFrame(NamedTuple):
    """One upright frame, times in seconds. `duration` is the time to the next frame."""

    image: Any  # av.VideoFrame in the pixel format of the clip, tagged
    time: Fraction
    duration: Fraction
    number: int  # index in the clip, from 0; in a folder, unreadable images are counted too

    def rgb(self) -> Pixels:
        """The frame as 8-bit RGB (H, W, 3)."""
        return to_rgb(self.image)


@dataclass
class Clip:
    """An open clip, whose frames can be read once. `notes` and counts are complete after all frames have been read."""

    path: Path
    info: ClipInfo
    notes: list[str] = field(default_factory=list)  # assumptions, omissions and repairs, for users
    damaged: int = 0  # packets and images that could not be decoded
    missing: int = 0  # frames that the file declares but does not contain
    stems: tuple[str, ...] = ()  # for a folder, names of its images without endings
    end: Fraction | None = None  # seconds; the file declares that the last frame is shown until then
    source: Iterator[ClipFrame] = field(default=iter(()), repr=False)  # stored frames; durations may be 0

    def frames(self) -> Iterator[ClipFrame]:
        """The frames in temporal order. Raises UnreadableInput, LimitExceeded."""
        held: ClipFrame | None = None
        usual = 1 / self.info.rate
        for frame in self.source:
            if held is not None:
                if frame.time <= held.time:
                    frame = frame._replace(time=held.time + (held.duration or self.info.time_base))
                    self.note("time stamps out of order were corrected")
                usual = frame.time - held.time
                yield held._replace(duration=usual)
            held = frame
        if held is not None:
            yield held._replace(duration=held.duration or usual if self.end is None else self.end - held.time)
        if self.damaged:
            self.note(f"{counted(self.damaged, 'decoding error')}")
        if self.missing:
            self.note(f"the file is incomplete: {counted(self.missing, 'frame')} missing")

    def note(self, text: str) -> None:
        """Add a note and log it as a warning, once."""
        note_once(self.notes, self.path, text)


def frame_rate(fps: Fraction | float) -> Fraction:
    """Frames per second as a fraction with a denominator up to 1,001. Raises UsageError outside of FASTEST."""
    rate = Fraction(real(fps, "fps") if math.isfinite(real(fps, "fps")) else 0).limit_denominator(1001)
    if not 0 < rate <= FASTEST:
        raise UsageError(
            f"{fps} frames per second are not possible", where="fps", hint=f"give a rate above 0, up to {FASTEST:,}"
        )
    return rate


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
        yield _open_folder(path, None if fps is None else frame_rate(fps))
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


def limit_size(path: Path, width: int, height: int) -> None:
    """Raises LimitExceeded for frames above the pixel limit of images."""
    current_limits().check(width, height, "a frame", str(path))


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


# --------------------------------------------------------------------------------------------------------------- folders


def images_in(folder: Path) -> list[Path]:
    """Images directly in a folder, in natural order, without hidden files."""
    with reading(folder):
        names = sorted((path.name for path in folder.iterdir() if not path.name.startswith(".")), key=natural_key)
    return [folder / name for name in names if Path(name).suffix.lower() in IMAGE_ENDINGS]


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


def is_frame_folder(path: Path) -> bool:
    """True if a folder is a clip: it contains images and no clips (a folder of GIF files contains clips)."""
    if not path.is_dir():
        return False
    with reading(path):
        endings = {entry.suffix.lower() for entry in path.iterdir() if not entry.name.startswith(".")}
    return bool(endings & (IMAGE_ENDINGS - CLIP_ENDINGS)) and not endings & CLIP_ENDINGS


def _open_folder(folder: Path, fps: Fraction | None) -> Clip:
    paths = without_drawn(images_in(folder), folder)
    if not paths:
        raise UnreadableInput("there are no images in this folder", where=str(folder))
    first = read_image(paths[0])
    height, width = first.pixels.shape[:2]
    rate = fps or FOLDER_RATE
    info = ClipInfo(
        width, height, rate, len(paths), float(len(paths) / rate), 1 / rate, 0, 8, REC709, True, first.alpha is not None, False,
        Fraction(1),
    )  # fmt: skip
    clip = Clip(folder, info, stems=tuple(path.stem for path in paths))
    if fps is None:
        clip.note(f"{float(rate):g} frames per second are assumed")
    if (text := gaps_in([path.stem for path in paths])) is not None:
        clip.note(text)
    clip.source = _folder_frames(clip, paths)
    return clip


def gaps_in(stems: Sequence[str]) -> str | None:
    """Note on frames that are missing by the numbers at the ends of their names; None without, and for other names.

    The usual step of the numbers is that of more than half of the frames; times and other numbers have none.
    """
    ends = [re.search(r"([0-9]{1,15})[^0-9]*$", stem) for stem in stems]
    numbers = [int(end[1]) for end in ends if end is not None]
    steps = [after - before for before, after in itertools.pairwise(numbers)]
    if len(numbers) < len(stems) or not steps:
        return None
    usual = min(steps)
    missing = [(index, step // usual - 1) for index, step in enumerate(steps) if usual > 0 and step > usual]
    if not missing or 2 * steps.count(usual) <= len(steps):
        return None
    return f"{counted(sum(number for _, number in missing), 'frame')} missing, the first after {stems[missing[0][0]]}"


def _folder_frames(clip: Clip, paths: list[Path]) -> Iterator[ClipFrame]:
    import av

    for number, path in enumerate(paths):
        try:
            image = read_image(path)
        except UnreadableInput:
            clip.damaged += 1
            clip.note(f"{path.name} is unreadable and skipped")
            continue
        if image.pixels.shape[:2] != (clip.info.height, clip.info.width):
            size = f"{image.pixels.shape[1]} x {image.pixels.shape[0]}"
            what = f"this image is {size}, but the first one of the folder is {clip.info.width} x {clip.info.height}"
            raise InputError(what, where=str(path), hint="all frames of a clip must have the same size")
        for text in image.notes:
            clip.note(text)
        if image.alpha is not None:
            clip.note("transparency is ignored")
        frame = av.VideoFrame.from_ndarray(image.pixels, format="rgb24")
        yield ClipFrame(frame, number / clip.info.rate, 1 / clip.info.rate, number)
