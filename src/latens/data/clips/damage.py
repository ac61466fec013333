"""Frames that a clip declares, compared with those that were read: damage that decoders pass over in silence.

MP4 and AVI declare a number of frames. Matroska and WebM declare a duration, so a missing end and gaps between time stamps are
counted at the mean frame rate. If the duration is that of the whole file, packets of all streams count, because sound may be
longer than video. The edit list of an MP4 may leave frames out, so its frames are missing only if its end is missing too.
"""

from __future__ import annotations

import contextlib
from fractions import Fraction
from typing import Any

MICROSECONDS = 1_000_000  # FFmpeg's unit of the duration of a container
MISSED = Fraction(3, 4)  # a regular clip whose packets have durations lacks a frame if so much of one is missing at its end
LATE = Fraction(3, 2)  # an interval of this many usual intervals is a gap
IRREGULAR = Fraction(1, 10)  # above this share of other intervals the frame rate is variable, and gaps are normal
ROUNDING = Fraction(3, 1000)  # seconds; time stamps of Matroska are milliseconds


class Expected:
    """What the header of a clip declares, and what was read."""

    def __init__(self, container: Any, stream: Any, rate: Fraction, size: int) -> None:
        names = container.format.name.split(",")
        self.edited, self.timed = "mov" in names, "matroska" in names
        self.rate, self.size = rate, size
        self.frames = stream.frames or number_of(stream.metadata.get("NUMBER_OF_FRAMES"))
        tagged = seconds_of(stream.metadata.get("DURATION"))
        if self.edited and stream.duration:
            tagged = (stream.duration + min(stream.start_time or 0, 0)) * Fraction(stream.time_base)
        self.whole = tagged is None  # the duration is that of all streams
        self.end = Fraction(container.duration or 0, MICROSECONDS) if tagged is None else tagged
        self.index = stream.index
        self.packets = 0
        self.last = Fraction(0)  # end of the last packet in seconds
        self.own_end = True  # every packet of the video has a duration
        self._shown: Fraction | None = None  # time of the last frame
        self._intervals: list[Fraction] = []

    def count_packet(self, packet: Any) -> None:
        """Count a packet of any stream."""
        if not packet.size:
            return
        own = packet.stream.index == self.index
        self.packets += own
        self.own_end &= not own or bool(packet.duration)
        if (own or self.whole) and packet.pts is not None and packet.time_base is not None:
            self.last = max(self.last, (packet.pts + (packet.duration or 0)) * Fraction(packet.time_base))

    def count_frame(self, time: Fraction) -> None:
        """Count a frame in the order of time."""
        if self._shown is not None:
            self._intervals.append(time - self._shown)
        self._shown = time

    @property
    def impossible(self) -> bool:
        """True if the header declares more frames than the file has bytes."""
        return max(self.frames, self.end * self.rate) > self.size

    def missing(self) -> int:
        """The number of declared frames without a packet, after all packets have been read."""
        if self.impossible:
            return 0
        if self.frames and not (self.edited and self.end and not self._lost_at_end()):
            return max(0, self.frames - self.packets)
        if self.frames or not (self.edited or self.timed):
            return 0
        return self._lost_at_end() + self._lost_in_gaps()

    def _lost_at_end(self) -> int:
        frames = (self.end - self.last) * self.rate
        exact = self.own_end and not self.whole and not self._odd()
        return round(frames) if frames >= (MISSED if exact else LATE) else 0

    def _odd(self) -> list[Fraction]:
        """Intervals between frames that are not the usual one."""
        return [gap for gap in self._intervals if abs(gap - 1 / self.rate) > ROUNDING]

    def _lost_in_gaps(self) -> int:
        odd = self._odd()
        if len(odd) > IRREGULAR * len(self._intervals):
            return 0
        return sum(round(gap * self.rate) - 1 for gap in odd if gap * self.rate >= LATE)


def number_of(text: str | None) -> int:
    """The number of a tag; 0 without one."""
    return int(text) if text is not None and text.isascii() and text.isdigit() else 0


def seconds_of(text: str | None) -> Fraction | None:
    """Seconds of a Matroska tag such as 00:01:02.400000000; None without one."""
    with contextlib.suppress(ValueError, ZeroDivisionError, AttributeError):
        hours, minutes, seconds = (text or "").replace("\0", "").split(":")
        return 3600 * int(hours) + 60 * int(minutes) + Fraction(seconds)
    return None
