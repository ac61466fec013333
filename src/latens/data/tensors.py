"""Conversion between uint8 arrays (H, W, 3) and float tensors (B, 3, H, W) in [0, 1]."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latens.shapes import Float, UInt8


def to_floats(image: UInt8[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """Bytes as floats in [0, 1], channels last in memory."""
    return image.float().div(255).contiguous(memory_format=torch.channels_last)


def to_bytes(image: Float[Tensor, "... H W"]) -> UInt8[Tensor, "... H W"]:
    """Floats as bytes, clamped to [0, 1] and rounded to the nearest value."""
    return image.detach().float().clamp(0, 1).mul_(255).round_().byte()


def to_tensor(pixels: UInt8[np.ndarray, "... H W C"], *, channels_last: bool = False) -> Float[Tensor, "B C H W"]:
    """uint8 images (B, H, W, C) or one image (H, W, C) as floats in [0, 1], contiguous or channels last in memory."""
    stacked = torch.from_numpy(np.array(pixels if pixels.ndim == 4 else pixels[None], order="C"))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return stacked.permute(0, 3, 1, 2).float().div(255).contiguous(memory_format=layout)


def part_of(pixels: UInt8[np.ndarray, "H W C"], rows: slice, columns: slice) -> UInt8[np.ndarray, "h w C"]:
    """Rows and columns of an image; beyond its lower and right border, the last ones are repeated."""
    part = pixels[rows, columns]
    missing = (rows.stop - rows.start - part.shape[0], columns.stop - columns.start - part.shape[1])
    return np.pad(part, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")


def to_pixels(image: Float[Tensor, "C H W"]) -> UInt8[np.ndarray, "H W C"]:
    """An image as uint8, clamped to [0, 1] and rounded to the nearest value."""
    pixels: np.ndarray = to_bytes(image).permute(1, 2, 0).contiguous().cpu().numpy()
    return pixels


def grid(rows: Iterable[Iterable[Float[Tensor, "C H W"]]]) -> UInt8[np.ndarray, "H2 W2 C"]:
    """One uint8 image of rows of images in [0, 1]; the images of a row are cropped to the smallest height."""
    bands = []
    for row in rows:
        images = list(row)
        height = min(image.shape[1] for image in images)
        bands.append(torch.cat([image[:, :height] for image in images], 2))
    return to_pixels(torch.cat(bands, 1))


def pad_to_multiple(image: Float[Tensor, "B C H W"], multiple: int) -> Float[Tensor, "B C H2 W2"]:
    """Pad the image at the right and bottom by replication, to sides that are multiples of `multiple`."""
    height, width = image.shape[2:]
    return F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def decode_srgb(values: Tensor) -> Tensor:
    """Linear light of sRGB values in [0, 1]."""
    held = values.clamp(0, 1)
    return torch.where(held <= 0.04045, held / 12.92, ((held + 0.055) / 1.055) ** 2.4)


def encode_srgb(light: Tensor) -> Tensor:
    """SRGB values of linear light in [0, 1]."""
    held = light.clamp(0, 1)
    return torch.where(held <= 0.0031308, held * 12.92, 1.055 * held.clamp_min(1e-12) ** (1 / 2.4) - 0.055)
