"""Slim ResNet-18 (He et al. 2016) of any width. Group normalization allows training from scratch with small batches."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from latens.shapes import Float

GROUP = 8  # channels per group of the normalization


class ResidualStage(nn.Module):
    """Two residual blocks of two 3 x 3 convolutions; the first may halve the resolution."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(channels_in, channels, stride), Block(channels, channels, 1))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        out: Tensor = self.blocks(x)
        return out


class Block(nn.Module):
    """conv, norm, relu, conv, norm, plus the input (projected if its shape differs), relu."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.first_norm = norm(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = norm(channels)
        nn.init.zeros_(self.second_norm.weight)  # the block starts as the identity
        same = stride == 1 and channels_in == channels
        self.project = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False), norm(channels))
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        y = F.relu(self.first_norm(self.first(x)))
        return F.relu(self.second_norm(self.second(y)) + self.project(x))


class Staged(nn.Module):
    """A stem followed by stages; returns the feature map of every stage."""

    stem: nn.Module
    stages: nn.ModuleList

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class SlimResNet(Staged):
    """(B, 3, H, W) -> four feature maps at strides 4, 8, 16, 32 with w, 2w, 4w, 8w channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.channels = [width, 2 * width, 4 * width, 8 * width]
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False), norm(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        steps = zip([width, *self.channels], self.channels, (1, 2, 2, 2), strict=False)
        self.stages = nn.ModuleList(ResidualStage(before, after, stride) for before, after, stride in steps)


def norm(channels: int) -> nn.GroupNorm:
    """Group normalization in groups of 8 channels, or one group if 8 does not divide `channels`."""
    return nn.GroupNorm(channels // GROUP if channels % GROUP == 0 else 1, channels)
