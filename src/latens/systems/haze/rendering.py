"""Removal of haze at full size by a plan made at working size, in bands of rows that fit into the cache of the processor.

Letters: H W image size, R rows of a band, h w working size. Colors are in 0..255.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from latens.nn.filters import LUMA
from latens.shapes import Float, UInt8
from latens.systems.haze.bands import bands
from latens.systems.haze.rules import Plan


class FullWidth(NamedTuple):
    """The maps of a plan at all columns of an image, and at the rows of the working image."""

    maps: Float[Tensor, "1 3 h W"]  # slope and offset of the guided filter, lower bound
    plan: Plan
    height: int  # rows of the image

    def rows(self, first: int, last: int) -> tuple[Tensor, Tensor, Tensor]:
        """The three maps (1, 1, R, W) at rows first to last (exclusive) of the image."""
        count = self.maps.shape[2]
        place = (torch.arange(first, last, device=self.maps.device) + 0.5).mul_(count / self.height).sub_(0.5)
        place = place.clamp_(0, count - 1)
        above = place.floor().long()
        share = (place - above)[:, None]
        below = (above + 1).clamp_(max=count - 1)
        slope, offset, bound = torch.lerp(self.maps[:, :, above], self.maps[:, :, below], share).split(1, 1)
        return slope, offset, bound

    def transmission(self, colors: Float[Tensor, "1 3 R W"], first: int) -> Float[Tensor, "1 1 R W"]:
        """Transmission of the rows from `first` on."""
        red, green, blue = colors.unbind(1)
        scale = 1 / (255 * self.plan.exposure)
        guide = (red * (scale * LUMA[0])).add_(green, alpha=scale * LUMA[1]).add_(blue, alpha=scale * LUMA[2])[:, None]
        return self.plan.transmission(guide, *self.rows(first, first + colors.shape[2]))

    def clear(self, colors: Float[Tensor, "1 3 R W"], t: Float[Tensor, "1 1 R W"]) -> UInt8[Tensor, "R W 3"]:
        """J = A + (I - A) / t of rows, after the tone curve. Overwrites both arguments."""
        airlight = 255 * self.plan.airlight[:, :, None, None]
        found = torch.addcmul(airlight, colors.sub_(airlight), t.reciprocal_())
        if self.plan.gamma != 1:
            white = 255 * self.plan.exposure
            found = found.clamp_(min=0).div_(white).pow_(self.plan.gamma).mul_(white)
        return found.add_(0.5).clamp_(0, 255)[0].byte().permute(1, 2, 0)  # 0.5, because the conversion truncates


def full_width(plan: Plan, height: int, width: int) -> FullWidth:
    """The plan for an image (height, width)."""
    maps = torch.cat([plan.fitted.slope, plan.fitted.offset, plan.bound], 1)
    wide = F.interpolate(maps, (maps.shape[2], width), mode="bilinear", align_corners=False)
    return FullWidth(wide, plan, height)


def cleared(
    pixels: UInt8[Tensor, "H W 3"], plan: Plan, transmission: Float[Tensor, "H W"] | None = None
) -> UInt8[Tensor, "H W 3"]:
    """The dehazed image. The transmission, to the power of the strength, is written into `transmission` if it is given."""
    wide = full_width(plan, pixels.shape[0], pixels.shape[1])
    result = torch.empty_like(pixels)
    for band in bands(pixels, 1):
        t = wide.transmission(band.colors, band.first)
        if transmission is not None:
            transmission[band.first : band.last] = t[0, 0]
        result[band.first : band.last] = wide.clear(band.colors, t)
    return result
