"""Reading of TIFF stacks page by page: files of any size need the memory of one page.

tifffile (from the extra `micro`) reads the formats that Pillow does not support: 64-bit floats, 16-bit colors at full depth,
and ImageJ stacks above 4 GB, whose pages are not listed in the file.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from latens.data.channels import current_channel, pick
from latens.data.files import reading
from latens.data.image_arrays import array_of, check_size, image_array, is_tensor
from latens.data.images import ImageLike, ImageLimits, LoadedImage, Pixels, decoding, read_image
from latens.data.limits import current_limits, too_many_pixels
from latens.data.planes import channel_frames
from latens.data.stretch import stretch
from latens.data.tiff import (
    MAX_FRAMES,
    TIFF_START,
    first_values,
    full_pages,
    full_resolution,
    kind_of,
    page_kind,
    page_values,
    prepare_planes,
)
from latens.errors import InputError, LatensError, LimitExceeded, UnreadableInput

TIFF_ENDINGS = frozenset({".tif", ".tiff"})
GRAY_DEEP = frozenset({"I;16", "I;16B", "I;16L", "I", "F"})  # Pillow's modes of gray values with more than 8 bits
FRAME = re.compile(r"(.+\.tiff?)#([1-9][0-9]*)", re.I)
BITS, DESCRIPTION = 258, 270  # tags
HINT = "copy the file again; the extra `micro` reads more kinds of TIFF: pip install 'latens[micro]'"

# ---------------------------------------------------------------------------------------------------------- reading


def read_frames(path: Path, limits: ImageLimits | None = None, notes: list[str] | None = None) -> Iterator[Pixels]:
    """Yield the pages of a TIFF stack, or the single image of any other file, as uint8 (H, W, 3).

    Values of more than 8 bits are stretched from the 0.1 to the 99.9 percentile, because microscopes use only part of the
    range. Pyramid levels, thumbnails and masks of other pages are no frames. Raises the errors of `read_image`, InputError for
    pages of 2 or more than 4 channels (gray with alpha is read; `channels.chosen_channel` chooses one), and LimitExceeded for
    too many pages. Notes on conversions and on lost channels are added to `notes`, each once.
    """
    limits, notes = limits or current_limits(), [] if notes is None else notes
    if path.suffix.lower() not in TIFF_ENDINGS:
        yield read_frame(path, limits, notes)
        return
    with reading(path):
        if _needs_tifffile(path):
            yield from _by_tifffile(path, limits, notes)
            return
        with _open_tiff(path) as image:
            _checked_count(getattr(image, "n_frames", 1), path)
            for number in full_pages(image):
                yield _page(image, number, path, limits, notes)


def count_frames(path: Path) -> int:
    """The number of frames of `read_frames`. Raises UnreadableInput for a damaged TIFF."""
    if path.suffix.lower() not in TIFF_ENDINGS:
        return 1
    with reading(path):
        if not _needs_tifffile(path):
            with _open_tiff(path) as image:
                _checked_count(getattr(image, "n_frames", 1), path)
                return len(full_pages(image))
        with _tifffile(path) as (_, stack, pages):
            chosen = channel_frames(path, path)
            return _checked_count(len(pages if stack is None else stack) if chosen is None else len(chosen), path)


def read_frame(path: Path, limits: ImageLimits | None = None, notes: list[str] | None = None) -> Pixels:
    """The image of a file, the first page of a TIFF, or page N of stack.tif#N, as uint8 (H, W, 3), stretched as in stacks.

    Raises the errors of `read_frames`, and UnreadableInput for a page that does not exist. `notes` as there.
    """
    limits, notes = limits or current_limits(), [] if notes is None else notes
    place = frame_place(path)
    if place is not None:
        page = next(itertools.islice(read_frames(place[0], limits, notes), place[1] - 1, None), None)
        if page is None:
            raise UnreadableInput(f"there is no page {place[1]}", where=str(place[0]))
        return page
    if path.suffix.lower() in TIFF_ENDINGS:
        return next(read_frames(path, limits, notes))
    deep = False
    if current_channel() is not None:
        return _noted(read_image(path, limits=limits), notes)
    with contextlib.suppress(Exception), Image.open(path, formats=("PNG", "PPM")) as image:  # reads only the header
        deep = image.mode in GRAY_DEEP and image.width * image.height <= limits.pixels
    if not deep:
        return _noted(read_image(path, limits=limits), notes)
    with reading(path), Image.open(path, formats=("PNG", "PPM")) as image:
        return _page(image, 0, path, limits, notes)


def _noted(image: LoadedImage, notes: list[str]) -> Pixels:
    """The pixels of an image, whose notes are added to `notes`."""
    notes += [note for note in image.notes_without_alpha() if note not in notes]
    return image.pixels


def memory_frame(image: ImageLike, limits: ImageLimits | None = None) -> Pixels:
    """The image of bytes, a PIL image, an array or a tensor, as uint8 (H, W, 3), stretched as the same values in a file.

    Values of bool and uint8, and float tensors in [0, 1], are not stretched. Raises the errors of `read_image`.
    """
    limits = limits or current_limits()
    with decoding(None):
        if is_tensor(image) and not image.is_floating_point():
            image = array_of(image, limits)
        if isinstance(image, np.ndarray):
            image = image_array(image, limits)
            if image.dtype not in (np.bool_, np.uint8):
                return shown(image)
        elif isinstance(image, Image.Image) and image.mode in GRAY_DEEP:
            check_size(*image.size, None, limits)
            kind = kind_of(image)
            return stretch(np.asarray(image) if kind is None else kind.black_is_zero(np.asarray(image)))
        elif isinstance(image, bytes | bytearray | memoryview):
            return _bytes_frame(bytes(image), limits)
    return read_image(image, limits=limits).pixels


def _bytes_frame(data: bytes, limits: ImageLimits) -> Pixels:
    stream = io.BytesIO(data)
    if data[:4] in TIFF_START and _needs_tifffile(stream):
        values = first_values(stream, lambda width, height: check_size(width, height, None, limits))
        if values is not None:
            return shown(values)
    with contextlib.suppress(UnidentifiedImageError), Image.open(stream, formats=("PNG", "PPM", "TIFF")) as image:
        if image.format == "TIFF":
            image.seek(full_pages(image)[0])
        if image.mode in GRAY_DEEP:
            return memory_frame(image, limits)
    return read_image(data, limits=limits).pixels


def frame_place(path: Path) -> tuple[Path, int] | None:
    """Stack and page (from 1) of a name such as stack.tif#3, as in annotations of stacks; None for other names."""
    found = FRAME.fullmatch(path.name)
    if found is None or path.is_file():
        return None
    return path.with_name(found[1]), int(found[2])


def _checked_count(count: int, path: Path) -> int:
    if count > MAX_FRAMES:
        raise LimitExceeded(f"{count:,} pages are more than the limit of {MAX_FRAMES:,}", where=str(path))
    return count


def _open_tiff(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=("TIFF",))
    except FileNotFoundError:
        raise
    except Image.DecompressionBombError as error:
        raise too_many_pixels(error, str(path)) from None
    except Exception as error:  # the tag parser raises many types of errors
        raise UnreadableInput(f"not a readable TIFF file ({error})", where=str(path), hint=HINT) from None


def _page(image: Image.Image, number: int, path: Path, limits: ImageLimits, notes: list[str]) -> Pixels:
    try:
        image.seek(number)
        _check_page(image.width, image.height, number, limits)
        kind = kind_of(image)
        if kind is not None:
            kind.check(number)
            prepare_planes(image)
        if image.mode in GRAY_DEEP:
            values = np.asarray(image)
            return stretch(values if kind is None else kind.black_is_zero(values))
        return _noted(read_image(image.copy(), limits=limits), notes)
    except LatensError as error:
        raise error.at(str(path)) from None
    except Exception as error:  # parsers raise many types of errors for damaged data
        raise UnreadableInput(f"page {number + 1} is damaged ({error})", where=str(path), hint=HINT) from None


def _check_page(width: int, height: int, number: int, limits: ImageLimits) -> None:
    limits.check(width, height, f"page {number + 1}")


# --------------------------------------------------------------------------------------------- reading with tifffile


def _needs_tifffile(path: Path | BinaryIO) -> bool:
    """True if Pillow cannot read this file at full depth or does not find all pages.

    Raises UnreadableInput if pages would be lost and tifffile is not installed.
    """
    if isinstance(path, Path) and path.is_file() and not path.stat().st_size:
        raise UnreadableInput("the file is empty", where=str(path), hint="copy or download the file again")
    there = importlib.util.find_spec("tifffile") is not None
    if current_channel() is not None:
        if not there:
            raise UnreadableInput("channels of a TIFF are read by another package", hint="pip install 'latens[micro]'")
        return True
    try:
        with Image.open(path, formats=("TIFF",)) as image:
            tags: Any = image.tag_v2  # type: ignore[attr-defined]
            declared = re.search(r"^images=(\d+)", str(tags.get(DESCRIPTION, "")), re.M)
            listed = getattr(image, "n_frames", 1)
            if declared and listed == 1 < int(declared[1]) and not there:
                what = f"an ImageJ stack of {declared[1]} pages, of which the file lists only one"
                raise UnreadableInput(
                    what, where=str(path) if isinstance(path, Path) else None, hint="pip install 'latens[micro]'"
                )
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
            stack: np.ndarray | None = None
            if not len(file.pages):
                raise ValueError("it has no pages")
            if len(file.pages) == 1 and _has_hidden_pages(file):
                stack = np.asarray(tifffile.memmap(path, mode="r")).reshape(-1, *file.pages[0].shape)
            _checked_count(len(file.pages), path)
            yield file, stack, full_resolution(file.pages)
    except (LatensError, FileNotFoundError, PermissionError, GeneratorExit):
        raise
    except Exception as error:  # parsers raise many types of errors for damaged data
        raise UnreadableInput(f"not a readable TIFF file ({error})", where=str(path), hint=HINT) from None


def _has_hidden_pages(file: Any) -> bool:
    """True if the metadata of a TIFF with one listed page describe more pages."""
    try:
        series = file.series[0]
        return len(series.shape) > 2 and bool(series.size > file.pages[0].size)
    except (KeyError, ValueError, IndexError, TypeError):  # damaged metadata do not hide the page
        return False


def _by_tifffile(path: Path, limits: ImageLimits, notes: list[str]) -> Iterator[Pixels]:
    with _tifffile(path) as (file, stack, pages):
        count = _checked_count(len(pages if stack is None else stack), path)
        kind = page_kind(file.pages[0].tags.valueof)
        chosen = channel_frames(path, path)
        channel = current_channel() if chosen is None else None
        for number in range(count) if chosen is None else chosen:
            try:
                if stack is None:
                    _check_page(pages[number].imagewidth, pages[number].imagelength, number, limits)
                if stack is None:
                    values = page_values(pages[number], number, channel)
                else:
                    values = kind.black_is_zero(np.asarray(stack[number]))
                    values = values if channel is None else pick(values, channel, kind.names)
                if (
                    values.ndim == 3
                    and values.shape[2] in (2, 4)
                    and (text := f"channel {values.shape[2]} ignored") not in notes
                ):
                    notes.append(text)
                yield shown(values, number)
            except LatensError as error:
                raise error.at(str(path)) from None


def shown(values: np.ndarray, number: int = 0) -> Pixels:
    """Values (H, W) or (H, W, channels) as uint8 (H, W, 3): uint8 and bool as they are, others stretched, without alpha."""
    if values.ndim == 3 and values.shape[2] <= 4:
        values = values[..., 0] if values.shape[2] <= 2 else values[..., :3]
    if values.ndim not in (2, 3) or values.dtype.kind not in "buif" or (values.ndim == 3 and values.shape[2] != 3):
        raise InputError(f"page {number + 1} is not an image: {values.dtype} of shape {values.shape}")
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * np.uint8(255)
    if values.dtype == np.uint8:
        return np.repeat(values[:, :, None], 3, axis=2) if values.ndim == 2 else np.ascontiguousarray(values)
    return stretch(values)
