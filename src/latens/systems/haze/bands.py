"""Haze taken out of the bytes of an image, some rows at a time: what is touched stays in the processor's cache.

Images of megapixels are bound by memory, not by arithmetic; a pass over floats of the whole image costs as much as all the
work on a few rows. Letters: H W size of the image, h w of it in blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from latens.shapes import Float, UInt8
from latens.systems.haze.baselines.dark_channel import FAST, Blocks, DarkChannelConfig
from latens.systems.haze.filters import LUMA, LinearGuide, fit_guide, luminance
from latens.systems.haze.methods import SMALLEST, Coarse, dark_channel

BAND_PIXELS = 2**16  # pixels, about: three colours of them in float32 are 0.8 MB


class Band(NamedTuple):
    """Rows first to last of an image; colours in 0..255."""

    first: int
    last: int
    colours: Float[Tensor, "1 3 R W"]


def bands(pixels: UInt8[Tensor, "H W 3"], factor: int) -> Iterator[Band]:
    """The image from top to bottom, each part a whole number of blocks of `factor` rows but for the last."""
    height, width = pixels.shape[:2]
    rows = max(BAND_PIXELS // width // factor, 1) * factor
    for first in range(0, height, rows):
        part = pixels[first : first + rows]
        yield Band(first, first + len(part), part.permute(2, 0, 1)[None].contiguous().float())


def block_statistics(pixels: UInt8[Tensor, "H W 3"], factor: int) -> Blocks:
    """Mean and smallest value of every colour in blocks of `factor` pixels, in [0, 1].

    Rows are joined first, as they lie in memory and as bytes where they can be.
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
    if width % factor == 0:  # the same as pooling, in a third of the time
        mean_parts, dark_parts = ([part[..., offset::factor] for offset in range(factor)] for part in (mean, dark))
        mean, dark = reduce(torch.add, mean_parts), reduce(torch.minimum, dark_parts)
        return Blocks(mean.div_(255 * factor), dark.div_(255))
    across = (1, factor)
    return Blocks(
        F.avg_pool2d(mean, across, ceil_mode=True, count_include_pad=False).div_(255),
        F.max_pool2d(dark.neg_(), across, ceil_mode=True).div_(-255),
    )


def clear_pixels(pixels: UInt8[Tensor, "H W 3"], coarse: Coarse, small: Float[Tensor, "1 3 h w"]) -> UInt8[Tensor, "H W 3"]:
    """The image without its haze, the estimate refined by it; `small` are the means of its blocks."""
    fitted = fit_guide(luminance(small), coarse.t, coarse.radius, coarse.epsilon)
    result = torch.empty_like(pixels)
    airlight = 255 * coarse.airlight[:, :, None, None]
    for band in bands(pixels, coarse.factor):
        red, green, blue = band.colours.unbind(1)
        guide = (red * (LUMA[0] / 255)).add_(green, alpha=LUMA[1] / 255).add_(blue, alpha=LUMA[2] / 255)[:, None]
        t = guide_rows(fitted, band, coarse.factor, guide).clamp_(max(SMALLEST, coarse.floor), 1)
        gain = t.reciprocal_()
        # J = A + (I - A) / t, and one half because bytes are cut off, not rounded.
        clear = torch.addcmul(airlight + 0.5, band.colours.sub_(airlight), gain).clamp_(0, 255)
        result[band.first : band.last] = clear[0].byte().permute(1, 2, 0)
    return result


@torch.no_grad()
def dark_channel_pixels(pixels: UInt8[Tensor, "H W 3"], config: DarkChannelConfig = FAST) -> UInt8[Tensor, "H W 3"]:
    """The image without its haze by the dark channel prior; `config.shrink` is above 1, its guide grey."""
    blocks = block_statistics(pixels, config.shrink)
    return clear_pixels(pixels, dark_channel(blocks, config), blocks.mean)


def guide_rows(fitted: LinearGuide, band: Band, factor: int, guide: Float[Tensor, "1 1 R W"]) -> Float[Tensor, "1 1 R W"]:
    """What the guided filter says in the rows of a band: slope and offset are interpolated from the blocks around them."""
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
