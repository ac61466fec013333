"""Training configurations of the haze system. This module does not import torch.

`cpu_fine` is the recipe of the bundled physical model, which started from one of `cpu`. The learned rows of Table 1 (Li et al.
2019) are `cpu`, `cpu_mmd`, `cpu_unit`, `cpu_cyclegan` and `cpu_dehazenet`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TypeAlias

from latens.systems.haze.config import (
    DehazeNetConfig,
    DiscriminatorConfig,
    HazeDataConfig,
    PatchLossConfig,
    PhysicalConfig,
    PhysicalLossConfig,
    PriorConfig,
    TranslationLossConfig,
    TranslatorConfig,
)
from latens.training.config import Adam, Muon, RunConfig, TrainConfig

AnyModel: TypeAlias = TranslatorConfig | PhysicalConfig | DehazeNetConfig
AnyLoss: TypeAlias = TranslationLossConfig | PhysicalLossConfig | PatchLossConfig
HazeTraining: TypeAlias = TrainConfig[AnyModel, HazeDataConfig, AnyLoss]

PATCHES = 128  # batch of DehazeNet


def tiny() -> HazeTraining:
    """Seconds on a CPU; for tests: the physical model."""
    return TrainConfig(
        system="haze",
        recipe="tiny",
        model=PhysicalConfig(channels=8, short_side=64),
        data=HazeDataConfig(side=64, crop=64, batch=4, scenes=6),
        objective=PhysicalLossConfig(),
        optim=Adam(lr=2e-3, warmup=5, ema=0.9),
        run=RunConfig(steps=40, precision="no", log_every=10, validate_every=20, checkpoint_every=20),
    )


def tiny_mmd() -> HazeTraining:
    """Seconds on a CPU; for tests: the paper's model."""
    return replace(
        tiny(),
        recipe="tiny_mmd",
        model=TranslatorConfig(channels=4, blocks=1, discriminator=DiscriminatorConfig(channels=4, scales=2, layers=3)),
        data=HazeDataConfig(side=64, crop=64, batch=1, scenes=6),
        objective=TranslationLossConfig(prior=PriorConfig(positions=64)),
        optim=Adam(lr=1e-3, warmup=5, ema=0.9, beta1=0.5),
        run=RunConfig(steps=20, precision="no", log_every=5, validate_every=10, checkpoint_every=10),
    )


def cpu() -> HazeTraining:
    """One CPU core, forty minutes: the physical model on simulated streets and on RGB-D folders, if given."""
    return replace(
        tiny(),
        recipe="cpu",
        model=PhysicalConfig(channels=24),
        data=HazeDataConfig(side=240, crop=128, batch=8, scenes=400, color_jitter=1.0),
        optim=Muon(lr=1e-3, muon_lr=2e-3, warmup=100, ema=0.998, decay_share=0.7),
        run=RunConfig(steps=12_000, validate_every=1500, checkpoint_every=500, log_every=50),
    )


def cpu_fine() -> HazeTraining:
    """Two CPU cores, hours: the physical model at half the size, for photographs: gray airlight, dim and blurred images.

    Scenes of NYU from number 1150 on are left for tests in every folder.
    """
    return replace(
        cpu(),
        recipe="cpu_fine",
        model=PhysicalConfig(channels=24, short_side=128, fold=2),
        data=HazeDataConfig(
            side=160,
            crop=128,
            batch=8,
            scenes=400,
            color_jitter=1.0,
            gray_airlight=0.8,
            dimming=0.3,
            held_out_from=1150,
        ),
        objective=PhysicalLossConfig(consistency_weight=1.0),
        run=RunConfig(steps=16_000, validate_every=2000, checkpoint_every=250, log_every=50),
    )


def cpu_mmd() -> HazeTraining:
    """One CPU core, a quarter of an hour: the paper's model, small. UNIT and CycleGAN have the same budget."""
    return replace(
        cpu(),
        recipe="cpu_mmd",
        model=TranslatorConfig(channels=16, blocks=3, discriminator=DiscriminatorConfig(channels=16)),
        data=HazeDataConfig(side=160, crop=128, batch=1, scenes=400, color_jitter=1.0),
        objective=TranslationLossConfig(prior=PriorConfig(positions=256)),
        optim=Adam(lr=2e-4, warmup=100, ema=0.999, decay_share=0.5, beta1=0.5),
        run=RunConfig(steps=3500, validate_every=700, checkpoint_every=350, log_every=50),
    )


def cpu_unit() -> HazeTraining:
    """UNIT (Liu et al. 2017) at the budget of `cpu_mmd`: a KL divergence instead of the MMD."""
    return replace(unit(cpu_mmd()), recipe="cpu_unit")


def cpu_cyclegan() -> HazeTraining:
    """CycleGAN (Zhu et al. 2017) at the budget of `cpu_mmd`."""
    return replace(cyclegan(cpu_mmd()), recipe="cpu_cyclegan")


def unit(config: HazeTraining) -> HazeTraining:
    """UNIT: a KL divergence instead of the MMD."""
    assert isinstance(config.model, TranslatorConfig)
    assert isinstance(config.objective, TranslationLossConfig)
    objective = replace(config.objective, prior=replace(config.objective.prior, kind="kl"))
    return replace(config, model=replace(config.model, kind="unit"), objective=objective)


def cyclegan(config: HazeTraining) -> HazeTraining:
    """CycleGAN: no noise, reconstruction or prior; with identity loss, image history and one normalized discriminator scale."""
    assert isinstance(config.model, TranslatorConfig)
    assert isinstance(config.objective, TranslationLossConfig)
    channels = config.model.discriminator.channels
    discriminator = DiscriminatorConfig(channels=channels, scales=1, layers=3, norm=True, pool=50)
    prior = replace(config.objective.prior, kind="none")
    objective = replace(config.objective, identity_weight=5.0, prior=prior)
    return replace(config, model=replace(config.model, kind="cyclegan", discriminator=discriminator), objective=objective)


def physical(config: HazeTraining) -> HazeTraining:
    """The physical model, which is trained on scenes with depth."""
    return replace(config, model=PhysicalConfig(), objective=PhysicalLossConfig())


def dehazenet(config: HazeTraining) -> HazeTraining:
    """DehazeNet (Cai et al. 2016) on batches of 128 patches; its patches need neither depth nor draws of haze parameters."""
    data = replace(config.data, batch=PATCHES, draws=0)
    return replace(config, model=DehazeNetConfig(), data=data, objective=PatchLossConfig())


def cpu_dehazenet() -> HazeTraining:
    """One CPU core, minutes: DehazeNet on patches."""
    return replace(
        cpu(),
        recipe="cpu_dehazenet",
        model=DehazeNetConfig(),
        data=HazeDataConfig(side=240, crop=128, batch=PATCHES, scenes=400),
        objective=PatchLossConfig(),
        optim=Adam(lr=1e-3, warmup=100, ema=0.999, decay_share=0.5),
        run=RunConfig(steps=20_000, precision="no", validate_every=4000, checkpoint_every=2000),
    )


def gpu() -> HazeTraining:
    """One data-center GPU, under an hour: the paper's sizes on larger batches."""
    return replace(
        paper(),
        recipe="gpu",
        data=HazeDataConfig(side=256, crop=256, batch=8, scenes=1500),
        optim=Adam(lr=2e-4, warmup=500, ema=0.999, decay_share=0.5, beta1=0.5),
        run=RunConfig(steps=30_000, validate_every=2000, checkpoint_every=1000, keep=1),
    )


def paper() -> HazeTraining:
    """Li et al. 2019, section 4.1: Adam at 1e-4 with beta1 0.5, batch 1 per domain, 250,000 steps, one draw per image.

    For ApolloScape use `--data` and `--set data.scenes=0`; without folders it trains on simulated streets. Scenes are hazed
    whole and then cropped. Unlike in the paper, the best weights are selected on held-out training scenes.
    """
    return TrainConfig(
        system="haze",
        recipe="paper",
        model=TranslatorConfig(),
        data=HazeDataConfig(side=256, crop=256, batch=1, scenes=1500, draws=1, farthest_of="scene"),
        objective=TranslationLossConfig(),
        optim=Adam(lr=1e-4, warmup=0, decay_share=0.0, clip=1e6, ema=0.0, beta1=0.5),
        run=RunConfig(steps=250_000, precision="no", validate_every=10_000, checkpoint_every=5000),
    )


TABLE_1: Mapping[str, Mapping[str, Callable[[], HazeTraining]]] = MappingProxyType(
    {
        "tiny": {
            "unit": lambda: unit(tiny_mmd()),
            "cyclegan": lambda: cyclegan(tiny_mmd()),
            "dehazenet": lambda: dehazenet(tiny()),
            "mmd": tiny_mmd,
            "physical": tiny,
        },
        "cpu": {
            "unit": cpu_unit,
            "cyclegan": cpu_cyclegan,
            "dehazenet": cpu_dehazenet,
            "mmd": cpu_mmd,
            "physical": cpu,
        },
        "paper": {
            "unit": lambda: unit(paper()),
            "cyclegan": lambda: cyclegan(paper()),
            "dehazenet": lambda: dehazenet(paper()),
            "mmd": paper,
            "physical": lambda: physical(paper()),
        },
    }
)
"""Scale -> method -> the training of its row in Table 1."""

RECIPES: Mapping[str, Callable[[], HazeTraining]] = MappingProxyType(
    {
        "tiny": tiny,
        "tiny_mmd": tiny_mmd,
        "cpu": cpu,
        "cpu_fine": cpu_fine,
        "cpu_mmd": cpu_mmd,
        "cpu_unit": cpu_unit,
        "cpu_cyclegan": cpu_cyclegan,
        "cpu_dehazenet": cpu_dehazenet,
        "gpu": gpu,
        "paper": paper,
    }
)
