"""Variable rate in one model: gains of the latent channels and the lambda of a real-valued quality.

Quality 1 is the first entry of a model's `lambdas`, quality len(lambdas) the last. In between, gains and lambda are
interpolated geometrically.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from latens.shapes import Float


class RateGains(nn.Module):
    """A gain per latent channel and rate (Cui et al. 2021). Qualities outside [1, len(lambdas)] are clamped."""

    def __init__(self, channels: int, lambdas: Sequence[float]) -> None:
        super().__init__()
        # The slope dD/dR of a uniform quantizer is proportional to the squared step, so the gain starts at sqrt(lambda).
        logs = torch.tensor(lambdas, dtype=torch.float32).log()
        start = 0.5 * (logs - logs.mean())
        self.log_gain = nn.Parameter(start[:, None].repeat(1, channels))
        self.log_inverse = nn.Parameter(-start[:, None].repeat(1, channels))

    def forward_gain(self, quality: Float[Tensor, "B"]) -> Float[Tensor, "B M 1 1"]:
        return interpolate(self.log_gain, quality).exp()[:, :, None, None]

    def inverse_gain(self, quality: Float[Tensor, "B"]) -> Float[Tensor, "B M 1 1"]:
        return interpolate(self.log_inverse, quality).exp()[:, :, None, None]


def interpolate(table: Float[Tensor, "Q *d"], quality: Float[Tensor, "B"]) -> Float[Tensor, "B *d"]:
    """Rows of `table`, interpolated linearly at the positions quality - 1."""
    position = (quality - 1).clamp(0, len(table) - 1)
    low = position.floor().long().clamp(max=len(table) - 2)
    share = (position - low)[(...,) + (None,) * (table.dim() - 1)]
    return table[low] * (1 - share) + table[low + 1] * share


def lambda_of(lambdas: Sequence[float], quality: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
    """Lambda at real-valued qualities."""
    if len(lambdas) == 1:
        return torch.full_like(quality, lambdas[0])
    return interpolate(torch.tensor(lambdas, device=quality.device).log(), quality).exp()


def lambda_at(lambdas: Sequence[float], quality: float) -> float:
    """`lambda_of` for one quality, in float64."""
    place = min(max(quality - 1, 0.0), len(lambdas) - 1.0)
    below = min(int(place), max(len(lambdas) - 2, 0))
    above = min(below + 1, len(lambdas) - 1)
    return math.exp(math.log(lambdas[below]) + (place - below) * math.log(lambdas[above] / lambdas[below]))


def quality_at(lambdas: Sequence[float], weight: float) -> float:
    """The quality whose lambda is `weight`, clamped to the range of the model. Inverse of `lambda_at`."""
    places = np.arange(1, len(lambdas) + 1)
    return float(np.interp(math.log(weight), np.log(lambdas), places))
