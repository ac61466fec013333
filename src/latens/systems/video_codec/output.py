"""Writing of decoded clips: a standard clip of high quality, or a folder of PNG images."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, NamedTuple

from PIL import Image

from latens.data.clips.clip import ClipInfo
from latens.data.clips.color import REC709
from latens.data.clips.formats import CLIP_ENDINGS, container_of
from latens.data.clips.writer import Coding, open_writer
from latens.data.files import prepare_folder, temporary_beside, write_error
from latens.data.image_output import write_image
from latens.data.placing import only_new
from latens.errors import OutputExists, Truncated
from latens.systems.video_codec.decoded import ClipFrame, DecodedClip

# High-quality encoders, so that a player shows what the codec decoded.
CODINGS: Mapping[str, Coding] = MappingProxyType(
    {
        "gif": Coding("gif", {}),
        "webm": Coding("libvpx-vp9", {"crf": "12", "b:v": "0", "deadline": "realtime", "cpu-used": "6", "row-mt": "1"}),
    }
)
USUAL = Coding("libx264", {"preset": "fast", "crf": "8"})


class WrittenClip(NamedTuple):
    """A written clip or folder of images, and the damage of its source."""

    path: Path
    width: int
    height: int
    frames: int
    duration: float  # seconds
    damage: tuple[str, ...]  # unreadable parts of the file; if there are any, frames are missing
    seconds: float  # wall-clock time of decoding and writing
    notes: tuple[str, ...]


def write_decoded(decoded: DecodedClip, out: Path, *, force: bool = False, threads: int = 0) -> WrittenClip:
    """Write the frames of a file as a clip, or as PNG images into the folder `out` if it has no file ending of a clip.

    Frames of damaged groups are left out; the other frames of a clip keep their times. An existing clip is overwritten, and a
    folder with files is written into, only with `force`. Raises Truncated if no frame can be decoded, OutputExists, UsageError,
    StreamError or StorageFull.
    """
    if not force and out.is_file():
        raise OutputExists("the file exists already", where=str(out), hint="choose another output, or add --force")
    tally = _Tally()
    first = _first(decoded)
    if out.suffix.lower() in CLIP_ENDINGS:
        with only_new(() if force else [out]):
            notes = _write_clip(decoded, first, out, tally, threads)
    else:
        notes = _write_images(decoded, first, out, tally, force=force)
    return tally.written(decoded, out, notes)


def write_raw(decoded: DecodedClip, target: BinaryIO, out: Path) -> WrittenClip:
    """Write the frames of a file as RGB bytes, row by row and without headers, into an open file or pipe.

    Frames of damaged groups are left out. `out` is the name of the target in the result. Raises Truncated if no frame can be
    decoded, StreamError, and the errors of the target.
    """
    tally = _Tally()
    first = _first(decoded)
    uneven = False
    for frame in tally.all(first, decoded):
        target.write(frame.pixels.tobytes())
        target.flush()
        uneven = uneven or frame.duration != first.duration
    notes = ["sound is left out"] if decoded.sound else []
    return tally.written(decoded, out, [*notes, "the frame rate varies; raw frames have no times"] if uneven else notes)


def _first(decoded: DecodedClip) -> ClipFrame:
    first = next(decoded, None)
    if first is None:
        reason = decoded.damage[0].reason if decoded.damage else "the file holds no group of frames"
        raise Truncated(f"no frame can be decoded: {reason}", have=0, need=1, hint="copy or download the file again")
    return first


class _Tally:
    """Number and duration of the written frames, and the time since decoding began."""

    def __init__(self) -> None:
        self.frames, self.duration, self._started = 0, Fraction(0), time.perf_counter()

    def written(self, decoded: DecodedClip, out: Path, notes: list[str]) -> WrittenClip:
        """The result of all frames."""
        return WrittenClip(
            out,
            decoded.header.width,
            decoded.header.height,
            self.frames,
            round(float(self.duration), 6),
            tuple(f"at byte {part.offset:,}: {part.reason}" for part in decoded.damage),
            round(time.perf_counter() - self._started, 3),
            tuple(notes),
        )

    def all(self, first: ClipFrame, rest: DecodedClip) -> Iterator[ClipFrame]:
        """All frames; counts them and their duration."""
        frame: ClipFrame | None = first
        while frame is not None:
            self.frames, self.duration = self.frames + 1, self.duration + frame.duration
            yield frame
            frame = next(rest, None)


def _write_clip(decoded: DecodedClip, first: ClipFrame, out: Path, tally: _Tally, threads: int) -> list[str]:
    import av

    header = decoded.header
    info = ClipInfo(
        header.width, header.height, header.rate, 0, None, header.time_base, 0, 8, REC709, True, False, bool(decoded.sound),
        header.aspect,
    )  # fmt: skip
    coding = CODINGS.get(container_of(out), USUAL)
    with _sound_file(decoded) as sound, open_writer(out, info, coding, sound=sound, threads=threads) as writer:
        for frame in tally.all(first, decoded):
            image = av.VideoFrame.from_ndarray(frame.pixels, format="rgb24")
            writer.write(writer.fit(image), frame.time, frame.duration)
        return writer.notes


@contextlib.contextmanager
def _sound_file(decoded: DecodedClip) -> Iterator[Path | None]:
    """The sound as a file for FFmpeg; None without sound."""
    if not decoded.sound:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sound.mka"
        with open(path, "wb") as stream:
            stream.writelines(decoded.sound)
        yield path


def _write_images(decoded: DecodedClip, first: ClipFrame, out: Path, tally: _Tally, *, force: bool) -> list[str]:
    if not force and out.is_dir() and any(out.iterdir()):
        raise OutputExists("this folder is not empty", where=str(out), hint="name another folder, or add --force")
    uneven = False
    with _staged(out) as folder:
        for frame in tally.all(first, decoded):
            write_image(folder / f"{frame.number:05d}.png", Image.fromarray(frame.pixels))
            uneven = uneven or frame.duration != first.duration
    notes = ["sound is not written into a folder of images"] if decoded.sound else []
    return [*notes, "the frame rate varies; a folder of images does not store times"] if uneven else notes


@contextlib.contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """A temporary folder whose files move into the folder `out` at the end of the block; nothing remains if it raises."""
    target = Path(os.path.realpath(out))
    stage = temporary_beside(target)
    try:
        prepare_folder(target.parent)
        stage.mkdir()
        yield stage
        if not target.exists():
            os.replace(stage, target)
            return
        for path in sorted(stage.iterdir()):
            os.replace(path, target / path.name)
    except OSError as error:
        raise write_error(out, error) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
