"""Window filters of whole batches in time that does not grow with the window: means, minima, guided filter.

Letters: B batch, C channels, r radius; a window has 2 r + 1 samples a side. Borders mirror without repeating the edge sample,
and where an image is smaller than the radius its edge sample is repeated.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from latens.shapes import Float

LUMA = (0.299, 0.587, 0.114)


def box_mean(x: Float[Tensor, "B C H W"], radius: int) -> Float[Tensor, "B C H W"]:
    """Mean of every window, by running sums."""
    return _mean_along(_mean_along(x, radius, 3), radius, 2)


def _mean_along(x: Tensor, radius: int, dim: int) -> Tensor:
    size, width = x.shape[dim], 2 * radius + 1
    if radius == 0:
        return x
    padded = pad_mirrored(x, radius, dim)
    # Sums run over deviations from the mean, in float32: a running sum of the values themselves would lose digits.
    centre = x.mean(dim, keepdim=True)
    sums = torch.cumsum(padded - centre, dim)
    upper = sums.narrow(dim, width - 1, size)
    lower = F.pad(sums.narrow(dim, 0, size - 1), (1, 0) if dim == 3 else (0, 0, 1, 0))
    return (upper - lower) / width + centre


def box_min(x: Float[Tensor, "B C H W"], radius: int) -> Float[Tensor, "B C H W"]:
    """Minimum of every window (erosion), by doubling: a window of 15 takes four comparisons a side, not fourteen."""
    return _min_along(_min_along(x, radius, 3), radius, 2)


def box_max(x: Float[Tensor, "B C H W"], radius: int) -> Float[Tensor, "B C H W"]:
    """Maximum of every window (dilation)."""
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
    """`radius` samples more on both ends of dimension 2 or 3."""
    mirrored = radius < x.shape[dim]
    amounts = (radius, radius, 0, 0) if dim == 3 else (0, 0, radius, radius)
    return F.pad(x, amounts, mode="reflect" if mirrored else "replicate")


def luminance(image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 H W"]:
    """Grey by ITU-R BT.601."""
    red, green, blue = image.split(1, 1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


class LinearGuide(NamedTuple):
    """What a guided filter found: output = slope . guide + offset in every pixel."""

    slope: Float[Tensor, "B 1 H W"]
    offset: Float[Tensor, "B 1 H W"]

    def apply(self, guide: Float[Tensor, "B 1 h w"], factor: int = 1) -> Float[Tensor, "B 1 h w"]:
        """The output for a guide `factor` times as large, to which slope and offset are interpolated."""
        size = (guide.shape[2], guide.shape[3])
        slope, offset = enlarge(self.slope, factor, size), enlarge(self.offset, factor, size)
        return torch.addcmul(offset, slope, guide)


def guided_filter(
    guide: Float[Tensor, "B 1 H W"], x: Float[Tensor, "B 1 H W"], radius: int, epsilon: float
) -> Float[Tensor, "B 1 H W"]:
    """Guided filter (He et al. 2010) with a gray guide in [0, 1]."""
    return fit_guide(guide, x, radius, epsilon).apply(guide)


def fit_guide(guide: Float[Tensor, "B 1 H W"], x: Float[Tensor, "B 1 H W"], radius: int, epsilon: float) -> LinearGuide:
    """Slope and offset that fit x to the guide in every window, averaged over the windows that hold a pixel."""
    mean = box_mean(torch.cat([guide, x, guide * guide, guide * x], 1), radius)
    mean_guide, mean_x, square, product = mean.split(1, 1)
    slope = (product - mean_guide * mean_x) / ((square - mean_guide * mean_guide).clamp_min(0) + epsilon)
    averaged = box_mean(torch.cat([slope, mean_x - slope * mean_guide], 1), radius)
    return LinearGuide(averaged[:, :1], averaged[:, 1:])


def block_mean(x: Float[Tensor, "B C H W"], factor: int) -> Float[Tensor, "B C h w"]:
    """Means of blocks of `factor` a side; those at the right and lower border may be smaller."""
    return x if factor == 1 else F.avg_pool2d(x, factor, ceil_mode=True, count_include_pad=False)


def block_min(x: Float[Tensor, "B C H W"], factor: int) -> Float[Tensor, "B C h w"]:
    """Minima of the same blocks."""
    return x if factor == 1 else -F.max_pool2d(-x, factor, ceil_mode=True)


def enlarge(x: Float[Tensor, "B C h w"], factor: int, size: tuple[int, int]) -> Float[Tensor, "B C H W"]:
    """Bilinear values between the centres of such blocks, cut to `size`."""
    if factor == 1:
        return x
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)[:, :, : size[0], : size[1]]
