"""Conversions of annotated data sets between all formats, and errors for data that a format cannot represent."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latens.data import convert
from latens.data.annotations import to_document
from latens.data.convert import WRITABLE, front_to_back, read_collection, write_collection
from latens.data.instances import Collection, Instance, Layers, Scene, paint, scene_of
from latens.data.labels import write_stack
from latens.data.masks import encode
from latens.data.records import RECORDS
from latens.data.stacks import read_frame
from latens.errors import InputError, LatensError, OutputExists, UnreadableInput, UsageError

ORDERED = ("coco", "kins", "cocoa", "labelme", "labels")  # formats with a depth order


@pytest.fixture
def source(tmp_path: Path) -> Collection:
    """Three images of one class, the last without objects; masks have holes and several parts."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    scenes = []
    for name, size, count in (("a.png", (20, 31), 3), ("b.png", (17, 12), 1), ("c.png", (9, 8), 0)):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
        masks = rng.random((count, *size)) > 0.6
        scenes.append(scene_of(paint(masks, rng.permutation(count)), name))
    return Collection(categories=("cell",), scenes=tuple(scenes), root=folder)


def word(form: str, out: Path, root: Path) -> str:
    return f"{form}:{out}" if form == "labels" else f"{form}:{out},{root}"


def target(form: str, folder: Path) -> Path:
    return folder / (form if form in ("labelme", "labels") else f"{form}.json")


def masks(scene: Scene) -> list[tuple[str, str, int]]:
    """Contents of a scene, independent of the order in which objects are listed."""
    return sorted((each.amodal["counts"], each.visible["counts"], each.category) for each in scene.instances)


def depths(scene: Scene) -> list[str]:
    """Objects from front to back."""
    return [each.amodal["counts"] for each in sorted(scene.instances, key=lambda each: each.layer or 0)]


@pytest.mark.parametrize("second", WRITABLE)
@pytest.mark.parametrize("first", WRITABLE)
def test_round_trips_between_all_formats(first: str, second: str, source: Collection, tmp_path: Path) -> None:
    assert source.root is not None
    collection = source
    for step, form in enumerate((first, second, "coco")):
        out = target(form, tmp_path / str(step))
        written = write_collection(collection, form, out)
        assert all(path.is_file() for path in written)
        collection = read_collection(word(form, out, collection.root or source.root))
    assert collection.categories == source.categories
    by_name = {Path(scene.file).name: scene for scene in collection.scenes}
    for scene in source.scenes:
        after = by_name[scene.file]
        assert masks(after) == masks(scene)
        if first in ORDERED and second in ORDERED:
            assert depths(after) == depths(scene)
        image = collection.path(after)
        assert np.array_equal(np.asarray(Image.open(image)), np.asarray(Image.open(source.path(scene))))


def test_round_trip_of_labelme_files_next_to_their_images(source: Collection, tmp_path: Path) -> None:
    assert source.root is not None
    written = write_collection(source, "labelme", source.root)
    assert [path.name for path in written] == ["a.json", "b.json", "c.json"]
    after = read_collection(f"labelme:{source.root}", ["cell"])
    assert after.scenes == source.scenes
    with pytest.raises(InputError, match="without a class"):
        read_collection(f"labelme:{source.root}", ["debris"])


def test_images_with_one_name_in_two_folders_have_separate_files(tmp_path: Path) -> None:
    names = ("x/a.png", "y/a.png", "x-a.png")
    for name in names:
        (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "p" / name)
    scenes = tuple(Scene(file=name, height=4, width=4) for name in names)
    written = write_collection(Collection(categories=("c",), scenes=scenes, root=tmp_path / "p"), "labelme", tmp_path / "out")
    assert [path.name for path in written] == ["x-a.json", "y-a.json", "x-a-2.json"]
    paths = [json.loads(path.read_text())["imagePath"] for path in written]
    assert paths == ["../p/x/a.png", "../p/y/a.png", "../p/x-a.png"]


def test_files_are_overwritten_only_with_force(source: Collection, tmp_path: Path) -> None:
    for form in ("coco", "labelme", "labels"):
        out = target(form, tmp_path / "o")
        written = write_collection(source, form, out)
        written[-1].write_bytes(written[-1].read_bytes() + b" ")  # edited
        before = [path.stat().st_mtime_ns for path in written]
        with pytest.raises(OutputExists):
            write_collection(source, form, out)
        assert [path.stat().st_mtime_ns for path in written] == before
        assert write_collection(source, form, out, force=True) == written
    assert {path.name for path in tmp_path.rglob(".*")} == {RECORDS}  # no temporary folder remains


def test_files_that_an_interrupted_run_moved_are_no_conflict(source: Collection, tmp_path: Path) -> None:
    written = write_collection(source, "labels", tmp_path / "o")
    written[-1].unlink()
    assert write_collection(source, "labels", tmp_path / "o") == written
    assert all(path.is_file() for path in written)


def test_the_folder_of_a_killed_run_is_removed(source: Collection, tmp_path: Path) -> None:
    """It was made next to a folder that did not exist yet."""
    dead = tmp_path / ".o.999999999-0123abcd.tmp"
    (dead / "labels").mkdir(parents=True)
    write_collection(source, "labels", tmp_path / "o")
    assert not dead.exists()
    dead.mkdir()
    write_collection(source, "labels", tmp_path / "o")  # which is a folder now
    assert not dead.exists()


def test_a_failure_leaves_no_files(source: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert source.root is not None
    (source.root / "b.png").unlink()
    with pytest.raises(InputError, match="no such file"):
        write_collection(source, "labels", tmp_path / "o" / "labels")
    assert not (tmp_path / "o").exists()
    (source.root / "b.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="not an image"):
        write_collection(source, "labels", tmp_path / "o" / "labels")
    assert list((tmp_path / "o").iterdir()) == []

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(convert, "to_labelme", kill)
    with pytest.raises(KeyboardInterrupt):
        write_collection(source, "labelme", tmp_path / "o" / "labelme")
    assert list((tmp_path / "o").iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_output_is_reported(source: Collection, tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0o500)
    with pytest.raises(UsageError, match="cannot be written"):
        write_collection(source, "labelme", tmp_path / "shut" / "x")


def test_a_file_in_place_of_a_folder_is_reported(source: Collection, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        write_collection(source, "labelme", tmp_path / "file")


def test_label_folders_refuse_unsupported_data(source: Collection, tmp_path: Path) -> None:
    two = Collection(categories=("cell", "debris"), scenes=source.scenes, root=source.root)
    with pytest.raises(InputError, match="one class"):
        write_collection(two, "labels", tmp_path / "o")
    # Each hides the other in their overlap, which no order represents.
    both = np.zeros((2, 4, 6), dtype=bool)
    both[0, :, :4] = both[1, :, 2:] = True
    visible = both.copy()
    visible[0, :2, 2:4] = visible[1, 2:, 2:4] = False
    knot = scene_of(Layers(both, visible, np.array([0, 1]), np.zeros(2, dtype=np.int64)), "a.png")
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="no depth order"):
        write_collection(Collection(categories=("cell",), scenes=(knot,), root=tmp_path), "labels", tmp_path / "o")
    twins = tuple(Scene(file=f"{name}/a.png", height=4, width=4) for name in ("x", "y"))
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "a.png")
    with pytest.raises(InputError, match="the same name"):
        write_collection(Collection(categories=("cell",), scenes=twins, root=tmp_path), "labels", tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_unknown_order_is_derived_from_visible_masks() -> None:
    rng = np.random.default_rng(1)
    layers = paint(rng.random((5, 12, 14)) > 0.5, np.array([3, 0, 4, 1, 2]))
    pairs = zip(layers.amodal, layers.visible, strict=True)
    instances = tuple(Instance(amodal=encode(amodal), visible=encode(visible)) for amodal, visible in pairs)
    unknown = Scene(file="a.png", height=12, width=14, instances=instances)
    assert np.array_equal(front_to_back(unknown), layers.amodal[[1, 3, 4, 0, 2]])


def test_wrong_keywords_and_dialects_are_refused(source: Collection, tmp_path: Path) -> None:
    for text in ("simulated", "coco:", "tiff:x", "labels"):
        with pytest.raises(UsageError, match="not a source of annotations"):
            read_collection(text)
    path = tmp_path / "k.json"
    path.write_text(json.dumps(to_document(source, "kins2019")))
    with pytest.raises(InputError, match="kins2019, not cocoa"):
        read_collection(f"cocoa:{path}")
    assert len(read_collection(f"kins:{path}").scenes) == 3
    with pytest.raises(UsageError, match="define the classes"):
        read_collection(f"kins:{path}", ["cell"])
    with pytest.raises(UsageError, match="yolo"):
        write_collection(source, "yolo", tmp_path / "x")
    with pytest.raises(InputError) as caught:
        read_collection(f"labelme:{tmp_path / 'images'}")
    assert caught.value.where == str(tmp_path / "images")


@pytest.mark.parametrize("form", ["labelme", "labels"])
def test_pages_of_stacks_become_images(form: str, tmp_path: Path) -> None:
    pages = np.random.default_rng(0).integers(0, 256, (11, 9, 8)).astype(np.uint8)
    (tmp_path / "s.tif").write_bytes(write_stack(pages > 127))
    found = [scene_of(paint(page[None] > 200, np.zeros(1)), f"s.tif#{number}") for number, page in enumerate(pages, start=1)]
    source = Collection(categories=("cell",), scenes=tuple(found), root=tmp_path)
    written = write_collection(source, form, tmp_path / "out")
    assert len([path for path in written if path.suffix == ".png"]) == 11
    back = read_collection(f"{form}:{tmp_path / 'out'}")
    assert [masks(scene) for scene in back.scenes] == [masks(scene) for scene in source.scenes]
    for scene, page in zip(back.scenes, pages, strict=True):
        assert np.array_equal(read_frame(back.path(scene))[..., 0], (page > 127) * np.uint8(255))
    with pytest.raises(UnreadableInput, match="no page 12"):
        read_frame(tmp_path / "s.tif#12")


def test_a_folder_with_one_annotation_file_and_image_folders_below(source: Collection, tmp_path: Path) -> None:
    assert source.root is not None
    place = tmp_path / "set"
    shutil.copytree(source.root, place / "testing" / "image_2")
    with pytest.raises(InputError, match="no JSON file"):
        read_collection(f"kins:{place}")
    write_collection(source, "kins", place / "update_test_2020.json")
    for word in (f"kins:{place}", f"kins:{place / 'update_test_2020.json'}"):
        found = read_collection(word)
        assert all(found.path(scene).is_file() for scene in found.scenes)
        assert [masks(scene) for scene in found.scenes] == [masks(scene) for scene in source.scenes]
    write_collection(source, "kins2019", place / "instances_val.json")
    with pytest.raises(InputError, match=r"2 annotation files.*instances_val.json"):
        read_collection(f"kins:{place}")


@pytest.mark.filterwarnings("ignore:__array__")
def test_pycocotools_loads_what_is_written(source: Collection, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    for form in ("coco", "kins2019"):
        (path,) = write_collection(source, form, tmp_path / f"{form}.json")
        document = json.loads(path.read_text())
        assert document["licenses"] == []
        assert document["info"]["description"]
        loaded = COCO(str(path))
        loaded.info()
        results = [{"image_id": 1, "category_id": 1, "segmentation": document["annotations"][0]["segmentation"], "score": 1.0}]
        assert len(loaded.loadRes(results).anns) == 1
        for number, each in loaded.anns.items():
            assert np.array_equal(loaded.annToMask(each), source_masks(source)[number - 1])


def source_masks(source: Collection) -> list[np.ndarray]:
    return [mask for scene in source.scenes for mask in scene.layers().amodal]


def test_files_without_objects_are_of_every_dialect(source: Collection, tmp_path: Path) -> None:
    empty = Collection(categories=("cell",), scenes=source.scenes[2:], root=source.root)
    for form in ("coco", "kins", "aistron", "kins2019"):
        (path,) = write_collection(empty, form, tmp_path / f"{form}.json")
        found = read_collection(f"{form}:{path},{source.root}")
        assert [scene.instances for scene in found.scenes] == [()]
        assert found.categories == ("cell",)


def test_files_of_a_folder_are_one_data_set(source: Collection, tmp_path: Path) -> None:
    for scene in source.scenes:
        one = Collection(categories=("cell",), scenes=(scene,), root=source.root)
        write_collection(one, "coco", tmp_path / "found" / f"{Path(scene.file).stem}.json")
    (tmp_path / "found" / "made-with.json").write_text("{}")
    found = read_collection(f"coco:{tmp_path / 'found'},{source.root}")
    assert [scene.file for scene in found.scenes] == ["a.png", "b.png", "c.png"]
    assert [masks(scene) for scene in found.scenes] == [masks(scene) for scene in source.scenes]
    other = Collection(categories=("debris",), scenes=(Scene(file="d.png", height=4, width=4),), root=source.root)
    write_collection(other, "coco", tmp_path / "found" / "d.json")
    with pytest.raises(InputError, match="its classes are debris"):
        read_collection(f"coco:{tmp_path / 'found'}")


@pytest.mark.parametrize("form", WRITABLE)
def test_missing_images_are_noticed(form: str, source: Collection, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert source.root is not None
    (source.root / "a.png").unlink()
    if form in ("labelme", "labels"):
        with pytest.raises(InputError, match="1 image of 3 missing"):
            write_collection(source, form, tmp_path / "out")
    else:
        write_collection(source, form, tmp_path / "out.json")
        assert "1 image not found, such as a.png" in caplog.text


def test_a_folder_with_results_and_files_of_labelme(
    source: Collection, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Both kinds lie together after a correction in labelme; each keyword reads its own files."""
    place = tmp_path / "mixed"
    write_collection(source, "coco", place / "found.json")
    write_collection(source, "labelme", place)
    assert source.root is not None
    for word in ("coco", "labelme"):
        assert len(read_collection(f"{word}:{place},{source.root}").scenes) == len(source.scenes)
    assert "of labelme" in caplog.text
    (place / "found.json").unlink()
    write_collection(source, "labelme", tmp_path / "drawn")
    (tmp_path / "drawn" / "b.json").write_bytes(next((tmp_path / "drawn").glob("*.json")).read_bytes())
    with pytest.raises(InputError, match="no JSON file but those of labelme") as caught:
        read_collection(f"coco:{tmp_path / 'drawn'}")
    assert f"labelme:{tmp_path / 'drawn'}" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.xml", "<annotations/>", "export it as COCO"),
        ("a.geojson", '{"type": "FeatureCollection", "features": []}', "save a label map"),
        ("a.json", '{"type": "FeatureCollection", "features": []}', "save a label map"),
        ("a.json", '{"x.png12": {"filename": "x.png", "regions": []}}', "projects of VIA"),
        ("a.json", '[{"data": {"image": "x.png"}, "annotations": []}]', "Label Studio"),
        ("a.txt", "0 .1 .1 .2 .2", "as of YOLO"),
        ("a_seg.npy", "x", "as of cellpose"),
        ("RoiSet.zip", "x", "ROIs of Fiji"),
    ],
)
def test_formats_of_other_tools_name_what_to_export(name: str, text: str, words: str, tmp_path: Path) -> None:
    """Given alone, as COCO, as labelme and as label maps."""
    path = tmp_path / name
    path.write_text(text)
    kinds = ["coco:", "kins:", *([] if name == "a.json" else ["", "labels:", "labelme:"])]
    for kind in kinds:
        with pytest.raises(LatensError) as caught:
            read_collection(f"{kind}{path}")
        assert words in str(caught.value.hint), (kind, str(caught.value))
