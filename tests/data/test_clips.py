"""Reading and writing of clips: time, orientation, color, depth, sound, damage."""

from __future__ import annotations

import random
import sys
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import av
import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from clip_maker import HEIGHT, WIDTH, image, make_clip

from latens.data.clips.damage import Expected
from latens.data.clips.reader import Clip, ClipFrame, is_frame_folder, open_clip
from latens.data.clips.rewrite import rewrite_clip
from latens.data.clips.skipped import skipped_in_avi
from latens.data.clips.writer import Coding, open_writer
from latens.errors import InputError, LatensError, UnreadableInput, UsageError


def taken(path: Path, **options: float) -> tuple[Clip, list[ClipFrame]]:
    with open_clip(path, **options) as clip:
        return clip, list(clip.frames())


def copied(source: Path, out: Path, library: str = "libx264", **options: str) -> list[str]:
    """Copy a clip through reader and writer; returns the notes of both."""
    with open_clip(source) as clip:
        coding = Coding(library, options or {"crf": "4"})
        with open_writer(out, clip.info, coding, sound=source if clip.info.sound else None) as writer:
            for frame in clip.frames():
                writer.write(writer.fit(frame.image), frame.time, frame.duration)
        return [*clip.notes, *writer.notes]


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov"])
def test_uneven_time_stamps_and_the_last_duration_are_preserved(ending: str, tmp_path: Path) -> None:
    times = [0, 40, 90, 100, 300, 310]
    source = make_clip(tmp_path / "a.mkv", times=times, base=Fraction(1, 1000))
    copied(source, tmp_path / f"b{ending}")
    _, frames = taken(tmp_path / f"b{ending}")
    assert [round(1000 * frame.time) for frame in frames] == times
    assert [round(1000 * frame.duration) for frame in frames[:-1]] == [40, 50, 10, 200, 10]
    _, original = taken(source)
    assert frames[-1].duration == pytest.approx(original[-1].duration, abs=0.002)


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", times=range(4))

    def failing(frames):  # type: ignore[no-untyped-def]
        yield next(frames)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        rewrite_clip(source, tmp_path / "b.mp4", failing)
    with pytest.raises(UsageError, match=r"\.txt"):
        rewrite_clip(source, tmp_path / "b.txt", lambda frames: frames)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        rewrite_clip(source, tmp_path / "file" / "b.mp4", lambda frames: frames)
    assert {path.name for path in tmp_path.iterdir()} == {"a.mkv", "file"}


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotated_clips_are_read_and_written_upright(rotation: int, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "phone.mp4", rotation=rotation, times=range(2))
    clip, frames = taken(source)
    expected = np.rot90(image(0), clip.info.rotation // 90)
    assert clip.info.rotation == rotation
    assert (clip.info.height, clip.info.width) == expected.shape[:2]
    assert np.abs(frames[0].rgb().astype(int) - expected).mean() < 12
    copied(source, tmp_path / "b.mp4")
    again, frames = taken(tmp_path / "b.mp4")
    assert again.info.rotation == 0
    assert np.abs(frames[0].rgb().astype(int) - expected).mean() < 12


def test_colors_of_a_tagged_clip_do_not_shift(tmp_path: Path) -> None:
    green = [np.full((HEIGHT, WIDTH, 3), (30, 200, 60), np.uint8)] * 2
    source = make_clip(tmp_path / "a.mp4", images=green, times=range(2))
    assert copied(source, tmp_path / "b.mp4") == []
    clip, frames = taken(tmp_path / "b.mp4")
    assert clip.info.color == (1, 1, 1, 1)
    assert np.abs(frames[0].rgb().astype(int) - green[0]).max() <= 3  # 29 where BT.601 and BT.709 are confused


@pytest.mark.parametrize(("size", "name"), [((1280, 720), "BT.709"), ((96, 64), "BT.601")])
def test_untagged_colors_are_guessed_by_height_with_a_note(size: tuple[int, int], name: str, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", matrix=None, size=size, times=range(1), options={"preset": "ultrafast"})
    clip, frames = taken(source)
    assert clip.notes == [f"the colors are not tagged: {name} is assumed"]
    error = np.abs(frames[0].rgb().astype(int) - image(0, *size))[10:20, 4:20].mean()
    assert (error < 3) == (name == "BT.709")  # the clip was made with BT.709


def test_hdr_is_kept_by_h265_and_tone_mapped_for_h264(tmp_path: Path) -> None:
    source = make_clip(
        tmp_path / "hdr.mkv", library="libx265", format="yuv420p10le", matrix=9, transfer=16, times=range(2),
        options={"x265-params": "log-level=none"},
    )  # fmt: skip
    notes = copied(source, tmp_path / "kept.mp4", "libx265", **{"x265-params": "log-level=none"})
    assert any("HDR kept" in note for note in notes)
    with av.open(str(tmp_path / "kept.mp4")) as container:
        frame = next(container.decode(video=0))
        assert (frame.format.name, frame.color_trc, frame.colorspace) == ("yuv420p10le", 16, 9)
        assert container.streams.video[0].codec_context.codec_tag == "hvc1"
    notes = copied(source, tmp_path / "mapped.mp4")
    assert any("converted to BT.709" in note for note in notes)
    clip, frames = taken(tmp_path / "mapped.mp4")
    assert clip.info.color == (1, 1, 1, 1)
    _, original = taken(source)
    assert np.abs(frames[0].rgb().astype(int) - original[0].rgb()).mean() < 8  # both are tone mapped
    bare = av.open(str(source))
    curve = next(bare.decode(video=0)).to_ndarray(format="rgb24")
    bare.close()
    assert np.abs(original[0].rgb().astype(int) - curve).mean() > 10  # which is not what the curve of PQ shows


def test_ten_bits_without_hdr_are_reduced_with_a_note(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", format="yuv420p10le", times=range(2))
    assert copied(source, tmp_path / "b.mp4") == ["10 bits reduced to 8"]


@pytest.mark.parametrize(
    ("source", "sound", "out", "library", "kept"),
    [
        ("a.mp4", "aac", "b.mkv", "libx264", True),
        ("a.mkv", "aac", "b.mp4", "libx264", True),
        ("a.mp4", "aac", "b.webm", "libvpx-vp9", False),
        ("a.avi", "pcm_s16le", "b.mp4", "libx264", None),
        ("a.mkv", "flac", "b.mov", "libx264", False),
    ],
)
def test_sound_is_copied_or_dropped_with_a_note(
    source: str, sound: str, out: str, library: str, kept: bool | None, tmp_path: Path
) -> None:
    made = make_clip(tmp_path / source, sound=sound)
    notes = copied(made, tmp_path / out, library)
    with av.open(str(tmp_path / out)) as container:
        copies = len(container.streams.audio)
        if copies:
            with av.open(str(made)) as original:
                before = [bytes(packet) for packet in original.demux(audio=0) if packet.size]
            assert [bytes(packet) for packet in container.demux(audio=0) if packet.size] == before
    assert any("sound dropped" in note for note in notes) == (not copies)
    assert kept is None or bool(copies) == kept


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


def test_a_list_of_clips_does_not_read_its_neighbors(tmp_path: Path) -> None:
    make_clip(tmp_path / "secret.mp4")
    (tmp_path / "clip.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    with pytest.raises(UnreadableInput, match="not a clip of a known format"):
        taken(tmp_path / "clip.mp4")


def test_an_image_given_as_a_clip_is_told_where_it_belongs(tmp_path: Path) -> None:
    Image.new("RGB", (32, 24)).save(tmp_path / "photo.jpg")
    with pytest.raises(UnreadableInput, match="not a clip") as caught:
        taken(tmp_path / "photo.jpg")
    assert "latens compress" in str(caught.value.hint)


DEEP = [("yuv420p10le", None, "10 bits reduced to 8"), ("yuv420p10le", 16, "HDR")]


@pytest.mark.parametrize(("format", "transfer", "note"), DEEP)
def test_rewriting_says_that_depth_is_reduced(format: str, transfer: int | None, note: str, tmp_path: Path) -> None:
    options = {"x265-params": "log-level=none"}
    matrix = 9 if transfer else 1
    made = make_clip(
        tmp_path / "a.mkv", library="libx265", format=format, matrix=matrix, transfer=transfer, times=range(1), options=options
    )
    done = rewrite_clip(made, tmp_path / "b.mp4", lambda frames: frames)
    assert any(note in text for text in done.notes)


def test_sound_without_video_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.float32), format="flt", layout="stereo")
        frame.sample_rate = 48000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(UnreadableInput, match="no video"):
        taken(tmp_path / "a.mp4")


def test_one_frame_is_a_clip(tmp_path: Path) -> None:
    _, frames = taken(make_clip(tmp_path / "a.mp4", times=[0]))
    assert len(frames) == 1
    assert frames[0].duration > 0


def test_folders_of_images_are_read_in_natural_order(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        Image.fromarray(image(number)).save(tmp_path / f"f{number}.png")
    assert is_frame_folder(tmp_path)
    clip, frames = taken(tmp_path, fps=10)
    assert [frame.rgb()[-1, -1, 2] for frame in frames] == [10, 20, 100]
    assert [frame.time for frame in frames] == [0, Fraction(1, 10), Fraction(1, 5)]
    assert clip.stems == ("f1", "f2", "f10")
    assert taken(tmp_path)[0].notes == ["25 frames per second are assumed"]
    Image.fromarray(image(0, 32, 32)).save(tmp_path / "f11.png")
    with pytest.raises(InputError, match="32 x 32"):
        taken(tmp_path, fps=10)


def test_gif_keeps_its_delays_and_reports_transparency(tmp_path: Path) -> None:
    images = [Image.fromarray(image(number)) for number in range(3)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=[50, 200, 100])
    _, frames = taken(tmp_path / "a.gif")
    assert [float(frame.time) for frame in frames] == [0, 0.05, 0.25]
    clear = Image.new("RGBA", (32, 32))
    clear.save(tmp_path / "b.gif", save_all=True, append_images=[Image.new("RGBA", (32, 32), (255, 0, 0, 255))])
    assert "transparency is ignored" in taken(tmp_path / "b.gif")[0].notes


@pytest.mark.parametrize("ending", [".mp4", ".gif", ".webm"])
def test_rewriting_keeps_times_and_order(ending: str, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", times=[0, 40, 100, 400], base=Fraction(1, 1000), sound="aac")

    def late(frames):  # type: ignore[no-untyped-def]
        yield from [255 - frame for frame in list(frames)]

    done = rewrite_clip(source, tmp_path / f"b{ending}", late)
    assert (done.frames, done.width, done.height) == (4, WIDTH, HEIGHT)
    _, frames = taken(tmp_path / f"b{ending}")
    assert [round(100 * frame.time) for frame in frames] == [0, 4, 10, 40]
    for number, frame in enumerate(frames):
        assert np.abs(255 - image(number).astype(int) - frame.rgb()).mean() < 12
    assert any("sound dropped" in note for note in done.notes) == (ending != ".mp4")


def test_containers_refuse_unsupported_encoders(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", times=range(2))
    with pytest.raises(UsageError, match="does not support"):
        copied(source, tmp_path / "b.webm")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


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
