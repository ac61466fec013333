"""Frames that a clip declares, compared with those that were read: damage that decoders pass over in silence.

MP4 and AVI declare a number of frames. Matroska and WebM declare a duration, so a missing end and gaps between time stamps are
counted at the mean frame rate. If the duration is that of the whole file, packets of all streams count, because sound may be
longer than video. The edit list of an MP4 may leave frames out, so its frames are missing only if its end is missing too.
No end is missing if the sizes in the file show that it is complete: its last frame is then shown for a long time.
Every packet from the first shown frame on that is to be shown must give a frame: decoders drop damaged ones without an error.
"""

from __future__ import annotations

import contextlib
import functools
from fractions import Fraction
from pathlib import Path
from typing import Any

from latens.data.clips.complete import is_complete_matroska, is_complete_mp4
from latens.data.clips.skipped import is_shown, skipped_in_avi

MICROSECONDS = 1_000_000  # FFmpeg's unit of the duration of a container
MISSED = Fraction(3, 4)  # a regular clip whose packets have durations lacks a frame if so much of one is missing at its end
LATE = Fraction(3, 2)  # an interval of this many usual intervals is a gap
IRREGULAR = Fraction(1, 10)  # above this share of other intervals the frame rate is variable, and gaps are normal
ROUNDING = Fraction(3, 1000)  # seconds; time stamps of Matroska are milliseconds


class Expected:
    """What the header of a clip declares, and what was read."""

    def __init__(self, path: Path, container: Any, stream: Any, rate: Fraction) -> None:
        names = container.format.name.split(",")
        self.edited, self.timed, self.skips = "mov" in names, "matroska" in names, "avi" in names
        self.path, self.rate, self.size, self.unit = path, rate, path.stat().st_size, Fraction(stream.time_base)
        self.frames = stream.frames or number_of(stream.metadata.get("NUMBER_OF_FRAMES"))
        tagged = seconds_of(stream.metadata.get("DURATION"))
        if self.edited and stream.duration:
            tagged = (stream.duration + (stream.start_time or 0)) * Fraction(stream.time_base)
        self.whole = tagged is None  # the duration is that of all streams
        self.end = Fraction(container.duration or 0, MICROSECONDS) if tagged is None else tagged
        self.index = stream.index
        self.packets = 0
        self.last = Fraction(0)  # end of the last packet in seconds
        self.place = 0  # end of the last packet in the file, in bytes
        self.own_end = True  # every packet of the video has a duration
        self.codec, self.fields = str(stream.codec_context.name), False  # fields: a packet may be half of a frame
        self._stamps: list[int | None] = []  # of packets to be shown, in units of the stream
        self._frames = 0
        self._start: Fraction | None = None  # time of the first frame
        self._shown: Fraction | None = None  # time of the last frame
        self._intervals: list[Fraction] = []

    def count_packet(self, packet: Any) -> None:
        """Count a packet of any stream."""
        if not packet.size:
            return
        own = packet.stream.index == self.index
        self.place = max(self.place, (packet.pos or 0) + packet.size)
        self.packets += own
        self.own_end &= not own or bool(packet.duration)
        if own and not packet.is_discard and (packet.is_corrupt or is_shown(self.codec, packet)):
            self._stamps.append(packet.pts)
        if (own or self.whole) and not packet.is_discard and packet.pts is not None and packet.time_base is not None:
            self.last = max(self.last, (packet.pts + (packet.duration or 0)) * Fraction(packet.time_base))

    def count_frame(self, time: Fraction) -> None:
        """Count a frame in the order of time."""
        self._frames += 1
        if self._start is None:
            self._start = time
        if self._shown is not None:
            self._intervals.append(time - self._shown)
        self._shown = time

    @property
    def impossible(self) -> bool:
        """True if the header declares more frames than the file has bytes. To be called after all packets have been read."""
        return max(self.frames, 0 if self.complete else (self.end - self.last) * self.rate) > self.size

    @functools.cached_property
    def complete(self) -> bool:
        """True if it is certain that the end of the file is not missing."""
        if self.edited:
            return is_complete_mp4(self.path)
        return self.timed and is_complete_matroska(self.path, self.place)

    def declared_end(self, frame: Fraction, duration: Fraction) -> Fraction | None:
        """The end that the file declares for its last frame, in seconds; None if that of the frame itself is as good.

        FFmpeg takes the time to the next packet for the duration of an MP4 frame, which is wrong if frames are reordered.
        """
        if not self.complete or self.whole or not self._stamps:
            return None
        ordered = self._stamps[-1] is not None and self._stamps[-1] * self.unit == frame
        later = self.end - frame - duration
        return self.end if later > ROUNDING or (later < -ROUNDING and not ordered and self.end > frame) else None

    def missing(self, errors: int) -> int:
        """Declared frames without a packet, and packets without a frame, of which `errors` are counted as damaged.

        To be called after all packets have been read.
        """
        undecoded = 0 if self.fields else max(0, self._to_be_shown() - self._frames - errors)
        return undecoded + (0 if self.impossible else self._without_packet())

    def _to_be_shown(self) -> int:
        """The number of packets with a frame to be shown, without those that refer to frames before the start of the clip."""
        return sum(stamp is None or self._start is None or stamp * self.unit >= self._start for stamp in self._stamps)

    def _without_packet(self) -> int:
        if self.edited and self.end and self.frames:
            lost = self._lost_at_end()
            return max(lost, self.frames - self.packets) if lost else 0
        if self.frames:
            lost = max(0, self.frames - self.packets)
            return max(0, lost - skipped_in_avi(self.path, self.index)) if lost and self.skips else lost
        return self._lost_at_end() + self._lost_in_gaps() if self.edited or self.timed else 0

    def _lost_at_end(self) -> int:
        if self.complete:
            return 0
        rate = max(self.rate, self.frames / self.end) if self.edited and self.end else self.rate
        frames = (self.end - self.last) * rate
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
