"""Puts model, objective and data of a training configuration together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from latens.errors import UsageError
from latens.systems.image_codec.dataset import CropData
from latens.systems.image_codec.model import MeanScaleHyperprior
from latens.systems.image_codec.objective import RateDistortion
from latens.training.config import TrainConfig
from latens.training.objective import Trainable

ROUNDINGS = ("mixed", "noise", "hard")
LEARN_HARD = ("synthesis.", "hyper_synthesis.", "gains.log_inverse")  # the rest decides which symbols are sent


def build(config: TrainConfig, data: Sequence[Path]) -> Trainable:
    """Raises UsageError when no folder of photographs is given, and for a rounding that does not exist."""
    if not data:
        raise UsageError("the image codec trains on photographs", where="--data", hint="give one or more folders")
    if config.objective.rounding not in ROUNDINGS:
        hint = f"there are {', '.join(ROUNDINGS)}"
        raise UsageError(f"no rounding '{config.objective.rounding}'", where="--set objective.rounding", hint=hint)
    model = MeanScaleHyperprior(config.model)
    if config.objective.rounding == "hard":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(LEARN_HARD))
    return Trainable(
        model,
        RateDistortion(config.objective, config.model.lambdas),
        CropData(data, config.data, config.run.seed),
    )
