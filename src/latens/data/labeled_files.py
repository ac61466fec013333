"""Labeled images of packs and folders. Class numbers follow the sorted names of the classes."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np

from latens.data.duplicates import Distinct, digest_of
from latens.data.images import IMAGE_ENDINGS, Pixels, read_image
from latens.data.origins import drawn, without_drawn
from latens.data.packs import check_offsets, check_pixels, class_names, class_numbers, read_pack
from latens.data.splits import place_of
from latens.errors import InputError, LatensError, UnreadableInput

Split = Literal["train", "test"]

SPLITS: Mapping[Split, tuple[str, ...]] = MappingProxyType({"train": ("train",), "test": ("test", "val", "validation")})
"""Names of the folders and packs of a split; the first existing one is used."""
NO_LABEL = -1
TEST_SHARE = 0.2  # share of images in the test split of a set without one, chosen by hashes of their names
FINGERPRINT_IMAGES = 16  # number of images whose pixels enter the fingerprint of a set


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

    def distinct(self) -> LabeledImages:
        """The set without images whose pixels an earlier one has; warnings name them. Unreadable images stay."""
        seen, kept = Distinct(), []
        for number, key in enumerate(self.keys):
            try:
                digest = digest_of(self.read(number))
            except LatensError:  # the caller reports unreadable images
                digest = f"unreadable {number}"
            if seen.is_new(digest, key):
                kept.append(number)
        return self if len(kept) == len(self) else self.subset(kept)

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


# ------------------------------------------------------------------------------------------------------------ packs


def from_pack(path: Path, split: Split, *, hold_out: bool, known: tuple[str, ...] = ()) -> LabeledImages:
    """A pack with the keys jpeg, offsets, labels, classes (concatenated encoded images); images, labels; or x_train, ...

    `known` are the classes of the training split if that is another pack.
    """
    arrays = read_pack(path)
    if {"jpeg", "offsets", "labels"} <= set(arrays):
        found = _encoded(path, arrays, known)
        return _own_split(found, split, path) if hold_out else found
    for kind in ("x", "images"):
        if {f"{kind}_{split}", f"y_{split}"} <= set(arrays):
            return from_arrays(path.stem, arrays[f"{kind}_{split}"], arrays[f"y_{split}"], (), str(path))
    if {"images", "labels"} <= set(arrays):
        whole = from_arrays(path.stem, arrays["images"], arrays["labels"], known, str(path))
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


def from_arrays(name: str, pixels: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], where: str) -> LabeledImages:
    """A set of pixels (n, H, W) or (n, H, W, C) with one label per image. Raises InputError."""
    check_pixels(pixels, where)
    labels = class_numbers(labels, len(pixels), where)
    keys = tuple(f"{name}-{i}" for i in range(len(labels)))
    return LabeledImages(name, class_names(labels, classes, where), labels, lambda i: read_image(pixels[i]).pixels, keys)


# ---------------------------------------------------------------------------------------------------------- folders


def from_folder(root: Path, split: Split, *, hold_out: bool) -> LabeledImages:
    """A folder with one pack, or *train*.npz and *test*.npz; with train/ and test/ (or val/); with class folders; or images."""
    packs = sorted(root.glob("*.npz"))
    if len(packs) == 1:
        return from_pack(packs[0], split, hold_out=hold_out)
    if packs:
        of_train, of_test = _pack_of("train", packs, root), _pack_of("test", packs, root)
        if split == "train":
            return from_pack(of_train, split, hold_out=False)
        known = np.ravel(read_pack(of_train, ("classes",)).get("classes", ()))
        return from_pack(of_test, split, hold_out=False, known=tuple(str(name) for name in known))
    train, beside = root / "train", [root / name for name in SPLITS["test"] if (root / name).is_dir()]
    if train.is_dir() and beside:
        return from_split_folders(train, beside[0], root.name, split)
    # A single folder train/ contains the classes; among other folders or images it is itself a class.
    alone = _subfolders(root) == [train] and not _has_images(root, deep=False)
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


def from_split_folders(train: Path, test: Path, name: str, split: Split) -> LabeledImages:
    """The class folders of one split; the training split determines the classes."""
    if split == "train":
        return _class_folders(train, name)
    return _class_folders(test, name, _classes(train) if train.is_dir() else ())


def _classes(root: Path) -> tuple[str, ...]:
    """Names of the folders with images; empty if `root` itself contains images or has only one such folder."""
    full = tuple(folder.name for folder in _subfolders(root) if _has_images(folder))
    return () if len(full) < 2 or _has_images(root, deep=False) else full


def _class_folders(root: Path, name: str, known: tuple[str, ...] = ()) -> LabeledImages:
    """One folder per class; `known` are the classes of the training split if that is another folder."""
    loose = sorted(find_images(root, deep=False))
    inside = {folder: sorted(find_images(folder)) for folder in _subfolders(root)}
    paths = loose + [path for images in inside.values() for path in images]
    full = tuple(folder.name for folder, images in inside.items() if images)
    classes = known or (full if len(full) > 1 else ())
    if loose or not classes:
        return from_files(name, root, paths, np.full(len(paths), NO_LABEL), ())
    indices = {folder: _class_index(folder.name, classes, root) for folder, images in inside.items() if images}
    labels = [indices[folder] for folder, images in inside.items() for _ in images]
    return from_files(name, root, paths, np.array(labels), classes)


def _subfolders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def find_images(folder: Path, *, deep: bool = True) -> list[Path]:
    """Image files of a folder, with its subfolders if `deep`, without hidden files and figures of latens."""
    return without_drawn(_image_files(folder, deep=deep), folder)


def _has_images(folder: Path, *, deep: bool = True) -> bool:
    """True if `find_images` finds one; stops at the first."""
    return any(not drawn([os.path.abspath(path)]) for path in _image_files(folder, deep=deep))


def _image_files(folder: Path, *, deep: bool) -> Iterator[Path]:
    for place, below, names in os.walk(folder):
        if not deep:
            below.clear()
        for name in names:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_ENDINGS:
                yield Path(place, name)


def from_files(name: str, root: Path, paths: Sequence[Path], labels: np.ndarray, classes: tuple[str, ...]) -> LabeledImages:
    """A set of image files below `root`."""
    keys = tuple(path.relative_to(root).as_posix() for path in paths)
    return LabeledImages(name, classes, labels.astype(np.int64), lambda i: read_image(paths[i]).pixels, keys)
