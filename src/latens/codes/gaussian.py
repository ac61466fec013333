"""The Gaussian code with a diagonal covariance: its cost against a standard normal prior, and samples of it."""

from __future__ import annotations

import torch
from torch import Tensor

from latens.shapes import Float


def gaussian_kl(mean: Float[Tensor, "*n"], variance: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """KL(N(mean, variance) || N(0, 1)) of every entry, in nats (Kingma and Welling 2014, appendix B). Variances are > 0."""
    return 0.5 * (mean.square() + variance - 1 - variance.log())


def sample_gaussian(mean: Float[Tensor, "*n"], variance: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """A reparameterized sample: gradients reach mean and variance."""
    return mean + variance.sqrt() * torch.randn_like(mean)
