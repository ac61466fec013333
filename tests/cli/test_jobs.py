"""`--engine` and `latens jobs`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import latens
from latens.cli.main import main


def noise(seed: int) -> Image.Image:
    """An image whose PNG is larger than its .ltn file."""
    return Image.fromarray(np.random.default_rng(seed).integers(100, 140, (48, 64, 3), np.uint8))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "day1").mkdir(parents=True)
    for seed, name in enumerate(("a.png", "b.png", "day1/a.png")):
        noise(seed).save(folder / name)
    (folder / "damaged.png").write_bytes(b"damaged")
    return folder


def test_a_job_gives_the_files_of_the_plain_command(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job, plain = tmp_path / "job", tmp_path / "plain"
    words = ["compress", "photos", "--quality", "3", "--format", "json"]
    assert main([*words, "-o", "job", "--engine", "local", "--workers", "1", "--shard", "3"]) == 3
    rows = {row["id"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert {name: row["error"] for name, row in rows.items()} == {
        "a.png": "",
        "b.png": "",
        "damaged.png": "UnreadableInput",
        "day1/a.png": "",
    }
    assert rows["day1/a.png"]["outputs"] == ["day1/a.ltn"]
    assert main([*words, "-o", "plain"]) == 3
    for name in ("a.ltn", "b.ltn", "day1/a.ltn"):
        assert (job / name).read_bytes() == (plain / name).read_bytes()
    capsys.readouterr()

    assert main(["jobs", "job", "--format", "json"]) == 3
    state = json.loads(capsys.readouterr().out)
    assert (state["verb"], state["inputs"], state["done"], state["errors"]) == ("compress", 4, 3, {"UnreadableInput": 1})
    assert main([*words, "-o", "job", "--engine", "local"]) == 3  # finished before, with one failure
    assert capsys.readouterr().out == ""
    assert main(["compress", "photos", "--quality", "4", "-o", "job", "--engine", "local"]) == 2
    assert "quality 3.0 -> 4.0" in capsys.readouterr().err

    noise(9).save(photos / "damaged.png")
    assert main(["jobs", "job", "--retry-failed", "--workers", "1"]) == 0
    assert main(["jobs", "job", "--verify"]) == 0
    assert "4 results: 4 as written, 0 not" in capsys.readouterr().out
    (job / "a.ltn").write_bytes(b"changed")
    (job / "b.ltn").unlink()
    assert main(["jobs", "job", "--verify"]) == 3
    assert "a.ltn: changed\nb.ltn: missing\n" in capsys.readouterr().out
    assert main(["jobs", "job", "--verify", "--retry-failed", "--workers", "1"]) == 3
    assert (job / "a.ltn").read_bytes() == b"changed"  # perhaps the user's
    assert (job / "b.ltn").read_bytes() == (plain / "b.ltn").read_bytes()
    (job / "a.ltn").unlink()
    assert main(["jobs", "job", "--verify", "--retry-failed", "--workers", "1"]) == 0
    capsys.readouterr()
    assert main(["jobs", "job", "--verify"]) == 0
    assert "4 results: 4 as written, 0 not" in capsys.readouterr().out


def test_a_job_names_results_of_one_stem_as_the_plain_command(photos: Path, tmp_path: Path) -> None:
    noise(5).save(photos / "a.webp", lossless=True)
    (photos / "damaged.png").unlink()
    assert (
        main(["compress", str(photos), "-o", str(tmp_path / "job"), "--engine", "local", "--workers", "1", "--shard", "1"]) == 0
    )
    assert main(["compress", str(photos), "-o", str(tmp_path / "plain")]) == 0
    for name in ("a.png.ltn", "a.webp.ltn", "b.ltn", "day1/a.ltn"):
        assert (tmp_path / "job" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_lists_tables_and_python(photos: Path, tmp_path: Path) -> None:
    listed = photos / "list.csv"
    listed.write_text("number,file\n1,day1/a.png\n2,b.png\n3,gone.png\n")
    scores = latens.batch("density", [listed], tmp_path / "scores", workers=1, shard=2, options=["--draws", "1"])
    rows = {row["id"]: row for row in scores}
    assert {name: row["error"] for name, row in rows.items()} == {"b.png": "", "day1/a.png": "", "gone.png": "UnreadableInput"}
    table = (tmp_path / "scores" / "scores.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table] == ["file", "b.png", "day1/a.png"]
    assert rows["day1/a.png"]["outputs"] == ["day1/a.density.json"]


def test_tables_of_all_inputs_are_verified_and_made_again(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (photos / "damaged.png").unlink()
    words = ["density", "photos", "--draws", "1", "-o", "job", "--engine", "local", "--workers", "1", "--shard", "2"]
    table = tmp_path / "job" / "scores.csv"
    assert main(words) == 0
    scores = table.read_text()
    table.unlink()
    assert main(["jobs", "job", "--verify"]) == 3
    assert "scores.csv: missing\n" in capsys.readouterr().out
    assert main(["jobs", "job", "--verify", "--retry-failed"]) == 0
    assert table.read_text() == scores
    assert main(["jobs", "job", "--verify"]) == 0
    table.write_text(scores + "my,row\n")
    capsys.readouterr()
    assert main(words) == 0
    assert "scores.csv: this table was changed and is kept" in capsys.readouterr().err
    assert main(["jobs", "job", "--verify"]) == 3
    assert "scores.csv: changed\n" in capsys.readouterr().out
    assert table.read_text() == scores + "my,row\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["photos", "-o", "out", "--workers", "2"], "add --engine"),
        (["photos", "--engine", "local"], "name it with -o"),
        (["photos", "-o", "out", "--engine", "local", "--force"], "replaces no files"),
        (["photos", "-o", "out", "--engine", "local", "--watch"], "frozen list"),
        (["-", "-o", "out", "--engine", "local"], "reads and writes files"),
        (["s3://archive/photos", "-o", "out"], "add --engine local"),
        (["photos", "-o", "out", "--engine", "local", "--shard", "0"], "Must be >= 1"),
        (["photos", "-o", "out", "--engine", "local", "--gpu-per-worker", "1"], "use --engine ray"),
        (["empty.txt", "-o", "out", "--engine", "local"], "this list is empty"),
        (["mixed.txt", "-o", "out", "--engine", "local"], "files and addresses"),
        (["other.csv", "-o", "out", "--engine", "local"], "no column"),
    ],
)
def test_what_a_job_cannot_do_is_an_error(
    words: list[str],
    told: str,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "others").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "others" / "a.jpg")
    for name, text in (("empty.txt", "\n"), ("mixed.txt", "a.png\ns3://archive/b.png\n"), ("other.csv", "one,two\n1,2\n")):
        (tmp_path / name).write_text(text)
    assert main(["compress", *words]) in (2, 3)
    assert told in capsys.readouterr().err


def test_missed_targets_and_notes_of_a_job_are_reported(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (photos / "damaged.png").unlink()
    words = ["compress", "photos/*.png", "--psnr", "90", "-o", "job", "--engine", "local", "--workers", "1"]
    assert main(words) == 4
    assert capsys.readouterr().out.count("target missed: 90 dB asked") == 2
    assert main(words) == 4  # finished before
    assert main(["jobs", "job"]) == 4


def test_parts_of_several_shards_have_their_own_galleries(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (photos / "damaged.png").unlink()
    assert main(["parts", "photos", "-o", "job", "--engine", "local", "--workers", "1", "--shard", "2"]) == 0
    assert sorted(path.name for path in (tmp_path / "job").glob("*.png")) == ["a.parts.png", "b.parts.png"]
    assert len(list((tmp_path / "job" / "shards").rglob("gallery.png"))) == 2
    for option in (["--clusters", "2"], ["--names", "names", "--find", "tree > 0.1"]):
        assert main(["parts", "photos", "-o", "other", "--engine", "local", *option]) == 2
        assert "a job has a part of the inputs at a time" in capsys.readouterr().err


def test_an_error_of_the_command_ends_the_job_with_its_status_and_whole_message(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compress", str(photos), "--quality", "3", "--bpp", "1"]
    assert main([*words, "-o", str(tmp_path / "job"), "--engine", "local", "--workers", "1"]) == 2
    assert capsys.readouterr().err.endswith("latens: --quality and --bpp exclude each other\ngive one of them\n")


def test_a_folder_without_a_job_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", str(tmp_path)]) == 3
    assert "no job has its results here" in capsys.readouterr().err
