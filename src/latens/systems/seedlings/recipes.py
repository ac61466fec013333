"""Training configurations of the seedling system. This module does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TypeAlias

from latens.systems.seedlings.config import DAYS, CropsConfig, GraderConfig, GradingLossConfig
from latens.training.config import Adam, RunConfig, Sgd, TrainConfig

SeedlingTraining: TypeAlias = TrainConfig[GraderConfig, CropsConfig, GradingLossConfig]
NO_CLIP = 1e6  # gradient norm that is never reached


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
    """One CPU core, half an hour: the small network on days 4 to 7, success and emergence; recipe of the model `seedlings`."""
    return replace(
        tiny(),
        recipe="cpu",
        model=GraderConfig(days=DAYS, seen=True),
        data=CropsConfig(contrast=0.15),
        optim=Adam(lr=2e-3, warmup=100, decay_share=0.8, ema=0.995),
        run=RunConfig(steps=4000, precision="no", log_every=50, validate_every=500, checkpoint_every=250),
    )


def cpu_day() -> SeedlingTraining:
    """One CPU core, minutes: a model of one day (--set data.days=6), success only; momentum and He-normal weights.

    At the learning rate of the thesis a network with random weights does not train. This recipe keeps the protocol
    (oversampling, augmentation, SGD) and changes learning rate, momentum and initialization.
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
    """One CPU core, minutes: color crops in class folders (--data FOLDER)."""
    return replace(
        cpu(),
        recipe="cpu_classes",
        model=GraderConfig(channels=3, width=24, dropout=0.3),
        data=CropsConfig(batch=48, contrast=0.25, rotation="any", scale=0.2),
        run=RunConfig(steps=2500, precision="no", log_every=50, validate_every=250, checkpoint_every=250),
    )


def paper() -> SeedlingTraining:
    """Perugachi-Diaz 2024, chapter 3: AlexNet, one day, 500 epochs, SGD at 1e-4 without momentum, weight decay 1e-5.

    Needs ImageNet weights (--set model.pretrained=FILE): at this rate a randomly initialized network does not train.
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
