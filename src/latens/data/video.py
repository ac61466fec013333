"""Clips: frames read one by one as 8-bit RGB, and written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from latens.data.files import reading, write_error
from latens.data.images import ImageLimits, Pixels
from latens.errors import LimitExceeded, UnreadableInput, UsageError

CLIP_FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".avi": "avi"}
CLIP_ENDINGS = frozenset(CLIP_FORMATS)
QUALITY = "16"  # constant rate factor of H.264 and VP9: hardly visible loss


class ClipInfo(NamedTuple):
    width: int
    height: int
    rate: Fraction  # frames a second
    frames: int  # as the file says, 0 where it does not


def clip_info(path: Path) -> ClipInfo:
    """Size and rate of a clip. Raises UnreadableInput, or LimitExceeded for frames that are too large."""
    with _opened(path) as (_, stream):
        rate = stream.average_rate or stream.base_rate or Fraction(25)
        return ClipInfo(stream.codec_context.width, stream.codec_context.height, Fraction(rate), stream.frames)


def read_clip(path: Path) -> Iterator[Pixels]:
    """The frames (H, W, 3) in order. Raises UnreadableInput where the clip is no clip or damaged, LimitExceeded."""
    import av

    with _opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        try:
            for frame in container.decode(stream):
                yield frame.to_ndarray(format="rgb24")
        except av.FFmpegError as error:
            raise UnreadableInput(f"the clip is cut short or damaged ({error})", where=str(path)) from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    import av

    with reading(path), open(path, "rb"):
        pass
    try:
        container = av.open(str(path))
    except (av.FFmpegError, ValueError) as error:
        raise UnreadableInput(f"this is not a clip of a known kind ({error})", where=str(path)) from error
    with container:
        if not container.streams.video:
            raise UnreadableInput("this file holds no pictures", where=str(path))
        stream = container.streams.video[0]
        width, height, limits = stream.codec_context.width, stream.codec_context.height, ImageLimits()
        if width * height > limits.pixels:
            raise LimitExceeded(f"frames of {width} x {height} are larger than the limit", where=str(path))
        yield container, stream


def write_clip(path: Path, frames: Iterable[Pixels], rate: Fraction) -> int:
    """Writes frames of one size as H.264 (VP9 for .webm) and returns their number; sound is not written.

    A temporary file in the same folder is renamed at the end. Raises StorageFull; UsageError for a wrong ending or no frames.
    """
    import av

    kind = CLIP_FORMATS.get(path.suffix.lower())
    if kind is None:
        raise UsageError(f"clips cannot be written as {path.suffix or 'a file without an ending'}", where=str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:50]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    count = 0
    try:
        with av.open(str(temporary), "w", format=kind) as container:
            stream: Any = None
            for pixels in frames:
                if stream is None:
                    stream = _add_stream(container, kind, pixels, rate)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
                count += 1
            if stream is None:
                raise UsageError("there are no frames to write", where=str(path))
            container.mux(stream.encode(None))
        os.replace(temporary, path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return count


def _add_stream(container: Any, kind: str, pixels: Pixels, rate: Fraction) -> Any:
    import av

    preferred = "libvpx-vp9" if kind == "webm" else "libx264"
    codec = preferred if preferred in av.codecs_available else "mpeg4"
    stream = container.add_stream(codec, rate=rate)
    stream.height, stream.width = pixels.shape[:2]
    even = stream.height % 2 == 0 and stream.width % 2 == 0
    stream.pix_fmt = "yuv420p" if even or codec == "mpeg4" else "yuv444p"
    if codec != "mpeg4":
        stream.options = {"crf": QUALITY}
    return stream
