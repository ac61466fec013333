"""`latens convert`: results of `latens segment` to labelme and back into training."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.systems.amodal.official_maker import TEST, TRAIN, write

from latens.cli.main import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def segmented(tmp_path: Path) -> Path:
    """A COCO file as `latens segment` writes it, in a folder with its image."""
    from latens.data.instances import paint, placed_of
    from latens.systems.amodal.outputs import Frame, write_outputs
    from latens.systems.amodal.predict import Segmentation

    rows, columns = np.mgrid[0:60, 0:80] + 0.5
    masks = np.stack([np.hypot(rows - 30, columns - x) < 18 for x in (25, 45)])
    placed = placed_of(paint(masks, np.array([1, 0])))
    found = Segmentation(size=(60, 80), placed=placed, scores=np.array([0.9, 0.8]), classes=("cell",))
    pixels = np.full((60, 80, 3), 90, dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    write_outputs([Frame(pixels, found)], tmp_path / "found.json", "a.png")
    return tmp_path / "found.json"


def test_from_segment_to_labelme_and_back(segmented: Path, capsys: Capture) -> None:
    folder = segmented.parent
    words = ["convert", f"coco:{segmented}", "--to", "labelme", "-o", str(folder / "labelme"), "--format", "json"]
    assert main(words) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["images"], record["objects"], record["classes"]) == (1, 2, ["cell"])
    (drawn,) = (folder / "labelme").glob("*.json")
    drawn.write_text(drawn.read_text().replace('"cell"', '"egg"'))
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*words, "--force"]) == 0
    back = [
        "convert",
        f"labelme:{folder / 'labelme'},{folder}",
        "--to",
        "kins",
        "-o",
        str(folder / "k.json"),
        "--classes",
        "debris, cell",
    ]
    assert main(back) == 0
    assert "1 image, 2 objects of debris, cell" in capsys.readouterr().out
    kins = json.loads((folder / "k.json").read_text())
    before = json.loads(segmented.read_text())
    assert [each["a_segm"] for each in kins["annotations"]] == [each["segmentation"] for each in before["annotations"]]
    assert [each["i_segm"] for each in kins["annotations"]] == [each["visible_mask"] for each in before["annotations"]]
    assert [each["ico_id"] for each in kins["annotations"]] == [1, 0]
    assert {each["category_id"] for each in kins["annotations"]} == {2}


@pytest.mark.parametrize(
    ("kind", "folders"), [("cocoa", ("train2014", "val2014")), ("kins", ("training/image_2", "testing/image_2"))]
)
def test_the_images_of_a_published_data_set_lie_in_two_folders(
    kind: str, folders: tuple[str, str], tmp_path: Path, capsys: Capture
) -> None:
    """The training and the test file of COCOA and KINS become one file, also if the image folder is named."""
    place = write(kind, tmp_path / kind, 0.1)
    if kind == "kins":  # its images have the same names in both folders
        document = json.loads((place / "update_test_2020.json").read_text())
        for number, image in enumerate(document["images"]):
            (place / folders[1] / image["file_name"]).rename(place / folders[1] / f"{number:06d}.png")
            image["file_name"] = f"{number:06d}.png"
        (place / "update_test_2020.json").write_text(json.dumps(document))
    annotations = place / "annotations" if kind == "cocoa" else place
    names = {f"{folder}/{path.name}" for folder in folders for path in (place / folder).iterdir()}
    for number, source in enumerate((f"{kind}:{place}", f"{kind}:{annotations},{place}")):
        out = tmp_path / f"all{number}.json"
        assert main(["convert", source, "--to", "coco", "-o", str(out)]) == 0
        assert f"{TRAIN + TEST} images, {3 * (TRAIN + TEST)} objects" in capsys.readouterr().out
        assert {image["file_name"] for image in json.loads(out.read_text())["images"]} == names
    assert main(["convert", f"coco:{tmp_path / 'all0.json'},{place}", "--to", "labelme", "-o", str(tmp_path / "drawn")]) == 0
    drawn = sorted((tmp_path / "drawn").glob("*.json"))
    assert len(drawn) == TRAIN + TEST
    assert all((tmp_path / "drawn" / json.loads(path.read_text())["imagePath"]).is_file() for path in drawn)


def test_images_are_searched_below_the_named_folder(segmented: Path, tmp_path: Path, capsys: Capture) -> None:
    other = segmented.parent / "results"
    other.mkdir()
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / f"{name}.png").write_bytes((segmented.parent / "a.png").read_bytes())
        (other / f"{name}.json").write_text(segmented.read_text().replace('"a.png"', f'"{name}.png"'))
    words = ["convert", f"coco:{other},{tmp_path / 'images'}", "--to", "coco", "-o", "-"]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert [image["file_name"] for image in json.loads(shown.out)["images"]] == ["a/a.png", "b/b.png"]
    (other / "c.json").write_text(segmented.read_text().replace('"a.png"', '"../../found.json"'))
    assert main(words) == 3
    refused = capsys.readouterr().err
    assert "outside the image folder" in refused
    assert "correct the name in the file" in refused  # no folder of images contains it
    (other / "c.json").write_text(segmented.read_text().replace('"a.png"', f'"{tmp_path}/found.json"'))
    assert main(words) == 3
    assert capsys.readouterr().err.endswith(f": coco:{other},{tmp_path}\n")
    (other / "c.json").write_text((other / "b.json").read_text())
    assert main(words) == 3
    assert "3 annotation files with the same image (b.png)" in capsys.readouterr().err


def test_standard_output_carries_the_file(segmented: Path, capsys: Capture) -> None:
    assert main(["convert", f"coco:{segmented}", "--to", "cocoa", "-o", "-"]) == 0
    shown = capsys.readouterr()
    assert len(json.loads(shown.out)["annotations"][0]["regions"]) == 2
    assert "2 objects" in shown.err


def test_bad_requests_are_one_error(segmented: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "bad.json").write_text('{"images": []}')
    for source, to, status in (
        ("nothing", "coco", 2),
        (f"coco:{tmp_path / 'bad.json'}", "kins", 3),
        (f"kins:{segmented}", "coco", 3),
        (f"labelme:{tmp_path / 'nowhere'}", "coco", 3),
        (f"coco:{segmented}", "yolo", 2),
    ):
        assert main(["convert", source, "--to", to, "-o", str(tmp_path / "out.json")]) == status
        shown = capsys.readouterr()
        assert shown.out == ""
        assert len(shown.err.splitlines()) <= 3
        assert not (tmp_path / "out.json").exists()


def test_images_outside_the_folder_of_labelme_are_read_with_the_source_of_the_hint(
    segmented: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    drawn = Path("drawn by hand")
    assert main(["convert", f"coco:{segmented}", "--to", "labelme", "-o", str(drawn)]) == 0
    capsys.readouterr()
    words = ["--to", "coco", "-o", "-"]
    assert main(["convert", f"labelme:{drawn}", *words]) == 3
    _, _, source = capsys.readouterr().err.strip().partition("name the folder of its images: ")
    assert shlex.split(source) == [f"labelme:{drawn},{os.path.relpath(segmented.parent)}"]
    assert main(["convert", *shlex.split(source), *words]) == 0
    assert [image["file_name"] for image in json.loads(capsys.readouterr().out)["images"]] == ["a.png"]
    assert main(["parts", str(segmented.parent), "--teach", str(drawn), "-o", "parts"]) == 3
    assert "move it into the folder of its images" in capsys.readouterr().err
