"""An open clip: its properties, and its frames with times."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from latens.arguments import real
from latens.data.clips.color import Color, to_rgb
from latens.data.images import Pixels
from latens.data.limits import current_limits
from latens.data.notes import note_once
from latens.errors import UsageError, counted

FOLDER_RATE = Fraction(25)  # default frames per second of a folder of images
FASTEST = 1_000_000  # frames per second, the largest rate that is accepted


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


def limit_size(path: Path, width: int, height: int) -> None:
    """Raises LimitExceeded for frames above the pixel limit of images."""
    current_limits().check(width, height, "a frame", str(path))
