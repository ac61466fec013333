"""Reading and writing of images of all common formats, as 8-bit RGB arrays with notes on every conversion.

Files are not trusted: only the formats below are tried, the size in the header is checked against the limits before memory is
allocated, and a damaged file raises UnreadableInput instead of giving gray areas.
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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeAlias, Union, cast

import numpy as np
from PIL import Image

from latens.data.files import STANDARD_STREAM, read_bytes, reading
from latens.data.notes import left_out
from latens.errors import InputError, LatensError, LimitExceeded, UnreadableInput

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

ImageLike: TypeAlias = Union[str, Path, bytes, Image.Image, np.ndarray, "torch.Tensor"]
Pixels: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM", "GIF", "AVIF")
PICTURE_ENDINGS = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".pbm", ".pnm", ".gif", ".avif"}
)
ORIENTATION_TAG = 0x0112
FLOAT_SLACK = 1e-5  # accepted rounding error of float values outside [0, 1]


@dataclass(frozen=True, kw_only=True)
class ImageLimits:
    """Limits of an image: number of pixels, pixels per side, bytes of its file."""

    pixels: int = 64 * 2**20
    side: int = 16384
    file_bytes: int = 2**30


class LoadedImage(NamedTuple):
    """An image in RGB order; the arrays may share memory with the source."""

    pixels: Pixels  # (H, W, 3); a gray image has three equal channels
    alpha: Pixels | None  # (H, W), None if all pixels are opaque
    gray: bool  # the source had one color channel
    notes: tuple[str, ...]  # conversions of the source, for people


def read_image(source: ImageLike, *, limits: ImageLimits | None = None) -> LoadedImage:
    """Reads an image from a path (`-`: standard input), encoded bytes, a PIL image, an array or a tensor.

    Arrays: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of bool, uint8, uint16, or float in [0, 1]. Tensors: (C, H, W),
    (1, C, H, W) or (H, W), C of 1, 3 or 4, uint8 or float in [0, 1]. Wider values are reduced to 8 bits by rounding
    v * 255 / 65535. Of an animation the first frame is taken; EXIF orientation is applied.

    Raises UnreadableInput for what is missing or no image, InputError for arrays of another form, LimitExceeded.
    """
    limits = limits or ImageLimits()
    if isinstance(source, (str, Path)):
        return _read_path(Path(source), limits)
    if isinstance(source, bytes):
        return _from_stream(io.BytesIO(source), None, limits)
    if isinstance(source, Image.Image):
        with decoding(None):  # it may not be loaded yet
            return _from_pil(source, None, limits)
    if isinstance(source, np.ndarray):
        return _from_array(source, limits)
    if "torch" in sys.modules and isinstance(source, sys.modules["torch"].Tensor):
        return _from_tensor(source, limits)
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
            raise LimitExceeded(what, where=str(path), hint="if you trust it, raise it: ImageLimits(file_bytes=...)")
        stream = open(path, "rb") if regular else io.BytesIO(read_bytes(path, limit=limits.file_bytes))
    with stream:
        return _from_stream(stream, str(path), limits)


def _from_stream(stream: BinaryIO, where: str | None, limits: ImageLimits) -> LoadedImage:
    with decoding(where), _identify(stream, where) as image:
        return _from_pil(image, where, limits)


def read_each(paths: Iterable[Path]) -> Iterator[tuple[Path, Pixels]]:
    """Path and pixels of every image that can be read; others are left out with a warning."""
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
        what = f"the image is cut short or damaged ({_one_line(error)})"
        raise UnreadableInput(what, where=where, hint="copy or download the file again") from error


def _identify(stream: BinaryIO, where: str | None) -> Image.Image:
    """The image with only its header read. Image.open has a size limit that is global to the process."""
    prefix = stream.read(16)
    if not prefix:
        raise UnreadableInput("the file is empty", where=where, hint="copy or download the file again")
    Image.preinit()
    for name in FORMATS:
        if name not in Image.OPEN:
            Image.init()  # the rarer formats
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory is None or (accept is not None and accept(prefix) is not True):
            continue
        stream.seek(0)
        with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):  # raised by plugins for other formats
            return factory(stream, "")
    kinds = ", ".join(name for name in FORMATS if name in Image.OPEN)
    raise UnreadableInput("this is not an image of a known kind", where=where, hint=f"known kinds: {kinds}")


def _check_size(width: int, height: int, where: str | None, limits: ImageLimits) -> None:
    if width < 1 or height < 1:
        raise UnreadableInput(f"the image is empty ({width} x {height} pixels)", where=where)
    if width * height > limits.pixels:
        what = f"{width} x {height} are {width * height:,} pixels, more than the limit of {limits.pixels:,}"
        hint = f"if you trust it, raise it: ImageLimits(pixels={width * height})"
        raise LimitExceeded(what, where=where, hint=hint)
    if max(width, height) > limits.side:
        what = f"{width} x {height} pixels are more than the limit of {limits.side:,} per side"
        hint = f"if you trust it, raise it: ImageLimits(side={max(width, height)})"
        raise LimitExceeded(what, where=where, hint=hint)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# ------------------------------------------------------------------------------------------------------- PIL images


def _from_pil(image: Image.Image, where: str | None, limits: ImageLimits) -> LoadedImage:
    _check_size(*image.size, where, limits)
    notes: list[str] = []
    raw = _raw_modes(image)
    tiff = _orientation(image, []) if image.format == "TIFF" else 1  # a TIFF turns itself when it is loaded
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
    return _finish(pixels, alpha, gray or "LA;16B" in raw, notes)  # Pillow reads LA;16B as RGBA


def _frames_note(image: Image.Image) -> str | None:
    """Which frame of an animation or page of a TIFF is taken; None where there is one. Before loading: it seeks."""
    place = image.tell()
    try:
        count = getattr(image, "n_frames", 1)
    except Exception:  # a later frame is damaged; the pixels of this one may be good
        image.seek(place)
        return f"frame {place + 1} of several taken"
    return f"frame {place + 1} of {count} taken" if count > 1 else None


def frames_note(path: Path) -> str | None:
    """Which frame `read_image` takes of a file that holds several; None for any other. Raises UnreadableInput."""
    with reading(path), open(path, "rb") as stream, decoding(str(path)), _identify(stream, str(path)) as image:
        return _frames_note(image)


_DEEP = frozenset(f"{mode};16{order}" for mode in ("RGB", "RGBA", "RGBX", "LA", "CMYK") for order in "BLN") | {"65535"}


def _raw_modes(image: Image.Image) -> frozenset[str]:
    """Pillow's raw modes of the stored pixels, and the maximum value of PPM: they show which values have more than 8 bits."""
    tiles = getattr(image, "tile", None) or [(None, None, None, ())]
    arguments = tiles[0][3] if isinstance(tiles[0][3], tuple) else (tiles[0][3],)
    return frozenset(str(argument) for argument in arguments)


def _orientation(image: Image.Image, notes: list[str]) -> int:
    try:
        orientation = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # the EXIF parser raises many kinds; the pixels are still valid
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
        return _reduce(_wide_values(image, where), where, notes), None, True
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
        raise UnreadableInput(f"{mode} colors cannot be turned into RGB", where=where) from error
    return values[..., :3], values[..., 3], gray  # of gray, three equal channels


_TRANSPARENT = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa"})


def _wide_values(image: Image.Image, where: str | None) -> np.ndarray[Any, Any]:
    values = np.asarray(image)
    if image.mode != "I":
        return values
    if values.min() < 0 or values.max() > 65535:
        what = f"32-bit gray values from {values.min()} to {values.max()} do not fit into 16 bits"
        raise InputError(what, where=where, hint="scale them to 0..65535 first")
    return values.astype(np.uint16)


# ------------------------------------------------------------------------------------------------ arrays and tensors


def _from_array(array: np.ndarray[Any, Any], limits: ImageLimits) -> LoadedImage:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise InputError(f"an array of shape {array.shape} is not one image", hint=_shape_hint(array))
    _check_size(array.shape[1], array.shape[0], None, limits)
    notes: list[str] = []
    values = _reduce(array, None, notes)
    if values.ndim == 3 and values.shape[2] == 4:
        return _finish(values[..., :3], values[..., 3], False, notes)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    return _finish(values, None, values.ndim == 2, notes)


def _shape_hint(array: np.ndarray[Any, Any]) -> str:
    if array.ndim == 4:
        return "give one image at a time: array[0]"
    if array.ndim == 3 and array.shape[0] in (1, 3, 4):
        return "the channels come last in arrays: array.transpose(1, 2, 0)"
    return "arrays are (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"


def _from_tensor(tensor: torch.Tensor, limits: ImageLimits) -> LoadedImage:
    shape = tuple(tensor.shape)
    if tensor.ndim == 4 and shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim == 2:
        tensor = tensor[None]
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3, 4):
        last = len(shape) == 3 and shape[2] in (1, 3, 4)
        hint = "the channels come first in tensors: tensor.permute(2, 0, 1)" if last else "tensors are (C, H, W)"
        raise InputError(f"a tensor of shape {shape} is not one image", hint=hint)
    _check_size(tensor.shape[2], tensor.shape[1], None, limits)
    tensor = tensor.detach().permute(1, 2, 0).cpu()
    return _from_array((tensor.float() if tensor.is_floating_point() else tensor).numpy(), limits)


def _reduce(values: np.ndarray[Any, Any], where: str | None, notes: list[str]) -> Pixels:
    """8-bit values of bool, uint8, uint16 or float in [0, 1], rounded to the nearest."""
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if kind == "u" and size == 1:
        return values
    if kind == "u" and size == 2:
        notes.append("16-bit reduced to 8-bit")
        return cast(Pixels, ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))
    if kind != "f":
        hint = "use array.astype(np.uint8) if the values are 0..255"
        raise InputError(f"values of type {values.dtype} are not taken as an image", where=where, hint=hint)
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        hint = "use np.nan_to_num first"
        raise InputError("the image contains values that are not finite", where=where, hint=hint)
    if low < -FLOAT_SLACK or high > 1 + FLOAT_SLACK:
        hint = "divide by 255 if they are 0..255, or np.clip(values, 0, 1)"
        raise InputError(f"float values from {low:g} to {high:g} are not in 0..1", where=where, hint=hint)
    notes.append("float reduced to 8-bit")
    return cast(Pixels, np.rint(np.clip(values, 0, 1).astype(np.float64) * 255).astype(np.uint8))


def _finish(pixels: Pixels, alpha: Pixels | None, gray: bool, notes: list[str]) -> LoadedImage:
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    if alpha is not None and alpha.min() == 255:
        notes.append("fully opaque alpha channel dropped")
        alpha = None
    alpha = None if alpha is None else np.ascontiguousarray(alpha)
    return LoadedImage(np.ascontiguousarray(pixels), alpha, gray, tuple(notes))
