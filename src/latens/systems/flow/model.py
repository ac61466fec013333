"""Invertible DenseNets, Residual Flows and coupling flows: bijections between rows or images and standard normal latents.

Perugachi-Diaz 2024, chapter 4; Perugachi-Diaz et al. 2021; Chen et al. 2019. Letters: B batch, D dimensions, C channels, H x W
pixels. Log-densities are in nats of the continuous input: a row in the units of the table, or a dequantized image in [0, 1).
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.codes.bijector import ActNorm, Affine, Bijector, Flatten, Logit, ResidualMap, Squeeze, Whitening
from latens.codes.logdet import Estimate, tail_bound
from latens.nn.branch import Folded, fold
from latens.nn.lipschitz import Concatenation, Spectral, power_iterations
from latens.shapes import Float
from latens.systems.flow.blocks import image_block, input_step, tail_block, vector_branch
from latens.systems.flow.config import DensityFlow, ImageFlow, VectorFlow

FIRST_ITERATIONS = 30  # power iterations before the first step
INVERSE_ERROR = 1e-6  # default error of `Flow.inverse`


class Coded(NamedTuple):
    """Latents and log-densities of a batch."""

    latent: Float[Tensor, "B D"]
    log_prob: Float[Tensor, "B"]  # nats
    logits: Float[Tensor, "B K"] | None  # of a hybrid model
    moments: list[Tensor]  # |J e|^2 (B,) of every residual map whose log-determinant is a series


class Certificate(NamedTuple):
    """Proven upper bound on the Lipschitz constant of the branch of one residual map; below 1 the map is invertible."""

    block: str
    lipschitz: float


class Flow(nn.Module):
    """Composition of bijectors from data to latents. `frozen` models store normalized weights and no power-iteration state."""

    started: Tensor

    def __init__(self, config: DensityFlow, *, frozen: bool = False, recompute: bool = False) -> None:
        super().__init__()
        self.config, self.frozen = config, frozen
        self.names: list[str] = []
        self.reads: list[int] = []  # indices of the steps whose outputs feed the classifier
        self.steps = nn.ModuleList()
        self.heads = nn.ModuleList()
        self.register_buffer("started", torch.tensor(False))
        if isinstance(config, VectorFlow):
            self._vector(config)
        else:
            self._image(config)
        for step in self.residual_maps():
            step.recompute = recompute

    # ---------------------------------------------------------------------------------------------------------- building

    def _add(self, step: nn.Module, name: str = "") -> None:
        self.steps.append(step)
        self.names.append(name)

    def _vector(self, config: VectorFlow) -> None:
        columns = config.columns
        self._add(Affine(torch.zeros(columns).double(), torch.ones(columns).double(), out=torch.float32), "standardize")
        if config.normalize:
            self._add(ActNorm(columns))
        for number in range(config.blocks):
            self._add(ResidualMap(vector_branch(config, self.frozen)), f"block {number + 1}")
            if config.normalize:
                self._add(ActNorm(columns))

    def _image(self, config: ImageFlow) -> None:
        channels: int = config.channels
        size = config.size
        self._add(input_step(config))
        if not config.whiten:
            self._add(ActNorm(channels))
        for scale, blocks in enumerate(config.scales):
            if config.whiten:
                self._add(Whitening(channels))
            for number in range(blocks):
                for step in image_block(config, channels, size, len(self.steps), self.frozen):
                    self._add(step, f"scale {scale + 1}, block {number + 1}")
                self._add(ActNorm(channels))
            if scale < len(config.scales) - 1:
                self._add(Squeeze())
                channels, size = 4 * channels, size // 2
                self._read(config, channels)
        self._add(Flatten((channels, size, size)))
        for number in range(config.tail):
            self._add(tail_block(config, channels * size * size, number, self.frozen), f"tail, block {number + 1}")
            self._add(ActNorm(channels * size * size))
        self._read(config, channels)
        if config.classes:
            self.classifier = nn.Linear(len(self.heads) * config.head_width, config.classes)
        self.shape = (channels, size, size)

    def _read(self, config: ImageFlow, channels: int) -> None:
        if config.classes:
            self.reads.append(len(self.steps) - 1)
            self.heads.append(nn.ModuleList([nn.Conv2d(channels, config.head_width, 3, padding=1), ActNorm(config.head_width)]))

    # ------------------------------------------------------------------------------------------------------------- flow

    @property
    def dims(self) -> int:
        """D, the number of dimensions of a row or image."""
        return self.config.columns if isinstance(self.config, VectorFlow) else self.config.channels * self.config.size**2

    def forward(self, x: Tensor, estimate: Estimate) -> Coded:
        """Latents and log-density (Eq. 4.2.1) of rows (B, D), or of dequantized images (B, C, H, W) in [0, 1]."""
        if self.training and not bool(self.started):
            self.power_iterations(FIRST_ITERATIONS)
            self.started.fill_(True)
        log_det: Tensor | float = 0.0
        moments: list[Tensor] = []
        features: list[Tensor] = []
        folded = self.folded()
        for number, step in enumerate(self.steps):
            mapped = step(x, estimate, folded[number]) if isinstance(step, ResidualMap) else step(x, estimate)
            x, log_det = mapped.value, log_det + mapped.log_det
            if mapped.moments is not None:
                moments.append(mapped.moments)
            if number in self.reads:
                features.append(self._features(len(features), x, estimate))
        z = x.flatten(1)
        log_prior = -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
        logits = self.classifier(torch.cat(features, dim=1)) if features else None
        return Coded(z, log_prior + log_det, logits, moments)

    def _features(self, number: int, x: Tensor, estimate: Estimate) -> Float[Tensor, "B F"]:
        convolution, norm = cast(nn.ModuleList, self.heads[number])
        image = x.view(-1, *self.shape) if x.ndim == 2 else x
        return F.relu(norm(convolution(image), estimate).value).mean((2, 3))

    @torch.no_grad()
    def inverse(self, z: Float[Tensor, "B D"], *, error: float = INVERSE_ERROR) -> Tensor:
        """Rows (B, D), or images (B, C, H, W) whose values may slightly exceed [0, 1].

        The tolerance of each block is `error`, in the units of the data, divided by the maximum factor by which the other steps
        can enlarge it.
        """
        x, steps = z, list(self.steps)
        enlarged = list(itertools.accumulate((enlargement(step) for step in steps), operator.mul))
        for step, factor in zip(reversed(steps), reversed(enlarged), strict=True):
            tolerance = error / factor
            x = step.inverse(x, tolerance=tolerance) if isinstance(step, ResidualMap) else cast(Bijector, step).inverse(x)
        return x

    # ---------------------------------------------------------------------------------------------------- normalization

    def residual_maps(self) -> Iterator[ResidualMap]:
        """Residual maps in order."""
        return (step for step in self.steps if isinstance(step, ResidualMap))

    def folded(self) -> dict[int, list[Folded]]:
        """Folded weights of every residual map by step number. Branches of equal form are folded in one batch."""
        forms: dict[object, list[int]] = {}
        for number, step in enumerate(self.steps):
            if isinstance(step, ResidualMap):
                forms.setdefault(step.branch.form, []).append(number)
        found: dict[int, list[Folded]] = {}
        for numbers in forms.values():
            branches = [cast(ResidualMap, self.steps[number]).branch for number in numbers]
            found |= dict(zip(numbers, fold(branches), strict=True))
        return found

    def power_iterations(self, count: int) -> None:
        """Updates the estimated norms of all layers by `count` power iterations."""
        power_iterations((part for part in self.modules() if isinstance(part, Spectral)), count)

    def equal_concatenations(self) -> None:
        """Resets the weights of all learned concatenations to equal values."""
        for part in self.modules():
            if isinstance(part, Concatenation) and part.learned:
                part.reset()

    def frozen_weights(self) -> dict[str, Tensor]:
        """State of a frozen model with the same steps, whose layers are divided by proven upper bounds of their norms."""
        weights = {name: tensor.detach().clone() for name, tensor in self.state_dict().items()}
        for name, part in self.named_modules():
            if isinstance(part, Spectral) and not part.frozen:
                weights[f"{name}.weight"] = part.certified_weight()
                del weights[f"{name}.probe"], weights[f"{name}.direction"]
        return weights

    def freeze(self) -> Flow:
        """Frozen copy in evaluation mode (see `frozen_weights`)."""
        made = Flow(self.config, frozen=True)
        made.load_state_dict(self.frozen_weights())
        return made.to(self.started.device).eval()

    def certify(self) -> list[Certificate]:
        """Certificates of all residual maps, from proven bounds of the norms of their layers at the model's image size."""
        return [
            Certificate(name, step.branch.lipschitz())
            for name, step in zip(self.names, self.steps, strict=True)
            if isinstance(step, ResidualMap)
        ]


def truncation(coded: Coded, terms: int, certificates: list[Certificate]) -> Float[Tensor, "B"]:
    """Upper bound in nats on the truncation error of the log-density after `terms` terms, from estimates of |J|_F^2."""
    bounds = [tail_bound(terms, c.lipschitz, m) for c, m in zip(certificates, coded.moments, strict=True)]
    return torch.stack(bounds).sum(0)


# ------------------------------------------------------------------------------------------------------------- parts


def enlargement(step: nn.Module) -> float:
    """Maximum factor by which the inverse of a step enlarges an error; 1 for residual maps and for the units of a table."""
    if isinstance(step, ActNorm):
        return float((-step.log_scale.detach()).exp().max())
    if isinstance(step, Whitening):
        return 1 / float(torch.linalg.svdvals(step.weight.detach().double()).min())
    return 0.25 / (1 - 2 * step.alpha) if isinstance(step, Logit) else 1.0
