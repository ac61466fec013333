"""Label folders, stacks of masks, and frames of TIFF files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latens.data.labels import read_label_folder, read_labels, write_stack
from latens.errors import InputError, LatensError, UnreadableInput


def test_folder_of_images_and_label_maps(tmp_path: Path) -> None:
    labels = np.zeros((12, 14), dtype=np.uint16)
    labels[1:5, 1:6], labels[6:9, 2:9] = 300, 7
    Image.fromarray(labels).save(tmp_path / "x_lab.png")
    Image.fromarray(np.zeros((12, 14, 3), dtype=np.uint8)).save(tmp_path / "x_img.png")
    found = read_label_folder(tmp_path, "nucleus")
    (scene,) = found.scenes
    assert found.categories == ("nucleus",)
    assert found.path(scene) == tmp_path / "x_img.png"
    assert sorted(instance.area for instance in scene.instances) == [20, 21]
    assert all(instance.hidden_fraction == 0 for instance in scene.instances)
    Image.fromarray(np.zeros((12, 14, 3), dtype=np.uint8)).save(tmp_path / "y_img.png")
    with pytest.raises(InputError, match="1 images have no label map"):
        read_label_folder(tmp_path)


def test_pairs_in_two_folders(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.ones((8, 8), dtype=np.uint8)).save(tmp_path / folder / "a.png")
    assert len(read_label_folder(tmp_path).scenes[0].instances) == 1
    with pytest.raises(UnreadableInput):
        read_label_folder(tmp_path / "images")


def label_map(path: Path, objects: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.zeros((8, 8), dtype=np.uint8)
    labels[0, :objects] = np.arange(1, objects + 1)
    Image.fromarray(labels).save(path)


def test_equal_names_in_two_folders_are_two_images(tmp_path: Path) -> None:
    for folder, objects in (("day1", 1), ("day2", 3)):
        label_map(tmp_path / folder / "images" / "a.png", 0)
        label_map(tmp_path / folder / "labels" / "a.png", objects)
    label_map(tmp_path / "day3" / "a_img.png", 0)
    label_map(tmp_path / "day3" / "a_lab.png", 5)
    scenes = {scene.file: len(scene.instances) for scene in read_label_folder(tmp_path).scenes}
    assert scenes == {"day1/images/a.png": 1, "day2/images/a.png": 3, "day3/a_img.png": 5}
    label_map(tmp_path / "day4" / "images" / "a.png", 0)
    with pytest.raises(InputError, match="1 images have no label map") as caught:
        read_label_folder(tmp_path)
    assert "day4" in str(caught.value)


def test_images_and_maps_are_paired_by_unique_names(tmp_path: Path) -> None:
    label_map(tmp_path / "raw" / "a.png", 0)
    label_map(tmp_path / "done" / "masks" / "a.png", 2)
    assert [len(scene.instances) for scene in read_label_folder(tmp_path).scenes] == [2]
    label_map(tmp_path / "raw" / "a.bmp", 0)
    with pytest.raises(InputError, match="match the same name"):
        read_label_folder(tmp_path)


def test_stacks_represent_overlaps(tmp_path: Path) -> None:
    masks = np.random.default_rng(0).random((3, 9, 11)) > 0.5
    (tmp_path / "m.tif").write_bytes(write_stack(masks))
    layers = read_labels(tmp_path / "m.tif")
    assert np.array_equal(layers.amodal, masks)
    assert layers.layer.tolist() == [0, 1, 2]
    assert np.array_equal(layers.visible[1], masks[1] & ~masks[0])
    with pytest.raises(ValueError, match="page"):
        write_stack(masks[:0])


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tif").write_bytes(b"II*\x00 damaged")
    with pytest.raises(LatensError):
        read_labels(tmp_path / "x.tif")
