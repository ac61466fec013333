"""Convolutions that halve or double the resolution, strided or by pixel (un)shuffle, and a residual block."""

from __future__ import annotations

from torch import Tensor, nn

from latens.nn.init import small
from latens.shapes import Float


def down(channels_in: int, channels_out: int, kernel: int = 5) -> nn.Conv2d:
    """Convolution with stride 2: (B, channels_in, 2h, 2w) -> (B, channels_out, h, w)."""
    return nn.Conv2d(channels_in, channels_out, kernel, stride=2, padding=kernel // 2)


def up(channels_in: int, channels_out: int, kernel: int = 5) -> nn.ConvTranspose2d:
    """Transposed convolution with stride 2: (B, channels_in, h, w) -> (B, channels_out, 2h, 2w)."""
    return nn.ConvTranspose2d(channels_in, channels_out, kernel, stride=2, padding=kernel // 2, output_padding=1)


def fold(channels_in: int, channels_out: int) -> nn.Sequential:
    """(B, channels_in, 2h, 2w) -> (B, channels_out, h, w): pixel unshuffle by 2, then a 3 x 3 convolution."""
    return nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * channels_in, channels_out, 3, padding=1))


def halve(channels_in: int, channels_out: int) -> nn.Conv2d:
    """(B, channels_in, 2h, 2w) -> (B, channels_out, h, w): a 2 x 2 convolution with stride 2."""
    return nn.Conv2d(channels_in, channels_out, 2, stride=2)


def double(channels_in: int, channels_out: int) -> nn.ConvTranspose2d:
    """(B, channels_in, h, w) -> (B, channels_out, 2h, 2w): every sample becomes 2 x 2, as by a 1 x 1 layer and a shuffle."""
    return nn.ConvTranspose2d(channels_in, channels_out, 2, stride=2)


def unfold(channels_in: int, channels_out: int) -> nn.Sequential:
    """(B, channels_in, h, w) -> (B, channels_out, 2h, 2w): a 3 x 3 convolution, then pixel shuffle by 2."""
    return nn.Sequential(nn.Conv2d(channels_in, 4 * channels_out, 3, padding=1), nn.PixelShuffle(2))


class Residual(nn.Module):
    """x plus two 3 x 3 convolutions; the second has small initial weights, so the block starts near the identity.

    `hidden` is the number of channels between the two convolutions (default: `channels`).
    """

    def __init__(self, channels: int, hidden: int | None = None) -> None:
        super().__init__()
        between = channels if hidden is None else hidden
        self.body = nn.Sequential(
            nn.Conv2d(channels, between, 3, padding=1), nn.LeakyReLU(), small(nn.Conv2d(between, channels, 3, padding=1))
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        total: Tensor = x + self.body(x)
        return total
