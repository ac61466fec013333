"""`latens segment` from the command line."""

from __future__ import annotations

import csv
import importlib.util
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latens.cli.main import main


def test_images_stacks_and_bad_files(cell_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    pages = [Image.fromarray(rng.integers(0, 256, (40, 50), dtype=np.uint8)) for _ in range(3)]
    (tmp_path / "in").mkdir()
    pages[0].save(tmp_path / "in" / "a.png")
    pages[0].save(tmp_path / "in" / "s.tif", save_all=True, append_images=pages[1:])
    (tmp_path / "in" / "bad.png").write_text("no image")
    words = ["segment", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", str(cell_model), "--format", "json"]
    assert main(words) == 3
    lines = {Path(json.loads(line)["input"]).name: json.loads(line) for line in capsys.readouterr().out.splitlines()}
    assert lines["a.png"]["frames"] == 1
    assert lines["s.tif"]["frames"] == 3
    assert lines["bad.png"]["status"] == "failed"
    assert (tmp_path / "out" / "s.cells.csv").is_file()
    assert len(json.loads((tmp_path / "out" / "s.json").read_text())["images"]) == 3
    assert main(words) == 3
    again = [json.loads(line)["status"] for line in capsys.readouterr().out.splitlines()]
    assert sorted(again) == ["failed", "skipped", "skipped"]


def test_conversions_and_lost_channels_are_notes(cell_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 4), dtype=np.uint8)
    transparent, ink = Image.fromarray(pixels), Image.fromarray(pixels[..., :3]).convert("CMYK")
    transparent.save(tmp_path / "a.png")
    transparent.save(tmp_path / "b.tif", save_all=True, append_images=[transparent])
    ink.save(tmp_path / "c.jpg")
    words = ["segment", str(tmp_path), "-o", str(tmp_path / "out"), "--model", str(cell_model), "--device", "cpu"]
    assert main([*words, "--format", "json"]) == 0
    rows = {Path(row["input"]).name: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    converted = "CMYK converted to RGB without color management"
    assert [rows[name]["notes"][:1] for name in ("a.png", "b.tif", "c.jpg")] == [["transparency ignored"]] * 2 + [[converted]]
    assert rows["b.tif"]["notes"].count("transparency ignored") == 1


def test_rois_that_are_left_out_are_one_line_and_a_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "roifile" else found(name))
    nuclei = Image.open(files("latens.systems.amodal") / "samples" / "fluorescent.png")  # type: ignore[arg-type]
    for name in ("a.png", "b.png"):
        nuclei.save(tmp_path / name)
    words = ["segment", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "-o", str(tmp_path / "out"), "--format", "json"]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert [json.loads(line)["left_out"] for line in captured.out.splitlines()] == [["ROIs"], ["ROIs"]]
    assert captured.err.count("ROIs for Fiji") == 1
    assert "2 files" in captured.err
    assert not list((tmp_path / "out").glob("*.rois.zip"))


def test_hand_drawn_annotations_are_named_before_they_are_lost(
    cell_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loop of labelme, and a result without cells next to masks of another program."""
    Image.fromarray(np.zeros((40, 50, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    own = {"a.json": '{"version": "5.0.1", "shapes": []}', "a.masks.tif": "masks", "a.cells.csv": "cells"}
    for name, text in own.items():
        (tmp_path / name).write_text(text)
    words = ["segment", str(tmp_path), "--model", str(cell_model)]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert all(name in said for name in own)
    assert {name: (tmp_path / name).read_text() for name in own} == own
    assert main([*words, "--force"]) == 0
    said = capsys.readouterr().err
    assert "replaced by --force" in said
    assert all(name in said for name in own)
    assert not (tmp_path / "a.masks.tif").exists()  # the new result has no cells
    assert main(words) == 0
    assert "skipped, finished" in capsys.readouterr().err


def test_places_that_cannot_hold_the_result_are_refused(cell_model: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    assert main(["segment", str(tmp_path / "a.png"), "-o", str(tmp_path / "a.txt"), "--model", str(cell_model)]) == 2
    assert main(["segment", str(tmp_path / "none.png"), "--model", str(cell_model)]) == 3
    assert main(["segment", str(tmp_path / "a.png"), "--model", str(tmp_path)]) == 6


def micrographs(folder: Path, rng: np.random.Generator) -> None:
    """A time-lapse of OME with two slices, and two images without metadata."""
    import tifffile

    folder.mkdir()
    frames = rng.integers(0, 256, (3, 2, 40, 50), dtype=np.uint8)
    size = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25}
    tifffile.imwrite(folder / "lapse.ome.tif", frames, ome=True, metadata={"axes": "TZYX", **size})
    for name in ("t2.png", "t10.png"):
        Image.fromarray(frames[0, 0]).save(folder / name)


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_folder_of_results_has_joint_tables(cell_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    micrographs(tmp_path / "in", np.random.default_rng(0))
    tail = ["-o", str(tmp_path / "out"), "--model", str(cell_model), "--score", "0"]
    assert main(["segment", str(tmp_path / "in" / "t10.png"), *tail]) == 0
    assert not (tmp_path / "out" / "cells.csv").exists()  # one result has a table of its own
    assert main(["segment", str(tmp_path / "in"), *tail]) == 0
    assert "cells.csv, frames.csv" in capsys.readouterr().err
    frames = rows_of(tmp_path / "out" / "frames.csv")
    expected = [("lapse.ome.tif", str(n + 1), str(n // 2 + 1), str(n % 2 + 1), "") for n in range(6)]
    expected += [("t2.png", "1", "", "", ""), ("t10.png", "1", "", "", "")]  # the last of the first run, in natural order
    assert [tuple(row[name] for name in ("image", "frame", "t", "z", "c")) for row in frames] == expected
    cells = rows_of(tmp_path / "out" / "cells.csv")
    assert len(cells) == sum(int(row["count"]) for row in frames) > 0
    for row in cells:
        if row["image"] == "lapse.ome.tif":
            assert float(row["area_um2"]) == pytest.approx(int(row["area_px"]) / 8, abs=1e-3)  # 0.5 x 0.25 micrometers
            assert float(row["centroid_x_um"]) == pytest.approx(float(row["centroid_x"]) / 2, abs=1e-3)
        else:
            assert row["area_um2"] == row["diameter_um"] == ""


def test_pixel_sizes_are_carried_into_masks_overlays_and_json(cell_model: Path, tmp_path: Path) -> None:
    import tifffile

    micrographs(tmp_path / "in", rng := np.random.default_rng(0))
    page = rng.integers(0, 256, (40, 50), dtype=np.uint8)
    size = {"axes": "YX", "unit": "um"}
    tifffile.imwrite(tmp_path / "in" / "one.tif", page, imagej=True, resolution=(10, 10), metadata=size)
    tail = ["-o", str(tmp_path / "out"), "--model", str(cell_model), "--score", "0"]
    assert main(["segment", str(tmp_path / "in"), *tail]) == 0
    for name in ("lapse.ome.masks.tif", "lapse.ome.overlay.tif"):
        with tifffile.TiffFile(tmp_path / "out" / name) as file:
            assert all(page.get_resolution(3) == pytest.approx((20_000, 40_000)) for page in file.pages)  # pixels per cm
    with Image.open(tmp_path / "out" / "one.overlay.png") as image:
        assert image.info["dpi"] == pytest.approx((254_000, 254_000), rel=1e-4)
    image = json.loads((tmp_path / "out" / "lapse.ome.json").read_text())["images"][3]
    assert (image["t"], image["z"], image["pixel_um"]) == (2, 2, [0.5, 0.25])
    with Image.open(tmp_path / "out" / "t2.masks.tif") as masks:
        assert masks.info["dpi"] == (1, 1)  # no resolution


def test_results_and_hand_drawn_outlines_become_one_table(cell_model: Path, tmp_path: Path) -> None:
    micrographs(tmp_path / "in", np.random.default_rng(0))
    words = ["--model", str(cell_model), "--score", "0"]
    assert main(["segment", str(tmp_path / "in"), "-o", str(tmp_path / "out"), *words]) == 0
    source = f"{tmp_path / 'out'},{tmp_path / 'in'}"
    assert main(["convert", f"coco:{source}", "--to", "table", "-o", str(tmp_path / "a.csv")]) == 0
    assert rows_of(tmp_path / "a.csv") == rows_of(tmp_path / "out" / "cells.csv")
    assert main(["convert", f"coco:{source}", "--to", "table", "-o", str(tmp_path / "a.csv")]) == 2  # not replaced
    document = {
        "imagePath": "lapse.ome.tif", "imageHeight": 40, "imageWidth": 50,
        "shapes": [{"label": "cell", "points": [[0, 0], [10, 0], [10, 10], [0, 10]], "shape_type": "polygon"}],
    }  # fmt: skip
    (tmp_path / "in" / "lapse.json").write_text(json.dumps(document))
    assert main(["convert", f"labelme:{tmp_path / 'in'}", "--to", "table", "-o", str(tmp_path / "b.csv")]) == 0
    (row,) = rows_of(tmp_path / "b.csv")
    assert row["t"] == row["z"] == "1"
    assert float(row["area_um2"]) == int(row["area_px"]) / 8


def test_a_table_of_the_user_is_kept_and_the_results_are_complete(
    cell_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    micrographs(tmp_path / "in", np.random.default_rng(0))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cells.csv").write_text("my,own\n1,2\n")
    assert main(["segment", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", str(cell_model)]) == 0
    assert "is kept" in capsys.readouterr().err
    assert (tmp_path / "out" / "cells.csv").read_text() == "my,own\n1,2\n"
    assert len(rows_of(tmp_path / "out" / "frames.csv")) == 8


def test_joint_tables_after_an_interruption(cell_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from latens.systems.amodal import outputs

    micrographs(tmp_path / "in", np.random.default_rng(0))
    words = ["segment", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", str(cell_model)]
    write, calls = outputs.write_outputs, []

    def interrupted(*args: object, **named: object) -> object:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(outputs, "write_outputs", interrupted)
    assert main(words) == 130
    assert not (tmp_path / "out" / "frames.csv").exists()
    assert main(words) == 0
    assert len(rows_of(tmp_path / "out" / "frames.csv")) == 8  # with the result of the first run
    (tmp_path / "in" / "t2.png").unlink()
    (tmp_path / "in" / "t2.bad.png").write_text("no image")
    assert main(words) == 3
    assert len(rows_of(tmp_path / "out" / "frames.csv")) == 8  # results of inputs that are gone are results


@pytest.mark.parametrize("inputs", [["."], ["a.png", "a_cp_masks.png", "a_flows.tif", "a_cp_outlines.png", "a.masks.tif"]])
def test_files_of_cellpose_next_to_their_image_are_no_inputs(
    inputs: list[str], cell_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder and in the shell's *.png; such a file that is named alone is taken."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "a_cp_masks.png", "a_flows.tif", "a_cp_outlines.png", "a.masks.tif", "b_flows.png"):
        if name[0] == "a" or inputs == ["."]:
            Image.fromarray(np.zeros((40, 50), dtype=np.uint8)).save(name)
    words = ["--model", str(cell_model), "--format", "json", "--device", "cpu"]
    assert main(["segment", *inputs, "-o", "out", *words]) == 0
    shown = capsys.readouterr()
    expected = ["a.png", "b_flows.png"] if inputs == ["."] else ["a.png"]
    assert [Path(json.loads(line)["input"]).name for line in shown.out.splitlines() if "input" in line] == expected
    assert "left out 4 files, which belong to other inputs" in shown.err
    assert main(["segment", "a_cp_masks.png", "-o", "out", *words]) == 0


def test_a_joint_table_that_was_edited_is_kept(cell_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    words = ["segment", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", str(cell_model), "--device", "cpu"]
    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((40, 50), dtype=np.uint8)).save(tmp_path / "in" / name)
    assert main(words) == 0
    table = tmp_path / "out" / "frames.csv"
    assert len(table.read_text().splitlines()) == 3
    Image.fromarray(np.zeros((40, 50), dtype=np.uint8)).save(tmp_path / "in" / "c.png")
    assert main(words) == 0
    assert len(table.read_text().splitlines()) == 4
    edited = table.read_text() + "my line\n"
    table.write_text(edited)
    capsys.readouterr()
    assert main(words) == 0
    assert "frames.csv: this table was changed since latens wrote it and is kept" in capsys.readouterr().err
    assert table.read_text() == edited
    table.unlink()
    assert main(words) == 0
    assert len(table.read_text().splitlines()) == 4
