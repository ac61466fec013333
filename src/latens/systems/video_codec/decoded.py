"""Decoding of a file, frame by frame."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from fractions import Fraction
from typing import BinaryIO, NamedTuple

from latens.codes.clip_stream import ClipDamage, ClipSection
from latens.errors import Corrupt
from latens.inference.device import plain_steps
from latens.systems.video_codec.exact import QUALITY_STEPS
from latens.systems.video_codec.format import (
    SOUND,
    OpenedStream,
    VideoHeader,
    group_at,
    read_qualities,
    read_times,
    sections,
)
from latens.systems.video_codec.groups import Frame, GroupCoder
from latens.systems.video_codec.latents import Unpacker

logger = logging.getLogger(__name__)


class ClipFrame(NamedTuple):
    """One decoded frame. `time` and `duration` are in seconds."""

    pixels: Frame
    time: Fraction
    duration: Fraction
    number: int  # index in the clip, from 0


class DecodedClip:
    """An iterator over the frames of a file, which it closes at the end. `damage` is complete after the last frame."""

    def __init__(
        self, coder: GroupCoder, stream: BinaryIO, begin: int, opened: OpenedStream, start: int, held: contextlib.ExitStack
    ) -> None:
        self.header: VideoHeader = opened.header
        self.damage: list[ClipDamage] = []
        self.sound: list[bytes] = []  # pieces of a Matroska file; complete before the first frame
        self._coder, self._stream, self._begin, self._start, self._held = coder, stream, begin, start, held
        self._frames = self._decode()

    def __enter__(self) -> DecodedClip:
        return self

    def __exit__(self, *args: object) -> None:
        self._held.close()

    def __iter__(self) -> Iterator[ClipFrame]:
        return self._frames

    def __next__(self) -> ClipFrame:
        return next(self._frames)

    @plain_steps
    def _decode(self) -> Iterator[ClipFrame]:
        with self._held:
            yield from self._parts()

    def _parts(self) -> Iterator[ClipFrame]:
        header = self.header
        offset = None
        if self._start:
            here = self._stream.tell()
            entry = group_at(self._stream, self._start, self._begin)
            if entry is None:
                return
            self._stream.seek(here)
            offset = self._begin + entry.offset
        for part in sections(self._stream, header, offset):
            if isinstance(part, ClipDamage):
                self.damage.append(part)
                logger.warning("byte %s: %s", f"{part.offset:,}", part.reason)
            elif part.kind == SOUND:
                self.sound.append(part.payload)
            else:
                yield from self._group(part)

    def _group(self, part: ClipSection) -> Iterator[ClipFrame]:
        unpacker, header = Unpacker(part.payload), self.header
        ticks = read_times(unpacker, part.frames)
        size = header.height, header.width
        qualities = read_qualities(unpacker, part.frames) if header.setting.varied else ()
        best = len(self._coder.config.lambdas) * QUALITY_STEPS
        if not all(QUALITY_STEPS <= quality <= best for quality in qualities):
            raise Corrupt("a group has a quality that this model lacks", section="frames")
        images = self._coder.decode(unpacker.rest(), part.frames, size, header.setting, qualities)
        for index, pixels in enumerate(images):
            if part.first + index >= self._start:
                length = (ticks[index + 1] - ticks[index]) * header.time_base
                yield ClipFrame(pixels, ticks[index] * header.time_base, length, part.first + index)
