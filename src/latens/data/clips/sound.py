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
DELAYED = (MATROSKA, "webm")  # containers that declare the samples before time 0 as a delay of the codec
KNOW_DELAY = ("opus",)  # FFmpeg reads the delay of these codecs from their headers
VARYING = ("aac", "ac3", "eac3", "dca")  # codecs whose packets differ in size, and whose blocks AVI does not count
TITLE, DELAY, PLACE = b"\x53\x6e\x88", b"\x56\xaa\x88", "8 bytes."  # elements of 8 bytes: names of a track, codec delay
NANOSECONDS = 10**9
AUDIBLE = Fraction(1, 25)  # seconds between sound and image
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


def _add_copy(path: Path, stream: Any, target: Any, container: str) -> Any:
    """A stream of `target`, a container of the given kind, for the packets of a sound stream of the file `path`.

    Coders put samples in front of the sound. MP4 gives them times before 0. Matroska has no such times and declares a delay
    instead, which PyAV copies from other Matroska files only. So the template is read from one that declares it. FFmpeg's
    template of an AVI stream has a size of blocks that would give packets of varying size wrong times in another AVI.
    """
    codec, early = stream.codec_context.name, Fraction(0)
    if container in DELAYED and codec not in KNOW_DELAY:
        early = _before_zero(path, stream.index)
    if early or (container == "avi" and codec in VARYING):
        with av.open(io.BytesIO(_in_matroska(path, stream.index, early))) as template:
            return target.add_stream_from_template(template.streams.audio[0])
    return target.add_stream_from_template(stream)


def _in_matroska(path: Path, index: int, delay: Fraction) -> bytes:
    """A Matroska file of the first packet of a sound stream, which declares a delay in seconds."""
    held = io.BytesIO()
    with open_container(path) as source, av.open(held, "w", format=MATROSKA, options={"write_crc32": "0"}) as made:
        copy = made.add_stream_from_template(source.streams[index])
        copy.metadata["title"] = PLACE
        packet = next(packet for packet in source.demux(index) if packet.size)
        packet.stream, packet.pts, packet.dts = copy, 0, 0  # FFmpeg opens no file without a packet
        made.mux(packet)
    nanoseconds = round(delay * NANOSECONDS).to_bytes(len(PLACE), "big")
    return held.getvalue().replace(TITLE + PLACE.encode(), DELAY + nanoseconds)


def _before_zero(path: Path, index: int) -> Fraction:
    """Seconds of a sound stream before time 0; 0 in Matroska files, which declare them as a delay."""
    with open_container(path) as source:
        if MATROSKA in source.format.name:
            return Fraction(0)
        first = next((packet for packet in source.demux(source.streams[index]) if _is_timed(packet)), None)
        return Fraction(0) if first is None or first.pts is None else max(Fraction(0), -first.pts * first.time_base)


class SoundCopy:
    """Copies the sound packets of a clip to a container of a kind, interleaved with video.

    A read error ends the sound with a note.
    """

    def __init__(self, path: Path, indices: list[int], target: Any, kind: str, note: Callable[[str], None]) -> None:
        self._source = open_container(path)
        streams = [self._source.streams[index] for index in indices]
        self._copies = {stream.index: _add_copy(path, stream, target, kind) for stream in streams}
        for stream in streams:
            language = stream.metadata.get("language")
            if language:
                self._copies[stream.index].metadata["language"] = language
        self._target, self._note, self._starts = target, note, kind != "avi"
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
                if not self._starts and self._copied > AUDIBLE:
                    self._note(f"AVI stores no start of the sound: it is heard {float(self._copied):.2f} s too early")
                self._starts = True
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
        copy = SoundCopy(path, kept, target, MATROSKA, notes.append)
        try:
            copy.until(None)
        finally:
            copy.close()
    return stream.getvalue(), notes
