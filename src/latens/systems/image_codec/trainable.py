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


def build(config: TrainConfig, data: Sequence[Path]) -> Trainable:
    """Raises UsageError when no folder of photographs is given."""
    if not data:
        raise UsageError("the image codec trains on photographs", where="--data", hint="give one or more folders")
    return Trainable(
        MeanScaleHyperprior(config.model),
        RateDistortion(config.objective, config.model.lambdas),
        CropData(data, config.data, config.run.seed),
    )
