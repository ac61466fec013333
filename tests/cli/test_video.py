"""`latens video compress` on real files: places, JSON, exit statuses, batches."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from clip_maker import HEIGHT, WIDTH, make_clip

from latens.cli.main import main
from latens.cli.video import parse_size
from latens.errors import UsageError

Capture = pytest.CaptureFixture[str]


def test_a_clip_goes_beside_its_input(tmp_path: Path, capsys: Capture) -> None:
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
    assert "cannot hold" in capsys.readouterr().err


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


def test_sizes_in_words() -> None:
    assert [parse_size(text) for text in ("8MB", "500kB", "1200", "1.5m")] == [8_000_000, 500_000, 1200, 1_500_000]
    for wrong in ("big", "0", "-1", "8TB"):
        with pytest.raises(UsageError):
            parse_size(wrong)
