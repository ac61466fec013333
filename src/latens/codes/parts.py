"""The part code: occurrence (relaxed Bernoulli) and appearance (Gaussian) of N parts (Gupta et al. 2020, section 3.2).

    features --occurrence head--> logits (B, N, h, w)      q = sigmoid(logits): probability that part n is at a cell
             --appearance head--> mean, log-variance of every cell
                                  pooled over cells with weights q: one Gaussian per part and image
    code = occurrence * appearance, with the same appearance at every cell where the part occurs (Eqs. 5 to 7 and 10)

Letters: B batch, N parts, D dimensions of one appearance (d_p), h w cells.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from latens.shapes import Float

SMALLEST_WEIGHT = 1e-7  # added to the total weight, so the appearance of a part that does not occur is the prior
LOGVAR_LIMIT = math.log(1e7)
ANNEAL_EVERY = 1000  # steps between two changes of the compound schedule


class Appearance(NamedTuple):
    """One Gaussian per part and image."""

    mean: Float[Tensor, "B N D"]
    variance: Float[Tensor, "B N D"]


# ------------------------------------------------------------------------------------------------------- occurrence


def bernoulli_kl(logits: Float[Tensor, "*n"], prior: float) -> Float[Tensor, "*n"]:
    """KL(Bern(sigmoid(logits)) || Bern(prior)) per entry, in nats (Eq. 9); finite for finite logits.

    Raises ValueError unless the probability `prior` is strictly between 0 and 1.
    """
    _check_prior(prior)
    q = logits.sigmoid()
    present, absent = F.logsigmoid(logits), F.logsigmoid(-logits)
    return q * (present - math.log(prior)) + (1 - q) * (absent - math.log1p(-prior))


def categorical_kl(logits: Float[Tensor, "B N h w"]) -> Float[Tensor, "B N h w"]:
    """Terms of the KL divergence of softmax(logits) over the N parts from the uniform distribution, in nats.

    Their sum over the parts of a cell is the divergence, 0 to log N; the term of a part with probability below 1/N is negative.
    """
    log_q = logits.log_softmax(dim=1)
    return log_q.exp() * (log_q + math.log(logits.shape[1]))


def relaxed_bernoulli(logits: Float[Tensor, "*n"], temperature: float, *, hard: bool = False) -> Float[Tensor, "*n"]:
    """A sample of the relaxed Bernoulli (Maddison et al. 2017): sigmoid((logits + logistic noise) / temperature), in (0, 1).

    It exceeds 1/2 with probability sigmoid(logits) at every temperature. `hard` rounds it, with straight-through gradients.
    """
    uniform = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)  # float32 would round the logit of 0 and 1 to infinity
    soft = ((logits + uniform.logit()) / temperature).sigmoid()
    return _straight_through((soft > 0.5).to(soft.dtype), soft) if hard else soft


def relaxed_categorical(
    logits: Float[Tensor, "B N h w"], temperature: float, *, hard: bool = False
) -> Float[Tensor, "B N h w"]:
    """A Gumbel-softmax sample over the N parts of every cell; `hard` gives one-hot vectors with straight-through gradients."""
    gumbel = -torch.rand_like(logits).clamp(1e-6, 1 - 1e-6).log().neg().log()
    soft = ((logits + gumbel) / temperature).softmax(dim=1)
    if not hard:
        return soft
    return _straight_through(torch.zeros_like(soft).scatter_(1, soft.argmax(dim=1, keepdim=True), 1.0), soft)


def temperature_at(step: int, *, start: float, floor: float, rate: float, compound: bool) -> float:
    """Temperature of the relaxation after `step` updates, at least `floor` (section 4: start 1, rate 3e-5).

    Exponential, as in the paper: start * exp(-rate * step). Compound, as in the authors' code: every 1000 steps the temperature
    is multiplied by exp(-rate * step), so it decays like exp(-step^2) and reaches 0.1 at step 12,000.
    """
    if compound:
        changes = step // ANNEAL_EVERY
        exponent = rate * ANNEAL_EVERY * changes * (changes + 1) / 2
    else:
        exponent = rate * step
    return max(floor, start * math.exp(-exponent))


# ------------------------------------------------------------------------------------------------------- appearance


def pool_appearance(
    mean: Float[Tensor, "B N D h w"], logvar: Float[Tensor, "B N D h w"], weight: Float[Tensor, "B N h w"]
) -> Appearance:
    """One Gaussian per part: means and variances averaged over cells, weighted by the part's probability.

    A part that does not occur (total weight far below 1e-7) gets the prior, mean 0 and variance 1. The variance is the weighted
    mean of the variances of the cells, not the variance of their mixture.
    """
    variance = logvar.clamp(-LOGVAR_LIMIT, LOGVAR_LIMIT).exp()
    total = weight.sum((2, 3))[..., None] + SMALLEST_WEIGHT
    share = weight[:, :, None]
    return Appearance(
        (share * mean).sum((3, 4)) / total,
        ((share * variance).sum((3, 4)) + SMALLEST_WEIGHT) / total,
    )


def place_parts(appearance: Float[Tensor, "B N D"], occurrence: Float[Tensor, "B N h w"]) -> Float[Tensor, "B ND h w"]:
    """The patch latent code: each part's appearance at the cells where it occurs, with parts along the channels (Eq. 10)."""
    return (appearance[..., None, None] * occurrence[:, :, None]).flatten(1, 2)


def _straight_through(value: Tensor, soft: Tensor) -> Tensor:
    return value + soft - soft.detach()


def _check_prior(prior: float) -> None:
    if not 0 < prior < 1:
        raise ValueError(f"a prior probability must be strictly between 0 and 1, not {prior:g}")
