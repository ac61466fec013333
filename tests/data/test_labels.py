"""Label folders, stacks of masks, and frames of TIFF files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latens.data.labels import read_frames, read_label_folder, read_labels, write_stack
from latens.errors import InputError, LatensError, UnreadableInput


def test_folder_of_pictures_and_label_maps(tmp_path: Path) -> None:
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
    with pytest.raises(InputError, match="1 pictures have no label map"):
        read_label_folder(tmp_path)


def test_pairs_in_two_folders(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.ones((8, 8), dtype=np.uint8)).save(tmp_path / folder / "a.png")
    assert len(read_label_folder(tmp_path).scenes[0].instances) == 1
    with pytest.raises(UnreadableInput):
        read_label_folder(tmp_path / "images")


def test_stacks_hold_overlaps(tmp_path: Path) -> None:
    masks = np.random.default_rng(0).random((3, 9, 11)) > 0.5
    (tmp_path / "m.tif").write_bytes(write_stack(masks))
    layers = read_labels(tmp_path / "m.tif")
    assert np.array_equal(layers.amodal, masks)
    assert layers.layer.tolist() == [0, 1, 2]
    assert np.array_equal(layers.visible[1], masks[1] & ~masks[0])
    with pytest.raises(ValueError, match="page"):
        write_stack(masks[:0])


def test_frames_of_a_stack(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pages = [rng.integers(1000, 3000, (10, 12)).astype(np.uint16) for _ in range(3)]
    images = [Image.fromarray(page) for page in pages]
    images[0].save(tmp_path / "s.tif", save_all=True, append_images=images[1:])
    frames = list(read_frames(tmp_path / "s.tif"))
    assert [frame.shape for frame in frames] == [(10, 12, 3)] * 3
    assert all(frame.min() == 0 and frame.max() == 255 for frame in frames)  # stretched, not black
    assert np.corrcoef(frames[1][..., 0].ravel(), pages[1].ravel())[0, 1] > 0.999
    Image.fromarray(np.full((5, 6, 3), 9, dtype=np.uint8)).save(tmp_path / "one.png")
    assert [frame.shape for frame in read_frames(tmp_path / "one.png")] == [(5, 6, 3)]


def test_eight_bit_pages_are_kept_as_they_are(tmp_path: Path) -> None:
    page = np.arange(120, dtype=np.uint8).reshape(10, 12)
    Image.fromarray(page).save(tmp_path / "s.tif", save_all=True, append_images=[Image.fromarray(page + 1)])
    first, second = read_frames(tmp_path / "s.tif")
    assert np.array_equal(first[..., 0], page)
    assert np.array_equal(second[..., 1], page + 1)


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tif").write_bytes(b"II*\x00 damaged")
    with pytest.raises(LatensError):
        list(read_frames(tmp_path / "x.tif"))
    with pytest.raises(LatensError):
        read_labels(tmp_path / "x.tif")
    with pytest.raises(LatensError):
        list(read_frames(tmp_path / "none.tif"))
