"""Data sets as lists of pictures with labels: packs, CIFAR, class folders, Indoor-67, Places205, ImageNet, plain folders.

A data set is named by a path or by NAME:PATH with NAME one of cifar10, cifar100, imagenet, indoor67, places205. Nothing is
downloaded.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from latens.data.images import PICTURE_ENDINGS, Pixels, read_picture
from latens.data.packs import check_offsets, check_pixels, class_names, class_numbers, read_pack
from latens.data.splits import place_of
from latens.errors import InputError, LatensError, UnreadableInput

Split = Literal["train", "test"]

SPLITS: Mapping[Split, tuple[str, ...]] = MappingProxyType({"train": ("train",), "test": ("test", "val", "validation")})
"""What the folders and packs of a split are called; the first that is there is taken."""
NO_LABEL = -1
OWN_TEST_SHARE = 0.2  # of a data set that brings no test split, chosen by name
PLACES_LISTS = ("", "trainvalsplit_places205")
PLACES_ROOTS = ("", "images256", "data/vision/torralba/deeplearning/images256")


@dataclass(frozen=True)
class LabeledSet:
    """Pictures that are read when asked for. `labels` are places in `classes`, or -1 where there are none."""

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray  # (n,) int64
    read: Callable[[int], Pixels]  # (H, W, 3) uint8; raises LatensError
    keys: tuple[str, ...]  # one name a picture, the same wherever the set lies

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, chosen: Sequence[int] | np.ndarray) -> LabeledSet:
        places = np.asarray(chosen, dtype=np.int64)
        keys = tuple(self.keys[i] for i in places)
        return LabeledSet(self.name, self.classes, self.labels[places], lambda i: self.read(int(places[i])), keys)


def open_set(source: str | Path, split: Split = "train", *, hold_out: bool = True) -> LabeledSet:
    """The pictures of one split. Raises InputError where there are none, with what was looked for.

    Of a labelled set that brings no test split a fifth is held out as one; without `hold_out` the set is given whole.
    """
    text = str(source)
    name, colon, place = text.partition(":")
    if name in NAMED and (colon or not Path(text).exists()):
        if not place:
            hint = f"write {name}:PATH, where PATH holds the data set as its authors pack it"
            raise UnreadableInput("where this data set lies is not said", where=text, hint=hint)
        return _some(NAMED[name](Path(place), split), text)
    path = Path(text)
    if path.suffix == ".npz" and path.is_file():
        return _some(_npz(path, split, hold_out=hold_out), text)
    if path.is_dir():
        return _some(_folder(path, split, hold_out=hold_out), text)
    hint = f"give a folder of pictures, an .npz pack, or {', '.join(f'{known}:PATH' for known in NAMED)}"
    raise UnreadableInput("no such data set", where=text, hint=hint)


def _some(found: LabeledSet, where: str) -> LabeledSet:
    if not len(found):
        raise UnreadableInput("the data set has no pictures", where=where, hint="see the README of the parts system")
    return found


def _own_split(found: LabeledSet, split: Split, where: Path) -> LabeledSet:
    """Of a labelled set without a test split: a fifth, by name. Without labels both splits are the whole set."""
    if not found.classes or not len(found):
        return found
    test = np.array([place_of(key) < OWN_TEST_SHARE for key in found.keys])
    chosen = np.flatnonzero(test if split == "test" else ~test)
    if not len(chosen):
        what = f"none of the {len(found)} pictures falls into the {split} split, for which a fifth is held out by name"
        raise InputError(what, where=str(where), hint="give more pictures, or both splits as folders train/ and test/")
    return found.subset(chosen)


def _place(name: str, known: Sequence[str], where: Path) -> int:
    """Where a class stands among those of the training split: another split may lack some. Raises InputError for others."""
    if name not in known:
        hint = "name the classes alike in both splits, or take this one out"
        raise InputError(f"the training split has no class '{name}'", where=str(where), hint=hint)
    return known.index(name)


# -------------------------------------------------------------------------------------------------- packs and CIFAR


def _npz(path: Path, split: Split, *, hold_out: bool, known: tuple[str, ...] = ()) -> LabeledSet:
    """A pack: keys jpeg, offsets, labels, classes (encoded pictures end to end), or x_train, y_train, x_test, y_test.

    `known` are the classes of the training split where that is another pack.
    """
    arrays = read_pack(path)
    if {"jpeg", "offsets", "labels"} <= set(arrays):
        found = _encoded(path, arrays, known)
        return _own_split(found, split, path) if hold_out else found
    for kind in ("x", "images"):
        if {f"{kind}_{split}", f"y_{split}"} <= set(arrays):
            return _arrays(path.stem, arrays[f"{kind}_{split}"], arrays[f"y_{split}"], (), str(path))
    hint = "packs hold jpeg, offsets and labels, or x_train, y_train, x_test and y_test"
    raise UnreadableInput(f"a pack with the keys {', '.join(sorted(arrays)) or 'none'}", where=str(path), hint=hint)


def _encoded(path: Path, arrays: dict[str, np.ndarray], known: tuple[str, ...]) -> LabeledSet:
    blob, offsets, name = arrays["jpeg"], arrays["offsets"], path.stem
    check_offsets(blob, offsets, str(path))
    labels = class_numbers(arrays["labels"], len(offsets) - 1, str(path))
    classes = class_names(labels, arrays.get("classes", known), str(path))
    if known and classes != known:
        place = {k: NO_LABEL if k < 0 else _place(classes[k], known, path) for k in set(labels.tolist())}
        labels, classes = np.array([place[k] for k in labels.tolist()], dtype=np.int64), known

    def read(i: int) -> Pixels:
        try:
            return read_picture(blob[int(offsets[i]) : int(offsets[i + 1])].tobytes()).pixels
        except LatensError as error:
            raise error.at(f"{path}, picture {i}") from error

    return LabeledSet(name, classes, labels, read, tuple(f"{name}-{i}" for i in range(len(labels))))


def _arrays(name: str, pixels: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], where: str) -> LabeledSet:
    check_pixels(pixels, where)
    labels = class_numbers(labels, len(pixels), where)
    keys = tuple(f"{name}-{i}" for i in range(len(labels)))
    return LabeledSet(name, class_names(labels, classes, where), labels, lambda i: read_picture(pixels[i]).pixels, keys)


def _cifar(count: str) -> Callable[[Path, Split], LabeledSet]:
    def read(root: Path, split: Split) -> LabeledSet:
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


def _folder(root: Path, split: Split, *, hold_out: bool) -> LabeledSet:
    """A pack, or one *train*.npz and one *test*.npz; train/ and test/ (or val/); class folders; pictures."""
    packs = sorted(root.glob("*.npz"))
    if len(packs) == 1:
        return _npz(packs[0], split, hold_out=hold_out)
    if packs:
        of_train, of_test = _pack_of("train", packs, root), _pack_of("test", packs, root)
        if split == "train":
            return _npz(of_train, split, hold_out=False)
        known = np.ravel(read_pack(of_train, ("classes",)).get("classes", ()))
        return _npz(of_test, split, hold_out=False, known=tuple(str(name) for name in known))
    train, beside = root / "train", [root / name for name in SPLITS["test"] if (root / name).is_dir()]
    if train.is_dir() and beside:
        return _split_folders(train, beside[0], root.name, split)
    # alone it holds the classes; among others, or beside pictures, it is a class or an album
    alone = _subfolders(root) == [train] and not any(_find(root, deep=False))
    found = _class_folders(train if alone else root, root.name)
    return _own_split(found, split, root) if hold_out else found


def _pack_of(split: Split, packs: Sequence[Path], root: Path) -> Path:
    """The pack that is called by a split, as a word: `latest.npz` is no test split."""
    for name in SPLITS[split]:
        found = [pack for pack in packs if name in re.split(r"[^a-z]+", pack.stem.lower())]
        if len(found) == 1:
            return found[0]
    hint = "name one of them *train*.npz and one *test*.npz, or give a single pack"
    raise UnreadableInput(f"{len(packs)} packs, and not one that is the {split} split", where=str(root), hint=hint)


def _split_folders(train: Path, test: Path, name: str, split: Split) -> LabeledSet:
    if split == "train":
        return _class_folders(train, name)
    return _class_folders(test, name, _classes(train) if train.is_dir() else ())


def _classes(root: Path) -> tuple[str, ...]:
    """Names of the folders with pictures; none where pictures lie in `root` itself, or in one folder only."""
    full = tuple(folder.name for folder in _subfolders(root) if any(_find(folder)))
    return () if len(full) < 2 or any(_find(root, deep=False)) else full


def _class_folders(root: Path, name: str, known: tuple[str, ...] = ()) -> LabeledSet:
    """One folder a class; `known` are the classes of the training split where that is another folder."""
    loose = _pictures(root, deep=False)
    inside = {folder: _pictures(folder) for folder in _subfolders(root)}
    paths = loose + [path for pictures in inside.values() for path in pictures]
    classes = known or _classes(root)
    if loose or not classes:
        return _of_files(name, root, paths, np.full(len(paths), NO_LABEL), ())
    places = {folder: _place(folder.name, classes, root) for folder, pictures in inside.items() if pictures}
    labels = [places[folder] for folder, pictures in inside.items() for _ in pictures]
    return _of_files(name, root, paths, np.array(labels), classes)


def _subfolders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _find(folder: Path, *, deep: bool = True) -> Iterator[Path]:
    found = folder.rglob("*") if deep else folder.iterdir()
    return (path for path in found if path.suffix.lower() in PICTURE_ENDINGS and not path.name.startswith("."))


def _pictures(folder: Path, *, deep: bool = True) -> list[Path]:
    return sorted(_find(folder, deep=deep))


def _of_files(name: str, root: Path, paths: Sequence[Path], labels: np.ndarray, classes: tuple[str, ...]) -> LabeledSet:
    keys = tuple(path.relative_to(root).as_posix() for path in paths)
    return LabeledSet(name, classes, labels.astype(np.int64), lambda i: read_picture(paths[i]).pixels, keys)


def _imagenet(root: Path, split: Split) -> LabeledSet:
    folder = root / ("train" if split == "train" else "val")
    if not folder.is_dir():
        hint = "ImageNet has train/ and val/, each with one folder a class; sort the validation pictures into theirs"
        raise UnreadableInput(f"no folder {folder.name}/", where=str(root), hint=hint)
    return _split_folders(root / "train", folder, "ImageNet", split)


def _indoor67(root: Path, split: Split) -> LabeledSet:
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


def _places205(root: Path, split: Split) -> LabeledSet:
    """Lists train_places205.csv and val_places205.csv ("path label" or "path,label") beside the folder of pictures."""
    name = f"{'train' if split == 'train' else 'val'}_places205.csv"
    listing = next((root / part / name for part in PLACES_LISTS if (root / part / name).is_file()), None)
    if listing is None:
        raise UnreadableInput(f"no {name}", where=str(root), hint="unpack the lists of Places205 into this folder")
    try:
        text = listing.read_text(encoding="utf-8")
        rows = [row for row in csv.reader(text.splitlines(), delimiter="," if "," in text[:400] else " ") if len(row) >= 2]
        given = np.array([int(row[1]) for row in rows])
    except (ValueError, csv.Error) as error:  # UnicodeDecodeError is a ValueError
        hint = 'each line is "path label", in UTF-8, with a whole number as label'
        raise UnreadableInput(f"no list of labelled pictures ({error})", where=str(listing), hint=hint) from error
    if not rows:
        raise UnreadableInput("this list has no pictures", where=str(listing), hint="unpack the lists of Places205 again")
    images = next((root / part for part in PLACES_ROOTS if (root / part / rows[0][0]).is_file()), None)
    if images is None:
        raise UnreadableInput(f"the pictures of {name} are not here", where=str(root), hint="unpack images256 into it")
    labels = class_numbers(given, len(rows), str(listing))
    classes = _names_of_places([row[0] for row in rows], labels)
    return _of_files("Places205", images, [images / row[0] for row in rows], labels, classes)


def _names_of_places(paths: Sequence[str], labels: np.ndarray) -> tuple[str, ...]:
    names = {int(label): Path(path).parent.as_posix() for path, label in zip(paths, labels, strict=True)}
    return tuple(names.get(k, str(k)) for k in range(int(labels.max()) + 1))


NAMED: dict[str, Callable[[Path, Split], LabeledSet]] = {
    "cifar10": _cifar("10"),
    "cifar100": _cifar("100"),
    "imagenet": _imagenet,
    "indoor67": _indoor67,
    "places205": _places205,
}
