"""Small data sets of every layout, and errors for unusable ones."""

from __future__ import annotations

import io
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latens.data.labeled import LabeledImages, Split, has_test_split, open_labeled
from latens.data.source import parse_source
from latens.data.squares import Squares, center_square, readable, shrink
from latens.errors import InputError, UnreadableInput


def pixels(seed: int, height: int = 20, width: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, seed: int, height: int = 20, width: int = 24) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, height, width)).save(path)


def open_set(word: str | Path, split: Split = "train", *, hold_out: bool = True) -> LabeledImages:
    return open_labeled(parse_source(word), split, hold_out=hold_out)


def pack(path: Path, count: int = 6, **changes: object) -> Path:
    """A pack of `count` images of three classes; `changes` replace its arrays."""
    blobs = []
    for seed in range(count):
        buffer = io.BytesIO()
        Image.fromarray(pixels(seed, 16, 16)).save(buffer, "PNG")
        blobs.append(buffer.getvalue())
    offsets = np.cumsum([0, *map(len, blobs)])
    joined = np.frombuffer(b"".join(blobs), np.uint8)
    arrays = {"jpeg": joined, "offsets": offsets, "labels": np.arange(count) % 3, "classes": ["cat", "dog", "elk"]}
    entries: dict[str, Any] = {key: np.asarray(value) for key, value in (arrays | changes).items()}
    np.savez(path, **entries)
    return path


def test_a_folder_with_one_pack_for_each_split(tmp_path: Path) -> None:
    pack(tmp_path / "pets_train_6.npz")
    pack(tmp_path / "pets_test_2.npz", 2)
    found = open_set(tmp_path)
    assert (len(found), found.classes, found.labels.tolist()) == (6, ("cat", "dog", "elk"), [0, 1, 2, 0, 1, 2])
    assert np.array_equal(found.read(4), pixels(4, 16, 16))
    assert len(open_set(tmp_path, "test")) == 2
    pack(tmp_path / "more_train.npz")
    with pytest.raises(UnreadableInput, match="none of the 3 packs is the only train split"):
        open_set(tmp_path, "test")


@pytest.mark.parametrize("name", ["latest", "pets_train_30", "pets_test_30"])
def test_a_single_pack_is_split_by_names(name: str, tmp_path: Path) -> None:
    path = pack(tmp_path / f"{name}.npz", 30)
    for source in (path, tmp_path):
        train, test = open_set(source), open_set(source, "test")
        assert len(train) + len(test) == 30
        assert train.keys
        assert test.keys
        assert not set(train.keys) & set(test.keys)
        assert len(open_set(source, "test", hold_out=False)) == 30


def test_a_pack_of_the_other_split_is_found_by_a_word_of_its_name(tmp_path: Path) -> None:
    pack(tmp_path / "latest.npz")
    pack(tmp_path / "trained.npz")
    with pytest.raises(UnreadableInput, match="2 packs"):
        open_set(tmp_path)


def test_classes_of_a_test_pack_are_those_of_the_training_pack(tmp_path: Path) -> None:
    pack(tmp_path / "train.npz")
    pack(tmp_path / "test.npz", 2, labels=[1, -1], classes=["bee", "elk"])
    found = open_set(tmp_path, "test")
    assert (found.classes, found.labels.tolist()) == (("cat", "dog", "elk"), [2, -1])
    pack(tmp_path / "test.npz", 2, labels=[0, 1], classes=["bee", "elk"])
    with pytest.raises(InputError, match="no class 'bee'"):
        open_set(tmp_path, "test")


def test_damaged_packs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK nothing")
    np.savez(tmp_path / "b.npz", images=np.zeros(3))
    np.savez(tmp_path / "c.npz", jpeg=np.zeros(3, np.uint8), offsets=np.array([0, 9]), labels=np.array([1]))
    (tmp_path / "d.npz").touch()
    for name, message in (("a", "not a pack"), ("b", "images"), ("c", "offsets"), ("d", "not a pack")):
        with pytest.raises(UnreadableInput, match=message):
            open_set(tmp_path / f"{name}.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_truncated_and_damaged_packs_are_refused(save: Callable[..., None], tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    save(path, x_train=pixels(0)[None], y_train=np.zeros(1), x_test=pixels(1)[None], y_test=np.zeros(1))
    whole = path.read_bytes()
    refused = 0
    for at in range(0, len(whole), 41):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            try:
                open_set(path)
            except InputError:
                refused += 1
    assert refused > len(whole) / 41  # every truncation and most flips: some bytes of a zip file have no effect


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["cat", "dog", "elk"] * 2}, "not numbers"),
        ({"labels": [0, 1, 2, 0, 1, np.nan]}, "nan is not a class number"),
        ({"labels": [0, 1, 2, 0, 1, 0.5]}, r"0\.5 is not a class number"),
        ({"labels": [0, 1, 2, 0, 1, -2]}, "-2 is not a class number"),
        ({"labels": [0, 1, 2, 0, 1, 10**9]}, "is not a class number"),
        ({"labels": [0, 1, 2, 0, 1, 3]}, "highest label is 3, but there are 3 class names"),
        ({"classes": "cat"}, "highest label is 2, but there are 1 class names"),
        ({"labels": np.eye(6)}, r"6 images, but the labels have shape \(6, 6\)"),
        ({"labels": np.zeros(5)}, r"6 images, but the labels have shape \(5,\)"),
        ({"offsets": [0], "labels": np.zeros(0)}, "has no images"),
        ({"offsets": [], "labels": np.zeros(0)}, "offsets"),
        ({"offsets": 3}, "offsets"),
        ({"offsets": ["a"] * 7}, "offsets"),
        ({"offsets": np.array([0, 9, 3, 12, 13, 14, 15], np.uint64)}, "offsets"),
        ({"offsets": [-9, 1, 2, 3, 4, 5, 6]}, "offsets"),
    ],
)
def test_inconsistent_packs_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as raised:
        open_set(pack(tmp_path / "x.npz", **changes))
    assert raised.value.hint
    assert "x.npz" in str(raised.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((2, 8, 8, 3), 200.0), r"from 200 to 200 are not in \[0, 1\]"),
        (np.full((2, 8, 8, 3), -0.5), "are not in"),
        (np.full((2, 8, 8, 3), np.nan), "not finite"),
        (np.r_[np.zeros((80, 8, 8, 3)), np.full((1, 8, 8, 3), 9.0)], "from 0 to 9"),
        (np.zeros((2, 8, 8, 3), np.int64), "int64"),
        (np.zeros((2, 3, 8, 8), np.uint8), r"shape \(2, 3, 8, 8\) is not a set of images\n.*transpose\(0, 2, 3, 1\)"),
        (np.zeros((2, 192), np.uint8), "not a set of images"),
        (np.zeros((0, 8, 8, 3)), "not a set of images"),
        (np.zeros(()), "not a set of images"),
    ],
)
def test_wrong_values_are_reported(values: np.ndarray, message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x_train=values, y_train=np.zeros(values.shape[:1]))
    with pytest.raises(InputError, match=message) as raised:
        open_set(tmp_path / "x.npz")
    assert raised.value.hint


def test_gray_arrays_become_rgb(tmp_path: Path) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "digits.npz", x_train=gray, y_train=np.arange(3), x_test=gray[:1], y_test=np.arange(1))
    assert open_set(tmp_path / "digits.npz").read(1).shape == (28, 28, 3)
    assert len(open_set(tmp_path / "digits.npz", "test")) == 1


def test_class_folders_with_and_without_a_test_split(tmp_path: Path) -> None:
    for split, count in (("train", 2), ("val", 1)):
        for k, name in enumerate(("ash", "elm")):
            for i in range(count):
                save(tmp_path / "set" / split / name / f"{i}.png", 10 * k + i)
    found = open_set(tmp_path / "set")
    assert (found.classes, found.labels.tolist()) == (("ash", "elm"), [0, 0, 1, 1])
    assert open_set(tmp_path / "set", "test").labels.tolist() == [0, 1]
    assert open_set(f"imagenet:{tmp_path / 'set'}").labels.tolist() == [0, 0, 1, 1]
    assert open_set(f"imagenet:{tmp_path / 'set'}", "test").labels.tolist() == [0, 1]
    for i in range(20):
        save(tmp_path / "own" / ("a" if i % 2 else "b") / f"{i}.png", i)
    train, test = open_set(tmp_path / "own"), open_set(tmp_path / "own", "test")
    assert len(train) + len(test) == 20
    assert not set(train.keys) & set(test.keys)
    assert len(test) > 0


@pytest.mark.parametrize("name", ["", "imagenet:"])
def test_classes_of_a_test_folder_are_those_of_the_training_folder(name: str, tmp_path: Path) -> None:
    for i, place in enumerate(("train/ash", "train/elm", "train/oak", "val/elm", "val/oak")):
        save(tmp_path / place / "0.png", i)
    (tmp_path / "val" / "ash").mkdir()  # its images are in the training split only
    found = open_set(f"{name}{tmp_path}", "test")
    assert (found.classes, found.labels.tolist()) == (("ash", "elm", "oak"), [1, 2])
    shutil.rmtree(tmp_path / "val" / "elm")
    assert open_set(f"{name}{tmp_path}", "test").labels.tolist() == [2]
    shutil.rmtree(tmp_path / "val" / "oak")
    with pytest.raises(UnreadableInput, match="no images"):
        open_set(f"{name}{tmp_path}", "test")
    save(tmp_path / "val" / "yew" / "0.png", 0)
    with pytest.raises(InputError, match="no class 'yew'") as raised:
        open_set(f"{name}{tmp_path}", "test")
    assert raised.value.hint


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for i in range(20):
        save(tmp_path / ("car" if i % 2 else "train") / f"{i}.png", i)
    for split in ("train", "test"):
        found = open_set(tmp_path, split)
        assert found.classes == ("car", "train")
        assert set(found.labels.tolist()) == {0, 1}


def test_a_single_training_folder_contains_the_classes(tmp_path: Path) -> None:
    for i in range(20):
        save(tmp_path / "train" / ("ash" if i % 2 else "elm") / f"{i}.png", i)
    train, test = open_set(tmp_path), open_set(tmp_path, "test")
    assert train.classes == test.classes == ("ash", "elm")
    assert (len(train) + len(test), set(train.keys) & set(test.keys)) == (20, set())
    save(tmp_path / "loose.png", 0)  # an album with images of trains
    assert (len(open_set(tmp_path)), open_set(tmp_path).classes) == (21, ())


def test_too_few_images_for_a_test_split_are_reported(tmp_path: Path) -> None:
    for name in ("ash", "elm"):
        save(tmp_path / name / "0.png", 0)
    with pytest.raises(InputError, match="none of the 2 images is in the test split") as raised:
        open_set(tmp_path, "test")
    assert "train/ and test/" in (raised.value.hint or "")
    assert len(open_set(tmp_path, "test", hold_out=False)) == 2


def test_plain_folders_have_no_labels(tmp_path: Path) -> None:
    save(tmp_path / "one.png", 0)
    found = open_set(tmp_path)
    assert (len(found), found.labels.tolist(), found.classes) == (1, [-1], ())
    assert len(open_set(tmp_path, "test")) == 1  # too few to divide


def test_indoor67_and_places205(tmp_path: Path) -> None:
    indoor = tmp_path / "indoor"
    for name in ("attic", "bar"):
        for i in range(2):
            save(indoor / "Images" / name / f"{i}.jpg", i)
    (indoor / "TrainImages.txt").write_text("attic/0.jpg\nbar/0.jpg\n")
    (indoor / "TestImages.txt").write_text("bar/1.jpg\n")
    assert open_set(f"indoor67:{indoor}").labels.tolist() == [0, 1]
    assert open_set(f"indoor67:{indoor}", "test").labels.tolist() == [1]
    places = tmp_path / "places"
    save(places / "images256" / "a" / "abbey" / "x.jpg", 0)
    save(places / "images256" / "z" / "zoo" / "y.jpg", 1)
    (places / "trainvalsplit_places205").mkdir()
    (places / "trainvalsplit_places205" / "train_places205.csv").write_text("a/abbey/x.jpg 0\nz/zoo/y.jpg 1\n")
    found = open_set(f"places205:{places}")
    assert (found.labels.tolist(), found.classes) == ([0, 1], ("a/abbey", "z/zoo"))
    assert found.read(1).shape == (20, 24, 3)
    with pytest.raises(UnreadableInput, match="val_places205"):
        open_set(f"places205:{places}", "test")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"a/abbey/x.jpg zero\n", "'zero'"),
        (b"path,label\na/abbey/x.jpg,0\n", "'label'"),
        (b"a/abb\xe9/x.jpg 0\n", "utf-8"),
        (b"a/abbey/x.jpg -7\n", "-7 is not a class number"),
        (b"a/abbey/x.jpg 99999999999999999999999\n", "not numbers"),
        (b"a/abbey/x.jpg\n", "no images"),
    ],
)
def test_damaged_lists_of_places205_are_refused(lines: bytes, message: str, tmp_path: Path) -> None:
    save(tmp_path / "a" / "abbey" / "x.jpg", 0)
    (tmp_path / "train_places205.csv").write_bytes(lines)
    with pytest.raises(InputError, match=message) as raised:
        open_set(f"places205:{tmp_path}")
    assert "train_places205.csv" in str(raised.value)
    assert raised.value.hint


def test_cifar_files_of_the_wrong_content_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(pickle.dumps({"data": []}))
    for source in (f"cifar10:{tmp_path}", f"cifar100:{tmp_path}"):
        with pytest.raises(UnreadableInput, match="CIFAR"):
            open_set(source)


@pytest.mark.parametrize("source", ["nowhere", "cifar10", "imagenet:/nowhere", "indoor67:/nowhere", "places205:/nowhere"])
def test_missing_data_sets_name_the_expected_files(source: str) -> None:
    with pytest.raises(UnreadableInput) as raised:
        open_set(source)
    assert raised.value.hint


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableInput, match="no images"):
        open_set(tmp_path)


def test_squares_are_cached_if_they_fit(tmp_path: Path) -> None:
    found = open_set(pack(tmp_path / "p.npz", 10), "train")
    kept, read = Squares(found, 16), Squares(found, 16, memory=1)
    places = np.array([2, 0])
    assert read.kept is None
    assert np.array_equal(kept.pixels(places), read.pixels(places))
    assert sum(len(batch) for batch in kept.batches(3)) == len(found)


def test_central_squares_and_reduced_images() -> None:
    wide = pixels(0, 10, 30)
    assert np.array_equal(center_square(wide, 10), wide[:, 10:20])
    assert shrink(wide, 5).shape == (5, 15, 3)
    assert shrink(wide, 11) is wide


def test_unreadable_images_are_skipped_and_reported(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / f"{i}.png", i)
    (tmp_path / "1.png").write_text("no image")
    found = readable(open_set(tmp_path), 16)
    assert [key for key in found.squares.found.keys] == ["0.png", "2.png"]
    assert len(found.left_out) == 1
    assert "1.png" in found.left_out[0]
    with pytest.raises(UnreadableInput, match=r"1\.png"):
        readable(open_set(tmp_path).subset([1]), 16)


def test_images_of_classes_without_a_folder_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "Images" / "attic" / "0.jpg", 0)
    (tmp_path / "TrainImages.txt").write_text("attic/0.jpg\nbar/0.jpg\n")
    assert len(open_set(f"indoor67:{tmp_path}")) == 1
    assert "1 of 2 images" in caplog.text


def test_sets_that_an_evaluation_splits(tmp_path: Path) -> None:
    """Without classes, the images of a training are those of the evaluation."""
    for place in ("plain", "classes/a", "classes/b", "splits/train", "splits/test"):
        for number in range(10):
            save(tmp_path / place / f"{number}.png", number)
    found = [has_test_split(parse_source(tmp_path / name)) for name in ("plain", "classes", "splits")]
    assert found == [False, True, True]


def test_fingerprints_distinguish_sets(tmp_path: Path) -> None:
    found = open_set(pack(tmp_path / "p.npz", 10))
    other = [
        found.subset(range(len(found) - 1)),
        replace(found, labels=found.labels[::-1].copy()),
        replace(found, classes=found.classes[::-1]),
        replace(found, read=lambda i: 255 - found.read(i)),
    ]
    assert found.fingerprint() == open_set(tmp_path / "p.npz").fingerprint()
    assert replace(found, name="moved").fingerprint() == found.fingerprint()
    assert len({one.fingerprint() for one in [found, *other]}) == 5
