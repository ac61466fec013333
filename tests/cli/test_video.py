"""`latens video compress` on real files: paths, JSON, exit statuses, batches."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from clip_maker import HEIGHT, WIDTH, make_clip

import latens
from latens.cli.main import main
from latens.cli.video_decompress import written_record
from latens.data.clips.reader import open_clip
from latens.systems.video_codec.output import WrittenClip

Capture = pytest.CaptureFixture[str]


def test_a_clip_is_written_next_to_its_input(tmp_path: Path, capsys: Capture) -> None:
    source = make_clip(tmp_path / "clip.mp4")
    words = ["video", "compress", str(source), "--roi", "box:8,8,40,40", "--threads", "1", "--format", "json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["output"] == str(tmp_path / "clip.small.mp4")
    assert found["frames"] == 8
    assert found["region"] == pytest.approx(32 * 32 / (WIDTH * HEIGHT), abs=1e-4)
    assert found["bytes"] == (tmp_path / "clip.small.mp4").stat().st_size


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_shows_every_note_once(
    terminal: bool, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results that go into a file or a pipe have their notes, which the terminal shows at once."""
    source, note = make_clip(tmp_path / "clip.mp4", matrix=None, times=range(2)), "the colors are not tagged: BT.601 is assumed"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert main(["video", "compress", str(source), "-o", str(tmp_path / "out.mp4")]) == 0
    shown = capsys.readouterr()
    assert shown.err.count(note) == 1
    assert shown.out.count(note) == (0 if terminal else 1)


@pytest.mark.parametrize(("frames", "words"), [(1, "1 frame,"), (1200, "1,200 frames,")])
def test_frames_of_a_decompressed_clip_are_counted(frames: int, words: str) -> None:
    done = WrittenClip(Path("a.mp4"), 64, 64, frames, 0.04, (), 0.1, ())
    assert written_record(done)["text"].startswith(f"a.mp4: 64 x 64, {words}")


def test_named_outputs_are_not_overwritten(tmp_path: Path, capsys: Capture) -> None:
    source = make_clip(tmp_path / "clip.mp4")
    (tmp_path / "out.mp4").write_bytes(b"old")
    words = ["video", "compress", str(source), "-o", str(tmp_path / "out.mp4")]
    assert main(words) == 2
    assert main([*words, "--force"]) == 0
    assert main(["video", "compress", str(source), "-o", str(tmp_path / "out.txt")]) == 2
    assert main(["video", "compress", str(source), "-o", str(tmp_path / "b.webm"), "--codec", "h264"]) == 2
    assert "does not support" in capsys.readouterr().err


def test_folders_of_clips_take_masks_by_name_and_a_bad_one_stops_nothing(tmp_path: Path, capsys: Capture) -> None:
    clips, masks = tmp_path / "clips", tmp_path / "masks"
    (clips / "deep").mkdir(parents=True)
    (masks / "a").mkdir(parents=True)
    make_clip(clips / "a.mp4", times=range(3))
    make_clip(clips / "deep" / "b.mkv", times=range(3))
    make_clip(clips / "none.mp4", times=range(3))
    (clips / "bad.mp4").write_text("no clip")
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:20, :20] = 255
    for number in range(3):
        Image.fromarray(mask).save(masks / "a" / f"{number}.png")
    Image.fromarray(mask).save(masks / "b.png")
    out = tmp_path / "out"
    words = ["video", "compress", str(clips), "-o", str(out), "--roi", str(masks), "--format", "json", "--threads", "1"]
    assert main(words) == 3
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    status = {Path(line["input"]).name: line["status"] for line in lines}
    assert status == {"a.mp4": "done", "b.mkv": "done", "bad.mp4": "failed", "none.mp4": "failed"}
    assert (out / "deep" / "b.small.mp4").is_file()
    assert len((out / "failures.jsonl").read_text().splitlines()) == 2


def test_a_folder_of_images_is_one_clip(tmp_path: Path, capsys: Capture) -> None:
    for number in range(3):
        Image.fromarray(np.full((33, 47, 3), 40 * number, np.uint8)).save(tmp_path / f"{number}.png")
    assert main(["video", "compress", str(tmp_path), "-o", str(tmp_path.parent / "o.mp4"), "--fps", "10"]) == 0
    assert "padded from 47 x 33 to 48 x 34" in capsys.readouterr().out


def test_a_damaged_clip_ends_with_status_4(tmp_path: Path, capsys: Capture) -> None:
    source = make_clip(tmp_path / "a.mp4", times=range(20), container_options={"movflags": "+faststart"})
    (tmp_path / "b.mp4").write_bytes(source.read_bytes()[:-3000])
    assert main(["video", "compress", str(tmp_path / "b.mp4"), "--format", "json"]) == 4
    found = json.loads(capsys.readouterr().out)
    assert found["damaged"] + found["missing"] > 0


# ------------------------------------------------------------------------------------------------------- neural codec


def test_a_neural_clip_and_back_with_its_sound(tmp_path: Path, capsys: Capture) -> None:
    source = make_clip(tmp_path / "clip.mp4", sound="aac")
    small, again = tmp_path / "clip.ltv", tmp_path / "again.mp4"
    words = ["video", "compress", str(source), "-o", str(small), "--roi", "box:8,8,40,40", "--quality", "2", "--format", "json"]
    assert main(words) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["bytes"] == small.stat().st_size
    assert (done["frames"], done["quality"], done["region"]) == (8, 2.0, pytest.approx(1024 / (WIDTH * HEIGHT), abs=1e-4))
    assert main(words) == 2  # is there already

    assert main(["inspect", str(small), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sum(found["bits"].values()) == 8 * found["bytes"]
    assert found["bits"]["sound"] > 0
    assert {name: found["bits"][name] for name in done["bits"] if name != "container"} == {
        name: bits for name, bits in done["bits"].items() if name != "container"
    }
    assert found["layout"].startswith("scale-space flow")
    assert sum(found["percent_of_bits"].values()) == pytest.approx(100, abs=0.1)

    assert main(["video", "decompress", str(small), "-o", str(again), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 8
    with open_clip(again) as clip:
        assert (clip.info.width, clip.info.height, clip.info.sound) == (WIDTH, HEIGHT, True)
        assert [frame.time for frame in clip.frames()] == [Fraction(number, 25) for number in range(8)]

    frames = tmp_path / "frames"
    assert main(["video", "decompress", str(small), "-o", str(frames)]) == 0
    assert sorted(path.name for path in frames.iterdir()) == [f"{number:05d}.png" for number in range(8)]
    assert main(["video", "decompress", str(small), "-o", str(frames)]) == 2
    capsys.readouterr()


def test_a_neural_clip_of_a_size_counts_its_sound(tmp_path: Path, capsys: Capture) -> None:
    source, small = make_clip(tmp_path / "clip.mp4", sound="aac"), tmp_path / "clip.ltv"
    words = ["video", "compress", str(source), "-o", str(small), "--force", "--format", "json"]
    sizes = []
    for quality in ("1", "8"):
        assert main([*words, "--quality", quality]) == 0
        sizes.append(json.loads(capsys.readouterr().out)["bytes"])
    wanted = sum(sizes) // 2
    assert main([*words, "--size", str(wanted)]) == 0
    done = json.loads(capsys.readouterr().out)
    assert 0.97 * wanted <= done["bytes"] == small.stat().st_size <= wanted == done["wanted"]
    assert done["lowest_quality"] <= done["quality"] <= done["highest_quality"]
    assert main(["inspect", str(small), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["quality"] == done["quality"]
    assert found["bits"] == {**done["bits"], "sound": found["bits"]["sound"], "container": found["bits"]["container"]}


def test_a_truncated_neural_clip_gives_its_readable_frames(tmp_path: Path, capsys: Capture) -> None:
    source = make_clip(tmp_path / "clip.mp4", times=range(14), size=(64, 64))
    whole, cut = tmp_path / "clip.ltv", tmp_path / "cut.ltv"
    assert main(["video", "compress", str(source), "-o", str(whole), "--quality", "1"]) == 0
    blob = whole.read_bytes()
    cut.write_bytes(blob[: len(blob) - 200])
    assert main(["inspect", str(cut), "--format", "json"]) == 4
    out = tmp_path / "out.mkv"
    capsys.readouterr()
    assert main(["video", "decompress", str(cut), "-o", str(out), "--format", "json"]) == 4
    assert json.loads(capsys.readouterr().out)["frames"] == 12  # the first group
    cut.write_bytes(blob[:100])
    assert main(["video", "decompress", str(cut), "-o", str(out), "--force"]) == 3
    assert "no frame" in capsys.readouterr().err


def test_neural_options_are_refused_elsewhere_and_the_other_way_round(tmp_path: Path, capsys: Capture) -> None:
    source = make_clip(tmp_path / "clip.mp4", times=range(2))
    neural = ["video", "compress", str(source), "-o", str(tmp_path / "a.ltv")]
    for words in (["--strength", "0.5"], ["--gain", "4"], ["--quality", "4", "--model", "nothing"]):
        assert main([*neural, *words]) in (2, 6)
    for words in (["--size", "8MB"], ["--size", "1"], ["--kbps", "5"], ["--size", "9kB", "--quality", "2"]):
        assert main([*neural, *words]) == 2
        assert not (tmp_path / "a.ltv").exists()
    assert main(["video", "compress", str(source), "-o", str(tmp_path / "a.mp4"), "--codec", "latens"]) == 2
    assert main(["video", "compress", str(source), "-o", str(tmp_path / "b.mp4"), "--gain", "4"]) == 2
    (tmp_path / "text.ltv").write_text("no clip")
    assert main(["video", "decompress", str(tmp_path / "text.ltv")]) == 3
    assert main(["inspect", str(tmp_path / "text.ltv")]) == 3
    assert "Traceback" not in capsys.readouterr().err


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .ltv file of 3 frames of 48 x 32 pixels at 12.5 frames per second."""
    folder = tmp_path_factory.mktemp("coded")
    pixels = np.random.default_rng(0).integers(60, 200, (32, 48, 3), dtype=np.uint8)
    clip = make_clip(folder / "a.mp4", images=[pixels] * 3, times=range(3), size=(48, 32), base=Fraction(2, 25))
    assert main(["video", "compress", str(clip), "-o", str(folder / "a.ltv"), "--quality", "2"]) == 0
    return folder / "a.ltv"


def test_raw_frames_leave_and_enter(coded: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Both codecs take what `video decompress --raw` writes; a search for a size reads it several times."""
    assert main(["video", "decompress", str(coded), "--raw", "--format", "json"]) == 0
    data, said = capfdbinary.readouterr()
    expected = np.stack([frame.pixels for frame in latens.load("video_codec").frames(coded)])
    assert data == expected.tobytes()
    assert b"raw frames of 48x32, 12.5 frames per second" in said
    assert json.loads(said.splitlines()[-1])["frames"] == 3
    assert main(["video", "decompress", str(coded), "--raw", "-o", str(tmp_path / "a.rgb")]) == 0
    assert (tmp_path / "a.rgb").read_bytes() == data

    raw = ["video", "compress", "-", "--raw", "48x32", "--fps", "12.5", "--threads", "1", "-o"]
    for more in (["a.mp4"], ["b.mp4", "--size", "20kB"], ["c.ltv", "--quality", "2"]):
        with as_stdin(tmp_path / "a.rgb"):
            assert main([*raw, str(tmp_path / more[0]), *more[1:]]) == 0
    with open_clip(tmp_path / "b.mp4") as clip:
        assert clip.info.rate == Fraction(25, 2)
        assert len(list(clip.frames())) == 3
    again = np.stack([frame.pixels for frame in latens.load("video_codec").frames(tmp_path / "c.ltv")])
    assert np.abs(again.astype(int) - expected).mean() < 12

    (tmp_path / "cut.rgb").write_bytes(data[:-5])
    with as_stdin(tmp_path / "cut.rgb"):
        assert main([*raw, str(tmp_path / "cut.mp4")]) == 3
    assert b"frame 3 is incomplete" in capfdbinary.readouterr().err
    with open_clip(tmp_path / "cut.mp4") as clip:
        assert len(list(clip.frames())) == 2


@contextmanager
def as_stdin(path: Path) -> Iterator[None]:
    """A file as standard input."""
    before = sys.stdin
    with path.open() as sys.stdin:
        try:
            yield
        finally:
            sys.stdin = before


def test_a_reader_that_leaves_ends_raw_frames(coded: Path) -> None:
    words = [sys.executable, "-m", "latens", "video", "decompress", str(coded), "--raw"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 141
    assert "Traceback" not in said
    assert "latens:" not in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["decompress", "C/..", "--raw"], "those of one file"),
        (["decompress", "C", "--raw", "-o", "x.mp4"], "no container"),
        (["compress", "C", "--raw", "48x32", "--fps", "25", "-o", "x.mp4"], "standard input alone"),
        (["compress", "-", "--raw", "48x32", "-o", "x.mp4"], "have no times"),
        (["compress", "-", "--raw", "48", "--fps", "25", "-o", "x.mp4"], "not a size of frames"),
    ],
)
def test_raw_frames_that_cannot_be(words: list[str], said: str, coded: Path, capsys: Capture) -> None:
    places = {"C": str(coded), "C/..": str(coded.parent)}
    assert main(["video", *(places.get(word, word) for word in words)]) == 2
    assert said in capsys.readouterr().err
