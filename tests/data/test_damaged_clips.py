"""Clips that are damaged, cut or dropped frames: what is missing is counted, and only errors of latens are raised."""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import av
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from clip_maker import make_clip, taken

from latens.data.clips.complete import is_complete_matroska, is_complete_mp4
from latens.data.clips.damage import Expected
from latens.data.clips.reader import open_clip
from latens.data.clips.rewrite import rewrite_clip
from latens.data.clips.skipped import skipped_in_avi
from latens.errors import LatensError, UnreadableInput


def test_damaged_packets_are_skipped_and_counted(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", times=range(30), options={"g": "6"})
    with av.open(str(source)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(source.read_bytes())
    position, size = packets[13]
    assert position is not None
    data[position : position + size] = b"\xff" * size
    (tmp_path / "b.mp4").write_bytes(data)
    clip, frames = taken(tmp_path / "b.mp4")
    assert clip.damaged >= 1
    assert len(frames) >= 26
    assert any("decoding error" in note for note in clip.notes)


def test_a_truncated_clip_is_reported(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", times=range(20), container_options={"movflags": "+faststart"})
    (tmp_path / "b.mp4").write_bytes(source.read_bytes()[:-3000])
    clip, frames = taken(tmp_path / "b.mp4")
    assert clip.missing + clip.damaged > 0
    assert 0 < len(frames) < 20


def test_a_clip_truncated_in_its_first_frame_is_refused(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", container_options={"movflags": "+faststart"})
    with av.open(str(source)) as container:
        first = next(packet for packet in container.demux(video=0) if packet.size)
        assert first.pos is not None
        cut = first.pos + 10
    for length in (cut, 40, 3):
        (tmp_path / "b.mp4").write_bytes(source.read_bytes()[:length])
        with pytest.raises(UnreadableInput):
            taken(tmp_path / "b.mp4")


KINDS = {".mp4": "libx264", ".mkv": "libx264", ".webm": "libvpx-vp9", ".avi": "mpeg4"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A clip of 60 frames in every container; MP4 and MKV have sound."""
    place, made = tmp_path_factory.mktemp("clips"), {}
    for ending, library in KINDS.items():
        made[ending] = make_clip(
            place / f"whole{ending}", times=range(60), library=library, options={"g": "12"},
            sound="aac" if library == "libx264" else None,
            container_options={"movflags": "+faststart"} if ending == ".mp4" else {},
        )  # fmt: skip
    return made


@pytest.mark.parametrize("ending", KINDS)
def test_frames_expected_and_frames_read_are_compared(ending: str, clips: dict[str, Path], tmp_path: Path) -> None:
    """Cut to half and damaged in the middle, in every container; an intact clip is not suspected."""
    data = clips[ending].read_bytes()
    clip, frames = taken(clips[ending])
    assert (len(frames), clip.damaged, clip.missing) == (60, 0, 0)

    (tmp_path / f"half{ending}").write_bytes(data[: len(data) // 2])
    clip, frames = taken(tmp_path / f"half{ending}")
    assert 0 < len(frames) < 40
    assert 58 <= len(frames) + clip.missing <= 60  # a packet that is cut is neither read nor missing
    assert any("the file is incomplete" in note for note in clip.notes)

    middle, tenth = len(data) // 2, len(data) // 10
    (tmp_path / f"zeros{ending}").write_bytes(data[:middle] + bytes(tenth) + data[middle + tenth :])
    clip, frames = taken(tmp_path / f"zeros{ending}")
    assert clip.damaged + clip.missing > 0
    assert clip.damaged + clip.missing + len(frames) >= 60


@pytest.mark.parametrize(
    ("name", "library", "options"),
    [
        ("a.mp4", "libx265", {"x265-params": "log-level=none"}),
        ("a.mov", "libx264", {"bf": "2"}),
        ("a.mov", "mpeg4", {}),
        ("a.avi", "mpeg4", {}),
        ("a.webm", "libvpx-vp9", {}),
        ("a.webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16"}),  # hidden frames in packets of their own
        ("a.mkv", "mpeg2video", {"flags": "+ildct+ilme"}),
    ],
)
def test_frames_that_a_decoder_drops_are_counted(name: str, library: str, options: dict[str, str], tmp_path: Path) -> None:
    """Decoders drop damaged frames without an error; an intact clip of the same codec is not suspected."""
    clip, frames = taken(make_clip(tmp_path / name, times=range(25), library=library, options=options))
    assert (len(frames), clip.damaged, clip.missing) == (25, 0, 0)
    data, rng = (tmp_path / name).read_bytes(), np.random.default_rng(0)
    start = data.find(b"mdat") if b"mdat" in data else len(data) // 8
    for _ in range(30):
        place = int(rng.integers(start + 8, start + (len(data) - start) * 3 // 4))
        (tmp_path / name).write_bytes(data[:place] + rng.bytes(40) + data[place + 40 :])
        try:
            clip, frames = taken(tmp_path / name)
        except LatensError:
            continue
        assert len(frames) >= 25 or clip.damaged + clip.missing > 0


@pytest.mark.parametrize("library", ["libx264", "mpeg4"])
def test_an_avi_file_with_dropped_frames_is_not_suspected(library: str, tmp_path: Path) -> None:
    """AVI stores a frame that was dropped as a chunk of no size, which counts as a frame in the header."""
    times = [0, 2, 3, 4, 7, 8]
    whole = make_clip(tmp_path / "a.avi", times=times, library=library)
    assert skipped_in_avi(whole, 0) == 3
    clip, frames = taken(whole)
    assert (len(frames), clip.damaged, clip.missing) == (6, 0, 0)
    (tmp_path / "b.avi").write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    clip, frames = taken(tmp_path / "b.avi")
    assert clip.damaged + clip.missing > 0


def test_a_variable_frame_rate_is_not_taken_for_missing_frames(tmp_path: Path) -> None:
    for times in ([0, 40, 90, 100, 300, 310], [0, 1000, 1040, 3000], [0]):
        clip, _ = taken(make_clip(tmp_path / "a.mkv", times=times, base=Fraction(1, 1000)))
        assert (clip.missing, clip.damaged) == (0, 0)
    clip, _ = taken(make_clip(tmp_path / "late.mp4", times=range(50, 70), sound="aac"))  # the sound starts earlier
    assert (clip.missing, clip.damaged) == (0, 0)


LATE = range(900_000, 900_030)  # from ten hours on
PAUSES = (0, 1, 2, 90_000, 90_001, 180_000)


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv", ".webm"])
@pytest.mark.parametrize("times", [LATE, PAUSES])
def test_late_starts_and_long_pauses_are_no_damage(ending: str, times: Sequence[int], tmp_path: Path) -> None:
    options = {"movflags": "+faststart"} if ending in (".mp4", ".mov") else {}
    library = KINDS.get(ending, "libx264")
    whole, cut = tmp_path / f"whole{ending}", tmp_path / f"cut{ending}"
    make_clip(whole, times=times, size=(32, 32), library=library, container_options=options)
    clip, frames = taken(whole)
    assert (len(frames), clip.damaged, clip.missing) == (len(times), 0, 0)
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 8 // 10])
    clip, frames = taken(cut)
    assert len(frames) < len(times)
    assert clip.damaged + clip.missing > 0
    if times is LATE:
        assert 29 <= len(frames) + clip.missing <= 30  # a packet that is cut is neither read nor missing


def test_a_last_frame_that_is_shown_long_is_no_missing_end(tmp_path: Path) -> None:
    """Matroska may store no duration of the last packet, only that of the stream."""
    data = make_clip(tmp_path / "a.mkv", times=range(12), size=(64, 64)).read_bytes()
    tag = b"00:00:00.480000000"
    assert data.count(tag) == 1
    (tmp_path / "b.mkv").write_bytes(data.replace(tag, b"00:00:05.480000000"))
    clip, frames = taken(tmp_path / "b.mkv")
    assert (len(frames), clip.damaged, clip.missing) == (12, 0, 0)
    assert frames[-1].time + frames[-1].duration == Fraction("5.48")
    (tmp_path / "b.mkv").write_bytes((tmp_path / "b.mkv").read_bytes()[:-900])
    assert taken(tmp_path / "b.mkv")[0].missing > 0


def test_files_with_all_of_their_outermost_elements_are_complete(tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "a.mp4")
    assert is_complete_mp4(whole)
    data = whole.read_bytes()
    for other in (data[:-1], data + b"\0", data + bytes(8), data[:4]):
        (tmp_path / "b.mp4").write_bytes(other)
        assert not is_complete_mp4(tmp_path / "b.mp4")
    (tmp_path / "b.mp4").write_bytes(data + struct.pack(">I4sQ", 1, b"free", 24) + bytes(8))  # a size of 64 bits
    assert is_complete_mp4(tmp_path / "b.mp4")

    data, last = make_clip(tmp_path / "a.mkv").read_bytes(), 0
    with av.open(str(tmp_path / "a.mkv")) as container:
        last = max((packet.pos or 0) + packet.size for packet in container.demux() if packet.size)
    at = data.index(b"\x18\x53\x80\x67") + 4
    assert is_complete_matroska(tmp_path / "a.mkv", last)
    assert not is_complete_matroska(tmp_path / "a.mkv", last // 2)
    for other in (data[:-1], data[:at] + b"\x01" + 7 * b"\xff" + data[at + 8 :], data[4:], data[:3]):
        (tmp_path / "b.mkv").write_bytes(other)
        assert not is_complete_matroska(tmp_path / "b.mkv", last)


def test_an_impossible_number_of_frames_is_damage_of_the_header(tmp_path: Path) -> None:
    class Declared:
        """The header of an AVI of 74 kB with 889,192,448 frames."""

        class format:
            name = "avi"

        class codec_context:
            name = "mpeg4"

        frames, duration, index, start_time, time_base = 889_192_448, None, 0, 0, Fraction(1, 25)
        metadata: ClassVar[dict[str, str]] = {}

    path = tmp_path / "a.avi"
    path.write_bytes(bytes(74_000))
    expected = Expected(path, Declared, Declared, Fraction(25))
    assert expected.impossible
    assert expected.missing(0) == 0


@pytest.mark.parametrize("ending", KINDS)
def test_fuzzed_clips_raise_only_our_errors(ending: str, clips: dict[str, Path], tmp_path: Path) -> None:
    """Seeded mutations of the header and of the whole file; every fifth clip is written again."""
    rng = random.Random(ending)
    place = tmp_path / f"fuzzed{ending}"
    for number in range(25):
        data = bytearray(clips[ending].read_bytes())
        limit = rng.choice((3000, len(data)))
        for _ in range(rng.choice((1, 3, 10, 40))):
            data[rng.randrange(min(limit, len(data)))] = rng.choice((0, 255, rng.randrange(256)))
        place.write_bytes(data[: rng.randrange(len(data))] if rng.random() < 0.3 else data)
        try:
            if number % 5 == 4:
                rewrite_clip(place, tmp_path / "out.mp4", lambda frames: frames)
            else:
                for frame in taken(place)[1]:
                    frame.rgb()
        except LatensError:
            pass  # any other error fails this test


def test_a_matroska_clip_without_its_last_frame(tmp_path: Path) -> None:
    """A cut within the last frame loses it: the clip is incomplete, by one frame."""
    whole, cut = tmp_path / "whole.mkv", tmp_path / "cut.mkv"
    make_clip(whole, times=range(12), size=(64, 64))
    with av.open(str(whole)) as container:
        last = max(packet.pos or 0 for packet in container.demux(video=0) if packet.size)
    cut.write_bytes(whole.read_bytes()[: last + 12])
    with open_clip(whole) as clip:
        assert (len(list(clip.frames())), clip.missing) == (12, 0)
    with open_clip(cut) as clip:
        assert (len(list(clip.frames())), clip.missing) == (11, 1)
