"""Losses of the baselines of Table 1: BiGAN, the masked autoencoder and supervised training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.data.tensors import grid
from latens.nn.ranks import share_of_mean
from latens.settings import to_dict
from latens.shapes import Float
from latens.systems.parts.baselines import BiGAN, MaskedAutoencoder, PairCritic, Supervised
from latens.systems.parts.config import BiGANLoss, MaskedLoss
from latens.systems.parts.objective import SEED, SHOWN
from latens.training.objective import ONE_OPTIMIZER, Export, Group, Step


class ExportAllWeights:
    """Mixin that exports all weights."""

    def export(self, model: BiGAN | MaskedAutoencoder | Supervised, batches: Sequence[dict[str, Tensor]]) -> Export:
        return Export(dict(model.state_dict()), {}, {"model": to_dict(model.config)})


class BiGanObjective(ExportAllWeights):
    """Critic against encoder and generator: logistic loss with a gradient penalty (R1) on the critic."""

    optimizers: Mapping[str, Sequence[Group]] = MappingProxyType(
        {"critic": (Group(("critic.",)),), "model": (Group(("encoder.", "to_vector.", "from_vector.", "decoder.")),)}
    )

    def __init__(self, config: BiGANLoss) -> None:
        self.config = config

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> Iterator[Step]:
        bigan, image = cast(BiGAN, model), batch["image"]
        vector = torch.randn(len(image), bigan.code, device=image.device)
        fake, found = bigan.decode(vector), bigan.encode(image)
        penalty = gradient_penalty(bigan.critic, image, found)
        real_score, fake_score = bigan.critic(image, found.detach()), bigan.critic(fake.detach(), vector)
        loss = F.softplus(-real_score).mean() + F.softplus(fake_score).mean()
        yield Step("critic", loss + self.config.penalty * penalty, {"penalty": penalty})
        generator_loss = F.softplus(bigan.critic(image, found)).mean() + F.softplus(-bigan.critic(fake, vector)).mean()
        yield Step("model", generator_loss, {})

    @torch.no_grad()
    def validate(self, model: BiGAN, batches: Sequence[dict[str, Tensor]]) -> dict[str, float]:
        """Squared error of G(E(x)): small only if encoder and generator are inverse, and comparable between steps."""
        errors = [(model.decode(model.encode(batch["image"])) - batch["image"]).square().mean() for batch in batches]
        return {"loss": float(torch.stack(errors).mean())}

    @torch.no_grad()
    def images(self, model: BiGAN, batches: Sequence[dict[str, Tensor]]) -> dict[str, np.ndarray]:
        image = batches[0]["image"][:SHOWN]
        drawn = torch.randn(len(image), model.code, generator=torch.Generator().manual_seed(SEED)).to(image.device)
        return {"reconstructions": grid([image, model.decode(model.encode(image)), model.decode(drawn)])}


class MaskedObjective(ExportAllWeights):
    """Mean squared error of the hidden pixel values."""

    optimizers = ONE_OPTIMIZER

    def __init__(self, config: MaskedLoss) -> None:
        self.config = config

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> Iterator[Step]:
        yield Step("model", self.error(cast(MaskedAutoencoder, model), batch["image"]), {})

    def error(self, model: MaskedAutoencoder, image: Tensor) -> Tensor:
        found = model(image, self.config.masked)
        return share_of_mean(((found.image - image).square() * found.hidden).sum(), 3 * found.hidden.sum())

    @torch.no_grad()
    def validate(self, model: MaskedAutoencoder, batches: Sequence[dict[str, Tensor]]) -> dict[str, float]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return {"loss": float(torch.stack([self.error(model, batch["image"]) for batch in batches]).mean())}

    @torch.no_grad()
    def images(self, model: MaskedAutoencoder, batches: Sequence[dict[str, Tensor]]) -> dict[str, np.ndarray]:
        image = batches[0]["image"][:SHOWN]
        found = model(image, self.config.masked)
        shown = image * (1 - found.hidden)
        return {"restored": grid([image, shown, shown + found.image * found.hidden])}


class SupervisedObjective(ExportAllWeights):
    """Cross-entropy of the labels."""

    optimizers = ONE_OPTIMIZER

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> Iterator[Step]:
        logits = model(batch["image"])
        accuracy = (logits.argmax(1) == batch["label"]).float().mean()
        yield Step("model", F.cross_entropy(logits, batch["label"]), {"accuracy": accuracy})

    @torch.no_grad()
    def validate(self, model: Supervised, batches: Sequence[dict[str, Tensor]]) -> dict[str, float]:
        logits = torch.cat([model(batch["image"]) for batch in batches])
        labels = torch.cat([batch["label"] for batch in batches])
        accuracy = float((logits.argmax(1) == labels).float().mean())
        return {"loss": float(F.cross_entropy(logits, labels)), "accuracy": accuracy}

    def images(self, model: Supervised, batches: Sequence[dict[str, Tensor]]) -> dict[str, np.ndarray]:
        return {"held-out": grid([batches[0]["image"][:SHOWN]])}


def gradient_penalty(critic: PairCritic, image: Float[Tensor, "B 3 H W"], vector: Float[Tensor, "B Z"]) -> Float[Tensor, ""]:
    """Half the mean squared norm of the gradient of the critic at real pairs (R1; Mescheder et al. 2018)."""
    image, vector = image.detach().requires_grad_(), vector.detach().requires_grad_()
    score = critic(image, vector)
    gradients = torch.autograd.grad(score.sum(), (image, vector), create_graph=True)
    return 0.5 * sum(g.float().square().flatten(1).sum(1) for g in gradients).mean()  # type: ignore[union-attr]
