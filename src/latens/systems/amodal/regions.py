"""Features of regions of interest, by bilinear sampling (RoIAlign, He et al. 2017), fast on processors too.

Letters: B pictures, R regions, F channels, S side of the grid of a region.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from latens.shapes import Float

SAMPLES = 2  # per cell and direction
CANONICAL = 224  # side of a box that belongs to the map of stride 16 (Lin et al. 2017, Eq. 1)
LARGEST_DENSE = 128  # sides of a map up to which matrix products win on a processor


def pool_regions(
    pyramid: Sequence[Float[Tensor, "B F h w"]], strides: Sequence[int], boxes: Sequence[Float[Tensor, "n 4"]], size: int
) -> Float[Tensor, "R F S S"]:
    """Region features from the map that fits the size of each box, without the half-pixel shift of older implementations.

    `strides` are 4, 8, 16, 32; `boxes` are (x0, y0, x1, y1) in pixels of the picture, one tensor per picture.
    """
    flat = torch.cat([F.pad(part, (1, 0), value=float(index)) for index, part in enumerate(boxes)])
    extent = (flat[:, 3:] - flat[:, 1:3]).clamp(min=1e-3).prod(dim=1).sqrt()
    level = (4 + torch.log2(extent / CANONICAL + 1e-6)).floor().clamp(2, 5).long() - 2
    parts, places = [], []
    for index, stride in enumerate(strides):
        chosen = (level == index).nonzero()[:, 0]
        if len(chosen):
            parts.append(align(pyramid[index], flat[chosen], size, 1 / stride))
            places.append(chosen)
    if not parts:
        return pyramid[0].new_zeros(0, pyramid[0].shape[1], size, size)
    return torch.cat(parts)[torch.cat(places).argsort()]


def align(features: Float[Tensor, "B F h w"], boxes: Float[Tensor, "R 5"], size: int, scale: float) -> Float[Tensor, "R F S S"]:
    """`torchvision.ops.roi_align(..., sampling_ratio=2, aligned=True)`; boxes are (picture, x0, y0, x1, y1), sorted by picture.

    Sampling is separable, so small maps on a processor go through two matrix products, whose backward pass is many times
    faster than the scattered sums of torchvision's.
    """
    height, width = features.shape[2:]
    if features.device.type != "cpu" or max(height, width) > LARGEST_DENSE:
        pooled: Tensor = roi_align(features.float(), boxes, size, scale, SAMPLES, aligned=True)
        return pooled
    rows = _weights(boxes[:, 2], boxes[:, 4], size, scale, height)
    columns = _weights(boxes[:, 1], boxes[:, 3], size, scale, width)
    counts = torch.bincount(boxes[:, 0].long(), minlength=len(features)).tolist()
    parts = []
    for picture, row, column in zip(features, torch.split(rows, counts), torch.split(columns, counts), strict=True):
        image = picture.permute(1, 2, 0)  # (h, w, F)
        tall = (row.flatten(0, 1) @ image.reshape(height, -1)).view(-1, size, width, image.shape[2])
        parts.append(column[:, None] @ tall)
    return torch.cat(parts).permute(0, 3, 1, 2)


def _weights(start: Tensor, end: Tensor, size: int, scale: float, length: int) -> Float[Tensor, "R S length"]:
    """How much of every pixel along one direction enters every cell of a region."""
    step = (torch.arange(size * SAMPLES, device=start.device) + 0.5) / (size * SAMPLES)
    place = start[:, None] * scale - 0.5 + step * ((end - start)[:, None] * scale)
    inside = (place >= -1) & (place <= length)
    pixels = torch.arange(length, device=start.device, dtype=place.dtype)
    near = (1 - (place.clamp(0, length - 1)[:, :, None] - pixels).abs()).clamp(min=0) * inside[:, :, None]
    return near.view(-1, size, SAMPLES, length).mean(dim=2)
