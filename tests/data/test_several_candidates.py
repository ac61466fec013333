"""Several candidates for one thing: joined, or refused with the candidates; none of them wins silently."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latens.cli.depth_maps import DepthMaps
from latens.data.convert import read_collection, write_collection
from latens.data.labels import read_label_folder
from latens.errors import InputError, UsageError
from latens.inference.batch import Job
from latens.metrics.cells import write_table

BOX = [[1, 1, 6, 1, 6, 5, 1, 5]]


def coco(folder: Path, **changes: Any) -> str:
    """A file with one object in one image of 10 x 8 pixels; returns its source."""
    Image.new("RGB", (10, 8)).save(folder / "a.png")
    document: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "a.png", "width": 10, "height": 8}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": BOX, "bbox": [1, 1, 5, 4], "iscrowd": 0}],
        "categories": [{"id": 1, "name": "cell"}],
    } | changes
    (folder / "a.json").write_text(json.dumps(document))
    return f"coco:{folder / 'a.json'}"


def shape(**changes: Any) -> dict[str, Any]:
    return {"label": "cell", "points": [[1, 1], [6, 1], [6, 5]], "shape_type": "polygon", "flags": {}} | changes


def labelme(folder: Path, name: str, *shapes: dict[str, Any], size: tuple[int, int] = (8, 10)) -> None:
    Image.new("RGB", (10, 8)).save(folder / "a.png")
    document = {"version": "5.5.0", "shapes": list(shapes), "imagePath": "a.png", "imageHeight": size[0], "imageWidth": size[1]}
    (folder / name).write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("key", "entries", "what"),
    [
        ("images", [("id", 1, "a.png"), ("id", 1, "b.png")], "two entries of 'images' have the id 1"),
        ("images", [("id", 1, "a.png"), ("id", 2, "a.png")], "two entries of 'images' have the file_name a.png"),
        ("categories", [("id", 1, "cell"), ("id", 2, "cell")], "two entries of 'categories' have the name cell"),
        ("categories", [("id", 1, "cell"), ("id", 1, "debris")], "two entries of 'categories' have the id 1"),
    ],
)
def test_entries_of_coco_with_equal_identity(key: str, entries: list[tuple[str, int, str]], what: str, tmp_path: Path) -> None:
    named = "file_name" if key == "images" else "name"
    listed = [{"id": number, named: name, "width": 10, "height": 8} for _, number, name in entries]
    with pytest.raises(InputError, match=what):
        read_collection(coco(tmp_path, **{key: listed}))


def test_a_key_that_occurs_twice_in_json(tmp_path: Path) -> None:
    source = coco(tmp_path)
    text = (tmp_path / "a.json").read_text()
    (tmp_path / "a.json").write_text(text[:-1] + ', "annotations": []}')
    with pytest.raises(InputError, match="the key 'annotations' occurs twice") as caught:
        read_collection(source)
    assert str(tmp_path / "a.json") in str(caught.value)


def test_two_labelme_files_of_one_image(tmp_path: Path) -> None:
    labelme(tmp_path, "a.json", shape())
    labelme(tmp_path, "b.json", shape())
    with pytest.raises(InputError, match=r"b.json: its image a.png is also that of .*a.json"):
        read_collection(f"labelme:{tmp_path}")


def test_an_empty_label_is_no_class(tmp_path: Path) -> None:
    labelme(tmp_path, "a.json", shape(), shape(label=" "))
    with pytest.raises(InputError, match="shape 2 has no label"):
        read_collection(f"labelme:{tmp_path}")


def test_objects_without_pixels_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """CVAT writes rectangles as boxes with an empty segmentation."""
    annotation = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 4], "iscrowd": 0}
    source = coco(
        tmp_path, annotations=[annotation | {"id": 1, "segmentation": []}, annotation | {"id": 2, "segmentation": BOX}]
    )
    (scene,) = read_collection(source).scenes
    assert [each.area for each in scene.instances] == [20]
    assert "1 object without pixels left out" in caplog.text


def test_annotations_of_another_size_than_their_image(tmp_path: Path) -> None:
    """Sizes are compared as shown: a photograph that EXIF turns has the annotations of the turned one."""
    source = coco(tmp_path, images=[{"id": 1, "file_name": "a.png", "width": 20, "height": 16}])
    found = read_collection(source)
    for write in (lambda: write_collection(found, "labelme", tmp_path / "out"), lambda: write_table(found, tmp_path / "t.csv")):
        with pytest.raises(InputError, match="the image has 10 x 8 pixels, its annotations 20 x 16"):
            write()
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "t.csv").exists()
    labelme(tmp_path, "b.json", shape(), size=(10, 8))
    (tmp_path / "a.json").unlink()
    turned = read_collection(f"labelme:{tmp_path}")
    with pytest.raises(InputError, match="its annotations 8 x 10"):
        write_collection(turned, "coco", tmp_path / "all.json")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (10, 8)).save(tmp_path / "a.png", exif=exif)
    assert write_collection(turned, "coco", tmp_path / "all.json")


def test_backslashes_of_windows(tmp_path: Path) -> None:
    source = coco(tmp_path, images=[{"id": 1, "file_name": "day1\\a.png", "width": 10, "height": 8}])
    (tmp_path / "day1").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "day1" / "a.png")
    found = read_collection(source)
    assert found.scenes[0].file == "day1/a.png"
    assert write_collection(found, "labelme", tmp_path / "out")


def test_conversion_into_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop segment -> labelme -> train is often run in the folder of the images."""
    coco(tmp_path)
    (tmp_path / "a.json").rename(tmp_path / "found.json")
    monkeypatch.chdir(tmp_path)
    assert write_collection(read_collection("coco:found.json"), "labelme", Path()) == [Path("a.json")]
    assert sorted(os.listdir()) == ["a.json", "a.png", "found.json"]
    assert len(read_collection("labelme:a.json").scenes[0].instances) == 1


# ------------------------------------------------------------------------------------------------------- label maps


def label_folder(folder: Path, values: np.ndarray, ending: str = ".tif") -> Path:
    tifffile = pytest.importorskip("tifffile")
    for name in ("images", "labels"):
        (folder / name).mkdir(exist_ok=True)
    Image.new("L", (10, 8)).save(folder / "images" / "a.png")
    tifffile.imwrite(folder / "labels" / f"a{ending}", values)
    return folder


def label_values() -> np.ndarray:
    values = np.zeros((8, 10), np.float64)
    values[1:3, 1:4], values[5:7, 2:9] = 1, 2
    return values


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int16", "int32", "uint32", "float32", "float64"])
def test_label_maps_of_every_type(kind: str, tmp_path: Path) -> None:
    found = read_label_folder(label_folder(tmp_path, label_values().astype(kind)))
    assert [each.area for each in found.scenes[0].instances] == [6, 14]


def test_fractions_are_no_labels(tmp_path: Path) -> None:
    for kind in ("float32", "float64"):
        with pytest.raises(InputError, match="whole numbers"):
            read_label_folder(label_folder(tmp_path, label_values().astype(kind) / 2))


def test_negative_labels_are_background(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = label_values().astype(np.int16)
    values[7] = -1
    found = read_label_folder(label_folder(tmp_path, values), how="components")
    assert [each.area for each in found.scenes[0].instances] == [6, 14]
    assert "values below 0 are taken as background" in caplog.text


@pytest.mark.parametrize("how", ["masks", "components"])
def test_a_chosen_reading_that_ignores_values(how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_label_folder(label_folder(tmp_path, label_values().astype(np.uint8)), how=how)
    assert f"a page has 2 values; read as '{how}'" in caplog.text
    caplog.clear()
    read_label_folder(label_folder(tmp_path, (label_values() > 0).astype(np.uint8) * 255), how=how)
    assert not caplog.text


def test_a_label_map_of_another_size(tmp_path: Path) -> None:
    found = read_label_folder(label_folder(tmp_path, label_values().astype(np.uint8)[:4]))
    with pytest.raises(InputError, match="the image has 10 x 8 pixels, its annotations 10 x 4"):
        write_table(found, tmp_path / "t.csv")


# ------------------------------------------------------------------------------------------------------- depth maps


def test_several_depth_maps_of_one_image(tmp_path: Path) -> None:
    image = tmp_path / "photos" / "a.jpg"
    job = Job(image, tmp_path / "a.hazy.png", relative="a.jpg")
    image.parent.mkdir()
    Image.new("RGB", (4, 4)).save(image)
    maps = tmp_path / "maps"
    maps.mkdir()
    chosen = DepthMaps(place=maps)
    np.save(maps / "a.npy", np.ones((4, 4)))
    assert chosen.of(job)[0] == maps / "a.npy"
    Image.new("L", (4, 4)).save(maps / "a_depth.png")  # a.npy may belong to another file
    assert chosen.of(job)[0] == maps / "a_depth.png"
    Image.new("I;16", (4, 4)).save(maps / "a_depth256.png")
    with pytest.raises(UsageError, match=r"several depth maps for a.jpg: a_depth.png, a_depth256.png"):
        chosen.of(job)
