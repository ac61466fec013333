"""Every dialect: reading, lossless round trips, and errors for inconsistent files."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latens.data.annotations import read_annotations, to_document
from latens.data.instances import Collection, paint, scene_of
from latens.data.labelme import read_labelme, to_labelme
from latens.data.masks import decode, encode
from latens.errors import InputError, LatensError, UsageError


def collection() -> Collection:
    """Two images; the masks have holes and several parts, which polygons cannot represent."""
    rng = np.random.default_rng(0)
    scenes = []
    for name, size in (("a.png", (20, 31)), ("b.png", (17, 12))):
        masks = rng.random((3, *size)) > 0.6
        scenes.append(scene_of(paint(masks, np.array([2, 0, 1]), np.array([0, 1, 1])), name))
    return Collection(categories=("cell", "debris"), scenes=tuple(scenes))


def make_images(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / name)


def save(document: Any, path: Path) -> Path:
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("dialect", ["coco", "kins2020", "kins2019", "aistron", "cocoa"])
def test_round_trip_of_every_dialect(dialect: str, tmp_path: Path) -> None:
    before = collection()
    after = read_annotations(save(to_document(before, dialect), tmp_path / "x.json"))
    assert after.info["dialect"] == dialect
    assert after.categories == before.categories
    for old, new in zip(before.scenes, after.scenes, strict=True):
        assert (new.file, new.height, new.width) == (old.file, old.height, old.width)
        for a, b in zip(old.instances, new.instances, strict=True):
            assert (b.amodal, b.visible, b.category) == (a.amodal, a.visible, a.category)
            assert b.layer == (a.layer if dialect in ("coco", "kins2020", "cocoa") else None)


def test_labelme_round_trip_through_kins(tmp_path: Path) -> None:
    before = read_annotations(save(to_document(collection(), "kins2020"), tmp_path / "kins.json"))
    make_images(tmp_path, "a.png", "b.png")
    paths = [save(to_labelme(s, before.categories), tmp_path / f"{s.file}.json") for s in before.scenes]
    after = read_labelme(paths, before.categories)
    assert after.scenes == before.scenes
    assert to_document(after, "kins2020") == json.loads((tmp_path / "kins.json").read_text())


def test_labelme_polygons_rectangles_circles_and_visible_parts(tmp_path: Path) -> None:
    shapes: list[dict[str, object]] = [
        {"label": "cell", "points": [[2, 2], [8, 2], [8, 8], [2, 8]], "group_id": 1, "flags": {"layer:1": True}},
        {"label": "cell/visible", "points": [[2, 2], [5, 8]], "shape_type": "rectangle", "group_id": 1},
        {"label": "dot", "points": [[20, 20], [26, 20]], "shape_type": "circle"},
    ]
    make_images(tmp_path, "a.png")
    document = {"shapes": shapes, "imagePath": "a.png", "imageHeight": 40, "imageWidth": 40}
    found = read_labelme([save(document, tmp_path / "a.json")])
    square, circle = found.scenes[0].instances
    assert found.categories == ("cell", "dot")
    assert (square.area, square.hidden_fraction, square.layer) == (36, 0.5, 1)
    assert circle.area == pytest.approx(np.pi * 36, rel=0.03)
    with pytest.raises(InputError, match="dot"):
        read_labelme([tmp_path / "a.json"], ["cell"])
    shapes[1]["group_id"] = 7
    with pytest.raises(InputError, match="group_id 7"):
        read_labelme([save(document, tmp_path / "b.json")])


def test_kins_polygons_and_class_numbers(tmp_path: Path) -> None:
    # KINS numbers its classes 1, 2, 4..8; polygons are amodal, a run-length code is visible.
    visible = np.zeros((10, 12), dtype=bool)
    visible[2:6, 2:4] = True
    square = [[2, 2, 6, 2, 6, 6, 2, 6]]
    document = {
        "images": [{"id": 5, "file_name": "000005.png", "height": 10, "width": 12}],
        "categories": [{"id": 2, "name": "pedestrian"}, {"id": 4, "name": "car"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 5,
                "category_id": 4,
                "segmentation": square,
                "inmodal_seg": encode(visible),
            }
        ],
    }
    found = read_annotations(save(document, tmp_path / "k.json"))
    (instance,) = found.scenes[0].instances
    assert (instance.category, instance.area, instance.hidden_fraction) == (1, 16, 0.5)


def test_cocoa_regions(tmp_path: Path) -> None:
    part = np.zeros((10, 12), dtype=bool)
    part[2:6, 2:3] = True
    square = [2, 2, 6, 2, 6, 6, 2, 6]
    regions = [
        {"segmentation": square, "name": "cup", "order": 2, "visible_mask": encode(part)},
        {"segmentation": square, "name": "hand", "order": 1},
    ]
    document = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 10, "width": 12}],
        "annotations": [{"id": 9, "image_id": 1, "regions": regions}],
    }
    found = read_annotations(save(document, tmp_path / "c.json"))
    cup, hand = found.scenes[0].instances
    assert found.categories == ("object",)
    assert (cup.layer, hand.layer) == (1, 0)
    assert np.array_equal(decode(cup.visible), part)
    assert hand.hidden_fraction == 0


def test_fully_visible_objects_need_no_visible_mask(tmp_path: Path) -> None:
    document = to_document(collection())
    whole = document["annotations"][0]
    del whole["visible_mask"]
    whole["occlude_rate"] = 0
    found = read_annotations(save(document, tmp_path / "b.json"))
    assert found.scenes[0].instances[0].visible == found.scenes[0].instances[0].amodal
    assert any(instance.visible != instance.amodal for scene in found.scenes for instance in scene.instances)


def broken() -> list[tuple[str, Any]]:
    good = to_document(collection())
    cases: list[tuple[str, Any]] = [("top level is not an object", [])]

    def change(match: str, edit: Any) -> None:
        document = copy.deepcopy(good)
        edit(document)
        cases.append((match, document))

    change("no list 'images'", lambda d: d.pop("images"))
    change("no list 'annotations'", lambda d: d.pop("annotations"))
    change("not listed", lambda d: d["annotations"][0].update(category_id=7))
    change("not listed", lambda d: d["annotations"][0].update(image_id=7))
    change("no dialect", lambda d: [a.pop("segmentation") for a in d["annotations"]])
    change("mixed", lambda d: d["annotations"][0].update(a_segm=[], i_segm=d["annotations"][0].pop("visible_mask")))
    change("size", lambda d: d["images"][0].update(height=99))
    change("damaged|fill", lambda d: d["annotations"][0]["segmentation"].update(counts="0000"))
    change("form of COCO", lambda d: d["annotations"][0].pop("image_id"))
    return cases


@pytest.mark.parametrize(("match", "document"), broken())
def test_inconsistent_files_are_refused(match: str, document: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=match) as caught:
        read_annotations(save(document, tmp_path / "x.json"))
    assert caught.value.where == str(tmp_path / "x.json")


def test_other_files_and_dialects_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(InputError, match="not a JSON file"):
        read_annotations(tmp_path / "x.json")
    with pytest.raises(LatensError):
        read_annotations(tmp_path / "nothing.json")
    with pytest.raises(UsageError):
        to_document(collection(), "yolo")
    with pytest.raises(InputError, match="not a labelme"):
        read_labelme([save({}, tmp_path / "l.json")])
