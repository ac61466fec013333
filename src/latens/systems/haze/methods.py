"""Dehazing methods based on the scattering model: estimate transmission at low resolution, refine it with a guided filter.

The estimate uses the whole image, so airlight and statistics are global and large images have no seams. For clips, a temporal
filter runs between the two steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from latens.data.tensors import pad_to_multiple
from latens.nn.filters import block_mean, fit_guide, luminance
from latens.shapes import Float
from latens.systems.haze.baselines.boundary import FLOOR as BOUNDARY_FLOOR
from latens.systems.haze.baselines.boundary import BoundaryConfig, solve
from latens.systems.haze.baselines.dark_channel import Blocks, DarkChannelConfig, coarse_transmission
from latens.systems.haze.baselines.dehazenet import FLOOR as NET_FLOOR
from latens.systems.haze.baselines.dehazenet import REFINE_EPSILON, REFINE_RADIUS, DehazeNet
from latens.systems.haze.formation import HazeEstimate, transmission
from latens.systems.haze.physical import PhysicalHaze

T = TypeVar("T")
SMALLEST = 1e-3  # lower bound of the refined transmission
VIEWS = (1.0, 2 / 3)  # scales of the image at which the physical model is evaluated, relative to the training size
PHYSICAL_FLOOR = 0.08  # lower bound of t in `remove_haze`
PHYSICAL_RADIUS, PHYSICAL_EPSILON = 4, 1e-3  # of the guided filter, in samples of the reduced image
FULL_SIDE = 960  # boundary constraint and DehazeNet use images reduced to at most this side


class Coarse(NamedTuple):
    """An estimate per block of factor x factor pixels, and the guided filter that refines it (radius 0: none)."""

    t: Float[Tensor, "B 1 h w"]
    airlight: Float[Tensor, "B 3"]
    factor: int
    radius: int
    epsilon: float
    floor: float


def refine(coarse: Coarse, hazy: Float[Tensor, "B 3 H W"]) -> HazeEstimate:
    """Transmission at full size, by a guided filter with the image as guide."""
    if coarse.radius == 0:
        return HazeEstimate(coarse.t.clamp(SMALLEST, 1), coarse.airlight, coarse.floor)
    guide = luminance(hazy)
    fitted = fit_guide(block_mean(guide, coarse.factor), coarse.t, coarse.radius, coarse.epsilon)
    return HazeEstimate(fitted.apply(guide, coarse.factor).clamp(SMALLEST, 1), coarse.airlight, coarse.floor)


def dark_channel(blocks: Blocks, config: DarkChannelConfig) -> Coarse:
    t, airlight = coarse_transmission(blocks, config)
    return Coarse(t, airlight, config.shrink, max(config.radius // config.shrink, 1), config.epsilon, config.floor)


def boundary(hazy: Float[Tensor, "B 3 H W"], config: BoundaryConfig) -> Coarse:
    factor = reduction(hazy, FULL_SIDE)
    t, airlight = solve(block_mean(hazy, factor), config)
    return Coarse(t, airlight, factor, 8 if factor > 1 else 0, 1e-4, BOUNDARY_FLOOR)


def dehazenet(hazy: Float[Tensor, "B 3 H W"], net: DehazeNet) -> Coarse:
    factor = reduction(hazy, FULL_SIDE)
    small = block_mean(hazy, factor)
    t = net.windows(small)
    return Coarse(t, net.airlight(small, t), factor, max(REFINE_RADIUS // factor, 1), REFINE_EPSILON, NET_FLOOR)


def physical(hazy: Float[Tensor, "B 3 H W"], model: PhysicalHaze) -> Coarse:
    factor = shrinkage(hazy, model.config.short_side)
    t, airlight = read_physical(block_mean(hazy, factor), model)
    return Coarse(t, airlight, factor, PHYSICAL_RADIUS if factor > 1 else 0, PHYSICAL_EPSILON, PHYSICAL_FLOOR)


def read_physical(small: Float[Tensor, "B 3 h w"], model: PhysicalHaze) -> tuple[Tensor, Tensor]:
    """Transmission (B, 1, h, w) and airlight (B, 3) at the size of the image."""

    def read(view: Tensor) -> tuple[Tensor, Tensor]:
        code = model.encode(pad_to_multiple(view, model.stride), "hazy")
        airlight, beta = model.haze_parameters(code)
        return transmission(model.depth(code), beta), airlight

    predictions = views(small, read)
    return torch.stack([t for t, _ in predictions]).mean(0), torch.stack([a for _, a in predictions]).mean(0)


def physical_depth(clear: Float[Tensor, "B 3 H W"], model: PhysicalHaze) -> Float[Tensor, "B 1 H W"]:
    """Relative depth in [0, 1] of clear images, at full size."""
    factor = shrinkage(clear, model.config.short_side)
    small = block_mean(clear, factor)
    depth = reduced_depth(small, model)
    if factor == 1:
        return depth
    fitted = fit_guide(luminance(small), depth, PHYSICAL_RADIUS, PHYSICAL_EPSILON)
    return fitted.apply(luminance(clear), factor).clamp(0, 1)


def reduced_depth(small: Float[Tensor, "B 3 h w"], model: PhysicalHaze) -> Float[Tensor, "B 1 h w"]:
    """Relative depth of clear images at their size."""
    predictions = views(small, lambda view: (model.depth(model.encode(pad_to_multiple(view, model.stride), "clear")), None))
    return torch.stack([depth for depth, _ in predictions]).mean(0)


def views(
    small: Float[Tensor, "B 3 h w"], read: Callable[[Tensor], tuple[Tensor, T]]
) -> list[tuple[Float[Tensor, "B 1 h w"], T]]:
    """Test-time augmentation: results of `read` for the image at two scales, each also mirrored.

    Maps are resized and mirrored back to (B, 1, h, w). docs/results/haze.md reports the gain over a single view.
    """
    height, width = small.shape[2:]
    predictions = []
    for scale in VIEWS:
        size = (max(round(scale * height), 1), max(round(scale * width), 1))
        view = F.interpolate(small, size, mode="bilinear", antialias=True) if scale != 1 else small
        for mirrored in (False, True):
            found, rest = read(view.flip(3) if mirrored else view)
            found = found[:, :, : size[0], : size[1]]
            found = found.flip(3) if mirrored else found
            if size != (height, width):
                found = F.interpolate(found, (height, width), mode="bilinear", align_corners=False)
            predictions.append((found, rest))
    return predictions


def shrinkage(image: Tensor, side: int) -> int:
    """The reduction factor after which the shorter side is about `side`."""
    return shrinkage_to(side, (image.shape[2], image.shape[3]))


def shrinkage_to(side: int, size: tuple[int, int]) -> int:
    """`shrinkage` for an image of a size."""
    return max(round(min(size) / side), 1)


def reduction(image: Tensor, side: int) -> int:
    """The smallest reduction factor after which the longer side is at most `side`."""
    return max(-(-max(image.shape[2:]) // side), 1)
