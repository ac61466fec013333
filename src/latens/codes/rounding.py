"""From real numbers to integers: rounding and its differentiable stand-ins."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def add_noise(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """x + u with u uniform on [-1/2, 1/2): the density of the sum at an integer is its probability (Balle et al. 2017)."""
    return x + torch.empty_like(x).uniform_(-0.5, 0.5)


def round_straight_through(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """round(x), ties to even, with the gradient of the identity."""
    return x + (x.round() - x).detach()
