"""Puts model, objective and data of a training configuration together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from latens.data.source import Source
from latens.errors import UsageError
from latens.systems.parts.baselines import Adversarial, build_model
from latens.systems.parts.config import LossConfig, PartsConfig
from latens.systems.parts.dataset import ImageData
from latens.systems.parts.model import BetaVAE, PatchVAE
from latens.systems.parts.objective import BiGanObjective, Elbo, MaskedObjective, SupervisedObjective
from latens.systems.parts.recipes import PartsTraining
from latens.systems.parts.two_views import EDGE, TwoViews
from latens.training.objective import Objective, Trainable


def build(config: PartsTraining, sources: Sequence[Source]) -> Trainable:
    """The parts of a run. Raises UsageError for losses that do not fit the model and where no images are given."""
    check_losses(config.model, config.objective)
    if not sources:
        hint = "give folders of images, an .npz pack, or NAME:PATH (cifar10, cifar100, imagenet, indoor67, places205)"
        raise UsageError("parts are learned from images", where="--data", hint=hint)
    images = ImageData([str(source) for source in sources], config.data, config.model.size, config.run.seed)
    sizes = config.model
    if sizes.kind == "supervised":
        if len(images.classes) < 2:
            hint = "give one folder of images for every class"
            raise UsageError("supervised training needs labels", where=", ".join(map(str, sources)), hint=hint)
        sizes = replace(sizes, classes=len(images.classes))
    model = build_model(sizes)
    if isinstance(model, PatchVAE | BetaVAE):
        return Trainable(_wrapped(model, config.objective), Elbo(config.objective), images)
    objectives: dict[str, Objective] = {
        "bigan": BiGanObjective(config.objective),
        "mae": MaskedObjective(config.objective),
        "supervised": SupervisedObjective(),
    }
    return Trainable(model, objectives[sizes.kind], images)


def _wrapped(model: PatchVAE | BetaVAE, loss: LossConfig) -> nn.Module:
    if loss.contrastive_weight:
        return TwoViews(model)
    return Adversarial(model) if loss.adversarial else model


def check_losses(sizes: PartsConfig, loss: LossConfig) -> None:
    """Raises UsageError for losses that do not fit the model, one another or several processes."""
    if loss.iic_weight and not (sizes.kind == "patchvae" and sizes.categorical):
        hint = "set it to 0, or add --set model.categorical=true to a PatchVAE"
        raise UsageError("only one part a cell can be compared", where="--set objective.iic_weight", hint=hint)
    if loss.iic_weight and sizes.size <= 2 * EDGE * sizes.stride:
        hint = "64 is usual, or set objective.iic_weight to 0"
        raise UsageError(f"{sizes.size} pixels leave no cell to compare", where="--set model.size", hint=hint)
    if loss.adversarial and loss.contrastive_weight:
        where = "--set objective.adversarial, objective.contrastive_weight"
        raise UsageError("a discriminator and a second view exclude each other", where=where, hint="set one of them to 0")
    if (loss.adversarial or loss.contrastive_weight) and sizes.kind not in ("patchvae", "betavae"):
        where = "--set objective.adversarial, objective.contrastive_weight"
        raise UsageError(f"a model of kind {sizes.kind} has none of these losses", where=where, hint="set them to 0")
    alone = loss.adversarial or loss.contrastive_weight or loss.iic_weight or sizes.kind == "bigan"
    if alone and torch.distributed.is_available() and torch.distributed.is_initialized():
        if torch.distributed.get_world_size() > 1:
            hint = "start it without torchrun or accelerate launch"
            raise UsageError("these losses are trained by one process", where="--set objective", hint=hint)
