"""Boundary constraint with contextual regularization (Meng et al. 2013; row "Meng's" of Table 1 of Li et al. 2019).

The colors of a clear image lie between C0 and C1, which gives a lower bound of the transmission. The bound is smoothed where
the hazy image is smooth, by half-quadratic splitting; the quadratic step is solved by Fourier transform (circular borders).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from latens.nn.filters import box_max, box_min
from latens.shapes import Bool, Float

SMALLEST_AIRLIGHT = 0.05  # keeps divisions finite for black images


@dataclass(frozen=True, kw_only=True)
class BoundaryConfig:
    """Settings of the paper, for images in [0, 1]."""

    low: float = 20 / 255  # C0
    high: float = 300 / 255  # C1
    window: int = 15  # side of the minimum filter of the airlight estimate
    closing: int = 3  # side of the morphological closing of the bound
    sigma: float = 0.5  # of the edge weights
    strength: float = 2.0  # lambda: weight of the bound relative to smoothness
    exponent: float = 0.85  # delta: t^delta leaves a little haze


ROUNDS = 6  # beta = 1, 2 sqrt 2, 8, ... while below 256
GROWTH = 2 * math.sqrt(2)
SMALLEST = 1e-4
FLOOR = 0.02  # keeps the division finite; the bound of t already keeps images in range


def solve(
    hazy: Float[Tensor, "B 3 H W"], config: BoundaryConfig, visible: Bool[Tensor, "B 1 H W"] | None = None
) -> tuple[Tensor, Tensor]:
    """Transmission (B, 1, H, W) and airlight (B, 3) at the size of the image; airlight of visible pixels only."""
    darkest = box_min(hazy, config.window // 2)
    darkest = darkest if visible is None else darkest.masked_fill(~visible, 0)
    airlight = darkest.amax((2, 3)).clamp_min(SMALLEST_AIRLIGHT)
    bound = boundary(hazy, airlight, config)
    radius = config.closing // 2
    bound = box_min(box_max(bound, radius), radius)
    smooth = regularize(bound, hazy, config)
    return smooth.clamp(SMALLEST, 1) ** config.exponent, airlight


def boundary(
    hazy: Float[Tensor, "B 3 H W"], airlight: Float[Tensor, "B 3"], config: BoundaryConfig
) -> Float[Tensor, "B 1 H W"]:
    """Smallest transmission for which every color of the clear image lies in [C0, C1]."""
    a = airlight[:, :, None, None]
    below = (a - hazy) / (a - config.low).clamp_min(SMALLEST)
    above = (hazy - a) / (config.high - a)
    return torch.maximum(below, above).amax(1, keepdim=True).clamp(0, 1)


def kirsch_filters() -> Float[Tensor, "8 1 3 3"]:
    """The eight compass masks of Kirsch, of unit norm."""
    ring = [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0)]  # around the center
    masks = torch.full((8, 1, 3, 3), -3.0)
    masks[:, :, 1, 1] = 0
    for direction in range(8):
        for step in range(3):
            row, column = ring[(direction + step) % 8]
            masks[direction, 0, row, column] = 5
    return masks / masks.flatten(1).norm(dim=1)[:, None, None, None]


def regularize(
    bound: Float[Tensor, "B 1 H W"], hazy: Float[Tensor, "B 3 H W"], config: BoundaryConfig
) -> Float[Tensor, "B 1 H W"]:
    """Minimizes strength/2 |t - bound|^2 + sum_k |W_k * D_k t|_1 over t."""
    filters = kirsch_filters().to(hazy)
    weights = edge_weights(hazy, filters, config.sigma)
    size = hazy.shape[2:]
    kernels = torch.stack([_spectrum(mask[0], size) for mask in filters])  # 8 H W'
    energy = kernels.abs().square().sum(0)
    target = torch.fft.rfft2(bound[:, 0])
    t, beta = bound, 1.0
    for _ in range(ROUNDS):
        responses = circular(t, filters)
        shrunk_responses = responses.sign() * (responses.abs() - weights / (beta * len(filters))).clamp_min(0)
        gathered = (kernels.conj() * torch.fft.rfft2(shrunk_responses)).sum(1)
        share = config.strength / beta
        t = torch.fft.irfft2((share * target + gathered) / (share + energy), s=size)[:, None]
        beta *= GROWTH
    return t.abs()


def edge_weights(hazy: Float[Tensor, "B 3 H W"], filters: Float[Tensor, "8 1 3 3"], sigma: float) -> Float[Tensor, "B 8 H W"]:
    """Near 1 where the image is smooth in a direction, near 0 across an edge."""
    energy = torch.stack([circular(color, filters).square() for color in hazy.split(1, 1)]).sum(0)
    return torch.exp(-energy / (2 * sigma))


def circular(x: Float[Tensor, "B 1 H W"], filters: Float[Tensor, "8 1 3 3"]) -> Float[Tensor, "B 8 H W"]:
    """Convolution with circular borders (masks rotated by 180 degrees)."""
    padded = torch.cat([x[:, :, -1:], x, x[:, :, :1]], 2)
    padded = torch.cat([padded[:, :, :, -1:], padded, padded[:, :, :, :1]], 3)
    return F.conv2d(padded, filters.flip(2, 3))


def _spectrum(mask: Float[Tensor, "3 3"], size: torch.Size) -> Tensor:
    """Fourier transform of a mask centered at the origin; on a smaller image the mask wraps around."""
    kernel = mask.new_zeros(tuple(size))
    for row in range(3):
        for column in range(3):
            kernel[(row - 1) % size[0], (column - 1) % size[1]] += mask[row, column]
    return torch.fft.rfft2(kernel)
