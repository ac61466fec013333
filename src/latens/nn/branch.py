"""The branch g of a residual map x + g(x): dense (i-DenseNet), plain (Residual Flow) or widened, built from one type of stage.

All constants (soft normalization, concatenation weights, bounds of activations) are folded into the weights once per use.
`linearized` computes g(x) and Jacobian-vector products in one pass; `pull_back` computes vector-Jacobian products at the same
point without autograd. Equations and sections are those of Perugachi-Diaz 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from latens.nn.lipschitz import Concatenation, Spectral, certified_norm, concatenation_weights, normalized_weights
from latens.nn.lipswish import Activation, ActivationName, Curve, stacked_curves


class Folded(NamedTuple):
    """Weight with all constants, bias, and activation parameters of one stage."""

    weight: Tensor
    bias: Tensor
    curve: Curve | None = None


class Linearized(NamedTuple):
    value: Tensor  # g(x), (B, ...)
    products: Tensor  # J t for every tangent, (T, B, ...)
    slopes: list[Tensor]  # of all activations, in order


class Stage(nn.Module):
    """h -> act(W h + b), or with `mix` h -> [eta_1 h, eta_2 act(W h + b)] (Eq. 4.3.2)."""

    linear: Spectral
    activation: Activation | None
    mix: Concatenation | None

    def __init__(self, linear: Spectral, activation: Activation | None = None, mix: Concatenation | None = None) -> None:
        super().__init__()
        self.linear, self.activation, self.mix = linear, activation, mix

    @property
    def name(self) -> str | None:
        """Name of the activation."""
        return None if self.activation is None else self.activation.name

    @property
    def width(self) -> int:
        return len(self.linear.bias) * (1 if self.activation is None else self.activation.width)


class Branch(nn.Module):
    """A sequence of stages, the last of which is linear (Eq. 4.3.1).

    `first` is an optional activation before them, as in a Residual Flow.
    `budget` above 0 scales the last layer so that the product of all bounds is `budget`.
    """

    first: Activation | None

    def __init__(self, stages: Sequence[Stage], first: Activation | None = None, budget: float = 0.0) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.first, self.budget = first, budget

    @property
    def ordered(self) -> list[Stage]:
        """The stages, with their type."""
        return [cast(Stage, stage) for stage in self.stages]

    def folded(self) -> list[Folded]:
        """Weights of all stages with their constants; differentiable."""
        return fold([self])[0]

    @property
    def form(self) -> tuple[object, ...]:
        """Key of branches that `fold` can process together."""
        stages = [
            (stage.linear.weight.shape, stage.linear.coefficient, stage.linear.frozen, stage.name, stage.mix is None)
            for stage in self.ordered
        ]
        return (*stages, None if self.first is None else self.first.name, self.budget)

    def forward(self, x: Tensor, folded: Sequence[Folded] | None = None) -> Tensor:
        """g(x), by ordinary differentiable operations."""
        h = x if self.first is None else self.first.raw(x)
        for stage, (weight, bias, _) in zip(self.ordered, folded or self.folded(), strict=True):
            f = stage.linear.apply_to(h, weight, bias)
            f = f if stage.activation is None else stage.activation.raw(f)
            h = f if stage.mix is None else torch.cat([h, f], dim=1)
        return h

    def linearized(self, x: Tensor, tangents: Tensor, folded: Sequence[Folded]) -> Linearized:
        """g(x) and J(x) t for tangents (T, B, ...); both are differentiable once in weights, x and tangents."""
        count, slopes = len(x), []
        shifted = x
        h = torch.cat([x, tangents.flatten(0, 1)])
        if self.first is not None:
            h, slope = self.first.stacked(h, x.new_zeros(x.shape[1]), count)
            slopes.append(slope)
        for stage, (weight, bias, curve) in zip(self.ordered, folded, strict=True):
            f = stage.linear.apply_to(h, weight)
            if stage.activation is not None:
                f, slope = stage.activation.stacked(f, bias, count, curve)
                slopes.append(slope)
            else:
                shifted = f[:count] + bias.view(-1, *(1,) * (f.ndim - 2))
                f = torch.cat([shifted, f[count:]]) if stage is not self.stages[-1] else f
            h = f if stage.mix is None else torch.cat([h, f], dim=1)
        return Linearized(shifted, h[count:].view(len(tangents), *shifted.shape), slopes)

    @torch.no_grad()
    def pull_back(self, cotangent: Tensor, slopes: Sequence[Tensor], folded: Sequence[Folded]) -> Tensor:
        """J^T w at the point where `linearized` computed the slopes."""
        left = list(slopes)
        w = cotangent
        for stage, (weight, _, _) in zip(reversed(self.ordered), reversed(folded), strict=True):
            kept = None
            if stage.mix is not None:
                kept, w = w[:, : -stage.width], w[:, -stage.width :]
            if stage.activation is not None:
                w = stage.activation.pull_back(w, left.pop())
            w = stage.linear.pull_back(w, weight)
            w = w if kept is None else w + kept
        return w if self.first is None else self.first.pull_back(w, left.pop())

    @torch.no_grad()
    def lipschitz(self) -> float:
        """Rigorous upper bound on the Lipschitz constant of g with its current weights, from Eq. 4.3.6 and the layer bounds."""
        bound = 1.0
        last = 1.0
        spent = 1.0
        for number, stage in enumerate(self.ordered):
            linear = stage.linear
            norm = certified_norm(linear.normalized(), linear.size)
            if self.budget and number == len(self.stages) - 1:
                last = self.budget / (spent * linear.coefficient)
            if stage.mix is None:
                bound, spent = bound * norm, spent * linear.coefficient
            else:
                eta = [float(value) for value in stage.mix()]
                bound *= (eta[0] ** 2 + (eta[1] * norm) ** 2) ** 0.5
                spent *= (eta[0] ** 2 + (eta[1] * linear.coefficient) ** 2) ** 0.5
        return bound * last


def fold(branches: Sequence[Branch]) -> list[list[Folded]]:
    """Weights with their constants for branches of equal `Branch.form`, stage by stage for all branches at once."""
    lead = branches[0]
    made: list[list[Folded]] = [[] for _ in branches]
    gain: Tensor | None = None  # (branches, channels) of the stage's input
    if lead.first is not None:
        channels = lead.ordered[0].linear.weight.shape[1]
        gain = lead.ordered[0].linear.weight.new_full((len(branches), channels), 1 / lead.first.bound)
    spent: Tensor | float = 1.0
    for number, stage in enumerate(lead.ordered):
        peers = [branch.ordered[number] for branch in branches]
        weights = normalized_weights([one.linear for one in peers])
        if gain is not None:
            weights = weights * gain.view(*gain.shape[:1], 1, gain.shape[1], *(1,) * (weights.ndim - 3))
        linear = stage.linear
        if lead.budget and number == len(lead.ordered) - 1:
            factor = lead.budget / (spent * linear.coefficient)
            weights = weights * (factor.view(-1, *(1,) * (weights.ndim - 1)) if isinstance(factor, Tensor) else factor)
        curves = stacked_curves([one.activation for one in peers if one.activation is not None])
        for i, weight in enumerate(weights.unbind(0)):
            made[i].append(Folded(weight, peers[i].linear.bias, curves[i] if curves else None))
        after = 1.0 if stage.activation is None else 1 / stage.activation.bound
        if stage.mix is None:
            spent = spent * linear.coefficient
            gain = None if after == 1.0 else weights.new_full((len(branches), stage.width), after)
            continue
        eta = concatenation_weights([one.mix for one in peers if one.mix is not None])
        earlier = eta[:, :1].expand(-1, weights.shape[2]) if gain is None else gain * eta[:, :1]
        gain = torch.cat([earlier, (after * eta[:, 1:]).expand(-1, stage.width)], dim=1)
        if lead.budget:
            spent = spent * (eta[:, 0] ** 2 + (eta[:, 1] * linear.coefficient) ** 2).sqrt()
    return made


def dense_branch(
    channels: int,
    *,
    growth: int,
    depth: int,
    activation: ActivationName,
    learned: bool,
    coefficient: float,
    mixing: float,
    size: tuple[int, int] | None,
    entry: int = 0,
    budget: float = 0.0,
    frozen: bool = False,
) -> Branch:
    """`depth` dense layers of 3 x 3 convolutions (linear layers without `size`) and a 1 x 1 convolution back to `channels`.

    `growth` counts channels after the activation. `entry` above 0 adds a linear layer with `entry` features in front.
    """
    kernel = 1 if size is None else 3

    def layer(inputs: int, outputs: int, kernel: int) -> Spectral:
        return Spectral(inputs, outputs, coefficient=coefficient, kernel=kernel, size=size, frozen=frozen)

    stages = [Stage(layer(channels, entry, 1))] if entry else []
    width = entry or channels
    for _ in range(depth):
        phi = Activation(activation)
        mix = Concatenation(mixing, learned=learned)
        stages.append(Stage(layer(width, growth // phi.width, kernel), phi, mix))
        width += growth // phi.width * phi.width
    stages.append(Stage(layer(width, channels, 1)))
    return Branch(stages, budget=budget)


def plain_branch(
    channels: int,
    widths: Sequence[int],
    kernels: Sequence[int],
    *,
    activation: ActivationName,
    coefficient: float,
    size: tuple[int, int] | None,
    activation_first: bool,
    frozen: bool = False,
) -> Branch:
    """Layers of these widths (after the activation) and kernels with activations in between; the output has `channels`.

    The residual block of Residual Flows has kernels 3, 1, 3, and an activation in front except in the first block of a model.
    """
    first = Activation(activation) if activation_first else None
    inputs = channels * (first.width if first else 1)
    stages: list[Stage] = []
    for outputs, kernel in zip([*widths, channels], kernels, strict=True):
        last = len(stages) == len(widths)
        phi = None if last else Activation(activation)
        made = outputs if phi is None else outputs // phi.width
        layer = Spectral(inputs, made, coefficient=coefficient, kernel=kernel, size=size, frozen=frozen)
        stages.append(Stage(layer, phi))
        inputs = made if phi is None else made * phi.width
    return Branch(stages, first)
