"""Probability models of quantized latents and their cost in bits.

A hyperprior consists of a learned density per channel for the hyper-latent z (`FactorizedPrior`; Balle et al. 2018, appendix
6.1) and a Gaussian per symbol for the latent y (Minnen et al. 2018). Both integrate the density over a unit bin, so the same
formula gives the rate of rounded and of noisy latents.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.nn.bounds import lower_bound
from latens.shapes import Float

SCALE_MIN = 0.11  # smallest scale; below it, one bin holds all the probability that 16 bits can express
LIKELIHOOD_MIN = 1e-9


def bits(likelihood: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """-log2 of a probability, which is clamped to at least 1e-9 (30 bits)."""
    return -torch.log2(lower_bound(likelihood, LIKELIHOOD_MIN))


def gaussian_bits(residual: Float[Tensor, "..."], scale: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Bits of `residual` = y - mean under a zero-mean Gaussian integrated over [residual - 1/2, residual + 1/2].

    `scale` is the standard deviation in quantization steps, clamped to at least 0.11. Computed in float32.
    """
    spread = lower_bound(scale.float(), SCALE_MIN)
    distance = residual.float().abs()
    # In the lower tail the float32 normal distribution function keeps its relative precision.
    upper = torch.erfc((distance - 0.5) / spread * math.sqrt(0.5))
    lower = torch.erfc((distance + 0.5) / spread * math.sqrt(0.5))
    return bits(0.5 * (upper - lower))


def round_for_rate(residual: Float[Tensor, "..."], scale: Float[Tensor, "..."], weight: float) -> Float[Tensor, "..."]:
    """The integer k nearest to `residual` or its neighbor towards zero, whichever minimizes bits(k) + weight (residual - k)^2.

    Rate-distortion optimized quantization (Sullivan and Wiegand 1998), used only in the encoder. At high rate, equal slopes
    give the weight 12 / (2 ln 2) = 8.7; larger weights are closer to plain rounding.
    """
    if residual.device.type != "cpu":  # counting nonzero values would make an accelerator wait
        return round_everywhere(residual, scale, weight)
    nearest = residual.round()
    # Zeros have no neighbor towards zero. Most symbols are zeros, so the costs of the others are computed separately.
    places = nearest.flatten().nonzero()[:, 0]
    own, width = (part.expand_as(nearest).flatten().index_select(0, places) for part in (residual, scale))
    return nearest.flatten().index_copy_(0, places, round_everywhere(own, width, weight)).view_as(nearest)


def round_everywhere(residual: Float[Tensor, "..."], scale: Float[Tensor, "..."], weight: float) -> Float[Tensor, "..."]:
    """`round_for_rate` without skipping zeros, for accelerators."""
    high = residual.round()
    low = high - high.sign()
    cost_high = gaussian_bits(high, scale) + weight * (residual - high).square()
    cost_low = gaussian_bits(low, scale) + weight * (residual - low).square()
    return torch.where(cost_low < cost_high, low, high)


class FactorizedPrior(nn.Module):
    """A learned univariate density per channel of z: a monotone network models the cumulative distribution.

    The network has four hidden layers of width 3; positive weights (softplus) and gates in (-1, 1) (tanh) make it increasing.
    """

    def __init__(self, channels: int, *, width: int = 3, depth: int = 4, spread: float = 10.0) -> None:
        super().__init__()
        sizes = [1, *[width] * depth, 1]
        gain = spread ** (1 / (depth + 1))
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        self.gates = nn.ParameterList()
        for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            start = math.log(math.expm1(1 / gain / fan_out))
            self.weights.append(nn.Parameter(torch.full((channels, fan_out, fan_in), start)))
            self.biases.append(nn.Parameter(torch.empty(channels, fan_out, 1).uniform_(-0.5, 0.5)))
            if layer < depth:
                self.gates.append(nn.Parameter(torch.zeros(channels, fan_out, 1)))

    @property
    def channels(self) -> int:
        return int(self.weights[0].shape[0])

    def logits(self, z: Float[Tensor, "C 1 n"]) -> Float[Tensor, "C 1 n"]:
        """Logit of the cumulative distribution at z."""
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            z = torch.baddbmm(bias, F.softplus(weight), z)
            if i < len(self.gates):
                z = z + torch.tanh(self.gates[i]) * torch.tanh(z)
        return z

    def likelihood(self, z: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Probability of the unit bin centered at each entry of z, in float32."""
        batch, channels, height, width = z.shape
        with torch.autocast(z.device.type, enabled=False):
            flat = z.float().permute(1, 0, 2, 3).reshape(channels, 1, -1)
            ends = self.logits(torch.cat([flat - 0.5, flat + 0.5], dim=-1))
            low, high = ends.chunk(2, dim=-1)
            # For precision, the difference of the sigmoids is computed in the tail where both are small.
            sign = -torch.sign(low + high).detach()
            mass = (torch.sigmoid(sign * high) - torch.sigmoid(sign * low)).abs()
        return mass.reshape(channels, batch, height, width).permute(1, 0, 2, 3)

    def bits(self, z: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Bits of every entry of z."""
        return bits(self.likelihood(z))

    @torch.no_grad()
    def medians(self, bound: float = 1000.0, iterations: int = 60) -> Float[Tensor, "C"]:
        """Median of every channel, by bisection in float64."""
        prior = _in_float64(self)
        low = torch.full((self.channels, 1, 1), -bound, dtype=torch.float64)
        high = -low
        for _ in range(iterations):
            middle = (low + high) / 2
            above = prior.logits(middle) > 0
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return ((low + high) / 2).flatten().float()

    @torch.no_grad()
    def probabilities(
        self, medians: Float[Tensor, "C"], *, tail: float = 2.0**-16, max_offset: int = 255
    ) -> tuple[list[np.ndarray], list[int]]:
        """Probability of every integer offset from the median, per channel.

        Offsets are within [-max_offset, max_offset]; on each side the support ends where less than `tail` remains. Returns two
        lists over the channels: the probabilities in float64, and the smallest offset.
        """
        offsets = torch.arange(-max_offset, max_offset + 1, dtype=torch.float64)
        centers = medians.double().cpu()[:, None, None] + offsets
        prior = _in_float64(self)
        below = torch.sigmoid(prior.logits(centers - 0.5))[:, 0].numpy()
        above = torch.sigmoid(-prior.logits(centers + 0.5))[:, 0].numpy()
        mass = np.maximum(1.0 - below - above, 0.0)
        tables, lows = [], []
        for channel in range(self.channels):
            first = min(int(np.searchsorted(below[channel], tail, side="right")) - 1, max_offset)
            last = max(len(offsets) - int(np.searchsorted(above[channel][::-1], tail, side="right")), max_offset)
            first = max(first, 0)
            tables.append(mass[channel, first : last + 1].copy())
            lows.append(first - max_offset)
        return tables, lows


def _in_float64(prior: FactorizedPrior) -> FactorizedPrior:
    copy = FactorizedPrior(prior.channels)
    copy.load_state_dict(prior.state_dict())
    return copy.double().cpu()
