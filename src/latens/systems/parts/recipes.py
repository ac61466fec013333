"""Training configurations of the family of Table 1, as functions. Nothing here imports torch.

Another member of the family is `small` or `paper` with settings: `--set model.kind=betavae`, `--set objective.weighted=true`,
`--set objective.adversarial=1`; `variants.py` names them all. `cpu` and `gpu` have two views, which suit one part a cell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TypeAlias

from latens.systems.parts.config import AnnealingConfig, ImagesConfig, LossConfig, PartsConfig
from latens.training.config import Adam, RunConfig, TrainConfig

NO_CLIP = 1e9

PartsTraining: TypeAlias = TrainConfig[PartsConfig, ImagesConfig, LossConfig]


def tiny() -> PartsTraining:
    """Seconds on a CPU; for tests."""
    return TrainConfig(
        system="parts",
        recipe="tiny",
        model=PartsConfig(size=16, encoder="local", parts=4, appearance=3),
        data=ImagesConfig(batch=16, validation_share=0.2, validation_most=16),
        objective=LossConfig(annealing=AnnealingConfig(rate=1e-3)),
        optim=Adam(lr=2e-3, warmup=5, ema=0.9, clip=NO_CLIP),
        run=RunConfig(steps=40, precision="no", log_every=10, validate_every=20, checkpoint_every=20),
    )


def cpu() -> PartsTraining:
    """One CPU core, half an hour: 64 x 64 crops of photographs, 32 local parts. What the bundled model is made with.

    One part a cell, and two views of every picture that must have the same (`iic_weight`), so that a part covers what it stands
    for. The weight of occurrences is small, because it evens out which part a cell has, and parts that are even everywhere are
    not learned.
    """
    return replace(
        tiny(),
        recipe="cpu",
        model=PartsConfig(size=64, encoder="local", parts=32, appearance=8, categorical=True),
        data=ImagesConfig(batch=32, smallest_crop=0.4),
        objective=LossConfig(
            weighted=True,
            beta_app=0.05,
            beta_occ=0.05,
            contrastive_weight=0.05,
            iic_weight=0.05,
            annealing=AnnealingConfig(rate=7e-4, compound=False),
        ),
        optim=Adam(lr=2e-3, warmup=200, decay_share=0.5, ema=0.999, clip=NO_CLIP),
        run=RunConfig(steps=5000, log_every=50, validate_every=500, checkpoint_every=500),
    )


def small() -> PartsTraining:
    """Two CPU cores, minutes: 32 x 32 pictures with the encoder and the sizes of the paper, a shorter schedule."""
    return replace(
        cpu(),
        recipe="small",
        model=PartsConfig(),
        data=ImagesConfig(),
        objective=LossConfig(beta_occ=0.06, annealing=AnnealingConfig(rate=1e-3, compound=False)),
        optim=Adam(lr=1e-3, warmup=100, ema=0.99, clip=NO_CLIP),
        run=RunConfig(steps=1500, log_every=50, validate_every=500, checkpoint_every=500),
    )


def gpu() -> PartsTraining:
    """One data-centre GPU, about half an hour: the model of `cpu` with more steps and larger batches."""
    return replace(
        cpu(),
        recipe="gpu",
        data=ImagesConfig(batch=256, smallest_crop=0.3),
        run=RunConfig(steps=60_000, log_every=100, validate_every=5000, checkpoint_every=2000, keep=1),
    )


def paper() -> PartsTraining:
    """004, section 4, for CIFAR-100: 90 epochs of 390 steps, Adam 1e-4, batch 128, N = 16, d_p = 6, prior 1/N.

    Weights of the divergences are the released 1 and 10 in units of pixels in [0, 1]. Indoor-67 and Places205 take
    `--set model.size=224`; ImageNet also `model.blocks=4`, `model.parts=64` and `model.appearance=16`.
    """
    return TrainConfig(
        system="parts",
        recipe="paper",
        model=PartsConfig(),
        data=ImagesConfig(flip=False),
        objective=LossConfig(beta_app=0.051, beta_occ=0.51),
        optim=Adam(lr=1e-4, beta1=0.5, warmup=0, decay_share=0.0, clip=NO_CLIP, ema=0.0),
        run=RunConfig(steps=90 * 390, precision="no", validate_every=3900, checkpoint_every=1950),
    )


RECIPES: Mapping[str, Callable[[], PartsTraining]] = MappingProxyType(
    {
        "tiny": tiny,
        "cpu": cpu,
        "small": small,
        "gpu": gpu,
        "paper": paper,
    }
)
