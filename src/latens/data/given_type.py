"""Results in the type of the input: arrays for arrays, tensors for tensors, files for files, PIL images for everything else."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from PIL import Image

from latens.data.image_arrays import is_tensor
from latens.data.image_output import image_bytes
from latens.errors import InputError

if TYPE_CHECKING:
    import torch

    from latens.data.images import ImageLike, LoadedImage

WRITTEN = ("PNG", "JPEG", "WEBP", "TIFF", "AVIF", "BMP", "PPM")  # containers that results keep; others become PNG
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@overload
def as_given(image: Image.Image, source: np.ndarray) -> np.ndarray: ...
@overload
def as_given(image: Image.Image, source: torch.Tensor) -> torch.Tensor: ...
@overload
def as_given(image: Image.Image, source: bytes | bytearray | memoryview) -> bytes: ...
@overload
def as_given(image: Image.Image, source: ImageLike | LoadedImage) -> Any: ...


def as_given(image: Image.Image, source: Any) -> Any:
    """A result of the image `source` in its type.

    An array or tensor has the shape, the type of values and the device of the source: floats in [0, 1], integers of more than 8
    bits in 0..65535 (of 8-bit precision; int16 ends at 32767), bool as uint8. Bytes are a file in the container of the source,
    or PNG if latens does not write it. A path or a PIL image gives a PIL image.
    """
    if isinstance(source, np.ndarray):
        return _array(image, source)
    if is_tensor(source):
        return _tensor(image, source)
    if isinstance(source, bytes | bytearray | memoryview):
        return image_bytes(image, _container(bytes(source)))
    return image


def _array(image: Image.Image, source: np.ndarray) -> np.ndarray:
    channels = source.shape[2] if source.ndim == 3 else 1
    pixels = np.asarray(image.convert(MODES[channels])).reshape(source.shape)
    kind = source.dtype
    if kind == np.uint8 or kind == np.bool_:
        return np.array(pixels)
    scaled = pixels.astype(np.float64) / 255 if kind.kind == "f" else pixels.astype(np.int64) * 257
    result: np.ndarray = (scaled if kind.kind == "f" else scaled.clip(max=np.iinfo(kind).max)).astype(kind)
    return result


def _tensor(image: Image.Image, source: torch.Tensor) -> torch.Tensor:
    import torch

    size = source.shape[-2:]
    channels = source.shape[-3] if source.ndim > 2 else 1
    pixels = torch.from_numpy(np.array(image.convert(MODES[channels]))).reshape(*size, channels).permute(2, 0, 1)
    if source.is_floating_point():
        values = pixels.double() / 255
    elif source.dtype in (torch.uint8, torch.bool):
        return pixels.reshape(source.shape).to(source.device)
    else:
        values = (pixels.int() * 257).clamp(max=min(torch.iinfo(source.dtype).max, 65535))
    return values.to(source.dtype).reshape(source.shape).to(source.device)


def _container(data: bytes) -> str:
    """Pillow's name of the container of a file that was read before."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            name = image.format or ""
    except (OSError, InputError):
        name = ""
    return name if name in WRITTEN else "PNG"
