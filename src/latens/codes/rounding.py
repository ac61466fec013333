"""Rounding and its differentiable relaxations (Perugachi-Diaz 2024, chapter 5, whose equations are cited by number).

A rounding law assigns a probability to every integer near v. A Gumbel-softmax sample of it (Jang et al. 2017) is a mixture of
those integers that is differentiable in v; as the temperature decreases, the mixture approaches a single integer.

Letters: l = v - floor(v), w = v - round(v), d the distance of v to an integer, tau temperature.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from latens.codes.annealing import METHODS, Method, RoundingLaw
from latens.shapes import Float

__all__ = [
    "METHODS",
    "Method",
    "RoundingLaw",
    "add_noise",
    "log_odds",
    "log_weights",
    "probabilities",
    "relax",
    "round_straight_through",
]

EDGE = 1e-5  # distances are clamped to [EDGE, 1 - EDGE], because some logarithms or slopes are infinite at 0 and 1
COSINE_FLOOR = 1e-7


def add_noise(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """x + u with u uniform on [-1/2, 1/2): the density of the sum at an integer is its probability (Balle et al. 2017)."""
    return x + torch.empty_like(x).uniform_(-0.5, 0.5)


def round_straight_through(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """round(x), ties to even, with the gradient of the identity."""
    return x + (x.round() - x).detach()


# ----------------------------------------------------------------------------------------------------- probabilities


def log_weight(distance: Float[Tensor, "..."], law: RoundingLaw) -> Float[Tensor, "..."]:
    """Logarithm of a law's weight f(d) for the integer at distance d in [0, 1], before the power n.

    atanh: Eq. 5.2.3. linear: 1 - d (Eq. 5.3.2; Eq. 5.3.6 is printed with d). cosine: cos^2 with two classes (Eq. 5.3.3), cos
    with three (Eq. 5.3.7). ssl: Eqs. 5.3.4 and 5.3.8. With two classes the weights of floor (d = l) and ceiling
    (d = 1 - l), where l = v - floor(v), sum to one, except for atanh.
    """
    if law.method == "linear":
        return torch.log1p(-distance.clamp(max=1 - EDGE))
    if law.method == "cosine":
        squared = (distance * (math.pi / 2)).cos().square()
        return (squared * (1 - COSINE_FLOOR) + COSINE_FLOOR).log() * (1.0 if law.classes == 2 else 0.5)
    if law.method == "ssl":
        return F.logsigmoid(-law.a * torch.logit(distance, eps=EDGE))
    return -torch.atanh(distance.clamp(max=1 - EDGE))


def log_weights(v: Float[Tensor, "..."], law: RoundingLaw) -> Float[Tensor, "K ..."]:
    """Log of the law's weights, not normalized, for the K integers floor(v), floor(v) + 1 or round(v) + (-1, 0, 1)."""
    if law.classes == 2:
        low = v - v.floor()
        return torch.stack([log_weight(low, law), log_weight(1 - low, law)])
    # Eq. 5.3.5 with the distance to the integer as argument; it is printed with w - 1 for round(v) - 1, which should be w + 1.
    w = v - v.round()
    distances = torch.stack([w + 1, w, w - 1]).abs()
    return law.n * log_weight((law.r * distances).clamp(0, 1), law)


def probabilities(v: Float[Tensor, "..."], law: RoundingLaw) -> Float[Tensor, "K ..."]:
    """Probabilities of the K integers (Eq. 5.3.1), in the order of `log_weights`; they sum to one."""
    return log_weights(v, law).softmax(dim=0)


def log_odds(v: Float[Tensor, "..."], law: RoundingLaw) -> Float[Tensor, "..."]:
    """Log-odds of floor(v) + 1 against floor(v), for two classes.

    It equals the difference of the `log_weights`. log sigma(x) - log sigma(-x) = x, so ssl gives a logit(l) with
    l = v - floor(v), and the linear law is the case a = 1.
    """
    low = v - v.floor()
    if law.method == "ssl":
        return law.a * torch.logit(low, eps=EDGE)
    if law.method == "linear":
        return torch.logit(low, eps=EDGE)
    return log_weight(1 - low, law) - log_weight(low, law)


# ----------------------------------------------------------------------------------------------------------- samples


def relax(v: Float[Tensor, "B ..."], law: RoundingLaw, tau: float, generator: Generator) -> Float[Tensor, "B ..."]:
    """Relaxed rounding of v at temperature tau > 0, differentiable in v.

    All images of the batch share the noise, so the result of an image does not depend on its batch.
    """
    if law.method == "ste":
        return round_straight_through(v)
    if law.method == "uniform":
        return v + (_uniform(v, generator) - 0.5)
    if law.method == "deterministic":
        return v.detach().floor() + torch.sigmoid(log_odds(v, law) / tau)
    if law.classes == 3:
        return _sample_three(v, law, tau, generator)
    return _sample_two(v, law, tau, generator)


def _sample_two(v: Tensor, law: RoundingLaw, tau: float, generator: Generator) -> Tensor:
    """Gumbel-softmax over two integers. The difference of two Gumbel variables is logistic: the logit of a uniform variable.

    As in the authors' code, tau is applied twice: to the log-probabilities and to the perturbed logits.
    """
    noise = torch.logit(_uniform(v, generator), eps=1e-7)
    return v.detach().floor() + torch.sigmoid(log_odds(v, law) * (1 / tau**2) + noise * (1 / tau))


def _sample_three(v: Tensor, law: RoundingLaw, tau: float, generator: Generator) -> Tensor:
    shape = (3, 1, *v.shape[1:])
    gumbel = -torch.empty(shape, device=v.device).exponential_(generator=generator).clamp_min_(1e-12).log_()
    weights = ((log_weights(v, law) / tau + gumbel) / tau).softmax(dim=0)
    return v.detach().round() + weights[2] - weights[0]


def _uniform(v: Tensor, generator: Generator) -> Tensor:
    noise = torch.empty((1, *v.shape[1:]), device=v.device, dtype=v.dtype)
    if v.dim() == 4 and v.is_contiguous(memory_format=torch.channels_last):
        noise = noise.contiguous(memory_format=torch.channels_last)
    return noise.uniform_(generator=generator)
