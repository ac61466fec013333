"""Training configurations of the video codecs, as functions. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TypeAlias

from latens.systems.video_codec.config import (
    ChunkConfig,
    ClipConfig,
    CodecSize,
    Implicit,
    LatentScaling,
    Method,
    Obic,
    RoiLoss,
    ScaleSpaceFlowConfig,
    VideoLoss,
    VideoModel,
)
from latens.training.config import Adam, Muon, RunConfig, TrainConfig

VideoTraining: TypeAlias = TrainConfig[VideoModel, ClipConfig, VideoLoss]


def tiny() -> VideoTraining:
    """Seconds on a CPU; for tests."""
    size = CodecSize(hidden=16, latent=24, hyper=16)
    return TrainConfig(
        system="video_codec",
        recipe="tiny",
        model=ScaleSpaceFlowConfig(
            intra=size,
            motion=CodecSize(hidden=12, latent=8, hyper=8),
            residual=size,
            lambdas=(0.005, 0.02),
            method=LatentScaling(gain=CodecSize(hidden=8, latent=8, hyper=8)),
        ),
        data=ClipConfig(crop=64, batch=2, shrink=1.0, zoom=1.0, validation_frames=3, validation_size=(64, 64)),
        objective=VideoLoss(levels=(1.0, 2.0)),
        optim=Muon(lr=1e-3, muon_lr=2e-3, warmup=10, ema=0.9),
        run=RunConfig(steps=40, precision="no", log_every=10, validate_every=20, checkpoint_every=20),
    )


def cpu() -> VideoTraining:
    """Scale-space flow on one core, from the image codec (--init), at a constant learning rate until it is stopped.

    The codec of first frames keeps its weights. A usable model is then trained by `cpu_decay` with --init RUN/best.
    """
    return TrainConfig(
        system="video_codec",
        recipe="cpu",
        model=ScaleSpaceFlowConfig(),
        data=ClipConfig(),
        objective=VideoLoss(train_intra=False),
        optim=Muon(lr=5e-4, muon_lr=1e-3, warmup=100, ema=0.999, decay_share=0.0),
        run=RunConfig(steps=10_000_000, precision="no", log_every=20, validate_every=500, checkpoint_every=250, keep=3),
    )


def cpu_decay() -> VideoTraining:
    """After `cpu` (--init RUN/best): all parts of the model, at a learning rate that falls to zero.

    Ten minutes on one core with native bfloat16; six times the steps take an hour.
    """
    return replace(
        cpu(),
        recipe="cpu_decay",
        objective=VideoLoss(),
        optim=Muon(lr=2e-3, muon_lr=1e-3, warmup=20, ema=0.99, decay_share=0.95),
        run=RunConfig(steps=500, log_every=20, validate_every=250, checkpoint_every=125),
    )


def cpu_roi_loss() -> VideoTraining:
    """ROI loss, after `cpu` (--init RUN/best): the loss weights the region, the codec has no input for it."""
    return _with(cpu_decay(), "cpu_roi_loss", RoiLoss())


def cpu_obic() -> VideoTraining:
    """OBIC, after `cpu` (--init RUN/best): separate hyper-codecs for region and background."""
    return _with(cpu_decay(), "cpu_obic", Obic())


def cpu_implicit() -> VideoTraining:
    """Implicit, after `cpu` (--init RUN/best): the mask is an input of the encoders."""
    return _with(cpu_decay(), "cpu_implicit", Implicit())


def cpu_scaling() -> VideoTraining:
    """Latent scaling, after `cpu` (--init RUN/best): implicit, and a transmitted gain coarsens the background."""
    return _with(cpu_decay(), "cpu_scaling", LatentScaling())


def cpu_chunk() -> VideoTraining:
    """The codec without motion compensation on one core, at a constant learning rate until it is stopped."""
    return replace(
        cpu(),
        recipe="cpu_chunk",
        model=ChunkConfig(),
        data=ClipConfig(frames=8, batch=4),
        objective=VideoLoss(),
    )


def cpu_chunk_decay() -> VideoTraining:
    """After `cpu_chunk` (--init RUN/best): at a learning rate that falls to zero."""
    return replace(cpu_decay(), recipe="cpu_chunk_decay", model=cpu_chunk().model, data=cpu_chunk().data)


def gpu() -> VideoTraining:
    """The model of `cpu`, optionally from its weights, on larger crops and longer clips: one data-center GPU."""
    return replace(
        cpu(),
        recipe="gpu",
        data=ClipConfig(frames=4, crop=256, batch=16),
        objective=VideoLoss(),
        optim=Muon(lr=3e-4, muon_lr=1e-3, warmup=1000, ema=0.0, decay_share=0.7),
        run=RunConfig(steps=200_000, validate_every=5000, checkpoint_every=2000, keep=1),
    )


def paper() -> VideoTraining:
    """Perugachi-Diaz 2024, section 6.4.2 and appendix D.4; other methods: `--set model.method.kind=...`.

    This is one model for eight rates instead of eight models, on crops of 256 x 256 instead of 256 x 384. The paper first
    trains for a million steps on Vimeo-90k, then for 300,000 steps on the data of interest. For latent scaling as in the paper
    also `--set model.method.amplified_share=0`.
    """
    size = CodecSize(hidden=128, latent=192, hyper=192)
    lambdas = tuple(round(1 / (255**2 * 1e-4 * 2**exponent), 6) for exponent in reversed(range(8)))
    return TrainConfig(
        system="video_codec",
        recipe="paper",
        model=ScaleSpaceFlowConfig(
            transforms="paper", intra=size, motion=size, residual=size, levels=5, search=0, lambdas=lambdas
        ),
        data=ClipConfig(crop=256, batch=8, shrink=1.0, zoom=1.0, skip_share=0.0, photograph_share=0.0, composite_share=0.0),
        objective=VideoLoss(balance=0.0),
        optim=Adam(lr=1e-4, warmup=1000, decay_share=0.0, ema=0.0),
        run=RunConfig(steps=300_000, precision="no", validate_every=20_000, checkpoint_every=5000),
    )


def _with(base: VideoTraining, recipe: str, method: Method) -> VideoTraining:
    model = base.model
    assert isinstance(model, ScaleSpaceFlowConfig)
    return replace(base, recipe=recipe, model=replace(model, method=method))


RECIPES: Mapping[str, Callable[[], VideoTraining]] = MappingProxyType(
    {
        "tiny": tiny,
        "cpu": cpu,
        "cpu_decay": cpu_decay,
        "cpu_roi_loss": cpu_roi_loss,
        "cpu_obic": cpu_obic,
        "cpu_implicit": cpu_implicit,
        "cpu_scaling": cpu_scaling,
        "cpu_chunk": cpu_chunk,
        "cpu_chunk_decay": cpu_chunk_decay,
        "gpu": gpu,
        "paper": paper,
    }
)
