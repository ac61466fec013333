"""Reading of images in all common formats, as 8-bit RGB arrays with notes on every conversion.

Files are not trusted: only the formats below are tried, the size in the header is checked before memory is allocated, and a
damaged file raises UnreadableInput instead of returning partial pixels.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import stat
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias, Union

import numpy as np
from PIL import Image

from latens.codes.stream import other_kind
from latens.data.channels import current_channel
from latens.data.files import STANDARD_STREAM, read_bytes, reading
from latens.data.heic import is_heic, open_heic
from latens.data.image_arrays import LoadedImage, Pixels, check_size, from_array, from_tensor, from_values, is_tensor
from latens.data.limits import ImageLimits, current_limits, hint, too_many_pixels
from latens.data.notes import readable
from latens.data.other_formats import reader_hint
from latens.data.pil_images import from_pil, note_on_frames
from latens.data.planes import channel_frames
from latens.data.tiff import TIFF_START, first_values, full_pages, refuse_raw
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
            return from_pil(source, None, limits)
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
            return from_pil(image, where, limits)


def read_each(paths: Iterable[Path]) -> Iterator[tuple[Path, Pixels]]:
    """Path and pixels of every readable image; a warning reports each unreadable one."""
    yield from readable(paths, lambda path: (path, read_image(path).pixels))


def frames_note(path: Path) -> str | None:
    """Note on the frame that `read_image` reads of a file with several; None for other files. Raises UnreadableInput."""
    with reading(path), open(path, "rb") as stream, decoding(str(path)), _identify(stream, str(path)) as image:
        return note_on_frames(image)


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
