"""Puts model, objective and data of a training configuration together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from latens.errors import UsageError
from latens.systems.parts.agreement import EDGE, Agreeing
from latens.systems.parts.config import ENCODERS, KINDS, STRIDE, LossConfig, PartsConfig, PicturesConfig
from latens.systems.parts.dataset import PictureData
from latens.systems.parts.model import BetaVAE, PatchVAE
from latens.systems.parts.objective import Elbo
from latens.systems.parts.rival_objectives import BiGanObjective, MaskedObjective, SupervisedObjective
from latens.systems.parts.rivals import Adversarial, build_model
from latens.training.config import TrainConfig
from latens.training.objective import Objective, Trainable


def build(config: TrainConfig, data: Sequence[Path]) -> Trainable:
    """Raises UsageError for settings that do not fit together and where no pictures are given."""
    check(config.model)
    check_losses(config.model, config.objective)
    check_pictures(config.data)
    if not data:
        hint = "give folders of pictures, an .npz pack, or NAME:PATH (cifar10, cifar100, imagenet, indoor67, places205)"
        raise UsageError("parts are learned from pictures", where="--data", hint=hint)
    pictures = PictureData(data, config.data, config.model.size, config.run.seed)
    sizes = config.model
    if sizes.kind == "supervised":
        if len(pictures.classes) < 2:
            hint = "give one folder of pictures for every class"
            raise UsageError("supervised training needs labels", where=", ".join(map(str, data)), hint=hint)
        sizes = replace(sizes, classes=len(pictures.classes))
    model = build_model(sizes)
    if isinstance(model, PatchVAE | BetaVAE):
        return Trainable(_wrapped(model, config.objective), Elbo(config.objective), pictures)
    objectives: dict[str, Objective] = {
        "bigan": BiGanObjective(config.objective),
        "mae": MaskedObjective(config.objective),
        "supervised": SupervisedObjective(),
    }
    return Trainable(model, objectives[sizes.kind], pictures)


def _wrapped(model: PatchVAE | BetaVAE, loss: LossConfig) -> nn.Module:
    if loss.agreement:
        return Agreeing(model)
    return Adversarial(model) if loss.adversarial else model


def check_losses(sizes: PartsConfig, loss: LossConfig) -> None:
    """Raises UsageError for odd numbers and for losses that do not fit the model, one another or several processes."""
    _check_numbers(loss)
    if loss.constancy and not (sizes.kind == "patchvae" and sizes.categorical):
        hint = "set it to 0, or add --set model.categorical=true to a PatchVAE"
        raise UsageError("only one part a cell can be compared", where="--set objective.constancy", hint=hint)
    if loss.constancy and sizes.size <= 2 * EDGE * _stride(sizes):
        hint = "64 is usual, or set objective.constancy to 0"
        raise UsageError(f"{sizes.size} pixels leave no cell to compare", where="--set model.size", hint=hint)
    if loss.adversarial and loss.agreement:
        where = "--set objective.adversarial, objective.agreement"
        raise UsageError("a discriminator and a second view cannot be had together", where=where, hint="set one of them to 0")
    if (loss.adversarial or loss.agreement) and sizes.kind not in ("patchvae", "betavae"):
        where = "--set objective.adversarial, objective.agreement"
        raise UsageError(f"a model of kind {sizes.kind} has none of these losses", where=where, hint="set them to 0")
    alone = loss.adversarial or loss.agreement or loss.constancy or sizes.kind == "bigan"
    if alone and torch.distributed.is_available() and torch.distributed.is_initialized():
        if torch.distributed.get_world_size() > 1:
            hint = "start it without torchrun or accelerate launch"
            raise UsageError("these losses are trained by one process", where="--set objective", hint=hint)


def _check_numbers(loss: LossConfig) -> None:
    law = loss.annealing
    for name, value, fits, hint in (
        ("prior", loss.prior, 0 <= loss.prior < 1, "0, which stands for 1/N, to below 1"),
        ("masked", loss.masked, 0 < loss.masked < 1, "between 0 and 1"),
        ("annealing.floor", law.floor, 0 < law.floor <= law.start, "above 0, and not above annealing.start"),
        ("annealing.rate", law.rate, law.rate >= 0, "0 or more"),
    ):
        if not fits:
            raise UsageError(f"{value:g} is no value for it", where=f"--set objective.{name}", hint=hint)
    for name in ("beta_app", "beta_occ", "adversarial", "agreement", "constancy", "penalty"):
        if not 0 <= getattr(loss, name) < math.inf:
            raise UsageError("a weight is 0 or more", where=f"--set objective.{name}")


def check(sizes: PartsConfig) -> None:
    """Raises UsageError for a model that cannot be built."""
    if sizes.kind not in KINDS:
        raise UsageError(f"no kind '{sizes.kind}'", where="--set model.kind", hint=f"known: {', '.join(KINDS)}")
    if sizes.encoder not in ENCODERS:
        raise UsageError(f"no encoder '{sizes.encoder}'", where="--set model.encoder", hint=f"known: {', '.join(ENCODERS)}")
    if not 1 <= sizes.blocks <= 4:
        raise UsageError(f"{sizes.blocks} residual stages", where="--set model.blocks", hint="from 1 to 4")
    step = max(_stride(sizes), STRIDE)
    if sizes.size < step or sizes.size % step:
        raise UsageError(
            f"size {sizes.size} is no multiple of {step}", where="--set model.size", hint="32, 64 or 224 are usual"
        )
    if sizes.parts < 2 or sizes.appearance < 1:
        raise UsageError("at least two parts of one dimension are needed", where="--set model.parts, model.appearance")


def _stride(sizes: PartsConfig) -> int:
    return STRIDE if sizes.encoder == "local" else 2 ** (sizes.blocks + 1)


def check_pictures(pictures: PicturesConfig) -> None:
    if not 0 < pictures.smallest_crop <= 1:
        raise UsageError(f"{pictures.smallest_crop:g} is no share of a side", where="--set data.smallest_crop", hint="0 to 1")
    if pictures.batch < 2:
        raise UsageError("batch normalisation needs two pictures", where="--set data.batch", hint="32 or more work well")
