"""Copied sound is heard at the time of the original, whose coder put samples in front of it."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from clip_maker import image, make_clip

from latens.data.clips.reader import open_clip
from latens.data.clips.rewrite import rewrite_clip
from latens.data.clips.sound import copied_sound
from latens.data.clips.writer import Coding, open_writer

RATE, CLICK = 48_000, 0.2  # samples per second; seconds
MILLISECOND = 1e-3  # the resolution of Matroska


def with_click(path: Path, library: str, codec: str) -> Path:
    """Ten frames and 0.4 s of silence, with one click at CLICK."""
    with av.open(str(path), "w") as container:
        stream, sound = container.add_stream(library, rate=25), container.add_stream(codec, rate=RATE)
        assert isinstance(stream, av.VideoStream)
        assert isinstance(sound, av.AudioStream)
        stream.width, stream.height, stream.pix_fmt, sound.layout = 64, 64, "yuv420p", "mono"
        stream.options = {"bf": "0"} if library == "libx264" else {}
        wave = np.zeros((1, RATE * 2 // 5), np.float32)
        start = round(RATE * CLICK)
        wave[0, start : start + 240] = np.sin(np.arange(240) / 4) * np.exp(-np.arange(240) / 60)
        frame = av.AudioFrame.from_ndarray(wave, format="flt", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        packets = [*sound.encode(frame), *sound.encode(None)]
        for number in range(10):
            picture = av.VideoFrame.from_ndarray(image(number, 64, 64), format="rgb24")
            picture = picture.reformat(format="yuv420p", threads=1)
            picture.pts, picture.time_base = number, Fraction(1, 25)
            packets += stream.encode(picture)
        for packet in sorted([*packets, *stream.encode(None)], key=lambda packet: (packet.dts or 0) * packet.time_base):
            container.mux(packet)
    return path


def click_of(path: Path) -> float:
    """The time of the loudest sample, in seconds."""
    with av.open(str(path)) as container:
        frames = [(float(frame.time or 0), np.abs(frame.to_ndarray()[0])) for frame in container.decode(audio=0)]
    time, wave = max(frames, key=lambda part: float(part[1].max()))
    return time + float(wave.argmax()) / RATE


def starts_of(path: Path) -> float:
    with av.open(str(path)) as container:
        return float(next(container.decode(video=0)).time or 0)


SOURCES = [
    ("a.mp4", "libx264", "aac"),
    ("a.mov", "libx264", "aac"),
    ("a.mp4", "libx264", "libmp3lame"),
    ("a.mp4", "libx264", "libopus"),
    ("a.mkv", "libx264", "aac"),
    ("a.webm", "libvpx-vp9", "libopus"),
]


@pytest.mark.parametrize(("name", "library", "codec"), SOURCES)
def test_sound_keeps_its_time(name: str, library: str, codec: str, tmp_path: Path) -> None:
    source = with_click(tmp_path / name, library, codec)
    before = click_of(source)
    assert before == pytest.approx(CLICK, abs=2 * MILLISECOND)
    for out in (tmp_path / "b.mkv", tmp_path / "b.mp4"):
        rewrite_clip(source, out, lambda frames: frames)
        assert click_of(out) == pytest.approx(before, abs=MILLISECOND)
        assert starts_of(out) == 0

    (tmp_path / "sound.mka").write_bytes(copied_sound(source)[0])  # the sound of a .ltv
    assert click_of(tmp_path / "sound.mka") == pytest.approx(before, abs=MILLISECOND)
    silent = make_clip(tmp_path / "silent.mp4", times=range(2), size=(64, 64))
    for out in (tmp_path / "c.mkv", tmp_path / "c.mp4"):
        coding = Coding("libx264", {})
        with open_clip(silent) as clip, open_writer(out, clip.info, coding, sound=tmp_path / "sound.mka") as writer:
            for frame in clip.frames():
                writer.write(writer.fit(frame.image), frame.time, frame.duration)
        assert click_of(out) == pytest.approx(before, abs=MILLISECOND)


@pytest.mark.parametrize("codec", ["aac", "ac3", "libmp3lame"])
def test_sound_of_avi_keeps_its_time_in_avi(codec: str, tmp_path: Path) -> None:
    source = with_click(tmp_path / "a.avi", "mpeg4", codec)
    done = rewrite_clip(source, tmp_path / "b.avi", lambda frames: frames)
    assert click_of(tmp_path / "b.avi") == pytest.approx(click_of(source), abs=MILLISECOND)
    assert not any("AVI" in note for note in done.notes)


def test_times_that_avi_cannot_store_are_named(tmp_path: Path) -> None:
    late = make_clip(tmp_path / "a.mkv", times=range(10, 16), size=(64, 64))
    uneven = make_clip(tmp_path / "b.mkv", times=[0, 40, 90, 500], size=(64, 64), base=Fraction(1, 1000))
    for source in (late, uneven):
        notes = rewrite_clip(source, tmp_path / "out.avi", lambda frames: frames).notes
        assert "AVI stores one frame rate: frames are shown at other times" in notes
    with (
        av.open(str(with_click(tmp_path / "c.mkv", "libx264", "aac"))) as source,
        av.open(str(tmp_path / "d.mkv"), "w") as moved,
    ):
        copies = [moved.add_stream_from_template(stream) for stream in source.streams]
        for packet in source.demux():
            if packet.size:
                sound, late_by = packet.stream.type == "audio", round(Fraction(1, 2) / packet.time_base)
                packet.stream = copies[packet.stream.index]
                packet.pts, packet.dts = (packet.pts or 0) + sound * late_by, (packet.dts or 0) + sound * late_by
                moved.mux(packet)
    notes = rewrite_clip(tmp_path / "d.mkv", tmp_path / "out.avi", lambda frames: frames).notes
    assert any("it is heard 0.48 s too early" in note for note in notes)
