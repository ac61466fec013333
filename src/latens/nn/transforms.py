"""Transforms between an image and a latent at 1/16 of its size: those of Perugachi-Diaz 2024, and compact ones for CPUs.

Compact transforms first fold 4 x 4 pixels into channels, so no layer works at more than a quarter of the resolution. A linear
path, initialized as the cosine transform of 16 x 16 blocks, is added to the deep path (like the shortcuts of Li et al. 2025).
Training therefore starts from a block-transform codec.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latens.nn.blocks import BlockAnalysis, BlockSynthesis
from latens.nn.conv import Residual, down, up
from latens.nn.gdn import GDN
from latens.nn.init import small
from latens.shapes import Float

# Quantization steps per unit of intensity at the middle rate, at the start of training.
BLOCK_GAIN = 10.0
DIFFERENCE_GAIN = 8.0
FOLD = 4  # side of the pixel blocks that compact transforms fold into channels


class Sum(nn.Module):
    """Sum of a deep and a linear path."""

    def __init__(self, deep: nn.Module, linear: nn.Module) -> None:
        super().__init__()
        self.deep = deep
        self.linear = linear

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        total: Tensor = self.deep(x) + self.linear(x)
        return total


class Analysis(nn.Module):
    """Analysis transform with an optional mask: (B, C, H, W), (B, 1, H, W) -> (B, M, H/16, W/16).

    The mask is added after layer `entry` of `deep` by a layer of its own, which is equivalent to one more input channel. The
    weights of that layer start at zero, so a model that was trained without masks can continue training with them.
    """

    def __init__(self, deep: nn.Sequential, *, linear: nn.Module | None = None, entry: int, mask: nn.Module | None) -> None:
        super().__init__()
        self.deep = deep
        self.linear = linear
        self.entry = entry
        self.mask = mask

    def forward(self, x: Float[Tensor, "B C H W"], mask: Float[Tensor, "B 1 H W"] | None = None) -> Float[Tensor, "B M h w"]:
        y = x
        for index, layer in enumerate(self.deep):
            y = layer(y)
            if index == self.entry and self.mask is not None and mask is not None:
                y = y + self.mask(mask)
        return y if self.linear is None else y + self.linear(x)


def paper_analysis(inputs: int, n: int, m: int, *, mask: bool = False) -> Analysis:
    """Four 5 x 5 convolutions of stride 2 with ReLUs (Agustsson et al. 2020)."""
    deep = nn.Sequential(down(inputs, n), nn.ReLU(), down(n, n), nn.ReLU(), down(n, n), nn.ReLU(), down(n, m))
    return Analysis(deep, entry=0, mask=zero_weights(nn.Conv2d(1, n, 5, stride=2, padding=2, bias=False)) if mask else None)


def paper_synthesis(m: int, n: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(up(m, n), nn.ReLU(), up(n, n), nn.ReLU(), up(n, n), nn.ReLU(), up(n, outputs))


def compact_image_analysis(n: int, m: int, *, mask: bool = False) -> Analysis:
    """Analysis of whole images, with divisive normalization as in the image codec."""
    wide = n * 4 // 3
    deep = nn.Sequential(
        nn.PixelUnshuffle(FOLD), nn.Conv2d(48, n, 3, padding=1), Residual(n), GDN(n),
        down(n, wide), Residual(wide), GDN(wide), small(down(wide, m)),
    )  # fmt: skip
    return Analysis(deep, linear=BlockAnalysis(m, BLOCK_GAIN), entry=1, mask=folded_mask(n) if mask else None)


def compact_image_synthesis(m: int, n: int) -> Sum:
    wide = n * 4 // 3
    deep = nn.Sequential(
        up(m, wide), GDN(wide, inverse=True), Residual(wide),
        up(wide, n), GDN(n, inverse=True), Residual(n), small(nn.Conv2d(n, 48, 3, padding=1)), nn.PixelShuffle(FOLD),
    )  # fmt: skip
    return Sum(deep, BlockSynthesis(m, BLOCK_GAIN))


def compact_difference_analysis(n: int, m: int, *, mask: bool = False) -> Analysis:
    """Analysis of frame differences, which are zero-mean: leaky ReLUs, and fewer channels than for images."""
    wide = n * 3 // 2
    deep = nn.Sequential(
        nn.PixelUnshuffle(FOLD), nn.Conv2d(48, n, 3, padding=1), Residual(n),
        down(n, wide), Residual(wide), small(down(wide, m, 3)),
    )  # fmt: skip
    linear = BlockAnalysis(m, DIFFERENCE_GAIN)
    nn.init.zeros_(linear.conv.bias)  # type: ignore[arg-type]
    return Analysis(deep, linear=linear, entry=1, mask=folded_mask(n) if mask else None)


class DifferenceSynthesis(nn.Module):
    """(B, M, h, w), with additional features (B, E, h, w) for the deep path -> (B, 3, 16h, 16w)."""

    def __init__(self, m: int, extra: int, n: int) -> None:
        super().__init__()
        wide = n * 3 // 2
        self.deep = nn.Sequential(
            up(m + extra, wide, 3), Residual(wide), up(wide, n), Residual(n),
            small(nn.Conv2d(n, 48, 3, padding=1)), nn.PixelShuffle(FOLD),
        )  # fmt: skip
        self.linear = BlockSynthesis(m, DIFFERENCE_GAIN)
        nn.init.zeros_(self.linear.conv.bias)  # type: ignore[arg-type]

    def forward(self, y: Float[Tensor, "B M h w"], extra: Float[Tensor, "B E h w"]) -> Float[Tensor, "B 3 H W"]:
        total: Tensor = self.deep(torch.cat([y, extra], dim=1)) + self.linear(y)
        return total


def hyper_analysis(m: int, n: int, *, paper: bool) -> nn.Sequential:
    """(B, M, h, w) -> (B, N, h/4, w/4), or (B, N, h/8, w/8) with the layers of the paper (`paper`)."""
    if paper:
        return nn.Sequential(down(m, n), nn.ReLU(), down(n, n), nn.ReLU(), down(n, n))
    return nn.Sequential(nn.Conv2d(m, n, 3, padding=1), nn.LeakyReLU(), down(n, n), nn.LeakyReLU(), down(n, n))


def hyper_synthesis(n: int, k: int, m: int, *, paper: bool) -> nn.Sequential:
    """Hyper-latent to mean and scale, (B, 2M, h, w). `k` is the width of the first layer; scales start at one step."""
    wide = k * 3 // 2
    if paper:
        stack = nn.Sequential(up(n, k), nn.ReLU(), up(k, k), nn.ReLU(), up(k, 2 * m))
    else:
        stack = nn.Sequential(up(n, k), nn.LeakyReLU(), up(k, wide), nn.LeakyReLU(), nn.Conv2d(wide, m * 2, 3, padding=1))
    last = stack[-1]
    assert isinstance(last, nn.Conv2d | nn.ConvTranspose2d)
    with torch.no_grad():
        small(last)
        last.bias[m:] = 1.0  # type: ignore[index]
    return stack


def folded_mask(n: int) -> nn.Sequential:
    """Fold a mask like the image and map it to n channels, with zero initial weights."""
    return nn.Sequential(nn.PixelUnshuffle(FOLD), zero_weights(nn.Conv2d(FOLD * FOLD, n, 3, padding=1, bias=False)))


def zero_weights(layer: nn.Conv2d) -> nn.Conv2d:
    """Set the weights of a layer to zero."""
    nn.init.zeros_(layer.weight)
    return layer
