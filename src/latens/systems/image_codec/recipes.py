"""Training configurations of the image codec, as functions. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TypeAlias

from latens.systems.image_codec.config import (
    LAMBDAS,
    ContextConfig,
    ContextHyperpriorConfig,
    CropConfig,
    HyperpriorConfig,
    ImageModel,
    RateDistortionConfig,
)
from latens.training.config import Adam, Muon, RunConfig, TrainConfig

# Eight rates, evenly spaced on a logarithmic scale from 0.001 to 0.04 (the range of LAMBDAS without its highest).
EIGHT_RATES = tuple(round(0.001 * 40 ** (i / 7), 6) for i in range(8))

# Slopes of the structural term of a tuned model times 1.12, because training minimizes the less steep rate of noisy latents.
SLOPES = (1.46, 1.42, 1.32, 1.17, 1.12, 1.2, 1.26, 1.29)

COMPACT = HyperpriorConfig(hidden=96, latent=256, hyper=96, lambdas=EIGHT_RATES, transforms="compact")

CodecTraining: TypeAlias = TrainConfig[ImageModel, CropConfig, RateDistortionConfig]


def tiny() -> CodecTraining:
    """Seconds on a CPU; for tests."""
    return TrainConfig(
        system="image_codec",
        recipe="tiny",
        model=HyperpriorConfig(hidden=16, latent=24, hyper=24, lambdas=(0.005, 0.02), transforms="compact"),
        data=CropConfig(crop=64, batch=4, validation_crop=64),
        objective=RateDistortionConfig(),
        optim=Muon(lr=1e-3, muon_lr=2e-3, warmup=10, ema=0.9),
        run=RunConfig(steps=60, precision="no", log_every=10, validate_every=30, checkpoint_every=20),
    )


def cpu() -> CodecTraining:
    """A model for all rates: two CPU cores with bfloat16, about an hour at four steps a second."""
    return replace(
        tiny(),
        recipe="cpu",
        model=COMPACT,
        data=CropConfig(batch=16),
        optim=Muon(lr=5e-4, muon_lr=1.2e-3, warmup=200, ema=0.9995, decay_share=0.75),
        run=RunConfig(steps=14_000, validate_every=3500, checkpoint_every=500),
    )


def cpu_hard() -> CodecTraining:
    """After `cpu`, with `--init RUN/best`: train decoder and entropy model on the encoder's symbols for ten minutes."""
    return replace(
        cpu(),
        recipe="cpu_hard",
        objective=RateDistortionConfig(rounding="hard"),
        optim=Muon(lr=2.5e-4, muon_lr=5e-4, warmup=100, ema=0.998, decay_share=0.9),
        run=RunConfig(steps=2400, validate_every=800, checkpoint_every=200),
    )


def gpu() -> CodecTraining:
    """The model of `cpu` on larger crops, optionally from its weights: one data-center GPU, several runs of ten minutes.

    It keeps one checkpoint and no averaged weights; a run folder takes about 50 MB.
    """
    return replace(
        cpu(),
        recipe="gpu",
        data=CropConfig(crop=256, batch=16),
        optim=Muon(lr=3e-4, muon_lr=1e-3, warmup=1000, ema=0.0, decay_share=0.7),
        run=RunConfig(steps=200_000, validate_every=5000, checkpoint_every=2000, keep=1),
    )


def paper() -> CodecTraining:
    """Perugachi-Diaz 2024, sections 5.4.1 and C.1, at lambda 0.01; other rates: `--set model.lambdas=[...]`, `model.hidden`.

    The paper has 128 hidden channels for lambda 0.001, 192 up to 0.02 and 256 from 0.04 on, and 2 million steps (1 for 0.001, 3
    for 0.08).
    """
    return TrainConfig(
        system="image_codec",
        recipe="paper",
        model=HyperpriorConfig(hidden=192, latent=192, lambdas=(LAMBDAS[3],)),
        data=CropConfig(crop=256, batch=32, shrink=1.0),
        objective=RateDistortionConfig(rounding="noise", balance=0.0),
        optim=Adam(lr=1e-4, warmup=1000, decay_share=0.0, ema=0.0),
        run=RunConfig(steps=2_000_000, seed=222, precision="no", validate_every=20_000, checkpoint_every=5000),
    )


def fit_context() -> CodecTraining:
    """A context model for the model of `cpu` (`--init`), whose weights stay as they are: a few minutes of one CPU core."""
    return replace(
        cpu(),
        recipe="fit_context",
        model=ContextHyperpriorConfig(base=COMPACT),
        data=CropConfig(crop=256, batch=4),
        objective=RateDistortionConfig(rounding="entropy", rates_per_crop=2),
        optim=Adam(lr=3e-3, warmup=20, decay_share=0.7, ema=0.0),
        run=RunConfig(steps=1000, validate_every=1000, checkpoint_every=200),
    )


def joint() -> CodecTraining:
    """After `fit_context` (`--init`): all weights, at a constant learning rate until it is stopped; then --branch, --decay."""
    return replace(
        fit_context(),
        recipe="joint",
        objective=RateDistortionConfig(rates_per_crop=2),
        optim=Muon(lr=3e-4, muon_lr=6e-4, warmup=100, ema=0.998, decay_share=0.0),
        run=RunConfig(steps=1_000_000, log_every=50, validate_every=500, checkpoint_every=200),
    )


def joint_hard() -> CodecTraining:
    """After `joint` (`--init`): decoder and entropy model on the symbols of the encoder, eight minutes of one core."""
    return replace(
        joint(),
        recipe="joint_hard",
        objective=RateDistortionConfig(rounding="hard", rates_per_crop=2),
        optim=Muon(lr=1.5e-4, muon_lr=3e-4, warmup=50, ema=0.998, decay_share=0.9),
        run=RunConfig(steps=600, log_every=50, validate_every=600, checkpoint_every=200),
    )


def perceptual() -> CodecTraining:
    """After `fit_context` (`--init`): transforms and gains for structure instead of MSE, about an hour of one core."""
    return replace(
        fit_context(),
        recipe="perceptual",
        objective=RateDistortionConfig(rounding="encoder", distortion="structure", slopes=SLOPES, rates_per_crop=2),
        optim=Muon(lr=5e-4, muon_lr=6e-4, warmup=20, ema=0.998, decay_share=0.75),
        run=RunConfig(steps=3000, log_every=50, validate_every=1500, checkpoint_every=200),
    )


def context_tiny() -> CodecTraining:
    """A small context codec: seconds on a CPU; for tests."""
    return replace(
        tiny(),
        recipe="context_tiny",
        model=ContextConfig(width=8, latent=24, hyper=8, strong=6, lambdas=(0.005, 0.02)),
        objective=RateDistortionConfig(rates_per_crop=2),
        optim=Muon(lr=1e-3, muon_lr=2e-3, max_side=320, warmup=10, ema=0.9),
    )


def context_cpu() -> CodecTraining:
    """The context codec on two CPU cores, at a constant learning rate until it is stopped, or with --branch a decay to zero."""
    return replace(
        cpu(),
        recipe="context_cpu",
        model=ContextConfig(lambdas=EIGHT_RATES),
        data=CropConfig(batch=16),
        objective=RateDistortionConfig(rates_per_crop=2),
        optim=Muon(lr=5e-4, muon_lr=1.2e-3, max_side=320, warmup=500, ema=0.9995, decay_share=0.0),
        run=RunConfig(steps=10_000_000, log_every=50, validate_every=1000, checkpoint_every=100),
    )


def context_gpu() -> CodecTraining:
    """`context_cpu` on larger crops: one data-center GPU, several runs of ten minutes."""
    return replace(
        context_cpu(),
        recipe="context_gpu",
        data=CropConfig(crop=256, batch=32),
        run=RunConfig(steps=10_000_000, log_every=100, validate_every=2000, checkpoint_every=1000, keep=1),
    )


def context_hard() -> CodecTraining:
    """After `context_cpu`, with `--init RUN/best`: train decoder and entropy model on the encoder's symbols."""
    return replace(
        context_cpu(),
        recipe="context_hard",
        objective=RateDistortionConfig(rounding="hard", rates_per_crop=2),
        optim=Muon(lr=2.5e-4, muon_lr=5e-4, max_side=320, warmup=100, ema=0.998, decay_share=0.9),
        run=RunConfig(steps=2400, validate_every=800, checkpoint_every=200),
    )


RECIPES: Mapping[str, Callable[[], CodecTraining]] = MappingProxyType(
    {
        "tiny": tiny,
        "cpu": cpu,
        "cpu_hard": cpu_hard,
        "gpu": gpu,
        "paper": paper,
        "fit_context": fit_context,
        "joint": joint,
        "joint_hard": joint_hard,
        "perceptual": perceptual,
        "context_tiny": context_tiny,
        "context_cpu": context_cpu,
        "context_gpu": context_gpu,
        "context_hard": context_hard,
    }
)
