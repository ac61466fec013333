"""Window filters for batches: mean, minimum, maximum, guided filter. The cost grows at most logarithmically with the window.

Letters: B batch, C channels, r radius; a window has 2 r + 1 samples per side. Borders are reflected without repeating the edge
sample; if an image is smaller than the radius, its edge sample is repeated.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from latens.shapes import Float

LUMA = (0.299, 0.587, 0.114)


def box_mean(x: Float[Tensor, "B C H W"], radius: int) -> Float[Tensor, "B C H W"]:
    """Mean over every window, by cumulative sums."""
    return _mean_along(_mean_along(x, radius, 3), radius, 2)


def _mean_along(x: Tensor, radius: int, dim: int) -> Tensor:
    size, width = x.shape[dim], 2 * radius + 1
    if radius == 0:
        return x
    padded = pad_mirrored(x, radius, dim)
    # In float32, sums of deviations from the mean are more accurate than sums of the values.
    center = x.mean(dim, keepdim=True)
    sums = torch.cumsum(padded - center, dim)
    upper = sums.narrow(dim, width - 1, size)
    lower = F.pad(sums.narrow(dim, 0, size - 1), (1, 0) if dim == 3 else (0, 0, 1, 0))
    return (upper - lower) / width + center


def box_min(x: Float[Tensor, "B C H W"], radius: int) -> Float[Tensor, "B C H W"]:
    """Minimum over every window (erosion), by doubling: a window of 15 takes 4 comparisons per direction instead of 14."""
    return _min_along(_min_along(x, radius, 3), radius, 2)


def box_max(x: Float[Tensor, "B C H W"], radius: int) -> Float[Tensor, "B C H W"]:
    """Maximum over every window (dilation)."""
    return -box_min(-x, radius)


def _min_along(x: Tensor, radius: int, dim: int) -> Tensor:
    size, width = x.shape[dim], 2 * radius + 1
    best = pad_mirrored(x, radius, dim)
    covered = 1
    while covered < width:
        shift = min(covered, width - covered)
        length = best.shape[dim] - shift
        best = torch.minimum(best.narrow(dim, 0, length), best.narrow(dim, shift, length))
        covered += shift
    return best.narrow(dim, 0, size)


def pad_mirrored(x: Float[Tensor, "B C H W"], radius: int, dim: int) -> Tensor:
    """Mirror padding of `radius` samples at both ends of dimension 2 or 3."""
    mirrored = radius < x.shape[dim]
    amounts = (radius, radius, 0, 0) if dim == 3 else (0, 0, radius, radius)
    return F.pad(x, amounts, mode="reflect" if mirrored else "replicate")


def luminance(image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 H W"]:
    """Luminance by the weights of ITU-R BT.601."""
    red, green, blue = image[:, :1], image[:, 1:2], image[:, 2:]
    return torch.mul(red, LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


class LinearGuide(NamedTuple):
    """Coefficients of a guided filter: output = slope * guide + offset at every pixel."""

    slope: Float[Tensor, "B 1 H W"]
    offset: Float[Tensor, "B 1 H W"]

    def apply(self, guide: Float[Tensor, "B 1 h w"], factor: int = 1) -> Float[Tensor, "B 1 h w"]:
        """The output for a guide that is `factor` times larger; slope and offset are interpolated to its size."""
        size = (guide.shape[2], guide.shape[3])
        slope, offset = enlarge(self.slope, factor, size), enlarge(self.offset, factor, size)
        return torch.addcmul(offset, slope, guide)


def guided_filter(
    guide: Float[Tensor, "B 1 H W"], x: Float[Tensor, "B 1 H W"], radius: int, epsilon: float
) -> Float[Tensor, "B 1 H W"]:
    """Guided filter (He et al. 2010) with a gray guide in [0, 1]."""
    return fit_guide(guide, x, radius, epsilon).apply(guide)


def fit_guide(guide: Float[Tensor, "B 1 H W"], x: Float[Tensor, "B 1 H W"], radius: int, epsilon: float) -> LinearGuide:
    """Least-squares slope and offset from the guide to x in every window, averaged over the windows that contain a pixel."""
    mean = box_mean(torch.cat([guide, x, guide * guide, guide * x], 1), radius)
    mean_guide, mean_x, square, product = (mean[:, channel : channel + 1] for channel in range(4))
    slope = (product - mean_guide * mean_x) / ((square - mean_guide * mean_guide).clamp_min(0) + epsilon)
    averaged = box_mean(torch.cat([slope, mean_x - slope * mean_guide], 1), radius)
    return LinearGuide(averaged[:, :1], averaged[:, 1:])


def block_mean(x: Float[Tensor, "B C H W"], factor: int) -> Float[Tensor, "B C h w"]:
    """Means over blocks of factor x factor samples; blocks at the right and lower border may be smaller."""
    return x if factor == 1 else F.avg_pool2d(x, factor, ceil_mode=True, count_include_pad=False)


def block_min(x: Float[Tensor, "B C H W"], factor: int) -> Float[Tensor, "B C h w"]:
    """Minima over the blocks of `block_mean`."""
    return x if factor == 1 else -F.max_pool2d(-x, factor, ceil_mode=True)


def enlarge(x: Float[Tensor, "B C h w"], factor: int, size: tuple[int, int]) -> Float[Tensor, "B C H W"]:
    """Bilinear upsampling of block values from the block centers, cropped to `size`."""
    if factor == 1:
        return x
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)[:, :, : size[0], : size[1]]
