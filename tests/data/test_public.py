"""MNIST and ImageNet32 in their original layouts."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latens.data.labeled import open_labeled
from latens.data.source import Source
from latens.errors import UnreadableInput


def write_idx(path: Path, array: np.ndarray) -> None:
    data = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def test_mnist_from_idx_files(tmp_path: Path) -> None:
    pixels = np.arange(3 * 28 * 28).reshape(3, 28, 28).astype(np.uint8)
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", pixels)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.array([3, 1, 4], np.uint8))
    found = open_labeled(Source("mnist", str(tmp_path)), "train")
    assert found.labels.tolist() == [3, 1, 4]
    assert len(found.classes) == 10
    np.testing.assert_array_equal(found.read(1)[..., 0], pixels[1])
    with pytest.raises(UnreadableInput, match="no t10k-images"):
        open_labeled(Source("mnist", str(tmp_path)), "test")
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"damaged")
    with pytest.raises(UnreadableInput, match="not an idx file"):
        open_labeled(Source("mnist", str(tmp_path)), "train")


def test_imagenet32_from_batches_and_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = np.arange(2 * 3072).reshape(2, 3072).astype(np.uint8)
    for number in (1, 2):
        np.savez(tmp_path / f"train_data_batch_{number}.npz", data=data + number, labels=np.array([1, 5]))
    found = open_labeled(Source("imagenet32", str(tmp_path)), "train")
    assert found.labels.tolist() == [0, 4, 0, 4]
    np.testing.assert_array_equal(found.read(2).transpose(2, 0, 1).ravel(), data[0] + 2)
    assert "neither version" in caplog.text
    folder = tmp_path / "valid_32x32"
    folder.mkdir()
    Image.fromarray(found.read(0)).save(folder / "1.png")
    assert len(open_labeled(Source("imagenet32", str(tmp_path)), "test")) == 1
    with pytest.raises(UnreadableInput, match="no train split"):
        open_labeled(Source("imagenet32", str(folder)), "train")


def test_packs_of_images_and_labels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    for split, part in (("train", slice(0, 4)), ("test", slice(4, 6))):
        np.savez(tmp_path / f"set_{split}.npz", images=pixels[part], labels=np.arange(6)[part] % 2)
    found = open_labeled(Source("", str(tmp_path)), "test")
    assert found.labels.tolist() == [0, 1]
    np.testing.assert_array_equal(found.read(1), pixels[5])
