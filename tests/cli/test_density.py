"""`latens density`: scores, samples, certificates, refused requests."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latens.cli.density import summary
from latens.cli.main import main
from latens.data.source import Source
from latens.hub import save_model
from latens.settings import to_dict
from latens.systems.flow.config import ImageFlow, VectorFlow
from latens.systems.flow.model import Flow
from latens.systems.flow.recipes import tiny

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = tiny().model
    assert isinstance(config, ImageFlow)
    flow = Flow(config).freeze()
    folder = tmp_path_factory.mktemp("models") / "images"
    save_model(folder, {"system": "flow", "model": to_dict(flow.config), "terms": 2}, dict(flow.state_dict()))
    return folder


@pytest.fixture(scope="module")
def table_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    flow = Flow(VectorFlow(columns=2, blocks=2)).freeze()
    folder = tmp_path_factory.mktemp("models") / "table"
    described = {"system": "flow", "model": to_dict(flow.config), "columns": ["a", "b"]}
    save_model(folder, described, dict(flow.state_dict()))
    return folder


@pytest.fixture
def album(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "album"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def test_scores_of_a_folder_with_a_bad_file(album: Path, model: Path, capsys: Capture, tmp_path: Path) -> None:
    (album / "bad.png").write_text("no image")
    out = tmp_path / "scores.csv"
    command = ["density", str(album), "-o", str(out), "--model", str(model), "--device", "cpu", "--format", "json"]
    assert main(command) == 3
    captured = capsys.readouterr()
    assert "bad.png" in captured.err
    records = [json.loads(line) for line in captured.out.splitlines()]
    (failed,) = [record for record in records if record.get("status") == "failed"]
    assert failed["input"] == str(album / "bad.png")
    records.remove(failed)
    rows = list(csv.DictReader(out.open()))
    assert list(rows[0]) == ["file", "bits_per_dim", "standard_error", "unusual"]
    assert [row["file"] for row in rows] == [record["input"] for record in records] == sorted(map(str, album.glob("[0-9].png")))
    assert [float(row["bits_per_dim"]) for row in rows] == pytest.approx([record["bits_per_dim"] for record in records])
    assert main(command) == 2  # the output is there
    assert main([*command, "--force"]) == 3


def test_rows_of_a_table(table_model: Path, capsys: Capture, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("a,b\n1,2\n3,4\n")
    out = tmp_path / "scores.csv"
    assert main(["density", str(rows), "-o", str(out), "--model", str(table_model)]) == 0
    assert "2 rows, mean log-density" in capsys.readouterr().out
    assert [row["row"] for row in csv.DictReader(out.open())] == ["1", "2"]


@pytest.mark.parametrize(("name", "count"), [("grid.png", 5), ("many.npy", 70), ("folder", 3)])
def test_samples_of_images(name: str, count: int, model: Path, tmp_path: Path) -> None:
    out = tmp_path / name
    assert main(["density", "--sample", str(count), "-o", str(out), "--model", str(model)]) == 0
    if name.endswith(".npy"):
        assert np.load(out).shape == (count, 8, 8, 3)
    elif name.endswith(".png"):
        assert Image.open(out).width > 200
    else:
        assert len(list(out.iterdir())) == count


def test_samples_do_not_replace_images_of_a_folder(album: Path, model: Path, capsys: Capture) -> None:
    before = sorted(album.iterdir())
    command = ["density", "--sample", "2", "-o", str(album), "--model", str(model)]
    assert main(command) == 2
    assert "already holds images" in capsys.readouterr().err
    assert sorted(album.iterdir()) == before
    assert main([*command, "--force"]) == 0


def test_one_draw_has_no_error_and_wide_values_are_noted(model: Path, capsys: Capture, tmp_path: Path) -> None:
    deep, out = tmp_path / "deep.png", tmp_path / "scores.csv"
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(deep)
    command = ["density", str(deep), "--draws", "1", "-o", str(out), "--model", str(model), "--format", "json"]
    assert main(command) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["standard_error"] is None
    assert next(csv.DictReader(out.open()))["standard_error"] == ""
    assert len(record["notes"]) == 2  # 16 bits reduced to 8, gray repeated


def test_samples_of_a_table(table_model: Path, tmp_path: Path) -> None:
    for name in ("rows.csv", "rows.npy"):
        assert main(["density", "--sample", "7", "-o", str(tmp_path / name), "--model", str(table_model)]) == 0
    written = np.loadtxt(tmp_path / "rows.csv", delimiter=",", skiprows=1)
    np.testing.assert_array_equal(written, np.load(tmp_path / "rows.npy"))


def test_tables_and_images_for_the_other_kind_of_model(
    album: Path, model: Path, table_model: Path, tmp_path: Path, capsys: Capture
) -> None:
    rows, out = tmp_path / "rows.csv", tmp_path / "out"
    rows.write_text("a,b\n1,2\n3,4\n")
    for more in ([], ["-o", str(out)], ["-o", str(out / "scores.csv")]):
        assert main(["density", str(rows), "--model", str(model), *more]) == 3
        shown = capsys.readouterr().err
        assert "this is a table, and the model expects images, which it resizes to 8 x 8" in shown
        assert f"latens train flow --recipe toy --data {rows} -o mine" in shown
    needs = "and the model table expects tables of 2 columns (a, b)\ngive a table (.csv, .npy, .tsv, .txt); for images"
    for inputs, found in (([album / "0.png"], "an image"), ([album], "a folder"), ([rows, album / "0.png"], "an image")):
        for more in ([], ["-o", str(out)], ["-o", str(tmp_path / "scores.csv")]):
            assert main(["density", *map(str, inputs), "--model", str(table_model), *more]) == 3
            out_text, err_text = capsys.readouterr()
            assert out_text == ""
            assert f"this is {found}, {needs}" in err_text
    (tmp_path / "image.txt").write_bytes((album / "0.png").read_bytes())
    assert main(["density", str(tmp_path / "image.txt"), "--model", str(table_model)]) == 3
    assert "has bytes that are not text" in capsys.readouterr().err
    assert main(["density", "--sample", "3", "-o", str(tmp_path / "rows.png"), "--model", str(table_model)]) == 2
    assert "are rows of a table" in capsys.readouterr().err


def test_certificates(model: Path, capsys: Capture) -> None:
    assert main(["density", "--certify", "--model", str(model)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(float(line.split(": ")[1]) < 1 for line in lines)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["density"], 2, "one of three tasks"),
        (["density", "--sample", "0"], 2, "sample"),
        (["density", "--sample", "100000", "-o", "{out}.png"], 2, "too many for one image"),
        (["density", "--sample", "2", "-o", "{out}.xyz"], 2, "cannot be written"),
        (["density", "{empty}"], 3, "no file in this folder"),
        (["density", "{missing}.png"], 3, "missing"),
        (["density", "{missing}.png", "-o", "{out}.png"], 2, "written as .csv"),
    ],
)
def test_bad_requests(words: list[str], status: int, said: str, model: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "empty").mkdir()
    names = {"out": str(tmp_path / "out"), "empty": str(tmp_path / "empty"), "missing": str(tmp_path / "missing")}
    assert main([word.format(**names) for word in words] + ["--model", str(model)]) == status
    assert said in capsys.readouterr().err


def test_training_data_are_checked(tmp_path: Path, album: Path, capsys: Capture) -> None:
    (tmp_path / "text.csv").write_text("a,b\n1,x\n")
    for data, recipe, status, said in (
        ("mons", "toy", 3, "did you mean 'moons'"),
        ("moons", "tiny", 2, "use --recipe toy"),
        (str(album), "hybrid", 2, "labeled images"),
        (str(tmp_path / "text.csv"), "toy", 3, "is not a number"),
    ):
        command = ["train", "flow", "--recipe", recipe, "--data", data, "-o", str(tmp_path / "run"), "--device", "cpu"]
        assert main(command) == status
        assert said in capsys.readouterr().err
    assert Source("", "moons").path.exists() is False


def test_the_summary_names_the_most_unusual_images() -> None:
    rows = [("a", 1.0, 0.0, 0.5), ("b", 1.0, 0.0, 0.99), ("c", 1.0, 0.0, 0.99)]
    assert summary(rows, 0) == "3 scored; most unusual (0.99): b, c"
    assert (
        summary([(str(number), 1.0, 0.0, 1.0) for number in range(9)], 1) == "9 scored, 1 failed; most unusual (1.00): 9 images"
    )
    assert summary([("a\nb", 1.0, 0.0, 0.5)], 0) == "1 scored; most unusual (0.50): a\\x0ab"
    assert summary([("a", 1.0, 0.0, ""), ("b", 1.0, 0.0, "")], 0) == "2 scored"  # a model without a reference


def test_a_folder_gets_a_file_for_every_image_and_one_table(album: Path, model: Path, capsys: Capture) -> None:
    out = album.parent / "scores"
    words = ["density", str(album), "--model", str(model), "--device", "cpu", "--format", "json", "-o"]
    assert main([*words, str(album.parent / "all.csv")]) == 0
    (album / "bad.png").write_text("no image")
    assert main([*words, str(out)]) == 3
    assert (out / "failures.jsonl").is_file()
    one, together = (list(csv.DictReader(place.open())) for place in (album.parent / "all.csv", out / "scores.csv"))
    assert [row["file"] for row in together] == ["0.png", "1.png", "2.png"]
    assert [row["bits_per_dim"] for row in together] == [row["bits_per_dim"] for row in one]
    assert json.loads((out / "1.density.json").read_text())["bits_per_dim"] == float(together[1]["bits_per_dim"])
    (album / "0.png").unlink()
    (out / "1.density.json").unlink()
    capsys.readouterr()
    assert main([*words, str(out)]) == 3
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["status"] for record in records] == ["done", "skipped", "failed"]
    assert len(list(csv.DictReader((out / "scores.csv").open()))) == 3  # with the image that is gone
    assert main([*words, str(out), "--draws", "2"]) == 2  # other settings
    (out / "scores.csv").write_text("mine")
    assert main([*words, str(out)]) == 3
    assert "is not a table of latens and is kept" in capsys.readouterr().err
    assert (out / "scores.csv").read_text() == "mine"


def test_scores_do_not_replace_the_table_that_is_scored(table_model: Path, tmp_path: Path, capsys: Capture) -> None:
    table = tmp_path / "rows.csv"
    table.write_text("1,2\n3,4\n")
    (tmp_path / "link.csv").symlink_to(table)
    words = ["density", str(table), "--model", str(table_model), "--device", "cpu", "--force", "-o"]
    for out in (table, tmp_path / "link.csv"):
        assert main([*words, str(out)]) == 2
        assert "the scores would overwrite this table" in capsys.readouterr().err
        assert table.read_text() == "1,2\n3,4\n"
