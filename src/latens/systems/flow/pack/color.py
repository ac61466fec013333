"""Reversible color transform YCoCg-R (Malvar and Sullivan 2003): a bijection between 8-bit colors and integers."""

from __future__ import annotations

import torch
from torch import Tensor

from latens.shapes import Int, UInt8


def to_planes(pixels: UInt8[Tensor, "B 3 H W"]) -> Int[Tensor, "B 3 H W"]:
    """Y in 0..255, Co and Cg in -255..255; int32."""
    red, green, blue = pixels.to(torch.int32).unbind(1)
    orange = red - blue
    middle = blue + (orange >> 1)
    cyan = green - middle
    return torch.stack([middle + (cyan >> 1), orange, cyan], dim=1)


def to_pixels(planes: Int[Tensor, "B 3 H W"]) -> Int[Tensor, "B 3 H W"]:
    """Inverse of `to_planes`. Values outside 0..255 show that the planes are not those of an image."""
    luma, orange, cyan = planes.unbind(1)
    middle = luma - (cyan >> 1)
    green = cyan + middle
    blue = middle - (orange >> 1)
    return torch.stack([blue + orange, green, blue], dim=1)
