"""Photographs through a model into tables, lots and a report."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latens.cli.grade import photographs
from latens.cli.main import main
from latens.data.folders import note_request
from latens.errors import OutputExists, UsageError
from latens.systems.seedlings.config import GridOptions
from latens.systems.seedlings.grading import COLUMNS, grade_folder
from latens.systems.seedlings.graphs import graphs
from latens.systems.seedlings.predict import GradedTray, SeedlingGrader, load
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
    assert "out of range" in lots["B"]["notes"]
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


def test_a_model_of_grades_alone_sees_plants_by_their_leaf_area(model_folder: Path, trays: Path, tmp_path: Path) -> None:
    """Its output for emergence was random, and emergence, T50 and the other indices were computed from it."""
    shutil.copytree(model_folder, tmp_path / "graded")
    config = json.loads((tmp_path / "graded" / "config.json").read_text())
    del config["seen"]
    (tmp_path / "graded" / "config.json").write_text(json.dumps(config))
    grader = load(tmp_path / "graded", device="cpu")
    tray = grader.grade(trays / "T0_day6.png", grid=GRID)
    area = tray.areas * (64 / tray.lattice.pitch) ** 2
    np.testing.assert_allclose(tray.p_seen, area / (area + config["area_threshold"]))
    assert [graph.outputs for graph in graphs(grader)] == [("classes",)]


def test_duplicates_unknown_days_and_bad_files(grader: SeedlingGrader, trays: Path, tmp_path: Path) -> None:
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
    assert any("left out of the lots" in text for text in result.general)
    assert any("averaged" in text for text in result.warnings)
    lots = {lot.name: lot for lot in result.lots}
    assert "no curve" in " ".join(lots["photo"].notes)
    assert "could not be read" in " ".join(lots["T1"].notes)
    assert lots["T0"].seeds == 24


def test_an_empty_day_takes_the_grid_of_another(grader: SeedlingGrader, trays: Path, tmp_path: Path) -> None:
    shutil.copy(trays / "T0_day6.png", tmp_path / "T0_day6.png")
    bare = photograph(3, 0, 4, rows=4, cols=6, keep=np.zeros((4, 6), bool))
    Image.fromarray(bare.pixels).save(tmp_path / "T0_day4.png")
    result = grade_folder(grader, sorted(tmp_path.glob("*.png")), tmp_path / "out", grid=GRID)
    assert len(result.graded) == 2
    assert any("another day" in text for text in result.warnings)


def test_an_interrupted_experiment_resumes(
    grader: SeedlingGrader, trays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables of an interrupted and continued run, on two threads, are those of one run."""
    paths = sorted(trays.glob("*.png"))
    whole = grade_folder(grader, paths, tmp_path / "whole", grid=GRID)

    def interrupt(path: Path, found: Sequence[GradedTray]) -> None:
        if path == paths[1]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grade_folder(grader, paths, tmp_path / "out", grid=GRID, on_graded=interrupt)
    assert not (tmp_path / "out" / "plants.csv").exists()
    with (tmp_path / "out" / "graded.jsonl").open("a") as stream:
        stream.write('{"path": "cut sh')  # a line that a power cut left behind
    graded: list[Path] = []
    monkeypatch.setattr(grader, "grade_trays", _counting(grader.grade_trays, graded))
    again = grade_folder(grader, paths, tmp_path / "out", grid=GRID, workers=2)
    assert sorted(graded) == paths[2:]
    assert any("2 of 4 photographs" in text for text in again.general)
    for name in ("plants.csv", "lots.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len(again.graded) == len(whole.graded)
    fewer = grade_folder(grader, paths[:1], tmp_path / "out", grid=GRID)
    assert any("3 more photographs" in text for text in fewer.general)


def _counting(grade: Callable[..., list[GradedTray]], graded: list[Path]) -> Callable[..., list[GradedTray]]:
    def counted(path: Path, **given: Any) -> list[GradedTray]:
        graded.append(path)
        return grade(path, **given)

    return counted


def test_tables_of_the_user_are_not_replaced(grader: SeedlingGrader, trays: Path, tmp_path: Path) -> None:
    table = tmp_path / "lots.csv"
    table.write_text("tray,lot\nT0,A\n")
    paths = sorted(trays.glob("*day5.png"))
    with pytest.raises(OutputExists, match="no record of its request"):
        grade_folder(grader, paths, tmp_path, grid=GRID)
    with pytest.raises(UsageError, match="would overwrite"):
        grade_folder(grader, paths, tmp_path, grid=GRID, lots=table, force=True)
    assert table.read_text() == "tray,lot\nT0,A\n"
    found = grade_folder(grader, paths, tmp_path / "out", grid=GRID, lots=table)
    assert any("no lot names the trays T1" in text for text in found.general)
    plants = tmp_path / "out" / "plants.csv"
    plants.write_bytes(plants.read_bytes() + b"checked by hand\n")
    with pytest.raises(OutputExists, match="has changed since"):
        grade_folder(grader, paths, tmp_path / "out", grid=GRID)
    assert plants.read_bytes().endswith(b"by hand\n")


@pytest.mark.parametrize("name", ["plants.csv", "graded.jsonl", "T0_day5.overlay.webp"])
def test_files_of_the_user_are_kept(name: str, grader: SeedlingGrader, trays: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputExists, match="no record of its request"):
        grade_folder(grader, sorted(trays.glob("*day5.png")), tmp_path, grid=GRID)
    assert (tmp_path / name).read_text() == "mine"


def test_only_overlays_of_a_graded_folder_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own, made = tmp_path / "own.overlay.webp", tmp_path / "out" / "a.overlay.webp"
    assert photographs([own, made]) == [own, made]
    note_request(made.parent, "grade", {})
    assert photographs([own, made]) == [own]
    assert "left out 1 overlay" in caplog.text
    assert photographs([made]) == [made]


def test_two_trays_in_one_photograph(grader: SeedlingGrader, trays: Path, tmp_path: Path) -> None:
    parts = [np.asarray(Image.open(trays / f"T{k}_day5.png"))[320:704, 380:900] for k in (0, 1)]
    both = tmp_path / "both_day5.png"
    Image.fromarray(np.concatenate(parts, axis=1)).save(both)
    result = grade_folder(grader, [both], tmp_path / "out", grid=GridOptions(rows=4, cols=6, trays=2))
    assert [one.shot.tray for one in result.graded] == ["both#1", "both#2"]
    plants = rows_of(tmp_path / "out" / "plants.csv")
    assert {row["id"] for row in plants} >= {"both#1-r01c01", "both#2-r04c06"}
    assert [lot.name for lot in result.lots] == ["both#1", "both#2"]
    refused = grade_folder(grader, [both], tmp_path / "one", grid=GRID)
    assert "2 trays were found" in str(refused.failures[0][1])


def test_two_trays_without_a_day_are_two_lots(grader: SeedlingGrader, trays: Path, tmp_path: Path) -> None:
    parts = [np.asarray(Image.open(trays / f"T{k}_day5.png"))[320:704, 380:900] for k in (0, 1)]
    both = tmp_path / "both.png"
    Image.fromarray(np.concatenate(parts, axis=1)).save(both)
    result = grade_folder(grader, [both], tmp_path / "out", grid=GridOptions(rows=4, cols=6, trays=2))
    assert [lot.name for lot in result.lots] == ["both#1", "both#2"]
    unknown = [text for text in result.warnings if "the day is unknown" in text]
    assert len(unknown) == 1  # once for the photograph, not once for each tray
    assert unknown[0].startswith(f"{both}: ")


def test_a_run_without_results_leaves_the_folder_free(grader: SeedlingGrader, trays: Path, tmp_path: Path) -> None:
    wall, out = tmp_path / "wall_day5.png", tmp_path / "out"
    Image.fromarray(np.full((300, 300), 9, np.uint8)).save(wall)
    assert grade_folder(grader, [wall], out, grid=GridOptions(rows=9, cols=9)).failures
    assert not out.exists() or not list(out.iterdir())
    assert len(grade_folder(grader, [trays / "T0_day5.png"], out, grid=GRID).graded) == 1


def test_no_usable_share_for_images_unlike_the_training_crops(grader: SeedlingGrader, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = np.clip(200 + 50 * rng.standard_normal((400, 600)), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wall_day5.png")
    corners = (50.0, 50.0, 550.0, 50.0, 550.0, 350.0, 50.0, 350.0)
    for _ in range(2):  # graded, then read from the record
        result = grade_folder(
            grader, [tmp_path / "wall_day5.png"], tmp_path / "out", grid=GridOptions(rows=4, cols=6, corners=corners)
        )
        (lot,) = result.lots
        assert lot.usable is None
        assert lot.verdict == "undecided"
        assert any("unlike the training crops" in note for note in lot.notes)
    assert "grades withheld" in (tmp_path / "out" / "report.html").read_text()


def test_an_empty_tray_takes_the_rim_of_the_others(grader: SeedlingGrader, tmp_path: Path) -> None:
    """A whole tray of 10 x 15 cells, whose rim is in the photograph."""
    for tray in (0, 1):
        Image.fromarray(photograph(3, tray, 6).pixels).save(tmp_path / f"T{tray}_day6.png")
    bare = photograph(3, 5, 5, keep=np.zeros((10, 15), bool))
    Image.fromarray(bare.pixels).save(tmp_path / "T5_day5.png")
    result = grade_folder(grader, sorted(tmp_path.glob("*.png")), tmp_path / "out")
    assert not result.failures
    found = next(one for one in result.graded if one.shot.tray == "T5")
    assert np.linalg.norm(found.lattice.centers() - bare.centers, axis=-1).max() < 16
    assert any("by the rim as on the other trays" in text for text in found.warnings)


def test_warning_for_images_unlike_the_training_crops(grader: SeedlingGrader) -> None:
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
    assert main([*words, "--device", "cpu", "--accept", "80%"]) == 0
    shown = capsys.readouterr()
    assert "lot T0: 24 seeds in 1 tray; seen " in shown.out
    assert "verdict" in shown.out
    overlay = (tmp_path / "out" / "T0_day5.overlay.webp").stat().st_mtime_ns
    assert main(words) == 0  # nothing is graded anew
    assert "4 of 4 photographs were graded by an earlier run" in capsys.readouterr().err
    assert (tmp_path / "out" / "T0_day5.overlay.webp").stat().st_mtime_ns == overlay
    assert main([*words, "--method", "thesis"]) == 2  # results of another grid
    assert "--force" in capsys.readouterr().err


def test_a_job_gives_the_tables_of_the_plain_command_also_after_a_retry(
    model_folder: Path, trays: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A lot has trays and days of several folders, and the inputs of a retry are all of its photographs."""
    photos = [tmp_path / "in" / path.stem.partition("_")[2] / path.name for path in sorted(trays.glob("T*.png"))]
    for path in photos:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((trays / path.name).read_bytes())
    table = tmp_path / "lots.csv"
    table.write_text("tray,rows,cols,lot,seeds\nT0,1-4,1-6,A,24\nT1,1-4,1-6,A,24\n")
    words = ["grade", str(tmp_path / "in"), "--rows", "4", "--cols", "6", "--lots", str(table), "--model", str(model_folder)]
    assert main([*words, "-o", str(tmp_path / "plain")]) == 0
    whole = photos[0].read_bytes()
    photos[0].write_bytes(whole[:3000])
    job = [*words, "-o", str(tmp_path / "job"), "--engine", "local", "--workers", "1", "--shard", "1"]
    capsys.readouterr()
    assert main([*job, "--format", "json"]) == 3
    rows = {row["id"]: row["state"] for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert rows == {path.relative_to(tmp_path / "in").as_posix(): "done" for path in photos} | {"day5/T0_day5.png": "failed"}
    photos[0].write_bytes(whole)
    assert main(["jobs", str(tmp_path / "job"), "--retry-failed", "--workers", "1"]) == 0
    for name in ("lots.csv", "plants.csv"):
        assert (tmp_path / "job" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_failed_photographs_are_rows_of_the_json(
    model_folder: Path, trays: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "T9_day5.png").write_bytes(b"damaged")
    words = ["grade", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", str(model_folder), "--format", "json"]
    assert main(words) == 3
    row = json.loads(capsys.readouterr().out)
    assert (Path(row["input"]).name, row["status"], row["error"]) == ("T9_day5.png", "failed", "UnreadableInput")


def test_the_bundled_model_names_its_simulated_training_data(
    model_folder: Path, trays: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["grade", *sorted(map(str, trays.glob("T*_day5.png"))), "--rows", "4", "--cols", "6", "--format", "json"]
    assert main([*words, "-o", str(tmp_path / "bundled")]) == 0
    shown = capsys.readouterr()
    assert shown.err.count("trained on 88 simulated trays") == 1
    assert [json.loads(line)["trained_on"].partition(" on ")[0] for line in shown.out.splitlines()] == [
        "88 simulated trays"
    ] * 2
    assert (tmp_path / "bundled/report.html").read_text().count("emergence, grades and verdicts are not") == 1
    assert main([*words, "-o", str(tmp_path / "own"), "--model", str(model_folder)]) == 0
    shown = capsys.readouterr()
    assert "trained on" not in shown.err + (tmp_path / "own/report.html").read_text()
    assert [json.loads(line)["trained_on"] for line in shown.out.splitlines()] == ["", ""]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--day", "6"], 2, "one day for 4"),
        (["--corners", "1,2,3"], 2, "eight numbers"),
        (["--accept", "often"], 2, "is not a share"),
        (["--sown", "March"], 2, "not a date"),
        (["--lots", "missing.csv"], 3, "no such file"),
        (["--rows", "0"], 2, "rows"),
    ],
)
def test_invalid_arguments(
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
