"""Labeled image sets: class folders, packs, CIFAR, Indoor-67, Places205, ImageNet; plain folders are sets without labels.

A set is given by a path or by NAME:PATH with NAME one of cifar10, cifar100, imagenet, imagenet32, indoor67, mnist, places205.
Nothing is downloaded. Class numbers follow the sorted names of the classes.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from latens.data.labeled_files import (
    NO_LABEL,
    LabeledImages,
    Split,
    find_images,
    from_arrays,
    from_files,
    from_folder,
    from_pack,
    from_split_folders,
)
from latens.data.packs import class_numbers
from latens.data.public import imagenet32_folder, log_version, read_imagenet32, read_mnist
from latens.data.source import Source
from latens.errors import UnreadableInput

__all__ = ["NAMED", "LabeledImages", "Split", "has_test_split", "open_labeled"]

logger = logging.getLogger(__name__)

PLACES_LISTS = ("", "trainvalsplit_places205")
PLACES_ROOTS = ("", "images256", "data/vision/torralba/deeplearning/images256")


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
        return _not_empty(from_pack(path, split, hold_out=hold_out), source)
    if not source.kind and path.is_dir():
        return _not_empty(from_folder(path, split, hold_out=hold_out), source)
    hint = f"give a folder of images, an .npz pack, or {', '.join(f'{known}:PATH' for known in NAMED)}"
    raise UnreadableInput("no such data set", where=str(source), hint=hint)


def has_test_split(source: Source) -> bool:
    """True for a labeled set and for a folder with train/: the test split of other folders is all of their images."""
    return bool(open_labeled(source).classes) or (source.path / "train").is_dir()


def _not_empty(found: LabeledImages, source: Source) -> LabeledImages:
    if not len(found):
        hint = "give a folder with images, or one with a folder of images for every class"
        raise UnreadableInput("the data set has no images", where=str(source), hint=hint)
    return found


def _cifar(count: str) -> Callable[[Path, Split], LabeledImages]:
    def read(root: Path, split: Split) -> LabeledImages:
        if root.suffix == ".npz" or any(root.glob("*.npz")):
            return from_pack(root, split, hold_out=True) if root.is_file() else from_folder(root, split, hold_out=True)
        from torchvision import datasets

        kind: Any = datasets.CIFAR100 if count == "100" else datasets.CIFAR10
        try:
            found = kind(str(root), train=split == "train", download=False)
        except (RuntimeError, OSError) as error:
            hint = f"give the folder that contains {kind.base_folder}, unpacked from {kind.filename}"
            raise UnreadableInput(f"CIFAR-{count} is missing or incomplete", where=str(root), hint=hint) from error
        return from_arrays(f"CIFAR-{count}", found.data, np.array(found.targets), tuple(found.classes), str(root))

    return read


def _imagenet(root: Path, split: Split) -> LabeledImages:
    folder = root / ("train" if split == "train" else "val")
    if not folder.is_dir():
        hint = "ImageNet needs train/ and val/ with one folder per class; move the validation images into class folders"
        raise UnreadableInput(f"there is no folder {folder.name}/", where=str(root), hint=hint)
    return from_split_folders(root / "train", folder, "ImageNet", split)


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
    return from_files("Indoor-67", images, [images / line for line in kept], labels, classes)


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
    return from_files("Places205", images, [images / row[0] for row in rows], labels, classes)


def _mnist(root: Path, split: Split) -> LabeledImages:
    if root.suffix == ".npz" or any(root.glob("*.npz")):
        return from_pack(root, split, hold_out=True) if root.is_file() else from_folder(root, split, hold_out=True)
    found = read_mnist(root, split)
    return from_arrays(found.name, found.pixels, found.labels, found.classes, str(root))


def _imagenet32(root: Path, split: Split) -> LabeledImages:
    batches = read_imagenet32(root, split) if root.is_dir() else None
    if batches is not None:
        return from_arrays(batches.name, batches.pixels, batches.labels, batches.classes, str(root))
    folder = imagenet32_folder(root, split)
    if folder is None:
        hint = "give the folder of train_data_batch_*.npz and val_data.npz, or of train_32x32/ and valid_32x32/"
        raise UnreadableInput(f"this folder has no {split} split of ImageNet32", where=str(root), hint=hint)
    paths = sorted(find_images(folder))
    log_version(len(paths), folder)
    return from_files("ImageNet32", folder, paths, np.full(len(paths), NO_LABEL), ())


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
