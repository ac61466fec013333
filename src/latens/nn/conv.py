"""Strided convolutions that halve or double a feature map."""

from __future__ import annotations

from torch import nn


def down(channels_in: int, channels_out: int, kernel: int = 5) -> nn.Conv2d:
    """Convolution with stride 2: (B, channels_in, 2h, 2w) -> (B, channels_out, h, w)."""
    return nn.Conv2d(channels_in, channels_out, kernel, stride=2, padding=kernel // 2)


def up(channels_in: int, channels_out: int, kernel: int = 5) -> nn.ConvTranspose2d:
    """Transposed convolution with stride 2: (B, channels_in, h, w) -> (B, channels_out, 2h, 2w)."""
    return nn.ConvTranspose2d(channels_in, channels_out, kernel, stride=2, padding=kernel // 2, output_padding=1)
