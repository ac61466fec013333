"""Linear block transforms of an image, initialized as the discrete cosine transform."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.shapes import Float

BLOCK = 16
LUMA_SHARE = 0.7  # share of the coefficients for luma; the rest is split between two color differences
LUMA_PER_COLOR = 6  # luma coefficients for one of each color difference, in the order by importance


class BlockAnalysis(nn.Module):
    """Trainable linear transform of every 16 x 16 block: (B, 3, 16h, 16w) -> (B, channels, h, w).

    Initialized as the lowest frequencies of the cosine transform of x - 0.5, in units of 1/`gain`. The channels are grouped by
    color axis, or with `interleaved` sorted by frequency (see `interleaved_order`).
    """

    def __init__(self, channels: int, gain: float, *, interleaved: bool = False) -> None:
        super().__init__()
        basis = cosine_basis(channels)[interleaved_order(channels) if interleaved else slice(None)] * gain
        self.conv = nn.Conv2d(3, channels, BLOCK, stride=BLOCK)
        with torch.no_grad():
            self.conv.weight.copy_(basis)
            self.conv.bias.copy_(-0.5 * basis.sum((1, 2, 3)))  # type: ignore[union-attr]

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        code: Tensor = self.conv(x)
        return code


class BlockSynthesis(nn.Module):
    """Trainable linear transform, initialized as the inverse of `BlockAnalysis`: (B, channels, h, w) -> (B, 3, 16h, 16w)."""

    def __init__(self, channels: int, gain: float, *, interleaved: bool = False) -> None:
        super().__init__()
        basis = cosine_basis(channels)[interleaved_order(channels) if interleaved else slice(None)] / gain
        self.conv = nn.Conv2d(channels, 3 * BLOCK * BLOCK, 1)
        with torch.no_grad():
            self.conv.weight.copy_(basis.flatten(1).T[:, :, None, None])
            self.conv.bias.fill_(0.5)  # type: ignore[union-attr]

    def forward(self, y: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        return F.pixel_shuffle(self.conv(y), BLOCK)


def cosine_basis(channels: int) -> Float[Tensor, "C 3 16 16"]:
    """Orthonormal basis of color blocks: products of cosines of the lowest frequencies on three orthogonal color axes.

    The axes are luma, red minus blue, and green minus the mean of red and blue. Needs channels <= 768.
    """
    steps = np.arange(BLOCK)
    waves = np.cos(np.pi * (2 * steps + 1) * steps[:, None] / (2 * BLOCK)) * np.sqrt(2 / BLOCK)
    waves[0] /= np.sqrt(2)
    axes = np.array([[1, 1, 1], [1, 0, -1], [-1, 2, -1]]) / np.sqrt([[3], [2], [6]])
    frequencies = sorted((int(i * i + j * j), int(i), int(j)) for i in steps for j in steps)
    color = int(channels * (1 - LUMA_SHARE) / 2)
    functions = [
        axis[:, None, None] * np.outer(waves[i], waves[j])
        for axis, count in zip(axes, (channels - 2 * color, color, color), strict=True)
        for _, i, j in frequencies[:count]
    ]
    return torch.tensor(np.stack(functions), dtype=torch.float32)


def interleaved_order(channels: int) -> list[int]:
    """Rows of `cosine_basis(channels)` by decreasing variance in photographs: low frequencies first, luma before color."""
    color = int(channels * (1 - LUMA_SHARE) / 2)
    luma = channels - 2 * color
    rank = [*range(luma), *(LUMA_PER_COLOR * (place + 1) for _ in range(2) for place in range(color))]
    return sorted(range(channels), key=lambda row: rank[row])
