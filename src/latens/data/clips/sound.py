"""Copying of the sound of a clip, packet by packet without re-encoding."""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from latens.data.clips.reader import open_container

MATROSKA = "matroska"
PROBED = 40  # packets per sound stream that are written to memory as a test


def fitting_streams(path: Path, container: str) -> tuple[list[int], list[str]]:
    """Indices of the sound streams that a container supports, and the codecs of the others.

    Every stream is tested with its first packets: containers reject a codec when the stream is added, when the header is
    written, or only when packets are written.
    """
    kept: list[tuple[int, str]] = []
    refused: list[tuple[int, str]] = []
    with open_container(path) as source:
        for stream in source.streams.audio:
            codec = stream.codec_context.name if stream.codec_context is not None else "unknown codec"
            (kept if _takes(path, stream.index, container) else refused).append((stream.index, codec))
    return [index for index, _ in kept], [codec for _, codec in refused]


def _takes(path: Path, index: int, container: str) -> bool:
    try:
        with open_container(path) as source, av.open(io.BytesIO(), "w", format=container) as target:
            stream = source.streams[index]
            copy = target.add_stream_from_template(stream)
            target.start_encoding()
            for number, packet in enumerate(source.demux(stream)):
                if _is_timed(packet):
                    packet.stream = copy
                    target.mux(packet)
                if number >= PROBED:
                    break
    except (av.FFmpegError, ValueError):  # ValueError: the container has no such codec
        return False
    return True


def _is_timed(packet: Any) -> bool:
    """True if a packet has data and a time stamp. Matroska may have only presentation times, which equal the decoding times."""
    if packet.dts is None:
        packet.dts = packet.pts
    return bool(packet.size) and packet.dts is not None


class SoundCopy:
    """Copies the sound packets of a clip to a container, interleaved with video. A read error ends the sound with a note."""

    def __init__(self, path: Path, indices: list[int], target: Any, note: Callable[[str], None]) -> None:
        self._source = open_container(path)
        streams = [self._source.streams[index] for index in indices]
        self._copies = {stream.index: target.add_stream_from_template(stream) for stream in streams}
        for stream in streams:
            language = stream.metadata.get("language")
            if language:
                self._copies[stream.index].metadata["language"] = language
        self._target, self._note = target, note
        self._copied = Fraction(0)  # seconds
        self._packets = self._source.demux(streams)
        self._held: Any = None

    def until(self, time: Fraction | None) -> None:
        """Write all packets up to a time in seconds; None: all remaining packets."""
        while True:
            if self._held is None:
                try:
                    self._held = next(self._packets, None)
                except av.FFmpegError:  # PyAV's demuxer cannot continue after an error
                    self._note(f"the sound is damaged and ends after {float(self._copied):.1f} s")
                    return
                if self._held is None:
                    return
            packet = self._held
            if _is_timed(packet):
                if time is not None and packet.dts * packet.time_base > time:
                    return
                self._copied = packet.dts * packet.time_base
                packet.stream = self._copies[packet.stream.index]
                self._target.mux(packet)
            self._held = None

    def close(self) -> None:
        self._source.close()


def copied_sound(path: Path) -> tuple[bytes, list[str]]:
    """The sound of a clip as an audio-only Matroska file (empty without sound), and notes on omitted streams."""
    kept, refused = fitting_streams(path, MATROSKA)
    notes = [f"sound dropped: it cannot be copied ({', '.join(refused)})"] if refused else []
    if not kept:
        return b"", notes
    stream = io.BytesIO()
    with av.open(stream, "w", format=MATROSKA) as target:
        copy = SoundCopy(path, kept, target, notes.append)
        try:
            copy.until(None)
        finally:
            copy.close()
    return stream.getvalue(), notes
