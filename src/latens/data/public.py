"""Readers of MNIST and ImageNet32 in their original layouts, as arrays."""

from __future__ import annotations

import gzip
import logging
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from latens.data.files import read_bytes
from latens.data.packs import read_pack
from latens.errors import UnreadableInput

logger = logging.getLogger(__name__)

FILE_LIMIT = 2**31  # bytes
IDX_NAMES = {"train": "train", "test": "t10k"}
SIDE = 32
# Two data sets are called ImageNet32: van den Oord et al. 2016 and Chrabaszcz et al. 2017 (about 0.2 bits/dim easier).
VERSIONS = {
    1_281_149: "van den Oord et al. 2016",
    49_999: "van den Oord et al. 2016",
    1_281_167: "Chrabaszcz et al. 2017",
    50_000: "Chrabaszcz et al. 2017",
}


class Arrays(NamedTuple):
    name: str
    pixels: np.ndarray  # uint8 (n, H, W) or (n, H, W, 3)
    labels: np.ndarray  # (n,), -1 without a label
    classes: tuple[str, ...]


def read_mnist(root: Path, split: Literal["train", "test"]) -> Arrays:
    """Read the idx files of MNIST, gzipped or not. Raises UnreadableInput."""
    stem = IDX_NAMES[split]
    pixels = _idx(_find(root, f"{stem}-images"), 3)
    labels = _idx(_find(root, f"{stem}-labels"), 1)
    if len(pixels) != len(labels):
        raise UnreadableInput(f"{len(pixels)} images but {len(labels)} labels", where=str(root), hint="copy the files again")
    return Arrays("MNIST", pixels, labels.astype(np.int64), tuple(str(digit) for digit in range(10)))


def _find(root: Path, stem: str) -> Path:
    for path in sorted(root.rglob(f"{stem}*")) if root.is_dir() else []:
        if re.search(r"ubyte(\.gz)?$", path.name):
            return path
    hint = f"give the folder that contains {stem}-idx?-ubyte or {stem}-idx?-ubyte.gz, or a pack"
    raise UnreadableInput(f"MNIST is missing or incomplete: no {stem}", where=str(root), hint=hint)


def _idx(path: Path, dims: int) -> np.ndarray:
    """An array of bytes in the idx format."""
    data = read_bytes(path, limit=FILE_LIMIT)
    try:
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        shape = struct.unpack(f">{dims}I", data[4 : 4 + 4 * dims])
        if data[:4] != bytes((0, 0, 8, dims)):
            raise ValueError("another signature")
        return np.frombuffer(data, np.uint8, offset=4 + 4 * dims).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise UnreadableInput(f"not an idx file, or a damaged one ({error})", where=str(path), hint="copy it again") from error


def read_imagenet32(root: Path, split: Literal["train", "test"]) -> Arrays | None:
    """Read the .npz batches of ImageNet32 (`*train_data_batch*.npz`, `*val_data*.npz`); None if there are none.

    Logs the version of the data set, which the number of images identifies.
    """
    pattern = "train_data_batch" if split == "train" else "val_data"
    found = sorted(path for path in root.rglob("*.npz") if pattern in path.name)
    if not found:
        return None
    parts = [read_pack(path, ("data", "labels")) for path in found]
    for path, part in zip(found, parts, strict=True):
        if part.get("data", np.zeros(0)).ndim != 2 or part["data"].shape[1] != 3 * SIDE**2:
            hint = "batches contain data (n, 3072) and labels"
            raise UnreadableInput("not a batch of ImageNet32", where=str(path), hint=hint)
    pixels = np.concatenate([part["data"] for part in parts]).reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    labels = np.concatenate([np.ravel(part.get("labels", np.zeros(len(part["data"])))) for part in parts]).astype(np.int64) - 1
    log_version(len(pixels), root)
    return Arrays("ImageNet32", pixels.astype(np.uint8), labels, tuple(str(k + 1) for k in range(int(labels.max()) + 1)))


def imagenet32_folder(root: Path, split: Literal["train", "test"]) -> Path | None:
    """The image folder of a split (`train_32x32`, `valid_32x32`), or None."""
    names: Sequence[str] = ("train_32x32", "train") if split == "train" else ("valid_32x32", "val", "valid", "test")
    return next((root / name for name in names if (root / name).is_dir()), None)


def log_version(count: int, where: Path) -> None:
    """Log the version of ImageNet32 that has `count` images."""
    known = VERSIONS.get(count)
    if known is None:
        logger.warning("%s: neither version of ImageNet32 has %d images", where, count)
    else:
        logger.info("%s: %d images, ImageNet32 of %s", where, count, known)
