"""One model for many rates: the lambda of a quality, and a gain for every latent channel and rate (Cui et al. 2021).

Letters: Q rates a model is trained for, B batch, M latent channels. Quality 1 is the first entry of `lambdas`, quality Q the
last; between two entries lambda is interpolated geometrically (log lambda is linear in the quality).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from latens.shapes import Float

QUALITY_STEPS = 256  # a stored quality counts these per unit


def lambda_at(lambdas: Sequence[float], quality: float) -> float:
    """Lambda at a real-valued quality, in float64; qualities outside [1, Q] are held to the ends."""
    place = min(max(quality - 1, 0.0), len(lambdas) - 1.0)
    below = min(int(place), max(len(lambdas) - 2, 0))
    above = min(below + 1, len(lambdas) - 1)
    return math.exp(math.log(lambdas[below]) + (place - below) * math.log(lambdas[above] / lambdas[below]))


def lambdas_at(lambdas: Sequence[float], quality: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
    """As `lambda_at`, for a batch of qualities in float32."""
    if len(lambdas) == 1:
        return torch.full_like(quality, lambdas[0])
    return interpolate(torch.tensor(lambdas, device=quality.device).log(), quality).exp()


def quality_at(lambdas: Sequence[float], weight: float) -> float:
    """The quality whose lambda is `weight`, held to [1, Q]: the inverse of `lambda_at`. `lambdas` are increasing."""
    return float(np.interp(math.log(weight), np.log(lambdas), np.arange(1, len(lambdas) + 1)))


class RateGains(nn.Module):
    """A gain per latent channel and rate, interpolated geometrically between neighboring rates. Needs two rates or more."""

    def __init__(self, lambdas: Sequence[float], channels: int) -> None:
        super().__init__()
        # The slope dD/dR of a uniform quantizer is proportional to the squared step, so the gain starts at sqrt(lambda).
        logs = torch.tensor(lambdas, dtype=torch.float32).log()
        start = 0.5 * (logs - logs.mean())
        self.log_gain = nn.Parameter(start[:, None].repeat(1, channels))
        self.log_inverse = nn.Parameter(-start[:, None].repeat(1, channels))

    def forward_gain(self, quality: Float[Tensor, "B"]) -> Float[Tensor, "B M 1 1"]:
        """What the encoder multiplies the latent with."""
        return interpolate(self.log_gain, quality).exp()[:, :, None, None]

    def inverse_gain(self, quality: Float[Tensor, "B"]) -> Float[Tensor, "B M 1 1"]:
        """What the decoder multiplies the latent with; trained on its own, not the reciprocal."""
        return interpolate(self.log_inverse, quality).exp()[:, :, None, None]


def interpolate(table: Float[Tensor, "Q *d"], quality: Float[Tensor, "B"]) -> Float[Tensor, "B *d"]:
    """Rows of `table` at real positions quality - 1, linearly between neighbors; held to the first and last row."""
    position = (quality - 1).clamp(0, len(table) - 1)
    low = position.floor().long().clamp(max=len(table) - 2)
    share = (position - low)[(...,) + (None,) * (table.dim() - 1)]
    return table[low] * (1 - share) + table[low + 1] * share
