"""Label folders, stacks of masks, and frames of TIFF files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latens.data.convert import read_collection
from latens.data.labels import read_label_folder, read_labels, write_stack
from latens.errors import InputError, LatensError, UnreadableInput, UsageError


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
    with pytest.raises(InputError, match="1 image without a label map"):
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
    with pytest.raises(InputError, match="1 image without a label map") as caught:
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


def stack_of(path: Path, *pages: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [Image.fromarray(page) for page in pages]
    images[0].save(path, save_all=True, append_images=images[1:])
    return path


def cells(*values: int) -> np.ndarray:
    """A label map with a cell of 9 pixels for each value."""
    page = np.zeros((12, 20), dtype=np.uint8)
    for place, value in enumerate(values):
        page[2:5, 5 * place + 1 : 5 * place + 4] = value
    return page


def test_a_time_lapse_of_label_maps_is_not_a_stack_of_masks(tmp_path: Path) -> None:
    stack_of(tmp_path / "labels" / "t.tif", *[cells(1, 2, 3)] * 5)
    stack_of(tmp_path / "images" / "t.tif", *[cells(9)] * 5)
    for read in (read_label_folder, lambda folder: read_labels(folder / "labels" / "t.tif")):
        with pytest.raises(InputError, match="ambiguous") as caught:
            read(tmp_path)
        assert "labels:FOLDER,frames" in str(caught.value)
        assert "labels:FOLDER,masks" in str(caught.value)
    found = read_collection(f"labels:{tmp_path},frames")
    assert [scene.file for scene in found.scenes] == [f"images/t.tif#{number}" for number in range(1, 6)]
    assert [len(scene.instances) for scene in found.scenes] == [3] * 5
    assert [len(scene.instances) for scene in read_label_folder(tmp_path, how="masks").scenes] == [5]
    with pytest.raises(UsageError, match="not a reading"):
        read_collection(f"labels:{tmp_path},pages")


def test_a_time_lapse_of_binary_masks(tmp_path: Path) -> None:
    stack_of(tmp_path / "labels" / "t.tif", cells(255, 255), cells(255))
    stack_of(tmp_path / "images" / "t.tif", cells(9), cells(9))
    with pytest.raises(InputError, match="2 pages, like its image"):
        read_label_folder(tmp_path)
    found = read_label_folder(tmp_path, how="frames-components")
    assert [len(scene.instances) for scene in found.scenes] == [2, 1]
    stack_of(tmp_path / "images" / "t.tif", *[cells(9)] * 3)
    with pytest.raises(InputError, match="2 label maps for 3 frames"):
        read_label_folder(tmp_path, how="frames")


def test_a_binary_mask_of_many_cells_is_ambiguous(tmp_path: Path) -> None:
    stack_of(tmp_path / "labels" / "a.png", cells(255, 255, 255))
    stack_of(tmp_path / "images" / "a.png", cells(9))
    for read in (read_label_folder, lambda folder: read_labels(folder / "labels" / "a.png")):
        with pytest.raises(InputError, match="one value in 3 pieces") as caught:
            read(tmp_path)
        assert "labels:FOLDER,components" in str(caught.value)
    for how, areas in (("components", [9, 9, 9]), ("values", [27]), ("masks", [27])):
        (scene,) = read_label_folder(tmp_path, how=how).scenes
        assert [instance.area for instance in scene.instances] == areas
    # In a folder of label maps, an object may have pieces.
    stack_of(tmp_path / "labels" / "b.png", cells(1, 2))
    stack_of(tmp_path / "images" / "b.png", cells(9))
    assert [len(scene.instances) for scene in read_label_folder(tmp_path).scenes] == [1, 2]


def test_our_own_mask_in_pieces_is_one_object(tmp_path: Path) -> None:
    path = tmp_path / "labels" / "a.tif"
    path.parent.mkdir()
    path.write_bytes(write_stack(cells(1, 1)[None] > 0))
    stack_of(tmp_path / "images" / "a.png", cells(9))
    assert [len(scene.instances) for scene in read_label_folder(tmp_path).scenes] == [1]
    assert len(read_labels(path).amodal) == 1
    assert np.array_equal(np.asarray(Image.open(path)), cells(255, 255))


def test_names_of_cellpose(tmp_path: Path) -> None:
    stack_of(tmp_path / "a.png", cells(9))
    (tmp_path / "a_seg.npy").write_bytes(b"")
    with pytest.raises(UnreadableInput, match="no label maps") as caught:
        read_label_folder(tmp_path)
    assert "_seg.npy" in str(caught.value)
    assert "a_cp_masks.png" in str(caught.value).replace("NAME", "a")
    stack_of(tmp_path / "a_cp_masks.png", cells(1, 2))
    stack_of(tmp_path / "a_flows.tif", cells(9))
    stack_of(tmp_path / "a_cp_outlines.png", cells(9))
    (scene,) = read_label_folder(tmp_path).scenes
    assert (scene.file, len(scene.instances)) == ("a.png", 2)
    stack_of(tmp_path / "b.png", cells(9))
    (tmp_path / "b_seg.npy").write_bytes(b"")
    with pytest.raises(InputError, match="1 image without a label map") as unpaired:
        read_label_folder(tmp_path)
    assert "_seg.npy" in str(unpaired.value)
