"""Reading of images in all common formats, as 8-bit RGB arrays with notes on every conversion.

Files are not trusted: only the formats below are tried, the size in the header is checked before memory is allocated, and a
damaged file raises UnreadableInput instead of returning partial pixels.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import stat
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, Union

import numpy as np
from PIL import Image

from latens.data.files import STANDARD_STREAM, read_bytes, reading
from latens.data.image_arrays import (
    ImageLimits,
    LoadedImage,
    Pixels,
    check_size,
    finished,
    from_array,
    from_tensor,
    to_8_bits,
)
from latens.data.notes import left_out
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
    "read_image",
]

logger = logging.getLogger(__name__)

ImageLike: TypeAlias = Union[str, Path, bytes, bytearray, memoryview, Image.Image, np.ndarray, "torch.Tensor"]

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM", "GIF", "AVIF")
IMAGE_ENDINGS = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".pbm", ".pnm", ".gif", ".avif"}
)
ORIENTATION_TAG = 0x0112


def read_image(source: ImageLike, *, limits: ImageLimits | None = None) -> LoadedImage:
    """Read an image from a path (`-`: standard input), encoded bytes, a PIL image, an array or a tensor.

    Arrays: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of bool, uint8, uint16, or float in [0, 1]. Tensors: (C, H, W),
    (1, C, H, W) or (H, W), C of 1, 3 or 4, uint8 or float in [0, 1]. 16-bit values are reduced to 8 bits by rounding
    v * 255 / 65535. Only the first frame of an animation is read; EXIF orientation is applied.

    Raises UnreadableInput for a missing file or one that is not an image, InputError for other arrays, LimitExceeded.
    """
    limits = limits or ImageLimits()
    if isinstance(source, (str, Path)):
        return _read_path(Path(source), limits)
    if isinstance(source, bytes | bytearray | memoryview):
        return _from_stream(io.BytesIO(source), None, limits)
    if isinstance(source, Image.Image):
        with decoding(None):  # it may not be loaded yet
            return _from_pil(source, None, limits)
    if isinstance(source, np.ndarray):
        return from_array(source, limits)
    if "torch" in sys.modules and isinstance(source, sys.modules["torch"].Tensor):
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
            hint = "if you trust the file, raise the limit: ImageLimits(file_bytes=...)"
            raise LimitExceeded(what, where=str(path), hint=hint)
        stream = open(path, "rb") if regular else io.BytesIO(read_bytes(path, limit=limits.file_bytes))
    with stream:
        return _from_stream(stream, str(path), limits)


def _from_stream(stream: BinaryIO, where: str | None, limits: ImageLimits) -> LoadedImage:
    with decoding(where), _identify(stream, where) as image:
        return _from_pil(image, where, limits)


def read_each(paths: Iterable[Path]) -> Iterator[tuple[Path, Pixels]]:
    """Path and pixels of every readable image; a warning reports each unreadable one."""
    for path in paths:
        try:
            yield path, read_image(path).pixels
        except (InputError, LimitExceeded) as error:
            left_out(error)


@contextlib.contextmanager
def decoding(where: str | None) -> Iterator[None]:
    """Convert Pillow's exceptions for damaged data to UnreadableInput and LimitExceeded."""
    try:
        yield
    except LatensError:
        raise
    except MemoryError as error:
        raise LimitExceeded("there is not enough memory for this image", where=where) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise LimitExceeded(_one_line(error), where=where) from error
    except Exception as error:
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
    kinds = ", ".join(name for name in FORMATS if name in Image.OPEN)
    raise UnreadableInput("this is not an image of a known format", where=where, hint=f"known formats: {kinds}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# ------------------------------------------------------------------------------------------------------- PIL images


def _from_pil(image: Image.Image, where: str | None, limits: ImageLimits) -> LoadedImage:
    check_size(*image.size, where, limits)
    notes: list[str] = []
    raw = _raw_modes(image)
    tiff = _orientation(image, []) if image.format == "TIFF" else 1  # Pillow rotates a TIFF when it is loaded
    frames = _frames_note(image)
    image.load()
    if frames is not None:
        notes.append(frames)
        logger.warning("%s: %s", where or "image", frames)
    if not _DEEP.isdisjoint(raw):
        notes.append("16-bit reduced to 8-bit")
    if image.info.get("icc_profile") and b"sRGB" not in image.info["icc_profile"]:
        notes.append("ICC profile dropped, colors taken as sRGB")
    orientation = _orientation(image, notes)
    pixels, alpha, gray = _to_arrays(image, where, notes)
    if max(tiff, orientation) > 1:
        notes.append(f"EXIF orientation {max(tiff, orientation)} applied")
    pixels, alpha = _turn(pixels, orientation), None if alpha is None else _turn(alpha, orientation)
    return finished(pixels, alpha, gray or "LA;16B" in raw, notes)  # Pillow reads LA;16B as RGBA


def _frames_note(image: Image.Image) -> str | None:
    """Note on the frame of an animation or page of a TIFF that is read; None for a single one. Seeks: call before loading."""
    place = image.tell()
    try:
        count = getattr(image, "n_frames", 1)
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
    if mode.startswith("I") or mode == "F":
        if "transparency" in image.info:
            notes.append("transparent color ignored")
        return to_8_bits(_wide_values(image, where), where, notes), None, True
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


def _wide_values(image: Image.Image, where: str | None) -> np.ndarray[Any, Any]:
    values = np.asarray(image)
    if image.mode != "I":
        return values
    if values.min() < 0 or values.max() > 65535:
        what = f"32-bit gray values from {values.min()} to {values.max()} do not fit into 16 bits"
        raise InputError(what, where=where, hint="scale them to 0..65535 first")
    return values.astype(np.uint16)
