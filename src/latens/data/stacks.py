"""Reading and writing of TIFF stacks page by page: files of any size need the memory of one page.

tifffile (from the extra `micro`) reads the formats that Pillow does not support: 64-bit floats, 16-bit colors at full depth,
and ImageJ stacks above 4 GB, whose pages are not listed in the file.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from latens.data.files import reading
from latens.data.images import ImageLimits, Pixels, read_image
from latens.errors import InputError, LatensError, LimitExceeded, UnreadableInput

MAX_FRAMES = 100_000
TIFF_ENDINGS = frozenset({".tif", ".tiff"})
GRAY_DEEP = frozenset({"I;16", "I;16B", "I;16L", "I", "F"})  # Pillow's modes of gray values with more than 8 bits
CLASSIC_LIMIT = 2**32 - 2**20  # bytes that a TIFF with 32-bit offsets can address, minus space for the last directory
FRAME = re.compile(r"(.+\.tiff?)#([1-9][0-9]*)", re.I)
BITS, DESCRIPTION = 258, 270  # tags
MASKS = b"msk\0"  # description of a page that is the mask of one object; four bytes fit into an entry
HINT = "copy the file again; the extra `micro` reads more kinds of TIFF: pip install 'latens[micro]'"

# ---------------------------------------------------------------------------------------------------------- reading


def read_frames(path: Path, limits: ImageLimits | None = None) -> Iterator[Pixels]:
    """Yield the pages of a TIFF stack, or the single image of any other file, as uint8 (H, W, 3).

    Values of more than 8 bits are stretched from the 0.1 to the 99.9 percentile, because microscopes use only part of the
    range. Raises the errors of `read_image`, and LimitExceeded for too many pages.
    """
    limits = limits or ImageLimits()
    if path.suffix.lower() not in TIFF_ENDINGS:
        yield read_frame(path, limits)
        return
    with reading(path):
        if _needs_tifffile(path):
            yield from _by_tifffile(path, limits)
            return
        with _open_tiff(path) as image:
            for number in range(_checked_count(getattr(image, "n_frames", 1), path)):
                yield _page(image, number, path, limits)


def count_frames(path: Path) -> int:
    """The number of frames of `read_frames`. Raises UnreadableInput for a damaged TIFF."""
    if path.suffix.lower() not in TIFF_ENDINGS:
        return 1
    with reading(path):
        if not _needs_tifffile(path):
            with _open_tiff(path) as image:
                return _checked_count(getattr(image, "n_frames", 1), path)
        with _tifffile(path) as (_, stack, pages):
            return _checked_count(len(pages if stack is None else stack), path)


def read_frame(path: Path, limits: ImageLimits | None = None) -> Pixels:
    """The image of a file, the first page of a TIFF, or page N of stack.tif#N, as uint8 (H, W, 3), stretched as in stacks.

    Raises the errors of `read_frames`, and UnreadableInput for a page that does not exist.
    """
    limits = limits or ImageLimits()
    place = frame_place(path)
    if place is not None:
        page = next(itertools.islice(read_frames(place[0], limits), place[1] - 1, None), None)
        if page is None:
            raise UnreadableInput(f"there is no page {place[1]}", where=str(place[0]))
        return page
    if path.suffix.lower() in TIFF_ENDINGS:
        return next(read_frames(path, limits))
    deep = False
    with contextlib.suppress(Exception), Image.open(path, formats=("PNG", "PPM")) as image:  # reads only the header
        deep = image.mode in GRAY_DEEP and image.width * image.height <= limits.pixels
    if not deep:
        return read_image(path, limits=limits).pixels
    with reading(path), Image.open(path, formats=("PNG", "PPM")) as image:
        return _page(image, 0, path, limits)


def frame_place(path: Path) -> tuple[Path, int] | None:
    """Stack and page (from 1) of a name such as stack.tif#3, as in annotations of stacks; None for other names."""
    found = FRAME.fullmatch(path.name)
    if found is None or path.is_file():
        return None
    return path.with_name(found[1]), int(found[2])


def stretch(values: np.ndarray) -> Pixels:
    """Contrast stretch of values (H, W) or (H, W, 3) from the 0.1 to the 99.9 percentile, as uint8 (H, W, 3).

    Constant pages and non-finite values become black.
    """
    values = np.asarray(values, dtype=np.float64)
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, (0.1, 99.9)) if finite.size else (0.0, 0.0)
    scaled = (np.where(np.isfinite(values), values, low) - low) / (high - low) if high > low else np.zeros_like(values)
    scaled = np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    return np.repeat(scaled[:, :, None], 3, axis=2) if scaled.ndim == 2 else scaled


def _checked_count(count: int, path: Path) -> int:
    if count > MAX_FRAMES:
        raise LimitExceeded(f"{count:,} pages are more than the limit of {MAX_FRAMES:,}", where=str(path))
    return count


def _open_tiff(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=("TIFF",))
    except FileNotFoundError:
        raise
    except Exception as error:  # the tag parser raises many types of errors
        raise UnreadableInput(f"not a readable TIFF file ({error})", where=str(path), hint=HINT) from None


def _page(image: Image.Image, number: int, path: Path, limits: ImageLimits) -> Pixels:
    try:
        image.seek(number)
        _check_page(image.width, image.height, number, limits)
        if image.mode in GRAY_DEEP:
            return stretch(np.asarray(image))
        return read_image(image.copy(), limits=limits).pixels
    except LatensError as error:
        raise error.at(str(path)) from None
    except Exception as error:  # parsers raise many types of errors for damaged data
        raise UnreadableInput(f"page {number + 1} is damaged ({error})", where=str(path), hint=HINT) from None


def _check_page(width: int, height: int, number: int, limits: ImageLimits) -> None:
    if width * height > limits.pixels:
        raise LimitExceeded(f"page {number + 1} is larger than {limits.pixels:,} pixels")


# --------------------------------------------------------------------------------------------- reading with tifffile


def _needs_tifffile(path: Path) -> bool:
    """True if Pillow cannot read this file at full depth or does not find all pages.

    Raises UnreadableInput if pages would be lost and tifffile is not installed.
    """
    there = importlib.util.find_spec("tifffile") is not None
    try:
        with Image.open(path, formats=("TIFF",)) as image:
            tags: Any = image.tag_v2  # type: ignore[attr-defined]
            declared = re.search(r"^images=(\d+)", str(tags.get(DESCRIPTION, "")), re.M)
            listed = getattr(image, "n_frames", 1)
            if declared and listed == 1 < int(declared[1]) and not there:
                what = f"an ImageJ stack of {declared[1]} pages, of which the file lists only one"
                raise UnreadableInput(what, where=str(path), hint="pip install 'latens[micro]'")
            hidden = bool(declared) and listed == 1 < int(declared[1]) if declared else False
            return there and (hidden or (image.mode not in GRAY_DEEP and max(tags.get(BITS, (8,))) > 8))
    except (FileNotFoundError, PermissionError, LatensError):
        raise
    except Exception:  # the tag parser raises many types of errors
        return there


@contextlib.contextmanager
def _tifffile(path: Path) -> Iterator[tuple[Any, np.ndarray | None, Any]]:
    """(open file, its frames as a memory-mapped array if the file does not list its pages else None, its pages)."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            stack: np.ndarray | None = None
            if len(file.pages) == 1 and len(series.shape) > 2 and series.size > file.pages[0].size:
                stack = np.asarray(tifffile.memmap(path, mode="r")).reshape(-1, *file.pages[0].shape)
            pages = [page for page in file.pages if not getattr(page, "is_reduced", False)] if stack is None else ()
            yield file, stack, pages
    except (LatensError, FileNotFoundError, PermissionError, GeneratorExit):
        raise
    except Exception as error:  # parsers raise many types of errors for damaged data
        raise UnreadableInput(f"not a readable TIFF file ({error})", where=str(path), hint=HINT) from None


def _by_tifffile(path: Path, limits: ImageLimits) -> Iterator[Pixels]:
    with _tifffile(path) as (_, stack, pages):
        frames = pages if stack is None else stack
        for number in range(_checked_count(len(frames), path)):
            try:
                if stack is None:
                    _check_page(pages[number].imagewidth, pages[number].imagelength, number, limits)
                values = np.asarray(pages[number].asarray() if stack is None else stack[number])
                yield _shown(values, number)
            except LatensError as error:
                raise error.at(str(path)) from None


def _shown(values: np.ndarray, number: int) -> Pixels:
    """A page of any kind as uint8 (H, W, 3)."""
    if values.ndim == 3 and values.shape[2] not in (1, 3, 4) and values.shape[0] in (1, 3, 4):
        values = np.moveaxis(values, 0, 2)
    if values.ndim == 3 and values.shape[2] in (1, 3, 4):
        values = values[..., 0] if values.shape[2] == 1 else values[..., :3]
    if values.ndim not in (2, 3) or values.dtype.kind not in "buif":
        raise InputError(f"page {number + 1} is not an image: {values.dtype} of shape {values.shape}")
    if values.dtype == np.uint8:
        return np.repeat(values[:, :, None], 3, axis=2) if values.ndim == 2 else np.ascontiguousarray(values)
    return stretch(values)


# ---------------------------------------------------------------------------------------------------------- writing


class StackWriter:
    """Write a TIFF page by page into an open file: 8-bit gray (H, W) or color (H, W, 3), losslessly compressed.

    `big` selects 64-bit offsets (BigTIFF); without it, LimitExceeded is raised at 4 GB. Pages are not kept in memory. `masks`
    marks every page as the mask of one object (`labels` reads the mark).
    """

    def __init__(self, target: BinaryIO, *, big: bool = False, masks: bool = False) -> None:
        self._target = target
        self._big = big
        self._masks = masks
        self.pages = 0
        target.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0) if big else struct.pack("<2sHI", b"II", 42, 0))
        self._position = 16 if big else 8
        self._link = 8 if big else 4  # position at which the offset of the next directory is written

    def write(self, page: np.ndarray) -> None:
        """Append a page of 8-bit values."""
        data = zlib.compress(np.ascontiguousarray(page, dtype=np.uint8).tobytes(), 6)
        if not self._big and self._position + len(data) > CLASSIC_LIMIT:
            raise LimitExceeded("a TIFF of masks or overlays would exceed 4 GB", hint="segment fewer frames at once")
        channels = 1 if page.ndim == 2 else page.shape[2]
        gap = len(data) % 2  # directories start at even offsets
        start, directory = self._position, self._position + len(data) + gap
        bits = 8 if channels == 1 else 0
        entries = [
            (256, 4, 1, page.shape[1]), (257, 4, 1, page.shape[0]), (258, 3, channels, bits), (259, 3, 1, 8),
            (262, 3, 1, 1 if channels == 1 else 2),
            *([(DESCRIPTION, 2, 4, int.from_bytes(MASKS, "little"))] if self._masks else ()),
            (273, 16 if self._big else 4, 1, start), (277, 3, 1, channels),
            (278, 4, 1, page.shape[0]), (279, 16 if self._big else 4, 1, len(data)),
        ]  # fmt: skip
        packed = self._directory(entries, directory)
        self._target.write(data + bytes(gap) + packed)
        self._position = directory + len(packed)
        self._target.seek(self._link)
        self._target.write(struct.pack("<Q" if self._big else "<I", directory))
        self._target.seek(self._position)
        self._link = directory + (8 + 20 * len(entries) if self._big else 2 + 12 * len(entries))
        self.pages += 1

    def _directory(self, entries: list[tuple[int, int, int, int]], place: int) -> bytes:
        """The directory at `place`: number of entries, entries, no next directory, and the bit depths of three channels."""
        count, entry, end = ("<Q", "<HHQQ", "<Q") if self._big else ("<H", "<HHII", "<I")
        after = place + struct.calcsize(count) + len(entries) * struct.calcsize(entry) + struct.calcsize(end)
        tail = b""
        packed = struct.pack(count, len(entries))
        for tag, kind, number, value in entries:
            if tag == BITS and number == 3:  # three 16-bit values fit only into an entry of a BigTIFF
                value = 8 | 8 << 16 | 8 << 32 if self._big else after
                tail = b"" if self._big else struct.pack("<4H", 8, 8, 8, 0)
            packed += struct.pack(entry, tag, kind, number, value)
        return packed + struct.pack(end, 0) + tail
