"""Dark channel prior (He et al. 2009; row "He's" of Table 1 of Li et al. 2019), refined by a guided filter instead of matting.

In clear outdoor images the minimum over the colors of a window is nearly 0; haze raises it to A (1 - t).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from latens.nn.filters import block_mean, block_min, box_min
from latens.shapes import Bool, Float
from latens.systems.haze.formation import FLOOR

SMALLEST_AIRLIGHT = 0.05  # keeps the division by the airlight finite for black images


class Blocks(NamedTuple):
    """Mean and minimum of every color over blocks of pixels, in [0, 1]."""

    mean: Float[Tensor, "B 3 h w"]
    darkest: Float[Tensor, "B 3 h w"]


@dataclass(frozen=True, kw_only=True)
class DarkChannelConfig:
    """Settings. Patch, omega, share and floor are those of He et al. 2009, whose airlight is the brightest pixel of the share.

    The estimate is computed on an image reduced by `shrink`.
    """

    patch: int = 15  # side of the window in pixels, odd
    omega: float = 0.95  # share of the haze that is removed
    radius: int = 30  # of the guided filter, in pixels
    epsilon: float = 1e-4
    brightest: float = 0.001  # share of the pixels (of largest dark channel) whose mean gives the airlight
    floor: float = FLOOR
    shrink: int = 1


# omega, patch and epsilon are tuned on public scenes with the haze of Li et al. 2019: weaker removal has less error.
GENTLE = DarkChannelConfig(patch=7, omega=0.6, epsilon=1e-3)
FAST = DarkChannelConfig(shrink=4)


def blocks_of(hazy: Float[Tensor, "B 3 H W"], factor: int) -> Blocks:
    """Block statistics of an image."""
    return Blocks(block_mean(hazy, factor), block_min(hazy, factor))


def coarse_transmission(
    blocks: Blocks, config: DarkChannelConfig, visible: Bool[Tensor, "B 1 h w"] | None = None
) -> tuple[Tensor, Tensor]:
    """Transmission 1 - omega dark(I / A), (B, 1, h, w) per block, and airlight (B, 3) of visible blocks, before refinement.

    The window has the same size in image pixels for every `shrink`, up to rounding to blocks.
    """
    radius = round((config.patch - 1) / 2 / config.shrink)
    dark = dark_channel(blocks.darkest, radius)
    dark = dark if visible is None else dark.masked_fill(~visible, -1)
    airlight = airlight_of(blocks.mean, dark, config.brightest)
    return 1 - config.omega * dark_channel(blocks.darkest / airlight[:, :, None, None], radius), airlight


def dark_channel(image: Float[Tensor, "B 3 H W"], radius: int) -> Float[Tensor, "B 1 H W"]:
    """Minimum over all colors in the window around every pixel."""
    return box_min(image.amin(1, keepdim=True), radius)


def airlight_of(hazy: Float[Tensor, "B 3 H W"], dark: Float[Tensor, "B 1 H W"], share: float) -> Float[Tensor, "B 3"]:
    """Mean color of the pixels with the largest dark channel, at least one."""
    count = max(int(dark.shape[2] * dark.shape[3] * share), 1)
    chosen = dark.flatten(1).topk(count, dim=1, sorted=False).indices
    colors = hazy.flatten(2).gather(2, chosen[:, None].expand(-1, 3, -1))
    return colors.mean(2).clamp_min(SMALLEST_AIRLIGHT)
