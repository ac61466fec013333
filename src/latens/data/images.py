"""Reading of images in all common formats, as 8-bit RGB arrays with notes on every conversion.

Files are not trusted: only the formats below are tried, the size in the header is checked before memory is allocated, and a
damaged file raises UnreadableInput instead of returning partial pixels.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import stat
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias, Union

import numpy as np
from PIL import Image

from latens.codes.stream import other_kind
from latens.data.channels import current_channel, pick
from latens.data.color import cmyk_to_srgb, color_source, to_srgb
from latens.data.files import STANDARD_STREAM, read_bytes, reading
from latens.data.heic import is_heic, open_heic
from latens.data.image_arrays import (
    LoadedImage,
    Pixels,
    check_size,
    finished,
    from_array,
    from_tensor,
    from_values,
    is_tensor,
    to_8_bits,
)
from latens.data.limits import ImageLimits, current_limits, hint, too_many_pixels
from latens.data.metadata import read_metadata
from latens.data.notes import readable
from latens.data.other_formats import reader_hint
from latens.data.planes import channel_frames
from latens.data.tiff import RGB, TIFF_START, PageKind, first_values, full_pages, kind_of, prepare_planes, refuse_raw
from latens.errors import InputError, LatensError, LimitExceeded, UnreadableInput

if TYPE_CHECKING:
    import torch

__all__ = [
    "FORMATS",
    "IMAGE_ENDINGS",
    "ImageLike",
    "ImageLimits",
    "LoadedImage",
    "Pixels",
    "decoding",
    "frames_note",
    "read_each",
    "read_each_frame",
    "read_image",
]

logger = logging.getLogger(__name__)

ImageLike: TypeAlias = Union[str, Path, bytes, bytearray, memoryview, Image.Image, np.ndarray, "torch.Tensor"]

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM", "GIF", "AVIF")
IMAGE_ENDINGS = frozenset(
    {
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".webp",
        ".tif",
        ".tiff",
        ".bmp",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".gif",
        ".avif",
    }
)
AVIF_BRANDS = frozenset({b"avif", b"avis"})
MATROSKA = b"\x1aE\xdf\xa3"  # first bytes of .mkv and .webm
ORIENTATION_TAG = 0x0112


def read_image(source: ImageLike, *, limits: ImageLimits | None = None) -> LoadedImage:
    """Read an image from a path (`-`: standard input), encoded bytes, a PIL image, an array or a tensor.

    Arrays: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of bool, uint8, float in [0, 1], or 16- and 32-bit integers in 0..65535,
    which are reduced to 8 bits by rounding v * 255 / 65535. Tensors: (C, H, W), (1, C, H, W) or (H, W), C of 1, 3 or 4, of the
    same values. The same rules hold for files. Only the first frame of an animation and the first full page of a TIFF is read;
    EXIF orientation is applied. Colors are converted to sRGB by the ICC profile, or by gAMA, cHRM and cICP of the file.

    Raises UnreadableInput for a missing file or one that is not an image, InputError for other arrays and for TIFF pages of 2
    or more than 4 channels (gray with alpha is read) and HDR images (PQ, HLG), LimitExceeded above `limits` (default: those of
    the process, see `data.limits`).
    """
    limits = limits or current_limits()
    if isinstance(source, (str, Path)):
        return _read_path(Path(source), limits)
    if isinstance(source, bytes | bytearray | memoryview):
        return _from_stream(io.BytesIO(source), None, limits)
    if isinstance(source, Image.Image):
        with decoding(None):  # it may not be loaded yet
            return _from_pil(source, None, limits)
    if isinstance(source, np.ndarray):
        return from_array(source, limits)
    if is_tensor(source):
        return from_tensor(source, limits)
    raise InputError(f"a {type(source).__name__} is not an image", hint="give a path, bytes, a PIL image, an array or a tensor")


# ------------------------------------------------------------------------------------------------------------ files


def _read_path(path: Path, limits: ImageLimits) -> LoadedImage:
    if path == STANDARD_STREAM:
        data = read_bytes(path, limit=limits.file_bytes)
        return _from_stream(io.BytesIO(data), "standard input", limits)
    with reading(path):
        status = os.stat(path)
        regular = stat.S_ISREG(status.st_mode)
        if regular and status.st_size > limits.file_bytes:
            what = f"this file is larger than the limit of {limits.file_bytes:,} bytes"
            raise LimitExceeded(what, where=str(path), hint=hint([f"file_bytes={status.st_size}"]))
        stream = open(path, "rb") if regular else io.BytesIO(read_bytes(path, limit=limits.file_bytes))
    with stream:
        return _from_stream(stream, str(path), limits)


def _from_stream(stream: BinaryIO, where: str | None, limits: ImageLimits) -> LoadedImage:
    channel = current_channel()
    with decoding(where):
        if channel is not None:
            name = Path(where or "")
            values = first_values(
                stream,
                lambda width, height: check_size(width, height, where, limits),
                lambda stream: channel_frames(stream, name),
            )
            if values is not None:
                return from_values(values, where)
            stream.seek(0)
            if stream.read(4) in TIFF_START:
                raise UnreadableInput("channels of a TIFF are read by another package", hint="pip install 'latens[micro]'")
            stream.seek(0)
        try:
            image = _identify(stream, where)
        except UnreadableInput:
            values = first_values(stream, lambda width, height: check_size(width, height, where, limits))
            if values is None:
                raise
            return from_values(values, where)
        with image:
            if image.format == "TIFF":
                refuse_raw(image)
                image.seek(full_pages(image)[0])
            return _from_pil(image, where, limits)


def read_each(paths: Iterable[Path]) -> Iterator[tuple[Path, Pixels]]:
    """Path and pixels of every readable image; a warning reports each unreadable one."""
    yield from readable(paths, lambda path: (path, read_image(path).pixels))


def read_each_frame(frames: Iterable[ImageLike]) -> Iterator[LoadedImage]:
    """The images of a clip in memory: a batch (T, H, W, 3) or (T, 3, H, W), or any iterable of images.

    Raises InputError for frames of several sizes and for what is no clip.
    """
    shape = getattr(frames, "shape", None)
    if shape is not None and len(shape) != 4:
        hint = "give (T, H, W, 3) uint8, a tensor (T, 3, H, W) in [0, 1], or an iterator of frames"
        raise InputError(f"an array of shape {tuple(shape)} is not a clip", hint=hint)
    if not isinstance(frames, Iterable) or isinstance(frames, str | bytes | bytearray | memoryview | Mapping):
        what = f"an object of the type {type(frames).__name__} is not a clip"
        raise InputError(what, hint="give an array, or an iterable of frames")
    first: tuple[int, ...] | None = None
    for number, frame in enumerate(frames):
        image = read_image(frame)
        height, width = image.pixels.shape[:2]
        first = first or (width, height)
        if (width, height) != first:
            raise InputError(f"frame {number} is {width} x {height}, but the first one is {first[0]} x {first[1]}")
        yield image


@contextlib.contextmanager
def decoding(where: str | None) -> Iterator[None]:
    """Convert Pillow's exceptions for damaged data to UnreadableInput and LimitExceeded; name the file in our own."""
    try:
        yield
    except LatensError as error:
        if where is not None:
            error.at(where)
        raise
    except MemoryError as error:
        raise LimitExceeded("there is not enough memory for this image", where=where) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_many_pixels(error, where) from error
    except Exception as error:
        if "MAX_TEXT" in str(error):  # texts in a PNG that expand without bound
            raise LimitExceeded(f"its texts are too large ({_one_line(error)})", where=where) from error
        what = f"the image is truncated or damaged ({_one_line(error)})"
        raise UnreadableInput(what, where=where, hint="copy or download the file again") from error


def _identify(stream: BinaryIO, where: str | None) -> Image.Image:
    """The image with only its header read. Image.open is not used, because its size limit is global to the process."""
    prefix = stream.read(16)
    if not prefix:
        raise UnreadableInput("the file is empty", where=where, hint="copy or download the file again")
    Image.preinit()
    for name in FORMATS:
        if name not in Image.OPEN:
            Image.init()  # less common formats
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory is None or (accept is not None and accept(prefix) is not True):
            continue
        stream.seek(0)
        with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):  # raised by plugins for other formats
            return factory(stream, "")
    if prefix[:4] in TIFF_START and importlib.util.find_spec("tifffile") is None:
        what = "Pillow does not read this kind of TIFF"
        raise UnreadableInput(what, where=where, hint="pip install 'latens[micro]', or save it as 8- or 16-bit gray or RGB")
    if is_heic(prefix):
        return open_heic(stream, where)
    if (coded := other_kind(prefix)) is not None:
        raise UnreadableInput(f"{coded.what}, which other commands do not read", where=where, hint=coded.hint)
    if (prefix[4:8] == b"ftyp" and prefix[8:12] not in AVIF_BRANDS) or prefix[:4] == MATROSKA or prefix[8:12] == b"AVI ":
        hint = "`latens video compress` and `latens dehaze` take clips; others need its frames as images"
        raise UnreadableInput("this is a clip, not an image", where=where, hint=hint)
    kinds = ", ".join(name for name in FORMATS if name in Image.OPEN)
    hint = reader_hint(Path(where or "")) or f"known formats: {kinds}"
    raise UnreadableInput("this is not an image of a known format", where=where, hint=hint)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# ------------------------------------------------------------------------------------------------------- PIL images


def _from_pil(image: Image.Image, where: str | None, limits: ImageLimits) -> LoadedImage:
    check_size(*image.size, where, limits)
    notes: list[str] = []
    tiff = kind_of(image)
    if tiff is not None:
        tiff.check(image.tell())
        prepare_planes(image)
    raw = _raw_modes(image)
    turned = _orientation(image, []) if image.format == "TIFF" else 1  # Pillow rotates a TIFF when it is loaded
    frames = _frames_note(image)
    colors = color_source(image, notes)
    image.load()
    if frames is not None:
        notes.append(frames)
        logger.warning("%s: %s", where or "image", frames)
    if not _DEEP.isdisjoint(raw):
        notes.append("16-bit reduced to 8-bit")
    orientation = _orientation(image, notes)
    image = cmyk_to_srgb(image, notes)
    if image.mode.startswith("I") or image.mode == "F":
        pixels, alpha, gray = _wide_values(image, tiff, where, notes), None, True
    else:
        pixels, alpha, gray = _to_arrays(image, where, notes)
    if colors is not None:
        pixels = to_srgb(pixels[..., 0] if gray and pixels.ndim == 3 else pixels, colors, notes)
    if tiff is not None and tiff.photometric == RGB and tiff.channels == 4 and 0 in tiff.extra:
        notes.append("fourth channel (neither color nor alpha) left out")
    if max(turned, orientation) > 1:
        notes.append(f"EXIF orientation {max(turned, orientation)} applied")
    pixels, alpha = _turn(pixels, orientation), None if alpha is None else _turn(alpha, orientation)
    if (channel := current_channel()) is not None:
        pixels, alpha, gray = pick(pixels[..., :1] if gray and pixels.ndim == 3 else pixels, channel), None, True
        notes.append(f"channel {channel} taken")
    metadata = read_metadata(image, notes)
    return finished(pixels, alpha, gray or "LA;16B" in raw, notes)._replace(metadata=metadata)  # Pillow reads LA;16B as RGBA


def _frames_note(image: Image.Image) -> str | None:
    """Note on the frame of an animation or page of a TIFF that is read; None for a single one. Seeks: call before loading."""
    place = image.tell()
    try:
        count = getattr(image, "n_frames", 1)
        if count > 1 and image.format == "TIFF":
            pages = full_pages(image)
            image.seek(place)
            place, count = pages.index(place) if place in pages else place, len(pages)
    except Exception:  # a later frame is damaged; the pixels of this one may be intact
        image.seek(place)
        return f"frame {place + 1} of several taken"
    return f"frame {place + 1} of {count} taken" if count > 1 else None


def frames_note(path: Path) -> str | None:
    """Note on the frame that `read_image` reads of a file with several; None for other files. Raises UnreadableInput."""
    with reading(path), open(path, "rb") as stream, decoding(str(path)), _identify(stream, str(path)) as image:
        return _frames_note(image)


_DEEP = frozenset(f"{mode};16{order}" for mode in ("RGB", "RGBA", "RGBX", "LA", "CMYK") for order in "BLN") | {"65535"}


def _raw_modes(image: Image.Image) -> frozenset[str]:
    """Pillow's raw modes of the stored pixels, and the maximum value of PPM; they show whether values have more than 8 bits."""
    tiles = getattr(image, "tile", None) or [(None, None, None, ())]
    arguments = tiles[0][3] if isinstance(tiles[0][3], tuple) else (tiles[0][3],)
    return frozenset(str(argument) for argument in arguments)


def _orientation(image: Image.Image, notes: list[str]) -> int:
    try:
        orientation = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # the EXIF parser raises many types; the pixels are still valid
        notes.append("damaged EXIF data ignored")
        return 1
    return orientation if orientation in range(1, 9) else 1


def _turn(array: Pixels, orientation: int) -> Pixels:
    """The array rotated and mirrored according to an EXIF orientation, 1 (as stored) to 8."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def _to_arrays(image: Image.Image, where: str | None, notes: list[str]) -> tuple[Pixels, Pixels | None, bool]:
    """Pixels (H, W, 3) or (H, W), alpha, and whether the source was gray."""
    mode = image.mode
    if mode == "1":
        notes.append("1-bit expanded to 8-bit")
    elif mode in ("P", "PA"):
        notes.append("palette expanded")
    elif mode not in ("L", "LA", "La", "RGB", "RGBA", "RGBa", "RGBX"):
        notes.append(f"{mode} converted to RGB without color management")
    gray = mode in ("1", "L", "LA", "La")
    try:
        if mode not in _TRANSPARENT or not image.has_transparency_data:
            target = "L" if gray else "RGB"
            return np.asarray(image if mode == target else image.convert(target)), None, gray
        values = np.asarray((image.convert("LA") if mode == "La" else image).convert("RGBA"))
    except ValueError as error:
        raise UnreadableInput(f"{mode} colors cannot be converted to RGB", where=where) from error
    return values[..., :3], values[..., 3], gray  # gray has three equal channels


_TRANSPARENT = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa"})


def _wide_values(image: Image.Image, tiff: PageKind | None, where: str | None, notes: list[str]) -> Pixels:
    """8-bit values (H, W) of gray with more than 8 bits."""
    if "transparency" in image.info:
        notes.append("transparent color ignored")
    values = np.asarray(image)
    return to_8_bits(values if tiff is None else tiff.black_is_zero(values), where, notes)
