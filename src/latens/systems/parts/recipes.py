"""Training configurations of the parts system, and the rows of Table 1 of Gupta et al. 2020 as variants of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, TypeVar

from latens.settings import settings, validator
from latens.systems.parts.config import (
    EDGE,
    AnnealingConfig,
    BetaVAEConfig,
    BetaVAELoss,
    BiGANConfig,
    BiGANLoss,
    ImagesConfig,
    LossConfig,
    MaskedConfig,
    MaskedLoss,
    PartsConfig,
    PatchVAEConfig,
    PatchVAELoss,
    SupervisedConfig,
    SupervisedLoss,
)
from latens.training.config import Adam, RunConfig, TrainConfig

NO_CLIP = 1e9
PLACES_IMAGES, IMAGENET_IMAGES = 2_448_873, 1_281_167  # training images
GAN_WEIGHT = 0.051  # the released 1, which applies to normalized pixels, in units of pixels in [0, 1]
T = TypeVar("T")


@settings
class PartsTraining(TrainConfig[PartsConfig, ImagesConfig, LossConfig]):
    """A training configuration of this system."""

    model: PartsConfig  # sizes of the network
    data: ImagesConfig  # sampling of training images
    objective: LossConfig  # weights of the losses; of the same kind as the model

    @validator
    def _fits(self) -> PartsTraining:
        model, loss = self.model, self.objective
        if model.kind != loss.kind:
            what = f"model.kind {model.kind} and objective.kind {loss.kind} differ"
            raise ValueError(f"{what}; set both (--set model.kind={model.kind} --set objective.kind={model.kind})")
        if isinstance(model, PatchVAEConfig) and isinstance(loss, PatchVAELoss):
            if loss.iic_weight and not model.categorical:
                raise ValueError(
                    "objective.iic_weight requires one part per cell; set model.categorical=true, or the weight to 0"
                )
            if loss.iic_weight and model.size <= 2 * EDGE * model.stride:
                raise ValueError(f"model.size {model.size} leaves no cell to compare for objective.iic_weight; 64 is usual")
            if loss.prior and model.categorical:
                raise ValueError("objective.prior has no effect with model.categorical, whose prior is 1/N; set it to 0")
        return self


def tiny() -> PartsTraining:
    """Seconds on a CPU; for tests."""
    return PartsTraining(
        system="parts",
        recipe="tiny",
        model=PatchVAEConfig(size=16, encoder="local", parts=4, appearance=3),
        data=ImagesConfig(batch=16, validation_share=0.2, validation_limit=16),
        objective=PatchVAELoss(annealing=AnnealingConfig(rate=1e-3)),
        optim=Adam(lr=2e-3, warmup=5, ema=0.9, clip=NO_CLIP),
        run=RunConfig(steps=40, precision="no", log_every=10, validate_every=20, checkpoint_every=20),
    )


def cpu() -> PartsTraining:
    """One CPU core, half an hour: 64 x 64 crops of photographs, 32 local parts; recipe of the bundled model.

    One part per cell, with the IIC loss between two views: without this loss, parts are edges and corners of objects instead of
    regions. The weight of occurrences is small, because a large weight makes all parts equally likely in every cell.
    """
    return replace(
        tiny(),
        recipe="cpu",
        model=PatchVAEConfig(size=64, encoder="local", parts=32, appearance=8, categorical=True),
        data=ImagesConfig(batch=32, smallest_crop=0.4),
        objective=PatchVAELoss(
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
    """Two CPU cores, minutes: 32 x 32 images, encoder and sizes of the paper, a shorter schedule."""
    return replace(
        cpu(),
        recipe="small",
        model=PatchVAEConfig(),
        data=ImagesConfig(),
        objective=PatchVAELoss(beta_occ=0.06, annealing=AnnealingConfig(rate=1e-3, compound=False)),
        optim=Adam(lr=1e-3, warmup=100, ema=0.99, clip=NO_CLIP),
        run=RunConfig(steps=1500, log_every=50, validate_every=500, checkpoint_every=500),
    )


def gpu() -> PartsTraining:
    """One data-center GPU, about half an hour: the model of `cpu` with more steps and larger batches."""
    return replace(
        cpu(),
        recipe="gpu",
        data=ImagesConfig(batch=256, smallest_crop=0.3),
        run=RunConfig(steps=60_000, log_every=100, validate_every=5000, checkpoint_every=2000, keep=1),
    )


def paper() -> PartsTraining:
    """The paper's CIFAR-100 schedule: 90 epochs of 390 steps, Adam 1e-4, batch 128, N = 16, d_p = 6, prior 1/N.

    Weights of the divergences are the released 1 and 10 in units of pixels in [0, 1], and the temperature has the released
    schedule (as printed: `--set objective.annealing.compound=false`). Images are drawn with replacement.
    """
    return PartsTraining(
        system="parts",
        recipe="paper",
        model=PatchVAEConfig(),
        data=ImagesConfig(flip=False),
        objective=PatchVAELoss(beta_app=0.051, beta_occ=0.51),
        optim=Adam(lr=1e-4, beta1=0.5, warmup=0, decay_share=0.0, clip=NO_CLIP, ema=0.0),
        run=RunConfig(steps=90 * 390, precision="no", validate_every=3900, checkpoint_every=1950),
    )


def paper_indoor67() -> PartsTraining:
    """The paper's Indoor-67: `paper` on 224 x 224 pixels, 90 epochs; an epoch is 50,000 images as for CIFAR-100 (ours)."""
    return _paper("indoor67", 90 * 390)


def paper_places205() -> PartsTraining:
    """The paper's Places205: `paper` on 224 x 224 pixels, 2 epochs of 2,448,873 images; its probes take 5 epochs."""
    return _paper("places205", 2 * math.ceil(PLACES_IMAGES / 128))


def paper_imagenet() -> PartsTraining:
    """The paper's ImageNet: 224 x 224 pixels, ResNet-18, N = 64, d_p = 16, 30 epochs of 1,281,167 images; probes take 30."""
    config = _paper("imagenet", 30 * math.ceil(IMAGENET_IMAGES / 128))
    assert isinstance(config.model, PatchVAEConfig)
    return replace(config, model=replace(config.model, blocks=4, parts=64, appearance=16))


def _paper(name: str, steps: int) -> PartsTraining:
    base = paper()
    run = replace(base.run, steps=steps, validate_every=5000, checkpoint_every=2000)
    return replace(base, recipe=f"paper_{name}", model=replace(base.model, size=224), run=run)


RECIPES: Mapping[str, Callable[[], PartsTraining]] = MappingProxyType(
    {
        "tiny": tiny,
        "cpu": cpu,
        "small": small,
        "gpu": gpu,
        "paper": paper,
        "paper_indoor67": paper_indoor67,
        "paper_places205": paper_places205,
        "paper_imagenet": paper_imagenet,
    }
)


# ---------------------------------------------------------------------------------------------------- rows of Table 1

Variant: TypeAlias = Callable[[PartsTraining], PartsTraining]


def compose(*variants: Variant) -> Variant:
    """A variant that applies several changes in order."""

    def change(config: PartsTraining) -> PartsTraining:
        for variant in variants:
            config = variant(config)
        return config

    return change


def _convert(cls: type[T], old: Any) -> T:
    """Settings of class `cls`; fields that `old` also has keep its values."""
    shared = {item.name for item in fields(cls)} & {item.name for item in fields(old)} - {"kind"}  # type: ignore[arg-type]
    return cls(**{name: getattr(old, name) for name in shared})


def patchvae(config: PartsTraining) -> PartsTraining:
    """PatchVAE, the model of the recipes."""
    return config


def betavae(config: PartsTraining) -> PartsTraining:
    """The beta-VAE instead of PatchVAE."""
    return replace(config, model=_convert(BetaVAEConfig, config.model), objective=_convert(BetaVAELoss, config.objective))


def bigan(config: PartsTraining) -> PartsTraining:
    """BiGAN."""
    optim = replace(_adam(config), beta1=0.5)
    return replace(config, model=_convert(BiGANConfig, config.model), objective=BiGANLoss(), optim=optim)


def masked(config: PartsTraining) -> PartsTraining:
    """The masked autoencoder."""
    return replace(config, model=_convert(MaskedConfig, config.model), objective=MaskedLoss())


def supervised(config: PartsTraining) -> PartsTraining:
    """Training on the labels of the same images (the paper's row was trained on ImageNet)."""
    return replace(config, model=_convert(SupervisedConfig, config.model), objective=SupervisedLoss())


def untrained(config: PartsTraining) -> PartsTraining:
    """Random weights."""
    return replace(config, run=replace(config.run, steps=0))


def weighted(config: PartsTraining) -> PartsTraining:
    """L_w: the squared error weighted by gradient energy."""
    return replace(config, objective=replace(_elbo(config), weighted=True))


def gan(config: PartsTraining) -> PartsTraining:
    """The -GAN variant."""
    objective, optim = replace(_elbo(config), adversarial=GAN_WEIGHT), replace(_adam(config), beta1=0.5)
    return replace(config, objective=objective, optim=optim)


def local(config: PartsTraining) -> PartsTraining:
    """The local encoder."""
    return replace(config, model=replace(config.model, encoder="local"))


def contrastive(weight: float, lr: float | None = None) -> Variant:
    """The NT-Xent loss between two views, with another learning rate if one is given."""

    def change(config: PartsTraining) -> PartsTraining:
        optim = config.optim if lr is None else replace(config.optim, lr=lr)
        return replace(config, objective=replace(_elbo(config), contrastive_weight=weight), optim=optim)

    return change


def one_part_per_cell(config: PartsTraining) -> PartsTraining:
    """Categorical occurrences."""
    assert isinstance(config.model, PatchVAEConfig)
    return replace(config, model=replace(config.model, categorical=True))


def iic(weight: float) -> Variant:
    """The IIC loss between the parts of two views."""

    def change(config: PartsTraining) -> PartsTraining:
        assert isinstance(config.objective, PatchVAELoss)
        return replace(config, objective=replace(config.objective, iic_weight=weight))

    return change


def _elbo(config: PartsTraining) -> PatchVAELoss | BetaVAELoss:
    assert isinstance(config.objective, PatchVAELoss | BetaVAELoss)
    return config.objective


def _adam(config: PartsTraining) -> Adam:
    assert isinstance(config.optim, Adam)
    return config.optim


TWO_VIEWS = contrastive(1.0, lr=3e-3)

Row = Literal[
    "beta-VAE", "beta-VAE + L_w", "beta-VAE-GAN", "beta-VAE-GAN + L_w",
    "PatchVAE", "PatchVAE + L_w", "PatchVAE-GAN", "PatchVAE-GAN + L_w", "BiGAN",
    "random", "supervised",
    "local PatchVAE + L_w", "local PatchVAE-GAN + L_w", "PatchVAE + L_w + two views", "local PatchVAE + L_w + two views",
    "beta-VAE + L_w + two views", "masked autoencoder", "local masked autoencoder",
]  # fmt: skip

TABLE_1_ROWS: Mapping[Row, Variant] = MappingProxyType(
    {
        "beta-VAE": betavae,
        "beta-VAE + L_w": compose(betavae, weighted),
        "beta-VAE-GAN": compose(betavae, gan),
        "beta-VAE-GAN + L_w": compose(betavae, gan, weighted),
        "PatchVAE": patchvae,
        "PatchVAE + L_w": weighted,
        "PatchVAE-GAN": gan,
        "PatchVAE-GAN + L_w": compose(gan, weighted),
        "BiGAN": bigan,
        "random": untrained,
        "supervised": supervised,
        # Not in the paper: local encoders, losses between two views, and masked autoencoders.
        "local PatchVAE + L_w": compose(local, weighted),
        "local PatchVAE-GAN + L_w": compose(local, weighted, gan),
        "PatchVAE + L_w + two views": compose(weighted, TWO_VIEWS),
        "local PatchVAE + L_w + two views": compose(local, weighted, TWO_VIEWS),
        "beta-VAE + L_w + two views": compose(betavae, weighted, TWO_VIEWS),
        "masked autoencoder": masked,
        "local masked autoencoder": compose(masked, local),
    }
)
"""Rows of `parts/table1`. Rows up to "BiGAN" are the paper's rows without labels."""
