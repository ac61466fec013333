"""Haze removal on 8-bit images in bands of rows that fit into the cache of the processor.

Memory bandwidth limits the speed on megapixel images: one pass over the whole image in float32 takes as long as all arithmetic
on cached bands. Letters: H W image size, h w number of blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from latens.nn.filters import LUMA, LinearGuide, fit_guide, luminance
from latens.shapes import Float, UInt8
from latens.systems.haze.baselines.dark_channel import FAST, Blocks, DarkChannelConfig
from latens.systems.haze.methods import SMALLEST, Coarse, dark_channel

BAND_PIXELS = 2**16  # approximate pixels of a band; their three colors take 0.8 MB in float32


class Band(NamedTuple):
    """Rows first to last (exclusive) of an image; colors in 0..255."""

    first: int
    last: int
    colors: Float[Tensor, "1 3 R W"]


def bands(pixels: UInt8[Tensor, "H W 3"], factor: int) -> Iterator[Band]:
    """Bands of the image from top to bottom; all but the last have a multiple of `factor` rows."""
    height, width = pixels.shape[:2]
    rows = max(BAND_PIXELS // width // factor, 1) * factor
    for first in range(0, height, rows):
        part = pixels[first : first + rows]
        yield Band(first, first + len(part), part.permute(2, 0, 1)[None].contiguous().float())


def block_statistics(pixels: UInt8[Tensor, "H W 3"], factor: int) -> Blocks:
    """Mean and minimum of every color over blocks of factor x factor pixels, in [0, 1].

    Rows are reduced before columns, because they are contiguous in memory; minima are taken in 8 bits.
    """
    height, width = pixels.shape[:2]
    whole = height // factor * factor
    rows = max(BAND_PIXELS // width // factor, 1) * factor
    bounds = [*range(0, whole, rows), whole] if whole else [0]
    if whole < height:
        bounds.append(height)  # the last blocks have fewer rows
    means, darkest = [], []
    for first, last in pairwise(bounds):
        joined = pixels[first:last].reshape(-1, min(factor, last - first), 3 * width)
        means.append(joined.float().mean(1))
        darkest.append(joined.amin(1))
    mean, dark = (torch.cat(p).view(-1, width, 3).permute(2, 0, 1)[None].contiguous().float() for p in (means, darkest))
    if width % factor == 0:  # the same result as pooling, three times as fast
        mean_parts, dark_parts = ([part[..., offset::factor] for offset in range(factor)] for part in (mean, dark))
        mean, dark = reduce(torch.add, mean_parts), reduce(torch.minimum, dark_parts)
        return Blocks(mean.div_(255 * factor), dark.div_(255))
    across = (1, factor)
    return Blocks(
        F.avg_pool2d(mean, across, ceil_mode=True, count_include_pad=False).div_(255),
        F.max_pool2d(dark.neg_(), across, ceil_mode=True).div_(-255),
    )


def clear_pixels(pixels: UInt8[Tensor, "H W 3"], coarse: Coarse, small: Float[Tensor, "1 3 h w"]) -> UInt8[Tensor, "H W 3"]:
    """The dehazed image. A guided filter with the image as guide refines the estimate; `small` holds the block means."""
    fitted = fit_guide(luminance(small), coarse.t, coarse.radius, coarse.epsilon)
    result = torch.empty_like(pixels)
    airlight = 255 * coarse.airlight[:, :, None, None]
    for band in bands(pixels, coarse.factor):
        red, green, blue = band.colors.unbind(1)
        guide = (red * (LUMA[0] / 255)).add_(green, alpha=LUMA[1] / 255).add_(blue, alpha=LUMA[2] / 255)[:, None]
        t = guide_rows(fitted, band, coarse.factor, guide).clamp_(max(SMALLEST, coarse.floor), 1)
        gain = t.reciprocal_()
        # J = A + (I - A) / t, plus 0.5, because the conversion to bytes truncates.
        clear = torch.addcmul(airlight + 0.5, band.colors.sub_(airlight), gain).clamp_(0, 255)
        result[band.first : band.last] = clear[0].byte().permute(1, 2, 0)
    return result


@torch.no_grad()
def dark_channel_pixels(pixels: UInt8[Tensor, "H W 3"], config: DarkChannelConfig = FAST) -> UInt8[Tensor, "H W 3"]:
    """The image dehazed by the dark channel prior with a gray guide; `config.shrink` must be above 1."""
    blocks = block_statistics(pixels, config.shrink)
    return clear_pixels(pixels, dark_channel(blocks, config), blocks.mean)


def guide_rows(fitted: LinearGuide, band: Band, factor: int, guide: Float[Tensor, "1 1 R W"]) -> Float[Tensor, "1 1 R W"]:
    """Output of the guided filter for the rows of a band; slope and offset are interpolated between blocks."""
    above = min(band.first // factor, 1)
    first, last = band.first // factor - above, -(-band.last // factor) + 1
    part = LinearGuide(*(values[:, :, first:last] for values in fitted))
    rows = slice(above * factor, above * factor + guide.shape[2])
    width = guide.shape[3]
    slope, offset = (
        F.interpolate(values, scale_factor=float(factor), mode="bilinear", align_corners=False)[:, :, rows, :width]
        for values in part
    )
    return torch.addcmul(offset, slope, guide)
