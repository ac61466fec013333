"""The code of parts: where each of N parts occurs (relaxed Bernoulli) and what it looks like (Gaussian) (004, section 3.2).

    features --occurrence head--> logits (B, N, h, w)      q = sigmoid(logits): probability that part n is at a cell
             --appearance head--> mean, log-variance of every cell
                                  pooled over cells with weights q: one Gaussian per part and image
    code = occurrence * appearance, the same appearance at every cell where the part is (Eqs. 5 to 7 and 10)

Letters: B batch, N parts, D dimensions of one appearance (d_p), h w cells.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from latens.shapes import Float

SMALLEST_WEIGHT = 1e-7  # added total probability: the appearance of a part with less tends to the prior
LOGVAR_LIMIT = math.log(1e7)
ANNEAL_EVERY = 1000  # steps between two changes of the compound schedule


class Appearance(NamedTuple):
    """One Gaussian per part and image."""

    mean: Float[Tensor, "B N D"]
    variance: Float[Tensor, "B N D"]


# ------------------------------------------------------------------------------------------------------- occurrence


def bernoulli_kl(logits: Float[Tensor, "*n"], prior: float) -> Float[Tensor, "*n"]:
    """KL(Bern(sigmoid(logits)) || Bern(prior)) of every entry, in nats (004, Eq. 9); finite for any finite logit.

    `prior` is a probability strictly between 0 and 1 (ValueError otherwise).
    """
    _check_prior(prior)
    q = logits.sigmoid()
    present, absent = F.logsigmoid(logits), F.logsigmoid(-logits)
    return q * (present - math.log(prior)) + (1 - q) * (absent - math.log1p(-prior))


def categorical_kl(logits: Float[Tensor, "B N h w"]) -> Float[Tensor, "B N h w"]:
    """Every part's term of the KL of softmax(logits) over the N parts against the uniform law 1/N, in nats.

    Over the parts of a cell they add up to the divergence, from 0 to log N; that of a part rarer than 1/N is below zero.
    """
    log_q = logits.log_softmax(dim=1)
    return log_q.exp() * (log_q + math.log(logits.shape[1]))


def relaxed_bernoulli(logits: Float[Tensor, "*n"], temperature: float, *, hard: bool = False) -> Float[Tensor, "*n"]:
    """A sample of the relaxed Bernoulli (Maddison et al. 2017): sigmoid((logits + logistic noise) / temperature), in (0, 1).

    It is above 1/2 with probability sigmoid(logits) at every temperature. `hard` rounds it and passes gradients straight
    through.
    """
    uniform = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)  # float32 would round the logit of 0 and 1 to infinity
    soft = ((logits + uniform.logit()) / temperature).sigmoid()
    return _straight_through((soft > 0.5).to(soft.dtype), soft) if hard else soft


def relaxed_categorical(
    logits: Float[Tensor, "B N h w"], temperature: float, *, hard: bool = False
) -> Float[Tensor, "B N h w"]:
    """A sample of the Gumbel-softmax over the N parts of every cell; `hard` gives one-hot vectors, straight through."""
    gumbel = -torch.rand_like(logits).clamp(1e-6, 1 - 1e-6).log().neg().log()
    soft = ((logits + gumbel) / temperature).softmax(dim=1)
    if not hard:
        return soft
    return _straight_through(torch.zeros_like(soft).scatter_(1, soft.argmax(dim=1, keepdim=True), 1.0), soft)


def temperature_at(step: int, *, start: float, floor: float, rate: float, compound: bool) -> float:
    """Temperature of the relaxation after `step` updates (004, section 4: start 1, rate 3e-5).

    Exponential: start * exp(-rate * step), as one reads the paper. Compound, as the released code does: every 1000 steps the
    temperature is multiplied with exp(-rate * step), so it falls like exp(-step^2) and meets 0.1 at step 12,000. Never below
    `floor`.
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
    """One Gaussian per part: means and variances averaged over cells with the part's probability as weight (004, section 3.2).

    A part that is nowhere (total weight far below 1e-7) gets mean 0 and variance 1, the prior. The variance is the weighted
    mean of the cells' variances, not that of their mixture.
    """
    variance = logvar.clamp(-LOGVAR_LIMIT, LOGVAR_LIMIT).exp()
    total = weight.sum((2, 3))[..., None] + SMALLEST_WEIGHT
    share = weight[:, :, None]
    return Appearance(
        (share * mean).sum((3, 4)) / total,
        ((share * variance).sum((3, 4)) + SMALLEST_WEIGHT) / total,
    )


def place_parts(appearance: Float[Tensor, "B N D"], occurrence: Float[Tensor, "B N h w"]) -> Float[Tensor, "B ND h w"]:
    """The patch latent code: every part's appearance at the cells where it occurs, parts side by side in channels (Eq. 10)."""
    return (appearance[..., None, None] * occurrence[:, :, None]).flatten(1, 2)


def _straight_through(value: Tensor, soft: Tensor) -> Tensor:
    return value + soft - soft.detach()


def _check_prior(prior: float) -> None:
    if not 0 < prior < 1:
        raise ValueError(f"a prior probability lies strictly between 0 and 1, not {prior:g}")
