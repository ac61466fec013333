"""Image packs (.npz): reading and validation of their arrays."""

from __future__ import annotations

import zipfile
from collections.abc import Collection
from pathlib import Path

import numpy as np

from latens.data.image_arrays import FLOAT_SLACK
from latens.data.npy import check_header
from latens.errors import InputError, LatensError, LimitExceeded, UnreadableInput

FREE_BYTES, MAX_EXPANSION = 2**28, 100  # larger arrays may be at most this many times as large as their file
MAX_CLASSES = 10**6  # larger labels are rejected as class numbers, because every class number gets a name


def read_pack(path: Path, only: Collection[str] = ()) -> dict[str, np.ndarray]:
    """The arrays of a pack, optionally `only` some keys. Raises UnreadableInput for a damaged file or another format,
    LimitExceeded for one that expands too much.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as pack:
            keys = [key for key in pack.files if not only or key in only]
            _check_size(pack.zip, keys, path)
            _check_headers(pack.zip, keys)
            return {key: pack[key] for key in keys}
    except LatensError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise many types of errors for damaged bytes
        what = f"not a pack of arrays, or a damaged one ({str(error).partition(chr(10))[0]})"
        raise UnreadableInput(what, where=str(path), hint="copy it again, or save it with numpy.savez") from error


def _check_size(archive: zipfile.ZipFile, keys: list[str], path: Path) -> None:
    """Raises LimitExceeded if the arrays would take far more memory than their file suggests, before any is read."""
    names = {f"{key}.npy" for key in keys} | set(keys)
    size = sum(member.file_size for member in archive.infolist() if member.filename in names)
    if size > FREE_BYTES + MAX_EXPANSION * path.stat().st_size:
        what = f"its arrays take {size:,} bytes, more than {MAX_EXPANSION} times the size of the file"
        raise LimitExceeded(what, where=str(path), hint="if you trust the pack, save it with numpy.savez (not compressed)")


def _check_headers(archive: zipfile.ZipFile, keys: list[str]) -> None:
    """Raises ValueError for an array whose header promises more than its member holds."""
    wanted = {f"{key}.npy" for key in keys}
    for member in archive.infolist():
        if member.filename in wanted:
            with archive.open(member) as stream:
                check_header(stream, member.file_size)  # type: ignore[arg-type]


def class_numbers(labels: np.ndarray, count: int, where: str) -> np.ndarray:
    """Labels as int64 (count,). Raises InputError unless they are one integer per image, from 0 (-1: unknown)."""
    if labels.shape not in ((count,), (count, 1)):
        hint = "give one class number per image; for one-hot labels use .argmax(1)"
        raise InputError(f"there are {count} images, but the labels have shape {labels.shape}", where=where, hint=hint)
    if labels.dtype.kind not in "iuf":
        hint = "number the classes from 0 and put their names under the key classes"
        raise InputError(f"labels of type {labels.dtype} are not numbers", where=where, hint=hint)
    wrong = labels[~((labels >= -1) & (labels < MAX_CLASSES) & (labels == np.floor(labels)))]
    if len(wrong):
        hint = "number the classes from 0, and use -1 for an unknown class"
        raise InputError(f"the label {wrong.flat[0]:g} is not a class number", where=where, hint=hint)
    return labels.astype(np.int64).ravel()


def class_names(labels: np.ndarray, names: np.ndarray | tuple[str, ...], where: str) -> tuple[str, ...]:
    """Names of the classes; their numbers if `names` is empty. Raises InputError for a label without a name."""
    names, highest = np.ravel(names), int(labels.max(initial=-1))
    if not len(names):
        return tuple(str(k) for k in range(highest + 1))
    if highest >= len(names):
        what = f"the highest label is {highest}, but there are {len(names)} class names"
        raise InputError(what, where=where, hint="number the classes from 0, and name each of them")
    return tuple(str(name) for name in names)


def check_offsets(blob: np.ndarray, offsets: np.ndarray, where: str) -> None:
    """Raises UnreadableInput unless `offsets` (n + 1,) divide the bytes of `blob` into n images."""
    if (
        blob.dtype != np.uint8
        or offsets.dtype.kind not in "iu"
        or (blob.ndim, offsets.ndim) != (1, 1)
        or not len(offsets)
        or int(offsets.max()) > len(blob)
        or int(offsets.min()) < 0
        or np.any(offsets[1:] < offsets[:-1])
    ):
        raise UnreadableInput("the offsets of the pack do not match its images", where=where, hint="pack it again")


def check_pixels(pixels: np.ndarray, where: str) -> None:
    """Raises InputError unless these are images (n, H, W) or (n, H, W, C), uint8 or float in [0, 1]."""
    shape = pixels.shape
    if not pixels.size or pixels.ndim not in (3, 4) or (pixels.ndim == 4 and shape[3] not in (1, 3, 4)):
        first = pixels.ndim == 4 and shape[1] in (1, 3, 4)
        hint = "the channels come last: .transpose(0, 2, 3, 1)" if first else "arrays are (n, H, W), or (n, H, W, 3)"
        raise InputError(f"an array of shape {shape} is not a set of images", where=where, hint=hint)
    if pixels.dtype.kind == "f":
        low, high = float(pixels.min()), float(pixels.max())
        if not np.isfinite([low, high]).all():
            raise InputError("some pixels are not finite", where=where, hint="use numpy.nan_to_num first")
        if low < -FLOAT_SLACK or high > 1 + FLOAT_SLACK:
            hint = "divide by 255 if they are 0..255; undo a normalization by mean and deviation"
            raise InputError(f"float pixels from {low:g} to {high:g} are not in [0, 1]", where=where, hint=hint)
    elif pixels.dtype != np.uint8:
        hint = "use .astype(numpy.uint8) for values 0..255"
        raise InputError(f"pixels of type {pixels.dtype} are not supported", where=where, hint=hint)
