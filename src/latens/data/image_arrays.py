"""Images as 8-bit RGB arrays: the record, its limits, and conversion from arrays and tensors."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeGuard

import numpy as np

from latens.data.limits import ImageLimits
from latens.data.metadata import Metadata
from latens.errors import InputError, UnreadableInput, UsageError

if TYPE_CHECKING:
    import torch

Pixels: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]

ROW_BLOCK = 64  # rows that are converted at once
FLOAT_SLACK = 1e-5  # accepted rounding error of float values outside [0, 1]


class LoadedImage(NamedTuple):
    """An image in RGB order; the arrays may share memory with the source."""

    pixels: Pixels  # (H, W, 3); a gray image has three equal channels
    alpha: Pixels | None  # (H, W), None if all pixels are opaque
    gray: bool  # the source had one color channel
    notes: tuple[str, ...]  # conversions of the source, for people
    metadata: Metadata = Metadata()

    def notes_without_alpha(self) -> tuple[str, ...]:
        """The notes for a result in which transparency has no part."""
        return self.notes if self.alpha is None else (*self.notes, "transparency ignored")


def check_size(width: int, height: int, where: str | None, limits: ImageLimits) -> None:
    """Raises UnreadableInput for an empty image and LimitExceeded above the limits."""
    if width < 1 or height < 1:
        raise UnreadableInput(f"the image is empty ({width} x {height} pixels)", where=where)
    limits.check(width, height, where=where)


def from_array(array: np.ndarray[Any, Any], limits: ImageLimits) -> LoadedImage:
    """The image of an array; forms as in `read_image`. Raises InputError or LimitExceeded."""
    return from_values(image_array(array, limits), None)


def image_array(array: np.ndarray[Any, Any], limits: ImageLimits) -> np.ndarray[Any, Any]:
    """`plain_array` of an image.

    Raises also InputError unless the shape is one of an image, UnreadableInput for an empty one, LimitExceeded.
    """
    array = plain_array(array)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise InputError(f"an array of shape {array.shape} is not one image", hint=_shape_hint(array))
    check_size(array.shape[1], array.shape[0], None, limits)
    return array


def plain_array(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The array without its subclass: np.matrix has other indices, with which numpy crashes. InputError for masked values."""
    if np.ma.is_masked(array):
        raise InputError("the array has masked values", hint="fill them first: array.filled(0)")
    return np.asarray(array)


def check_uint8(pixels: object) -> None:
    """Raises UsageError unless the pixels are an array (H, W, 3) of uint8."""
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise UsageError("these are no pixels", where="pixels", hint="give uint8 (H, W, 3), or use the method for images")


def from_values(array: np.ndarray[Any, Any], where: str | None) -> LoadedImage:
    """The image of values (H, W) or (H, W, 1 to 4); of 2 or 4 channels the last is alpha. Raises InputError."""
    notes: list[str] = []
    values = to_8_bits(array, where, notes)
    alpha = None
    if values.ndim == 3 and values.shape[2] in (2, 4):
        values, alpha = values[..., :-1], values[..., -1]
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    return finished(values, alpha, values.ndim == 2, notes)


def _shape_hint(array: np.ndarray[Any, Any]) -> str:
    if array.ndim == 4:
        return "give one image at a time: array[0]"
    if array.ndim == 3 and array.shape[0] in (1, 3, 4):
        return "the channels come last in arrays: array.transpose(1, 2, 0)"
    return "arrays are (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"


def is_tensor(source: object) -> TypeGuard[torch.Tensor]:
    """True for a tensor; torch is not imported."""
    return "torch" in sys.modules and isinstance(source, sys.modules["torch"].Tensor)


def from_tensor(tensor: torch.Tensor, limits: ImageLimits) -> LoadedImage:
    """The image of a tensor; forms as in `read_image`. Raises InputError or LimitExceeded."""
    return from_array(array_of(tensor, limits), limits)


def array_of(tensor: torch.Tensor, limits: ImageLimits) -> np.ndarray[Any, Any]:
    """The values (H, W, C) of a tensor; forms as in `read_image`. Raises InputError or LimitExceeded."""
    shape = tuple(tensor.shape)
    if tensor.ndim == 4 and shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim == 2:
        tensor = tensor[None]
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3, 4):
        last = len(shape) == 3 and shape[2] in (1, 3, 4)
        hint = "the channels come first in tensors: tensor.permute(2, 0, 1)" if last else "tensors are (C, H, W)"
        raise InputError(f"a tensor of shape {shape} is not one image", hint=hint)
    check_size(tensor.shape[2], tensor.shape[1], None, limits)
    try:
        tensor = tensor.detach().permute(1, 2, 0).cpu()
        values: np.ndarray[Any, Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    except (TypeError, RuntimeError) as error:  # sparse, quantized, or without values
        what = f"a tensor of {tensor.dtype} on {tensor.device} with the layout {tensor.layout} cannot be read"
        raise InputError(what, hint="give a dense tensor with values") from error
    return values


def to_8_bits(values: np.ndarray[Any, Any], where: str | None, notes: list[str]) -> Pixels:
    """8-bit values of bool, integers of 8 to 32 bits in 0..65535 or floats in [0, 1], rounded to the nearest.

    Integers of more than 8 bits use the full range of 16 bits. Raises InputError for other types and ranges.
    """
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if kind == "u" and size == 1:
        return values
    if kind == "f":
        _check_floats(values, where)
        notes.append("float reduced to 8-bit")
        return _by_rows(values, lambda block: np.rint(np.clip(block, 0, 1).astype(np.float64) * 255))
    if kind not in "iu" or size not in (2, 4):
        hint = "use array.astype(np.uint8) if the values are 0..255"
        raise InputError(f"values of type {values.dtype} are not supported as an image", where=where, hint=hint)
    if values.min() < 0 or values.max() > 65535:
        what = f"values from {values.min()} to {values.max()} do not fit into 16 bits"
        raise InputError(what, where=where, hint="scale them to 0..65535 first")
    notes.append("16-bit reduced to 8-bit")
    return _by_rows(values, lambda block: (block.astype(np.uint32) * 255 + 32767) // 65535)


def _check_floats(values: np.ndarray[Any, Any], where: str | None) -> None:
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        hint = "use np.nan_to_num first"
        raise InputError("the image contains values that are not finite", where=where, hint=hint)
    if low < -FLOAT_SLACK or high > 1 + FLOAT_SLACK:
        hint = "divide by 255 if they are 0..255, or np.clip(values, 0, 1)"
        raise InputError(f"float values from {low:g} to {high:g} are not in 0..1", where=where, hint=hint)


def _by_rows(values: np.ndarray[Any, Any], convert: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> Pixels:
    """Convert blocks of rows: the intermediate values of a whole large image would take gigabytes."""
    result = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), ROW_BLOCK):
        result[top : top + ROW_BLOCK] = convert(values[top : top + ROW_BLOCK])
    return result


def finished(pixels: Pixels, alpha: Pixels | None, gray: bool, notes: list[str]) -> LoadedImage:
    """The record of pixels (H, W) or (H, W, 3); a fully opaque alpha channel is dropped."""
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    if alpha is not None and alpha.min() == 255:
        notes.append("fully opaque alpha channel dropped")
        alpha = None
    alpha = None if alpha is None else np.ascontiguousarray(alpha)
    return LoadedImage(np.ascontiguousarray(pixels), alpha, gray, tuple(notes))
