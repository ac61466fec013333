"""Data sets as lists of pictures with labels: packs, CIFAR, class folders, Indoor-67, Places205, ImageNet, plain folders.

A data set is named by a path or by NAME:PATH with NAME one of cifar10, cifar100, imagenet, indoor67, places205. Nothing is
downloaded.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from latens.data.images import PICTURE_ENDINGS, Pixels, read_picture
from latens.errors import InputError, LatensError, UnreadableInput

Split = Literal["train", "test"]

NO_LABEL = -1
OWN_TEST_SHARE = 0.2  # of a data set that brings no test split, chosen by name
PLACES_LISTS = ("", "trainvalsplit_places205")
PLACES_ROOTS = ("", "images256", "data/vision/torralba/deeplearning/images256")


@dataclass(frozen=True)
class PictureSet:
    """Pictures that are read when asked for. `labels` are places in `classes`, or -1 where there are none."""

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray  # (n,) int64
    read: Callable[[int], Pixels]  # (H, W, 3) uint8; raises LatensError
    keys: tuple[str, ...]  # one name a picture, the same wherever the set lies

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, chosen: Sequence[int] | np.ndarray) -> PictureSet:
        places = np.asarray(chosen, dtype=np.int64)
        keys = tuple(self.keys[i] for i in places)
        return PictureSet(self.name, self.classes, self.labels[places], lambda i: self.read(int(places[i])), keys)


def open_set(source: str | Path, split: Split = "train") -> PictureSet:
    """The pictures of one split. Raises UnreadableInput where there are none, with what was looked for."""
    text = str(source)
    name, colon, place = text.partition(":")
    if name in NAMED and (colon or not Path(text).exists()):
        if not place:
            hint = f"write {name}:PATH, where PATH holds the data set as its authors pack it"
            raise UnreadableInput("where this data set lies is not said", where=text, hint=hint)
        return _some(NAMED[name](Path(place), split), text)
    path = Path(text)
    if path.suffix == ".npz" and path.is_file():
        return _some(_npz(path, split), text)
    if path.is_dir():
        return _some(_folder(path, split), text)
    hint = f"give a folder of pictures, an .npz pack, or {', '.join(f'{known}:PATH' for known in NAMED)}"
    raise UnreadableInput("no such data set", where=text, hint=hint)


def fraction_of(key: str) -> float:
    """A number in [0, 1) that depends on a picture's name alone, so that a split does not move when others are added."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") / 2**32


def _some(found: PictureSet, where: str) -> PictureSet:
    if not len(found):
        raise UnreadableInput("the data set has no pictures", where=where, hint="see the README of the parts system")
    return found


def _own_split(found: PictureSet, split: Split) -> PictureSet:
    """Of a labelled set without a test split: a fifth, by name. Without labels both splits are the whole set."""
    if not found.classes:
        return found
    test = np.array([fraction_of(key) < OWN_TEST_SHARE for key in found.keys])
    chosen = np.flatnonzero(test if split == "test" else ~test)
    return found.subset(chosen)


# -------------------------------------------------------------------------------------------------- packs and CIFAR


def _npz(path: Path, split: Split) -> PictureSet:
    """A pack: keys jpeg, offsets, labels, classes (encoded pictures end to end), or x_train, y_train, x_test, y_test."""
    try:
        with np.load(path, allow_pickle=False) as pack:
            arrays = {name: pack[name] for name in pack.files}
    except (OSError, ValueError) as error:
        raise UnreadableInput(f"no pack of arrays ({error})", where=str(path), hint="save it with numpy.savez") from error
    if {"jpeg", "offsets", "labels"} <= set(arrays):
        return _encoded(path, arrays, split)
    for kind in ("x", "images"):
        if {f"{kind}_{split}", f"y_{split}"} <= set(arrays):
            return _arrays(f"{path.stem}", arrays[f"{kind}_{split}"], arrays[f"y_{split}"], (), str(path))
    hint = "packs hold jpeg, offsets and labels, or x_train, y_train, x_test and y_test"
    raise UnreadableInput(f"a pack with the keys {', '.join(sorted(arrays)) or 'none'}", where=str(path), hint=hint)


def _encoded(path: Path, arrays: dict[str, np.ndarray], split: Split) -> PictureSet:
    blob, offsets, labels = arrays["jpeg"], arrays["offsets"], arrays["labels"].astype(np.int64)
    if (
        blob.dtype != np.uint8
        or len(offsets) != len(labels) + 1
        or int(offsets[-1]) > len(blob)
        or np.any(np.diff(offsets) < 0)
    ):
        raise UnreadableInput("the offsets of this pack do not fit its pictures", where=str(path), hint="pack it again")

    def read(i: int) -> Pixels:
        try:
            return read_picture(blob[int(offsets[i]) : int(offsets[i + 1])].tobytes()).pixels
        except LatensError as error:
            raise error.at(f"{path}, picture {i}") from error

    classes = tuple(str(name) for name in arrays.get("classes", np.arange(labels.max() + 1)))
    name = path.stem
    keys = tuple(f"{name}-{i}" for i in range(len(labels)))
    found = PictureSet(name, classes, labels, read, keys)
    return found if split in name or _other(split) in name else _own_split(found, split)


def _other(split: Split) -> str:
    return "test" if split == "train" else "train"


def _arrays(name: str, pixels: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], where: str) -> PictureSet:
    if len(pixels) != len(labels):
        raise InputError(f"{len(pixels)} pictures but {len(labels)} labels", where=where, hint="pack it again")
    check_values(pixels[:64], where)
    labels = np.asarray(labels).astype(np.int64).ravel()
    classes = classes or tuple(str(k) for k in range(int(labels.max()) + 1))
    return PictureSet(
        name, classes, labels, lambda i: read_picture(pixels[i]).pixels, tuple(f"{name}-{i}" for i in range(len(labels)))
    )


def check_values(pixels: np.ndarray, where: str) -> None:
    """Raises InputError, with what to do, for pixel values that are neither uint8 nor float in [0, 1]."""
    if pixels.dtype.kind == "f" and pixels.size:
        if not np.isfinite(pixels).all():
            raise InputError("there are pixels that are not finite", where=where, hint="numpy.nan_to_num them first")
        low, high = float(pixels.min()), float(pixels.max())
        if low < 0 or high > 1:
            hint = "divide by 255 if they are 0..255; undo a normalisation by mean and deviation"
            raise InputError(f"float pixels from {low:g} to {high:g} are not in [0, 1]", where=where, hint=hint)
    elif pixels.dtype != np.uint8:
        raise InputError(f"pixels of type {pixels.dtype}", where=where, hint="use .astype(numpy.uint8) for values 0..255")


def _cifar(count: str) -> Callable[[Path, Split], PictureSet]:
    def read(root: Path, split: Split) -> PictureSet:
        from torchvision import datasets

        kind: Any = datasets.CIFAR100 if count == "100" else datasets.CIFAR10
        try:
            found = kind(str(root), train=split == "train", download=False)
        except (RuntimeError, OSError) as error:
            hint = f"give the folder that holds {kind.base_folder} as unpacked from {kind.filename}"
            raise UnreadableInput(f"CIFAR-{count} is not here, or not whole", where=str(root), hint=hint) from error
        return _arrays(f"CIFAR-{count}", found.data, np.array(found.targets), tuple(found.classes), str(root))

    return read


# --------------------------------------------------------------------------------------------------------- folders


def _folder(root: Path, split: Split) -> PictureSet:
    """Packs named *train*.npz and *test*.npz; train/ and test/ (or val/) with class folders; class folders; pictures."""
    packs = sorted(root.glob("*.npz"))
    if packs:
        chosen = [pack for pack in packs if split in pack.stem] or [pack for pack in packs if _other(split) not in pack.stem]
        if not chosen:
            raise UnreadableInput(f"no pack of the {split} split", where=str(root), hint="name one *train*.npz, one *test*.npz")
        return _npz(chosen[0], split)
    parts = {"train": ("train",), "test": ("test", "val", "validation")}
    divided = [root / name for name in parts[split] if (root / name).is_dir()]
    if (root / "train").is_dir() and divided:
        return _class_folders(divided[0], root.name)
    return _own_split(_class_folders(root, root.name), split)


def _class_folders(root: Path, name: str) -> PictureSet:
    """One folder a class; where pictures lie in `root` itself, or in one folder only, there are no labels."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    loose = _pictures(root, deep=False)
    inside = {folder: _pictures(folder) for folder in folders}
    full = [folder for folder in folders if inside[folder]]
    if loose or len(full) < 2:
        paths = loose + [path for folder in full for path in inside[folder]]
        return _of_files(name, root, paths, np.full(len(paths), NO_LABEL), ())
    paths = [path for folder in full for path in inside[folder]]
    labels = np.repeat(np.arange(len(full)), [len(inside[folder]) for folder in full])
    return _of_files(name, root, paths, labels, tuple(folder.name for folder in full))


def _pictures(folder: Path, *, deep: bool = True) -> list[Path]:
    found = folder.rglob("*") if deep else folder.iterdir()
    return sorted(path for path in found if path.suffix.lower() in PICTURE_ENDINGS and not path.name.startswith("."))


def _of_files(name: str, root: Path, paths: Sequence[Path], labels: np.ndarray, classes: tuple[str, ...]) -> PictureSet:
    keys = tuple(path.relative_to(root).as_posix() for path in paths)
    return PictureSet(name, classes, labels.astype(np.int64), lambda i: read_picture(paths[i]).pixels, keys)


def _imagenet(root: Path, split: Split) -> PictureSet:
    folder = root / ("train" if split == "train" else "val")
    if not folder.is_dir():
        hint = "ImageNet has train/ and val/, each with one folder a class; sort the validation pictures into theirs"
        raise UnreadableInput(f"no folder {folder.name}/", where=str(root), hint=hint)
    return _class_folders(folder, "ImageNet")


def _indoor67(root: Path, split: Split) -> PictureSet:
    """Images/CLASS/FILE with the lists TrainImages.txt and TestImages.txt of the authors."""
    listing, images = root / ("TrainImages.txt" if split == "train" else "TestImages.txt"), root / "Images"
    if not (listing.is_file() and images.is_dir()):
        hint = "the folder holds Images/, TrainImages.txt and TestImages.txt"
        raise UnreadableInput(f"no {listing.name} or no Images/", where=str(root), hint=hint)
    lines = [line.strip() for line in listing.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    classes = tuple(sorted(path.name for path in images.iterdir() if path.is_dir()))
    known = {name: place for place, name in enumerate(classes)}
    kept = [line for line in lines if line.split("/")[0] in known]
    labels = np.array([known[line.split("/")[0]] for line in kept], dtype=np.int64)
    return _of_files("Indoor-67", images, [images / line for line in kept], labels, classes)


def _places205(root: Path, split: Split) -> PictureSet:
    """Lists train_places205.csv and val_places205.csv ("path label" or "path,label") beside the folder of pictures."""
    name = f"{'train' if split == 'train' else 'val'}_places205.csv"
    listing = next((root / part / name for part in PLACES_LISTS if (root / part / name).is_file()), None)
    if listing is None:
        raise UnreadableInput(f"no {name}", where=str(root), hint="unpack the lists of Places205 into this folder")
    with listing.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.reader(stream, delimiter="," if "," in listing.read_text()[:400] else " ") if len(row) >= 2]
    if not rows:
        return PictureSet("Places205", (), np.zeros(0, np.int64), lambda i: np.zeros((0, 0, 3), np.uint8), ())
    images = next((root / part for part in PLACES_ROOTS if (root / part / rows[0][0]).is_file()), None)
    if images is None:
        raise UnreadableInput(f"the pictures of {name} are not here", where=str(root), hint="unpack images256 into it")
    labels = np.array([int(row[1]) for row in rows], dtype=np.int64)
    classes = _names_of_places([row[0] for row in rows], labels)
    return _of_files("Places205", images, [images / row[0] for row in rows], labels, classes)


def _names_of_places(paths: Sequence[str], labels: np.ndarray) -> tuple[str, ...]:
    names = {int(label): Path(path).parent.as_posix() for path, label in zip(paths, labels, strict=True)}
    return tuple(names.get(k, str(k)) for k in range(int(labels.max()) + 1))


NAMED: dict[str, Callable[[Path, Split], PictureSet]] = {
    "cifar10": _cifar("10"),
    "cifar100": _cifar("100"),
    "imagenet": _imagenet,
    "indoor67": _indoor67,
    "places205": _places205,
}
