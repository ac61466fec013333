"""The star-convex network: a U-Net on images folded by 2, with a dense head.

Letters: B images, H W sides of the image (multiples of `StarConfig.coarsest`), h w = H / 2, W / 2, R rays.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.shapes import Float
from latens.systems.amodal.cells.config import STRIDE, StarConfig

LONGEST_LOG = 6.0  # rays are at most exp(6) = 403 pixels
TYPICAL_LOG = 2.3  # the log distance at output 0: 10 pixels


class StarMaps(NamedTuple):
    """Outputs of the network; all but `log_rays` are logits."""

    center: Float[Tensor, "B h w"]  # object probability: the relative distance to the border of the object
    overlap: Float[Tensor, "B h w"]  # two or more objects cover the pixel
    log_rays: Float[Tensor, "B R h w"]  # log distance in pixels to the outline of the object along each ray
    foreground: Float[Tensor, "B H W"]
    contact: Float[Tensor, "B H W"]  # border to a touching object


class StarNet(nn.Module):
    """Images -> maps of centers, rays, foreground, contact and overlap."""

    def __init__(self, config: StarConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.stem = convolution(3 * STRIDE**2, widths[0])
        self.encode = nn.ModuleList(Stage(width) for width in widths)
        self.down = nn.ModuleList(convolution(a, b, stride=2) for a, b in itertools.pairwise(widths))
        self.lateral = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in itertools.pairwise(widths))
        self.decode = nn.ModuleList(Stage(width) for width in widths[:-1])
        self.head = convolution(widths[0], 2 * widths[0])
        self.out = nn.Conv2d(2 * widths[0], 2 + config.rays + 2 * STRIDE**2, 1)

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> StarMaps:
        """Maps of normalized images (see `normalize`)."""
        x = self.stem(F.pixel_unshuffle(image, STRIDE))
        skips = []
        for index, stage in enumerate(self.encode):
            x = stage(x if index == 0 else self.down[index - 1](x))
            skips.append(x)
        for index in reversed(range(len(self.decode))):
            # Projected before it is enlarged: a quarter of the work, and the same result.
            x = skips[index] + F.interpolate(self.lateral[index](x), scale_factor=2.0, mode="nearest")
            x = self.decode[index](x)
        out = self.out(self.head(x)).float()
        rays = self.config.rays
        full = F.pixel_shuffle(out[:, 2 + rays :], STRIDE)
        log_rays = (TYPICAL_LOG + out[:, 2 : 2 + rays]).clamp(max=LONGEST_LOG)
        return StarMaps(out[:, 0], out[:, 1], log_rays, full[:, 0], full[:, 1])


class Stage(nn.Module):
    """x plus two 3 x 3 convolutions with batch normalization."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = convolution(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        total: Tensor = F.relu(x + self.second(self.first(x)))
        return total


def convolution(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    """3 x 3 convolution, batch normalization, ReLU. Batch statistics are fixed in use, so that tiles do not change them."""
    conv = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out), nn.ReLU())


def fused(model: StarNet) -> StarNet:
    """A copy for inference with the normalizations folded into their convolutions."""
    import copy

    made = copy.deepcopy(model).eval()
    for part in made.modules():
        if isinstance(part, nn.Sequential) and len(part) > 1 and isinstance(part[1], nn.BatchNorm2d):
            conv = part[0]
            assert isinstance(conv, nn.Conv2d)
            part[0] = torch.nn.utils.fusion.fuse_conv_bn_eval(conv, part[1])
            part[1] = nn.Identity()
    return made
