"""Settings and training recipes of the toy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TypeAlias

from latens.settings import Count, Positive, settings
from latens.training.config import Adam, RunConfig, TrainConfig


@settings
class ToyConfig:
    """Size of the model."""

    columns: Count = 2  # of the table


@settings
class TableConfig:
    """Training batches."""

    batch: Count = 16  # rows


@settings
class LikelihoodConfig:
    """The loss."""

    weight: Positive = 1.0  # of the negative log-likelihood


ToyTraining: TypeAlias = TrainConfig[ToyConfig, TableConfig, LikelihoodConfig]


def tiny() -> ToyTraining:
    """A second."""
    return TrainConfig(
        system="toy",
        recipe="tiny",
        model=ToyConfig(),
        data=TableConfig(),
        objective=LikelihoodConfig(),
        optim=Adam(lr=0.05, warmup=1),
        run=RunConfig(steps=20, precision="no", log_every=5, validate_every=10, checkpoint_every=10),
    )


def cpu() -> ToyTraining:
    """A minute."""
    return replace(tiny(), recipe="cpu", run=RunConfig(steps=1000))


RECIPES: Mapping[str, Callable[[], ToyTraining]] = MappingProxyType({"tiny": tiny, "cpu": cpu})
