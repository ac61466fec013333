"""Reading and writing of clips: time, orientation, color, depth, sound."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import warnings
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from clip_maker import HEIGHT, WIDTH, image, make_clip, taken

from latens.data.clips.frame_folder import gaps_in, is_frame_folder
from latens.data.clips.reader import open_clip
from latens.data.clips.rewrite import rewrite_clip
from latens.data.clips.writer import Coding, open_writer
from latens.errors import InputError, UnreadableInput, UsageError

# x265 does not initialize the decoding times of one or two frames, if it reorders frames.
UNORDERED = "log-level=none:bframes=0"


def copied(source: Path, out: Path, library: str = "libx264", **options: str) -> list[str]:
    """Copy a clip through reader and writer; returns the notes of both."""
    with open_clip(source) as clip:
        coding = Coding(library, options or {"crf": "4"})
        with open_writer(out, clip.info, coding, sound=source if clip.info.sound else None) as writer:
            for frame in clip.frames():
                writer.write(writer.fit(frame.image), frame.time, frame.duration)
        return [*clip.notes, *writer.notes]


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("fill", ["90", "165"], ids=["late", "early"])
def test_short_clips_of_h265_have_valid_times(fill: str, frames: int, tmp_path: Path) -> None:
    """Uninitialized memory is filled with a byte: the decoding times of x265 would be far after or before the frame."""
    source = make_clip(tmp_path / "a.mkv", times=range(frames))
    command = "import sys, test_clips; test_clips.copied(*map(test_clips.Path, sys.argv[1:]), 'libx265')"
    modules = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "MALLOC_PERTURB_": fill, "PYTHONPATH": modules}
    subprocess.run([sys.executable, "-c", command, str(source), str(tmp_path / "b.mkv")], env=environment, check=True)
    clip, copies = taken(tmp_path / "b.mkv")
    assert len(copies) == frames
    assert not clip.damaged


UNEVEN = [0, 40, 90, 100, 300, 310]
PAUSES = [0, 90_000, 90_040, 300_000, 300_040, 300_080]  # reordered frames are decoded several pauses before they are shown


@pytest.mark.parametrize("times", [UNEVEN, PAUSES], ids=["uneven", "pauses"])
@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov"])
def test_uneven_time_stamps_and_the_last_duration_are_preserved(ending: str, times: list[int], tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", times=times, base=Fraction(1, 1000))
    copied(source, tmp_path / f"b{ending}")
    _, frames = taken(tmp_path / f"b{ending}")
    assert [round(1000 * frame.time) for frame in frames] == times
    assert [round(1000 * frame.duration) for frame in frames[:-1]] == np.diff(times).tolist()
    _, original = taken(source)
    assert frames[-1].duration == pytest.approx(original[-1].duration, abs=0.002)


@pytest.mark.parametrize("last", [40, 2000])
@pytest.mark.parametrize("times", [[0, 40, 90, 5000], [300, 340, 4340, 4380, 4410, 8400, 8500]], ids=["short", "late"])
@pytest.mark.parametrize("ending", [".mp4", ".mov"])
def test_a_clip_ends_with_its_last_frame(ending: str, times: list[int], last: int, tmp_path: Path) -> None:
    """Frames are coded out of order: the last frame of the file is shown before its last packet."""
    with open_clip(make_clip(tmp_path / "a.mkv", times=range(len(times)), size=(64, 64))) as clip:
        info = clip.info._replace(time_base=Fraction(1, 1000), rate=Fraction(1))
        coding = Coding("libx264", {"bf": "3", "b_strategy": "0", "sc_threshold": "0"})
        with open_writer(tmp_path / f"b{ending}", info, coding) as writer:
            for frame, start, end in zip(clip.frames(), times, [*times[1:], times[-1] + last], strict=True):
                writer.write(writer.fit(frame.image), Fraction(start, 1000), Fraction(end - start, 1000))
    with av.open(str(tmp_path / f"b{ending}")) as container:
        stream = container.streams.video[0]
        assert ((stream.start_time or 0) + (stream.duration or 0)) * (stream.time_base or 0) * 1000 == times[-1] + last
        shown = [packet.pts or 0 for packet in container.demux(video=0) if packet.size]
    assert shown[-1] < max(shown)
    _, frames = taken(tmp_path / f"b{ending}")
    assert [round(1000 * frame.time) for frame in frames] == times
    assert 1000 * frames[-1].duration == last


def test_the_last_frame_of_vp9_in_mp4_has_its_duration(tmp_path: Path) -> None:
    """FFmpeg gives all of its packets the mean duration."""
    with open_clip(make_clip(tmp_path / "a.mkv", times=range(3), size=(64, 64))) as clip:
        info = clip.info._replace(time_base=Fraction(1, 1000))
        with open_writer(tmp_path / "b.mp4", info, Coding("libvpx-vp9", {"deadline": "realtime"})) as writer:
            for frame in clip.frames():
                writer.write(writer.fit(frame.image), frame.time, Fraction(2) if frame.number == 2 else frame.duration)
    assert [frame.duration for frame in taken(tmp_path / "b.mp4")[1]] == [Fraction(1, 25), Fraction(1, 25), 2]


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
        options={"x265-params": UNORDERED},
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
    curve = next(bare.decode(video=0)).reformat(format="rgb24", threads=1).to_ndarray()
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


def test_a_list_of_clips_does_not_read_its_neighbors(tmp_path: Path) -> None:
    make_clip(tmp_path / "secret.mp4")
    (tmp_path / "clip.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    with pytest.raises(UnreadableInput, match="not a clip of a known format"):
        taken(tmp_path / "clip.mp4")


def test_an_empty_file_is_named_so(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(UnreadableInput, match="the file is empty"):
        taken(tmp_path / "a.mp4")


def test_an_image_given_as_a_clip_is_told_where_it_belongs(tmp_path: Path) -> None:
    Image.new("RGB", (32, 24)).save(tmp_path / "photo.jpg")
    with pytest.raises(UnreadableInput, match="not a clip") as caught:
        taken(tmp_path / "photo.jpg")
    assert "latens compress" in str(caught.value.hint)


DEEP = [("yuv420p10le", None, "10 bits reduced to 8"), ("yuv420p10le", 16, "HDR")]


@pytest.mark.parametrize(("format", "transfer", "note"), DEEP)
def test_rewriting_says_that_depth_is_reduced(format: str, transfer: int | None, note: str, tmp_path: Path) -> None:
    options = {"x265-params": UNORDERED}
    matrix = 9 if transfer else 1
    made = make_clip(
        tmp_path / "a.mkv", library="libx265", format=format, matrix=matrix, transfer=transfer, times=range(1), options=options
    )
    done = rewrite_clip(made, tmp_path / "b.mp4", lambda frames: frames)
    assert any(note in text for text in done.notes)


def test_clips_are_read_and_written_after_a_fork(tmp_path: Path) -> None:
    """As by the processes that prepare the batches of a training. Threads of the parent do not exist in its child."""
    source = make_clip(tmp_path / "a.mkv", times=range(3), size=(512, 512))

    def used() -> None:
        copied(source, tmp_path / "b.mp4")
        for frame in taken(source)[1]:
            frame.rgb()

    used()
    child = multiprocessing.get_context("fork").Process(target=used)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12, for a fork with threads
        child.start()
    child.join(timeout=60)
    child.kill()
    assert child.exitcode == 0


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


@pytest.mark.parametrize(
    ("numbers", "note"),
    [
        (["f_1", "f_2", "f_3"], None),
        (["f_1", "f_2", "f_5", "f_6"], "2 frames missing, the first after f_2"),
        (["0010.jpg", "0020.jpg", "0030.jpg", "0050.jpg"], "1 frame missing, the first after 0030.jpg"),
        (["t100.31", "t100.45", "t101.02"], None),
        (["first", "second"], None),
        (["f_7"], None),
        (["f_1", "f_9", "f_30"], None),
    ],
)
def test_gaps_in_the_numbers_of_frames(numbers: list[str], note: str | None) -> None:
    assert gaps_in([Path(number).stem if ".jpg" in number else number for number in numbers]) == (
        None if note is None else note.removesuffix(".jpg")
    )
