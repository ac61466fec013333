"""Training configurations of the seedling system, as functions. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TypeAlias

from latens.systems.seedlings.config import DAYS, CropsConfig, GraderConfig, GradingLossConfig
from latens.training.config import Adam, RunConfig, Sgd, TrainConfig

SeedlingTraining: TypeAlias = TrainConfig[GraderConfig, CropsConfig, GradingLossConfig]
NO_CLIP = 1e6


def tiny() -> SeedlingTraining:
    """Seconds on a CPU; for tests."""
    return TrainConfig(
        system="seedlings",
        recipe="tiny",
        model=GraderConfig(size=32, days=(5, 6), seen=True, width=8),
        data=CropsConfig(batch=32, trays=5, days=(5, 6), rows=4, cols=6, method="truth", preset="easy", augment=False),
        objective=GradingLossConfig(),
        optim=Adam(lr=2e-3, warmup=2, ema=0.9),
        run=RunConfig(steps=60, precision="no", log_every=10, validate_every=20, checkpoint_every=20),
    )


def cpu() -> SeedlingTraining:
    """One CPU core, half an hour: the small network on days 4 to 7, success and emergence; the bundled model."""
    return replace(
        tiny(),
        recipe="cpu",
        model=GraderConfig(days=DAYS, seen=True),
        data=CropsConfig(contrast=0.15),
        optim=Adam(lr=2e-3, warmup=100, decay_share=0.8, ema=0.995),
        run=RunConfig(steps=4000, precision="no", log_every=50, validate_every=500, checkpoint_every=250),
    )


def cpu_day() -> SeedlingTraining:
    """One CPU core, minutes: a model of one day (--set data.days=6), success alone; momentum and He-normal weights.

    The rate of 003 does not move a network with random weights: this recipe keeps its protocol (oversampling, augmentation,
    SGD) and changes rate and momentum.
    """
    return replace(
        cpu(),
        recipe="cpu_day",
        model=GraderConfig(init="he"),
        data=CropsConfig(days=(6,)),
        optim=Sgd(lr=1e-2, momentum=0.9, weight_decay=1e-5, warmup=50, decay_share=0.5, ema=0.0, clip=5.0),
        run=RunConfig(steps=1500, precision="no", log_every=50, validate_every=106, checkpoint_every=212),
    )


def cpu_classes() -> SeedlingTraining:
    """One CPU core, minutes: crops in class folders (--data FOLDER), in color."""
    return replace(
        cpu(),
        recipe="cpu_classes",
        model=GraderConfig(channels=3, width=24, dropout=0.3),
        data=CropsConfig(batch=48, contrast=0.25, rotation="any", scale=0.2),
        run=RunConfig(steps=2500, precision="no", log_every=50, validate_every=250, checkpoint_every=250),
    )


def paper() -> SeedlingTraining:
    """003, chapter 3: AlexNet, one day, 500 epochs of 106 steps, SGD without momentum at 1e-4, weight decay 1e-5.

    Meant for ImageNet weights (--set model.pretrained=FILE): at this rate a random start does not train.
    """
    return replace(
        cpu_day(),
        recipe="paper",
        model=GraderConfig(backbone="alexnet"),
        data=CropsConfig(days=(7,), split="leaky"),
        objective=GradingLossConfig(select="raw"),
        optim=Sgd(lr=1e-4, momentum=0.0, weight_decay=1e-5, warmup=0, decay_share=0.0, ema=0.0, clip=NO_CLIP),
        run=RunConfig(steps=53_000, precision="no", log_every=106, validate_every=106, checkpoint_every=1060),
    )


RECIPES: Mapping[str, Callable[[], SeedlingTraining]] = MappingProxyType(
    {"tiny": tiny, "cpu": cpu, "cpu_day": cpu_day, "cpu_classes": cpu_classes, "paper": paper}
)
