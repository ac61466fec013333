"""labelme's semantics: groups, visible parts, overlaps, image paths and subfolders; COCO without visible masks alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latens.data.convert import read_collection, write_collection
from latens.data.instances import Collection, Instance, Layers, Scene, scene_of
from latens.data.masks import decode, encode
from latens.errors import InputError

LEFT, RIGHT = [[0, 0], [30, 40]], [[20, 0], [40, 40]]  # rectangles of 1,200 and 800 pixels; 400 in common


def shape(points: Any, group: Any = None, label: str = "cell", *flags: str) -> dict[str, Any]:
    named = {flag: True for flag in flags}
    return {"label": label, "points": points, "shape_type": "rectangle", "group_id": group, "flags": named}


def read(folder: Path, *shapes: dict[str, Any]) -> tuple[Instance, ...]:
    Image.new("RGB", (40, 40)).save(folder / "a.png")
    content = {"shapes": shapes, "imagePath": "a.png", "imageHeight": 40, "imageWidth": 40}
    (folder / "a.json").write_text(json.dumps(content))
    return read_collection(f"labelme:{folder}").scenes[0].instances


def test_shapes_of_one_group_are_one_object_in_pieces(tmp_path: Path) -> None:
    pieces = shape([[0, 0], [10, 10]], 1), shape([[20, 20], [30, 30]], 1)
    (cell,) = read(tmp_path, *pieces)
    assert (cell.area, cell.hidden_fraction) == (200, 0)
    # As in labelme's own converters, equal numbers in different classes are different objects.
    assert [each.area for each in read(tmp_path, *pieces, shape([[0, 30], [10, 40]], 1, "debris"))] == [200, 100]
    assert len(read(tmp_path, shape([[0, 0], [10, 10]]), shape([[20, 20], [30, 30]]))) == 2
    with pytest.raises(InputError, match="several layers: 0, 1"):
        read(tmp_path, shape(LEFT, 1, "cell", "layer:0"), shape(RIGHT, 1, "cell", "layer:1"))


def test_visible_parts_of_one_object_are_joined(tmp_path: Path) -> None:
    whole = shape([[0, 0], [40, 40]], 1)
    first, second = shape([[0, 0], [15, 40]], 1, "cell", "visible"), shape([[25, 0], [40, 40]], 1, "cell/visible")
    (cell,) = read(tmp_path, whole, first, second)
    assert cell.hidden_fraction == 0.25
    (cell,) = read(tmp_path, whole, first)
    assert cell.hidden_fraction == 0.625
    (cell,) = read(tmp_path, whole, shape([[0, 0], [15, 40]], 1, "front", "visible"))
    assert cell.hidden_fraction == 0.625
    with pytest.raises(InputError, match="no object has its group_id 2"):
        read(tmp_path, whole, shape([[0, 0], [15, 40]], 2, "cell", "visible"))


def test_visible_parts_are_clipped_to_the_whole_outline(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = shape([[0, 0], [20, 20]], 1)
    (cell,) = read(tmp_path, whole, shape([[10, 0], [40, 20]], 1, "cell", "visible"))
    assert cell.hidden_fraction == 0.5
    assert "1 visible part outside the whole outline, clipped" in caplog.text
    with pytest.raises(InputError, match="completely outside") as caught:
        read(tmp_path, whole, shape([[25, 0], [40, 20]], 1, "cell", "visible"))
    assert "shape 2" in caught.value.what


def coco(folder: Path, *annotations: dict[str, Any]) -> Scene:
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 40}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [{"id": i, "image_id": 1, "category_id": 1} | each for i, each in enumerate(annotations, 1)],
    }
    (folder / "c.json").write_text(json.dumps(content))
    return read_collection(f"coco:{folder / 'c.json'}").scenes[0]


def box(points: list[list[int]]) -> list[int]:
    (x0, y0), (x1, y1) = points
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def test_overlapping_outlines_without_visible_parts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = coco(tmp_path, {"segmentation": [box(LEFT)]}, {"segmentation": [box(RIGHT)]}).instances
    common = np.zeros((40, 40), dtype=bool)
    common[:, 20:30] = True
    for found in (read(tmp_path, shape(LEFT), shape(RIGHT)), plain):
        scene = Scene(file="a.png", height=40, width=40, instances=tuple(found))
        assert np.array_equal(scene.layers().occlusion, common)
        assert [each.hidden_fraction for each in found] == [pytest.approx(1 / 3), 0.5]
    assert "1 overlap of outlines without visible parts" in caplog.text
    ordered = read(tmp_path, shape(LEFT, None, "cell", "layer:0"), shape(RIGHT, None, "cell", "layer:1"))
    assert [each.hidden_fraction for each in ordered] == [0, 0.5]
    inside = read(tmp_path, shape([[0, 0], [40, 40]]), shape([[0, 0], [20, 40]]))
    assert [each.hidden_fraction for each in inside] == [0.5, 0]  # the object inside the other is in front
    drawn = read(tmp_path, shape(LEFT, 1), shape([[0, 0], [20, 40]], 1, "cell", "visible"), shape(RIGHT, 2))
    assert [each.hidden_fraction for each in drawn] == [pytest.approx(1 / 3), 0]


def test_plain_coco_has_crowds_left_out_and_parts_clipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    crowd = {"segmentation": {"size": [40, 40], "counts": [0, 1600]}, "iscrowd": 1}
    scene = coco(tmp_path, {"segmentation": [box(LEFT)], "visible_mask": [box(RIGHT)], "iscrowd": 0}, crowd)
    (cell,) = scene.instances
    assert cell.hidden_fraction == pytest.approx(2 / 3)
    assert "1 region (iscrowd) left out" in caplog.text
    assert "clipped" in caplog.text


def test_fully_visible_overlaps_survive_labelme(tmp_path: Path) -> None:
    masks = np.zeros((2, 40, 40), dtype=bool)
    masks[0, :, :30] = masks[1, :, 20:] = True
    scene = scene_of(Layers(masks, masks, np.array([0, 1]), np.zeros(2, dtype=np.int64)), "a.png")
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    write_collection(Collection(categories=("cell",), scenes=(scene,), root=tmp_path), "labelme", tmp_path)
    assert read_collection(f"labelme:{tmp_path}").scenes == (scene,)


def test_subfolders_are_kept_apart(tmp_path: Path) -> None:
    for day, count in (("day1", 1), ("day2", 2)):
        (tmp_path / day).mkdir()
        read(tmp_path / day, *[shape([[10 * i, 0], [10 * i + 5, 9]]) for i in range(count)])
        (tmp_path / day / "a.png").rename(tmp_path / day / "t0.png")
        content = json.loads((tmp_path / day / "a.json").read_text()) | {"imagePath": "t0.png"}
        (tmp_path / day / "a.json").write_text(json.dumps(content))
    (tmp_path / "notes.json").write_text("{}")
    found = read_collection(f"labelme:{tmp_path}")
    assert {scene.file: len(scene.instances) for scene in found.scenes} == {"day1/t0.png": 1, "day2/t0.png": 2}
    write_collection(found, "coco", tmp_path / "all.json")
    names = [image["file_name"] for image in json.loads((tmp_path / "all.json").read_text())["images"]]
    assert names == ["day1/t0.png", "day2/t0.png"]


def test_an_image_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    read(tmp_path, shape(LEFT))
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match=r"does not exist: a\.png") as caught:
        read_collection(f"labelme:{tmp_path}")
    assert caught.value.where == str(tmp_path / "a.json")


def test_masks_of_labelme_stay_inside_the_image(tmp_path: Path) -> None:
    mask = np.ones((5, 6), dtype=bool)
    scene = Scene(file="a.png", height=5, width=6, instances=(Instance(amodal=encode(mask), visible=encode(mask)),))
    Image.new("RGB", (6, 5)).save(tmp_path / "a.png")
    write_collection(Collection(categories=("cell",), scenes=(scene,), root=tmp_path), "labelme", tmp_path)
    assert decode(read_collection(f"labelme:{tmp_path}").scenes[0].instances[0].amodal).all()
    content = json.loads((tmp_path / "a.json").read_text()) | {"imageWidth": 5}
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="extends beyond"):
        read_collection(f"labelme:{tmp_path}")
