"""The losses of 004: squared error, plain or weighted by gradient energy (L_w, section 3.4), and the adversarial terms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from latens.shapes import Float
from latens.systems.parts.rivals import PairCritic

CELL = 8  # side of the patches whose gradient energy is averaged, in pixels
QUIET = 1e-4  # energy a pixel that counts everywhere: a constant picture gets weight 1 throughout


def squared_error(image: Float[Tensor, "B 3 H W"], target: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B"]:
    """Summed over pixels and colours."""
    return (image - target).square().sum((1, 2, 3))


def weighted_error(image: Float[Tensor, "B 3 H W"], target: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B"]:
    """L_w: squared error with `energy_weight` of the target."""
    return (energy_weight(target) * (image - target).square()).sum((1, 2, 3))


def energy_weight(target: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Mean absolute Laplacian of every 8 x 8 patch and colour, with mean 1 over a picture's colour (section 3.4).

    The paper lets the weights sum to one; here they keep the scale of the squared error, as in the released code. A colour
    without any gradient has weight 1 everywhere. Sides are multiples of 8.
    """
    padded = F.pad(target, (1, 1, 1, 1), mode="replicate")
    neighbours = padded[:, :, :-2, 1:-1] + padded[:, :, 2:, 1:-1] + padded[:, :, 1:-1, :-2] + padded[:, :, 1:-1, 2:]
    energy = F.avg_pool2d((neighbours - 4 * target).abs(), CELL) + QUIET
    share = energy / energy.mean((2, 3), keepdim=True)
    return F.interpolate(share, scale_factor=CELL, mode="nearest")


def judge_loss(real: Float[Tensor, "B 1"], fake: Float[Tensor, "B 1"]) -> Float[Tensor, ""]:
    """Cross-entropy of a discriminator that should say yes to `real` and no to `fake` (logits)."""
    return F.softplus(-real.float()).mean() + F.softplus(fake.float()).mean()


def fooling_loss(fake: Float[Tensor, "B 1"]) -> Float[Tensor, ""]:
    """Cross-entropy of a generator that wants yes for what it made (non-saturating; Goodfellow et al. 2014)."""
    return F.softplus(-fake.float()).mean()


def gradient_penalty(critic: PairCritic, image: Float[Tensor, "B 3 H W"], vector: Float[Tensor, "B Z"]) -> Float[Tensor, ""]:
    """Mean squared norm of the critic's gradient at real pairs, halved (R1; Mescheder et al. 2018)."""
    image, vector = image.detach().requires_grad_(), vector.detach().requires_grad_()
    score = critic(image, vector)
    gradients = torch.autograd.grad(score.sum(), (image, vector), create_graph=True)
    return 0.5 * sum(g.float().square().flatten(1).sum(1) for g in gradients).mean()  # type: ignore[union-attr]
