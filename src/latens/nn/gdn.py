"""Generalized divisive normalization (Balle et al. 2016)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.nn.bounds import lower_bound
from latens.shapes import Float

PEDESTAL = 2.0**-36  # keeps the slope of the square root finite at zero
BETA_MIN = 1e-6


class GDN(nn.Module):
    """x_i / sqrt(beta_i + sum_j gamma_ij x_j^2); `inverse=True` multiplies instead, for synthesis transforms.

    Both parameters are stored as square roots, so gradient steps shrink as the values approach zero.
    """

    def __init__(self, channels: int, *, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.beta_root = nn.Parameter(torch.full((channels,), (1.0 + PEDESTAL) ** 0.5))
        self.gamma_root = nn.Parameter((0.1 * torch.eye(channels) + PEDESTAL).sqrt())

    def coefficients(self) -> tuple[Float[Tensor, "C"], Float[Tensor, "C C"]]:
        """The effective beta (>= 1e-6) and gamma (>= 0)."""
        beta = lower_bound(self.beta_root, (BETA_MIN + PEDESTAL) ** 0.5).square() - PEDESTAL
        gamma = lower_bound(self.gamma_root, PEDESTAL**0.5).square() - PEDESTAL
        return beta, gamma

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        beta, gamma = self.coefficients()
        energy = F.conv2d(x.square(), gamma[:, :, None, None], beta)
        return x * (energy.sqrt() if self.inverse else energy.rsqrt())
