"""Pages of label files as whole numbers, read by Pillow or tifffile."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageSequence

from latens.data.files import reading
from latens.data.limits import current_limits, hint, too_many_pixels
from latens.data.stack_writer import MASKS
from latens.data.stacks import DESCRIPTION, TIFF_ENDINGS
from latens.data.tiff import MAX_FRAMES
from latens.errors import InputError, LatensError, LimitExceeded, UnreadableInput
from latens.shapes import Int

MAX_PAGES = 16  # of a file, in images of the largest size

logger = logging.getLogger(__name__)


class Page(NamedTuple):
    """One page of a label file."""

    values: Int[np.ndarray, "H W"]
    is_mask: bool  # marked as the mask of one object


def read_pages(path: Path) -> list[Page]:
    """All pages of a file. Raises InputError unless they have one channel and the same size."""
    pages = [Page(_whole_numbers(values, path), marked) for values, marked in _images(path)]
    if any(page.values.ndim != 2 or page.values.shape != pages[0].values.shape for page in pages):
        raise InputError("label maps need one channel, and the same size for all pages", where=str(path))
    return pages


def _whole_numbers(values: np.ndarray, path: Path) -> np.ndarray:
    """Labels as integers from 0: values below 0 (edges of OpenCV's watershed) become 0. Raises InputError for fractions."""
    if np.issubdtype(values.dtype, np.floating):
        whole = np.rint(values)
        if not np.array_equal(whole, values) or np.abs(whole).max(initial=0) > 2**53:
            raise InputError("a label map holds whole numbers, not fractions", where=str(path), hint="save it as integers")
        values = whole.astype(np.int64)
    if values.dtype != np.bool_ and values.min(initial=0) < 0:
        logger.warning("%s: values below 0 are taken as background", path)
        values = np.maximum(values, 0)
    return values


def _images(path: Path) -> list[tuple[np.ndarray, bool]]:
    """The values of all pages, and whether each is marked as the mask of one object."""
    try:
        return _by_pillow(path)
    except UnreadableInput:
        found = _by_tifffile(path) if path.suffix.lower() in TIFF_ENDINGS else []
        if not found:
            raise
        return found


def _by_tifffile(path: Path) -> list[tuple[np.ndarray, bool]]:
    """Pages that Pillow cannot read, such as those of float64; empty without the package or if they cannot be read."""
    try:
        import tifffile
    except ImportError:
        return []
    try:
        with tifffile.TiffFile(path) as file:
            if len(file.pages) > MAX_FRAMES:
                return []
            size = (file.pages[0].imagewidth, file.pages[0].imagelength)  # type: ignore[union-attr]
            _check_memory(*size, len(file.pages), path)
            return [(_array(page, size), False) for page in file.pages]
    except LimitExceeded:
        raise
    except Exception:  # the error of Pillow counts
        return []


def _array(page: Any, size: tuple[int, int]) -> np.ndarray:
    """The values of a page of tifffile. Raises ValueError for another size or several channels, which were not checked."""
    if (page.imagewidth, page.imagelength) != size or page.samplesperpixel != 1:
        raise ValueError("pages of several sizes or channels")
    return np.asarray(page.asarray())


def _check_memory(width: int, height: int, count: int, path: Path) -> None:
    """Raises LimitExceeded for a page above the limits of images, and for more than MAX_PAGES of the largest pages."""
    limits = current_limits()
    limits.check(width, height, "the label map", str(path))
    if width * height * count > MAX_PAGES * limits.pixels:
        what = f"{count:,} pages of {width} x {height} pixels are more than {MAX_PAGES} images of the largest size"
        needed = -(-width * height * count // MAX_PAGES)
        raise LimitExceeded(what, where=str(path), hint=hint([f"pixels={needed}"]))


def _by_pillow(path: Path) -> list[tuple[np.ndarray, bool]]:
    with reading(path):
        try:
            with Image.open(path, formats=("TIFF", "PNG", "BMP", "PPM")) as image:
                if getattr(image, "n_frames", 1) > MAX_FRAMES:
                    raise LimitExceeded(f"more than {MAX_FRAMES:,} pages", where=str(path))
                _check_memory(*image.size, getattr(image, "n_frames", 1), path)
                size, pages = image.size, list[tuple[np.ndarray, bool]]()
                for page in ImageSequence.Iterator(image):
                    if page.size != size:
                        raise InputError("label maps need the same size for all pages", where=str(path))
                    tags = getattr(page, "tag_v2", {})
                    marked = tags.get(DESCRIPTION) == MASKS.rstrip(b"\0").decode()
                    pages.append((np.array(page), marked))
                return pages
        except (LatensError, FileNotFoundError, PermissionError):
            raise
        except Image.DecompressionBombError as error:
            raise too_many_pixels(error, str(path)) from None
        except Exception as error:  # the tag parser raises many types of errors
            raise UnreadableInput(f"not a label map ({error})", where=str(path), hint="copy the file again") from None
