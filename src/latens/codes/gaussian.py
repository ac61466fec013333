"""Gaussian code with diagonal covariance: KL divergence from a standard normal prior, and reparameterized samples."""

from __future__ import annotations

import torch
from torch import Tensor

from latens.shapes import Float


def gaussian_kl(mean: Float[Tensor, "*n"], variance: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """KL(N(mean, variance) || N(0, 1)) per entry, in nats (Kingma and Welling 2014, appendix B). Variances must be > 0."""
    return 0.5 * (mean.square() + variance - 1 - variance.log())


def sample_gaussian(mean: Float[Tensor, "*n"], variance: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """A reparameterized sample, differentiable in mean and variance."""
    return mean + variance.sqrt() * torch.randn_like(mean)
