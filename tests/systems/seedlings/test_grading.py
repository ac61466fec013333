"""Photographs through a model into tables, lots and a report."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latens.cli.main import main
from latens.errors import UsageError
from latens.systems.seedlings.config import GridOptions
from latens.systems.seedlings.grading import COLUMNS, grade_folder
from latens.systems.seedlings.predict import SeedlingGrader
from latens.systems.seedlings.simulator.photograph import photograph

GRID = GridOptions(rows=4, cols=6)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


def test_an_experiment(grader: SeedlingGrader, trays: Path, tmp_path: Path) -> None:
    table = tmp_path / "lots.csv"
    table.write_text("tray,rows,cols,lot,seeds\nT0,1-2,,A,12\nT1,,,A,\nT0,3-9,,B,\nT9,,,C,\n")
    result = grade_folder(grader, sorted(trays.glob("*.png")), tmp_path / "out", lots=table, grid=GRID)
    assert len(result.graded) == 4
    assert not result.failures
    plants = rows_of(tmp_path / "out" / "plants.csv")
    assert tuple(plants[0]) == COLUMNS
    assert len(plants) == 4 * 24
    ids = {row["id"] for row in plants}
    assert len(ids) == 2 * 24  # plants keep their ids over days
    lots = {row["lot"]: row for row in rows_of(tmp_path / "out" / "lots.csv")}
    assert lots["A"]["seeds"] == "36"
    assert lots["A"]["days"] == "5 6"
    assert "reach beyond" in lots["B"]["notes"]
    assert lots["B"]["seeds"] == "12"
    assert "no photograph of tray T9" in lots["C"]["notes"]  # the row stays
    assert lots["C"]["verdict"] == "undecided"
    assert {path.name for path in result.files} >= {"plants.csv", "lots.csv", "report.html", "T0_day5.overlay.webp"}
    assert "Germination curves" in (tmp_path / "out" / "report.html").read_text()


def test_curves_come_from_first_seen_days(grader: SeedlingGrader, trays: Path, tmp_path: Path) -> None:
    """A plant once seen stays seen, whatever a later photograph says."""
    result = grade_folder(grader, sorted(trays.glob("T0*.png")), tmp_path, grid=GRID)
    first, second = (one.seen for one in result.graded)
    expected = [100 * first.mean(), 100 * (first | second).mean()]
    assert result.lots[0].cumulative == pytest.approx(expected)


def test_doubles_unknown_days_and_bad_files(grader: SeedlingGrader, trays: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(trays, folder)
    (folder / "again").mkdir()
    shutil.copy(trays / "T0_day5.png", folder / "again" / "T0_day5.png")
    shutil.copy(trays / "T1_day6.png", folder / "photo.png")
    (folder / "T1_day7.png").write_text("no image")
    Image.fromarray(np.full((300, 300), 9, np.uint8)).save(folder / "empty_day5.png")
    result = grade_folder(grader, sorted(folder.rglob("*.png")), tmp_path / "out", grid=GRID)
    assert len(result.graded) == 6
    assert {path.name for path, _ in result.failures} == {"T1_day7.png", "empty_day5.png"}
    assert any("not counted" in text for text in result.warnings)
    assert any("averaged" in text for text in result.warnings)
    lots = {lot.name: lot for lot in result.lots}
    assert "no day with a photograph" in " ".join(lots["photo"].notes)
    assert "could not be read" in " ".join(lots["T1"].notes)
    assert lots["T0"].seeds == 24


def test_an_empty_day_takes_the_grid_of_another(grader: SeedlingGrader, trays: Path, tmp_path: Path) -> None:
    shutil.copy(trays / "T0_day6.png", tmp_path / "T0_day6.png")
    bare = photograph(3, 0, 4, rows=4, cols=6, keep=np.zeros((4, 6), bool))
    Image.fromarray(bare.pixels).save(tmp_path / "T0_day4.png")
    result = grade_folder(grader, sorted(tmp_path.glob("*.png")), tmp_path / "out", grid=GRID)
    assert len(result.graded) == 2
    assert any("another day" in text for text in result.warnings)


def test_strange_images_are_called_so(grader: SeedlingGrader) -> None:
    rng = np.random.default_rng(0)
    pixels = np.clip(200 + 50 * rng.standard_normal((400, 600)), 0, 255).astype(np.uint8)
    corners = (50.0, 50.0, 550.0, 50.0, 550.0, 350.0, 50.0, 350.0)
    found = grader.grade(pixels, day=5, grid=GridOptions(rows=4, cols=6, corners=corners))
    assert any("unlike" in text for text in found.warnings)
    fine = grader.grade(photograph(3, 0, 5, rows=4, cols=6, preset="easy").pixels, day=5, grid=GRID)
    assert not any("unlike" in text for text in fine.warnings)


def test_days_outside_and_other_classes(grader: SeedlingGrader, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = photograph(3, 0, 6, rows=4, cols=6, preset="easy").pixels
    assert any("outside" in text for text in grader.grade(pixels, day=12, grid=GRID).warnings)
    monkeypatch.setattr(grader, "classes", ("maize", "beet", "wheat"))
    with pytest.raises(UsageError, match="3 classes"):
        grader.grade(pixels, day=6, grid=GRID)


def test_the_command(model_folder: Path, trays: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["grade", str(trays), "-o", str(tmp_path / "out"), "--model", str(model_folder), "--rows", "4", "--cols", "6"]
    assert main([*words, "--device", "cpu", "--limit", "80%"]) == 0
    shown = capsys.readouterr()
    assert "lot T0" in shown.out
    assert "verdict" in shown.out
    assert main(words) == 2  # results are there
    assert "--force" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--day", "6"], 2, "one day for 4"),
        (["--corners", "1,2,3"], 2, "eight numbers"),
        (["--limit", "often"], 2, "no share"),
        (["--sown", "March"], 2, "no date"),
        (["--lots", "missing.csv"], 3, "no such file"),
        (["--rows", "0"], 2, "rows"),
    ],
)
def test_wrong_words(
    words: list[str],
    status: int,
    message: str,
    model_folder: Path,
    trays: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["grade", str(trays), "-o", str(tmp_path), "--model", str(model_folder), *words]) == status
    assert message in capsys.readouterr().err


def test_one_bad_photograph_raises_its_own_error(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wall_day6.png"
    Image.fromarray(np.full((300, 400), 120, np.uint8)).save(path)
    assert main(["grade", str(path), "-o", str(tmp_path / "out"), "--model", str(model_folder)]) == 3
    assert "--corners" in capsys.readouterr().err
