"""Labeled image sets: class folders, packs, CIFAR, Indoor-67, Places205, ImageNet; plain folders are sets without labels.

A set is given by a path or by NAME:PATH with NAME one of cifar10, cifar100, imagenet, imagenet32, indoor67, mnist, places205.
Nothing is downloaded. Class numbers follow the sorted names of the classes.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from latens.data.images import IMAGE_ENDINGS, Pixels, read_image
from latens.data.packs import check_offsets, check_pixels, class_names, class_numbers, read_pack
from latens.data.public import imagenet32_folder, log_version, read_imagenet32, read_mnist
from latens.data.source import Source
from latens.data.splits import place_of
from latens.errors import InputError, LatensError, UnreadableInput

logger = logging.getLogger(__name__)

Split = Literal["train", "test"]

SPLITS: Mapping[Split, tuple[str, ...]] = MappingProxyType({"train": ("train",), "test": ("test", "val", "validation")})
"""Names of the folders and packs of a split; the first existing one is used."""
NO_LABEL = -1
TEST_SHARE = 0.2  # share of images in the test split of a set without one, chosen by hashes of their names
FINGERPRINT_IMAGES = 16  # number of images whose pixels enter the fingerprint of a set
PLACES_LISTS = ("", "trainvalsplit_places205")
PLACES_ROOTS = ("", "images256", "data/vision/torralba/deeplearning/images256")


@dataclass(frozen=True)
class LabeledImages:
    """A set of images that are read on demand. `labels` are indices into `classes`, or -1 without a label."""

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray  # (n,) int64
    read: Callable[[int], Pixels]  # (H, W, 3) uint8; raises LatensError
    keys: tuple[str, ...]  # one name per image, independent of where the set is stored

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, chosen: Sequence[int] | np.ndarray) -> LabeledImages:
        """The images at these indices."""
        indices = np.asarray(chosen, dtype=np.int64)
        keys = tuple(self.keys[i] for i in indices)
        return LabeledImages(self.name, self.classes, self.labels[indices], lambda i: self.read(int(indices[i])), keys)

    def first_few(self, count: int) -> LabeledImages:
        """At most `count` images, chosen by hashes of their names, in the order of the set."""
        order = np.argsort([place_of(f"limit {key}") for key in self.keys], kind="stable")
        return self.subset(np.sort(order[:count]))

    def fingerprint(self) -> str:
        """A hash of the names, labels and classes of all images, and of the pixels of a few."""
        some = np.unique(np.linspace(0, len(self) - 1, FINGERPRINT_IMAGES).astype(int))
        parts = [repr((self.keys, self.classes)).encode(), self.labels.tobytes()]
        for number in some:
            try:
                pixels = self.read(int(number))
            except LatensError:  # the caller reports unreadable images
                continue
            parts += [repr(pixels.shape).encode(), pixels.tobytes()]
        return hashlib.sha256(b"|".join(parts)).hexdigest()


def open_labeled(source: Source, split: Split = "train", *, hold_out: bool = True) -> LabeledImages:
    """The images of one split. Raises InputError if there are none.

    For a labeled set without a test split, a fifth of the images is the test split; without `hold_out`, both splits are the
    whole set.
    """
    path = source.path
    if source.kind in NAMED:
        if not source.place:
            hint = f"write {source.kind}:PATH, where PATH is the folder of the data set in its original layout"
            raise UnreadableInput("the path of this data set is missing", where=str(source), hint=hint)
        return _not_empty(NAMED[source.kind](path, split), source)
    if not source.kind and path.suffix == ".npz" and path.is_file():
        return _not_empty(_npz(path, split, hold_out=hold_out), source)
    if not source.kind and path.is_dir():
        return _not_empty(_folder(path, split, hold_out=hold_out), source)
    hint = f"give a folder of images, an .npz pack, or {', '.join(f'{known}:PATH' for known in NAMED)}"
    raise UnreadableInput("no such data set", where=str(source), hint=hint)


def _not_empty(found: LabeledImages, source: Source) -> LabeledImages:
    if not len(found):
        hint = "give a folder with images, or one with a folder of images for every class"
        raise UnreadableInput("the data set has no images", where=str(source), hint=hint)
    return found


def _own_split(found: LabeledImages, split: Split, where: Path) -> LabeledImages:
    """A split of a set without a test split: a fifth of the images by name, or the rest. Unlabeled sets are not split."""
    if not found.classes or not len(found):
        return found
    test = np.array([place_of(key) < TEST_SHARE for key in found.keys])
    chosen = np.flatnonzero(test if split == "test" else ~test)
    if not len(chosen):
        what = f"none of the {len(found)} images is in the {split} split; a fifth of the images is held out by name"
        raise InputError(what, where=str(where), hint="give more images, or both splits as folders train/ and test/")
    return found.subset(chosen)


def _class_index(name: str, known: Sequence[str], where: Path) -> int:
    """The index of a class among the classes of the training split."""
    if name not in known:
        hint = "give the classes the same names in both splits, or remove this one"
        raise InputError(f"the training split has no class '{name}'", where=str(where), hint=hint)
    return known.index(name)


# -------------------------------------------------------------------------------------------------- packs and CIFAR


def _npz(path: Path, split: Split, *, hold_out: bool, known: tuple[str, ...] = ()) -> LabeledImages:
    """A pack with the keys jpeg, offsets, labels, classes (concatenated encoded images); images, labels; or x_train, ...

    `known` are the classes of the training split if that is another pack.
    """
    arrays = read_pack(path)
    if {"jpeg", "offsets", "labels"} <= set(arrays):
        found = _encoded(path, arrays, known)
        return _own_split(found, split, path) if hold_out else found
    for kind in ("x", "images"):
        if {f"{kind}_{split}", f"y_{split}"} <= set(arrays):
            return _arrays(path.stem, arrays[f"{kind}_{split}"], arrays[f"y_{split}"], (), str(path))
    if {"images", "labels"} <= set(arrays):
        whole = _arrays(path.stem, arrays["images"], arrays["labels"], known, str(path))
        return _own_split(whole, split, path) if hold_out else whole
    hint = "packs have the keys jpeg, offsets and labels; images and labels; or x_train, y_train, x_test and y_test"
    raise UnreadableInput(f"the pack has the keys {', '.join(sorted(arrays)) or 'none'}", where=str(path), hint=hint)


def _encoded(path: Path, arrays: dict[str, np.ndarray], known: tuple[str, ...]) -> LabeledImages:
    blob, offsets, name = arrays["jpeg"], arrays["offsets"], path.stem
    check_offsets(blob, offsets, str(path))
    labels = class_numbers(arrays["labels"], len(offsets) - 1, str(path))
    classes = class_names(labels, arrays.get("classes", known), str(path))
    if known and classes != known:
        index = {k: NO_LABEL if k < 0 else _class_index(classes[k], known, path) for k in set(labels.tolist())}
        labels, classes = np.array([index[k] for k in labels.tolist()], dtype=np.int64), known

    def read(i: int) -> Pixels:
        try:
            return read_image(blob[int(offsets[i]) : int(offsets[i + 1])].tobytes()).pixels
        except LatensError as error:
            raise error.at(f"{path}, image {i}") from error

    return LabeledImages(name, classes, labels, read, tuple(f"{name}-{i}" for i in range(len(labels))))


def _arrays(name: str, pixels: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], where: str) -> LabeledImages:
    check_pixels(pixels, where)
    labels = class_numbers(labels, len(pixels), where)
    keys = tuple(f"{name}-{i}" for i in range(len(labels)))
    return LabeledImages(name, class_names(labels, classes, where), labels, lambda i: read_image(pixels[i]).pixels, keys)


def _cifar(count: str) -> Callable[[Path, Split], LabeledImages]:
    def read(root: Path, split: Split) -> LabeledImages:
        if root.suffix == ".npz" or any(root.glob("*.npz")):
            return _npz(root, split, hold_out=True) if root.is_file() else _folder(root, split, hold_out=True)
        from torchvision import datasets

        kind: Any = datasets.CIFAR100 if count == "100" else datasets.CIFAR10
        try:
            found = kind(str(root), train=split == "train", download=False)
        except (RuntimeError, OSError) as error:
            hint = f"give the folder that contains {kind.base_folder}, unpacked from {kind.filename}"
            raise UnreadableInput(f"CIFAR-{count} is missing or incomplete", where=str(root), hint=hint) from error
        return _arrays(f"CIFAR-{count}", found.data, np.array(found.targets), tuple(found.classes), str(root))

    return read


# --------------------------------------------------------------------------------------------------------- folders


def _folder(root: Path, split: Split, *, hold_out: bool) -> LabeledImages:
    """A folder with one pack, or *train*.npz and *test*.npz; with train/ and test/ (or val/); with class folders; or images."""
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
    # A single folder train/ contains the classes; among other folders or images it is itself a class.
    alone = _subfolders(root) == [train] and not any(_find(root, deep=False))
    found = _class_folders(train if alone else root, root.name)
    return _own_split(found, split, root) if hold_out else found


def _pack_of(split: Split, packs: Sequence[Path], root: Path) -> Path:
    """The pack whose name contains the split as a word (`latest.npz` does not contain `test`)."""
    for name in SPLITS[split]:
        found = [pack for pack in packs if name in re.split(r"[^a-z]+", pack.stem.lower())]
        if len(found) == 1:
            return found[0]
    hint = "name one of them *train*.npz and one *test*.npz, or give a single pack"
    raise UnreadableInput(f"none of the {len(packs)} packs is the only {split} split", where=str(root), hint=hint)


def _split_folders(train: Path, test: Path, name: str, split: Split) -> LabeledImages:
    if split == "train":
        return _class_folders(train, name)
    return _class_folders(test, name, _classes(train) if train.is_dir() else ())


def _classes(root: Path) -> tuple[str, ...]:
    """Names of the folders with images; empty if `root` itself contains images or has only one such folder."""
    full = tuple(folder.name for folder in _subfolders(root) if any(_find(folder)))
    return () if len(full) < 2 or any(_find(root, deep=False)) else full


def _class_folders(root: Path, name: str, known: tuple[str, ...] = ()) -> LabeledImages:
    """One folder per class; `known` are the classes of the training split if that is another folder."""
    loose = sorted(_find(root, deep=False))
    inside = {folder: sorted(_find(folder)) for folder in _subfolders(root)}
    paths = loose + [path for images in inside.values() for path in images]
    classes = known or _classes(root)
    if loose or not classes:
        return _of_files(name, root, paths, np.full(len(paths), NO_LABEL), ())
    indices = {folder: _class_index(folder.name, classes, root) for folder, images in inside.items() if images}
    labels = [indices[folder] for folder, images in inside.items() for _ in images]
    return _of_files(name, root, paths, np.array(labels), classes)


def _subfolders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _find(folder: Path, *, deep: bool = True) -> Iterator[Path]:
    found = folder.rglob("*") if deep else folder.iterdir()
    return (path for path in found if path.suffix.lower() in IMAGE_ENDINGS and not path.name.startswith("."))


def _of_files(name: str, root: Path, paths: Sequence[Path], labels: np.ndarray, classes: tuple[str, ...]) -> LabeledImages:
    keys = tuple(path.relative_to(root).as_posix() for path in paths)
    return LabeledImages(name, classes, labels.astype(np.int64), lambda i: read_image(paths[i]).pixels, keys)


def _imagenet(root: Path, split: Split) -> LabeledImages:
    folder = root / ("train" if split == "train" else "val")
    if not folder.is_dir():
        hint = "ImageNet needs train/ and val/ with one folder per class; move the validation images into class folders"
        raise UnreadableInput(f"there is no folder {folder.name}/", where=str(root), hint=hint)
    return _split_folders(root / "train", folder, "ImageNet", split)


def _indoor67(root: Path, split: Split) -> LabeledImages:
    """Images/CLASS/FILE with the authors' lists TrainImages.txt and TestImages.txt."""
    listing, images = root / ("TrainImages.txt" if split == "train" else "TestImages.txt"), root / "Images"
    if not (listing.is_file() and images.is_dir()):
        hint = "the folder must contain Images/, TrainImages.txt and TestImages.txt"
        raise UnreadableInput(f"{listing.name} or Images/ is missing", where=str(root), hint=hint)
    lines = [line.strip() for line in listing.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    classes = tuple(sorted(path.name for path in images.iterdir() if path.is_dir()))
    known = {name: index for index, name in enumerate(classes)}
    kept = [line for line in lines if line.split("/")[0] in known]
    if len(kept) < len(lines):
        logger.warning("%s: skipped %d of %d images, whose classes have no folder", listing, len(lines) - len(kept), len(lines))
    labels = np.array([known[line.split("/")[0]] for line in kept], dtype=np.int64)
    return _of_files("Indoor-67", images, [images / line for line in kept], labels, classes)


def _places205(root: Path, split: Split) -> LabeledImages:
    """Lists train_places205.csv and val_places205.csv ("path label" or "path,label") and the folder of images."""
    name = f"{'train' if split == 'train' else 'val'}_places205.csv"
    listing = next((root / part / name for part in PLACES_LISTS if (root / part / name).is_file()), None)
    if listing is None:
        raise UnreadableInput(f"there is no {name}", where=str(root), hint="unpack the lists of Places205 into this folder")
    try:
        text = listing.read_text(encoding="utf-8")
        rows = [row for row in csv.reader(text.splitlines(), delimiter="," if "," in text[:400] else " ") if len(row) >= 2]
        given = np.array([int(row[1]) for row in rows])
    except (ValueError, csv.Error) as error:  # UnicodeDecodeError is a ValueError
        hint = 'each line must be "path label", in UTF-8, with an integer label'
        raise UnreadableInput(f"not a list of labeled images ({error})", where=str(listing), hint=hint) from error
    if not rows:
        raise UnreadableInput("the list has no images", where=str(listing), hint="unpack the lists of Places205 again")
    images = next((root / part for part in PLACES_ROOTS if (root / part / rows[0][0]).is_file()), None)
    if images is None:
        raise UnreadableInput(f"the images of {name} are missing", where=str(root), hint="unpack images256 into this folder")
    labels = class_numbers(given, len(rows), str(listing))
    names = {int(label): Path(row[0]).parent.as_posix() for row, label in zip(rows, labels, strict=True)}
    classes = tuple(names.get(k, str(k)) for k in range(int(labels.max()) + 1))
    return _of_files("Places205", images, [images / row[0] for row in rows], labels, classes)


def _mnist(root: Path, split: Split) -> LabeledImages:
    if root.suffix == ".npz" or any(root.glob("*.npz")):
        return _npz(root, split, hold_out=True) if root.is_file() else _folder(root, split, hold_out=True)
    found = read_mnist(root, split)
    return _arrays(found.name, found.pixels, found.labels, found.classes, str(root))


def _imagenet32(root: Path, split: Split) -> LabeledImages:
    batches = read_imagenet32(root, split) if root.is_dir() else None
    if batches is not None:
        return _arrays(batches.name, batches.pixels, batches.labels, batches.classes, str(root))
    folder = imagenet32_folder(root, split)
    if folder is None:
        hint = "give the folder of train_data_batch_*.npz and val_data.npz, or of train_32x32/ and valid_32x32/"
        raise UnreadableInput(f"this folder has no {split} split of ImageNet32", where=str(root), hint=hint)
    paths = sorted(_find(folder))
    log_version(len(paths), folder)
    return _of_files("ImageNet32", folder, paths, np.full(len(paths), NO_LABEL), ())


NAMED: Mapping[str, Callable[[Path, Split], LabeledImages]] = MappingProxyType(
    {
        "cifar10": _cifar("10"),
        "cifar100": _cifar("100"),
        "imagenet": _imagenet,
        "imagenet32": _imagenet32,
        "indoor67": _indoor67,
        "mnist": _mnist,
        "places205": _places205,
    }
)
"""Public data sets, read in their original layout."""
