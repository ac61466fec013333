"""`latens video compress` on real files: paths, JSON, exit statuses, batches."""

from __future__ import annotations

import json
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from clip_maker import HEIGHT, WIDTH, make_clip

from latens.cli.main import main
from latens.data.clips.reader import open_clip

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
