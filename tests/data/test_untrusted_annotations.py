"""Annotation files are not trusted: extreme numbers, damaged codes, deep nesting, and files outside the image folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latens.data.convert import read_collection, write_collection
from latens.data.instances import Collection, Scene
from latens.errors import InputError, LatensError

FORMS = ("coco", "kins", "kins2019", "aistron", "cocoa", "labelme")
INFINITE, NAN = float("inf"), float("nan")
POLYGONS: dict[str, Any] = {
    "large": [0, 0, 1e9, 0, 1e9, 1e9],
    "medium": [0, 0, 1e6, 0, 1e6, 1e6],
    "negative": [0, 0, -1e9, 0, 3, 3],
    "not a number": [0, 0, NAN, 0, 3, 3],
    "infinite": [0, 0, INFINITE, 0, 3, 3],
    "integer": [0, 0, 10**400, 0, 3, 3],
    "text": [0, 0, "4", 0, 3, 3],
    "null": [0, 0, None, 0, 3, 3],
    "boolean": [0, 0, True, 0, 3, 3],
    "object": [0, 0, {}, 0, 3, 3],
    "long": [0, 0, 20, 20] * 400_000,
}
CODES: dict[str, Any] = {
    "over 2**32": [2**32, 80],
    "over 2**64": [2**70],
    "negative": [-1, 81],
    "fraction": [40.5, 39.5],
    "short": [3],
    "text": ["80"],
    "packed": "oooooooooooooooooooooo",
    "number": 7,
}


def document(form: str, segmentation: Any, **image: Any) -> dict[str, Any]:
    """One image of 8 x 10 pixels with one object, in a dialect."""
    size = {"height": 8, "width": 10} | image
    if form == "labelme":
        points = [list(pair) for pair in zip(segmentation[::2], segmentation[1::2], strict=True)]
        shapes = [{"label": "cell", "points": points, "shape_type": "polygon"}]
        return {"shapes": shapes, "imagePath": "a.png", "imageHeight": size["height"], "imageWidth": size["width"]}
    keys = {
        "coco": ("segmentation", "visible_mask"),
        "kins": ("a_segm", "i_segm"),
        "kins2019": ("segmentation", "inmodal_seg"),
        "aistron": ("amodal_segm", "visible_segm"),
        "cocoa": ("segmentation", "visible_mask"),
    }[form]
    object_ = {"id": 7, "image_id": 1, "category_id": 1, keys[0]: segmentation, keys[1]: segmentation}
    annotation = {"id": 7, "image_id": 1, "regions": [object_]} if form == "cocoa" else object_
    images = [{"id": 1, "file_name": "a.png", **size}]
    return {"images": images, "categories": [{"id": 1, "name": "cell"}], "annotations": [annotation]}


def source(form: str, content: Any, folder: Path) -> str:
    (folder / "set").mkdir(exist_ok=True)
    Image.new("RGB", (10, 8)).save(folder / "set" / "a.png")
    path = folder / "set" / "a.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return f"{form}:{path.parent if form == 'labelme' else path}"


@pytest.mark.parametrize("name", POLYGONS)
@pytest.mark.parametrize("form", FORMS)
def test_extreme_coordinates_name_file_object_and_value(form: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_collection(source(form, document(form, POLYGONS[name]), tmp_path))
    assert caught.value.where == str(tmp_path / "set" / "a.json")
    assert "shape 1 (cell)" in caught.value.what if form == "labelme" else "annotation 7" in caught.value.what
    shown = {"large": "1e+09", "not a number": "nan", "infinite": "inf", "text": "'4'", "long": "10,000,000"}.get(name, "")
    assert shown in caught.value.what


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("form", [form for form in FORMS if form != "labelme"])
def test_damaged_run_lengths(form: str, name: str, tmp_path: Path) -> None:
    code = {"size": [8, 10], "counts": CODES[name]}
    with pytest.raises(InputError, match="annotation 7"):
        read_collection(source(form, document(form, code), tmp_path))


@pytest.mark.parametrize("value", [INFINITE, NAN, -3, 0, 2.5, 10**400, "8", None, True, []])
@pytest.mark.parametrize("form", FORMS)
def test_sizes_of_images(form: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="positive integer"):
        read_collection(source(form, document(form, [0, 0, 4, 0, 4, 4], height=value), tmp_path))
    with pytest.raises(LatensError, match="limit"):
        read_collection(source(form, document(form, [0, 0, 4, 0, 4, 4], height=2**31, width=2**31), tmp_path))


@pytest.mark.parametrize("form", FORMS)
def test_deep_nesting(form: str, tmp_path: Path) -> None:
    deep = "[" * 200_000
    with pytest.raises(InputError, match=r"nested too deeply|not a JSON file"):
        read_collection(source(form, '{"annotations": ' + deep, tmp_path))


@pytest.mark.parametrize("points", [[[4, 4], [1e9, 4]], [[4, 4], [NAN, 4]], [[NAN, 4], [5, 4]], [[4, 4], [4, -INFINITE]]])
@pytest.mark.parametrize("kind", ["circle", "rectangle", "mask"])
def test_shapes_of_labelme(kind: str, points: Any, tmp_path: Path) -> None:
    content = document("labelme", [0, 0, 4, 0, 4, 4])
    content["shapes"][0] |= {"shape_type": kind, "points": points, "mask": "damaged"}
    with pytest.raises(InputError, match=r"shape 1 \(cell\)"):
        read_collection(source("labelme", content, tmp_path))


@pytest.mark.parametrize("shape", [{"points": []}, 7, None, [], {"label": 5, "points": []}])
def test_shapes_without_a_label(shape: Any, tmp_path: Path) -> None:
    content = document("labelme", [0, 0, 4, 0, 4, 4])
    content["shapes"].append(shape)
    with pytest.raises(InputError, match="shape 2 has no label"):
        read_collection(source("labelme", content, tmp_path))


@pytest.mark.parametrize("edit", [{"order": INFINITE}, {"order": NAN}, {"score": NAN}, {"score": 10**400}, {"category_id": []}])
def test_other_numbers(edit: dict[str, Any], tmp_path: Path) -> None:
    content = document("coco", [0, 0, 4, 0, 4, 4])
    content["annotations"][0] |= edit
    with pytest.raises(InputError):
        read_collection(source("coco", content, tmp_path))


@pytest.mark.parametrize(
    "name", ["../secret.png", "{root}/secret.png", "/etc/passwd", "x/../../secret.png", ".", "", "/dev/zero"]
)
@pytest.mark.parametrize("form", FORMS)
def test_files_outside_the_image_folder_are_not_read(form: str, name: str, tmp_path: Path) -> None:
    Image.new("RGB", (10, 8)).save(tmp_path / "secret.png")
    content = document(form, [0, 0, 4, 0, 4, 4])
    name = name.replace("{root}", str(tmp_path))
    if form == "labelme":
        content["imagePath"] = name
    else:
        content["images"][0]["file_name"] = name
    with pytest.raises(InputError) as caught:
        read_collection(source(form, content, tmp_path))
    assert "outside the image folder" in str(caught.value) or not name
    assert caught.value.where is not None
    assert str(tmp_path / "set") in caught.value.where


@pytest.mark.parametrize("form", FORMS)
def test_pipes_are_not_opened(form: str, tmp_path: Path) -> None:
    word = source(form, document(form, [0, 0, 4, 0, 4, 4]), tmp_path)
    (tmp_path / "set" / "a.png").unlink()
    os.mkfifo(tmp_path / "set" / "a.png")
    with pytest.raises(InputError, match="not a regular file"):
        read_collection(word)


def test_labels_copy_images_only(tmp_path: Path) -> None:
    word = source("coco", document("coco", [0, 0, 4, 0, 4, 4]), tmp_path)
    (tmp_path / "set" / "a.png").write_text("root:x:0:0")
    with pytest.raises(InputError, match="not an image"):
        write_collection(read_collection(word), "labels", tmp_path / "out")
    assert not list(tmp_path.glob("out/**/*.png"))


def test_a_folder_of_images_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "json").mkdir()
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((8, 10), np.uint8)).save(tmp_path / "images" / "a.png")
    content = document("labelme", [0, 0, 4, 0, 4, 4]) | {"imagePath": "..\\images\\a.png"}
    (tmp_path / "json" / "a.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"labelme:{tmp_path}/json,{tmp_path}/images$"):
        read_collection(f"labelme:{tmp_path / 'json'}")
    found = read_collection(f"labelme:{tmp_path / 'json'},{tmp_path / 'images'}")
    assert found.path(found.scenes[0]) == tmp_path / "images" / "a.png"
    absolute = document("coco", [0, 0, 4, 0, 4, 4])
    absolute["images"][0]["file_name"] = str(tmp_path / "images" / "a.png")
    (tmp_path / "json" / "a.json").write_text(json.dumps(absolute))
    found = read_collection(f"coco:{tmp_path / 'json' / 'a.json'},{tmp_path}")
    assert found.path(found.scenes[0]) == tmp_path / "images" / "a.png"


def test_a_collection_gives_no_path_outside_its_root(tmp_path: Path) -> None:
    scene = Scene(file="../a.png", height=4, width=4)
    with pytest.raises(InputError, match="outside"):
        Collection(categories=("cell",), scenes=(scene,), root=tmp_path).path(scene)
