"""Training configurations of the amodal segmenter (Jang et al. 2020). This module does not import torch.

The rows of the paper's tables are `cpu` with `model.head.refine=false`, `model.head.occlusion=false` or `model.head.asn=true`,
and the baseline `cpu_fcn`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TypeAlias

from latens.systems.amodal.cells.config import CropConfig, StarConfig, StarLossConfig
from latens.systems.amodal.config import (
    AmodalConfig,
    BackboneConfig,
    DetectorConfig,
    HeadConfig,
    LossConfig,
    MaskCodeConfig,
    SceneConfig,
)
from latens.training.config import Adam, Muon, RunConfig, TrainConfig

AmodalTraining: TypeAlias = TrainConfig[AmodalConfig, SceneConfig, LossConfig]
CellsTraining: TypeAlias = TrainConfig[StarConfig, CropConfig, StarLossConfig]


def tiny() -> AmodalTraining:
    """Seconds on a CPU; for tests."""
    return AmodalTraining(
        system="amodal",
        recipe="tiny",
        model=AmodalConfig(
            size=64,
            code=MaskCodeConfig(size=28, codewords=16, width=8, channels=8, delay=4),
            backbone=BackboneConfig(width=8, pyramid=16),
            detector=DetectorConfig(
                proposals=16, rpn_samples=32, roi_samples=16, box_hidden=32, detections=8, anchors=(16, 24, 32, 48, 64)
            ),
            head=HeadConfig(channels=16, dense=4, occlusion_channels=8),
        ),
        data=SceneConfig(batch=2, validation=4),
        objective=LossConfig(code_steps=20, code_batch=16),
        optim=Adam(lr=1e-3, warmup=5, ema=0.9, clip=5.0),
        run=RunConfig(steps=40, precision="no", log_every=5, validate_every=20, checkpoint_every=10),
    )


def cpu() -> AmodalTraining:
    """Two CPU cores, under two hours: images of 256 pixels, ResNet-18 of half width, as the bundled model."""
    return replace(
        tiny(),
        recipe="cpu",
        model=AmodalConfig(),
        data=SceneConfig(),
        objective=LossConfig(code_steps=2000, code=0.2),
        optim=Adam(lr=6e-4, warmup=200, ema=0.999, decay_share=0.5, clip=5.0),
        run=RunConfig(steps=10_000, log_every=50, validate_every=1000, checkpoint_every=250),
    )


def cpu_code() -> AmodalTraining:
    """The mask code of `cpu` only, at a higher learning rate, for runs that share it through `objective.code_from`."""
    base = cpu()
    return replace(
        base,
        recipe="cpu_code",
        optim=replace(base.optim, lr=3e-3, warmup=50),
        run=replace(base.run, steps=base.objective.code_steps, validate_every=500),
    )


def cpu_fcn() -> AmodalTraining:
    """Baseline of `cpu`: FCN mask head with a fully connected path, no occlusion branch; 3 % fewer parameters."""
    base = cpu()
    head = HeadConfig(mask="fcn", occlusion=False, dense=88)
    # Without the stage of the mask code, the pipeline has as many steps as in `cpu`.
    return replace(
        base,
        recipe="cpu_fcn",
        model=replace(base.model, head=head),
        run=replace(base.run, steps=base.run.steps - base.objective.code_steps),
    )


def gpu() -> AmodalTraining:
    """One data-center GPU, about an hour: images of 512 pixels, the full ResNet-18."""
    base = cpu()
    return replace(
        base,
        recipe="gpu",
        model=AmodalConfig(size=512, backbone=BackboneConfig(width=64, pyramid=256), head=HeadConfig(channels=128, dense=16)),
        data=SceneConfig(batch=16, validation=64),
        run=RunConfig(steps=30_000, log_every=50, validate_every=2500, checkpoint_every=1000, keep=1),
    )


def paper() -> AmodalTraining:
    """Jang et al. 2020, sections 3 and 4, with ResNet-50 and a shorter side of 800; sizes that the paper omits are ours."""
    base = cpu()
    detector = DetectorConfig(
        proposals=1000, rpn_samples=256, roi_samples=512, box_hidden=1024, detections=100, anchors=(32, 64, 128, 256, 512)
    )
    return replace(
        base,
        recipe="paper",
        model=AmodalConfig(
            size=3008,
            short_side=800,
            backbone=BackboneConfig(kind="resnet50", pyramid=256),
            detector=detector,
            head=HeadConfig(channels=256, dense=64, occlusion_channels=256),
        ),
        data=SceneConfig(batch=16, validation=200, smallest=1),
        objective=LossConfig(code_steps=10_000, code_batch=256),
        optim=Adam(lr=2e-4, warmup=1000, ema=0.0, decay_share=0.25, clip=10.0),
        run=RunConfig(steps=100_000, log_every=100, validate_every=5000, checkpoint_every=2000),
    )


def cells_tiny() -> CellsTraining:
    """Seconds on a CPU; for tests: the model for nuclei."""
    return CellsTraining(
        system="amodal",
        recipe="cells_tiny",
        model=StarConfig(widths=(8, 12, 16), rays=16),
        data=CropConfig(batch=2, crop=64, validation=4),
        objective=StarLossConfig(),
        optim=Adam(lr=1e-3, warmup=5, ema=0.9, clip=5.0),
        run=RunConfig(steps=40, precision="no", log_every=5, validate_every=20, checkpoint_every=10),
    )


def cells() -> CellsTraining:
    """One CPU core, under an hour: nuclei in fluorescence and stains, the recipe of the bundled model `cells`."""
    return replace(
        cells_tiny(),
        recipe="cells",
        model=StarConfig(),
        data=CropConfig(),
        optim=Muon(lr=1e-3, muon_lr=2e-3, warmup=100, ema=0.998, decay_share=0.6, clip=5.0),
        run=RunConfig(steps=2600, log_every=25, validate_every=500, checkpoint_every=250),
    )


def cells_gpu() -> CellsTraining:
    """One data-center GPU, an hour: the model of `cells` with twice the channels, larger crops and batches."""
    base = cells()
    return replace(
        base,
        recipe="cells_gpu",
        model=StarConfig(widths=(64, 128, 192, 256, 320)),
        data=CropConfig(batch=32, crop=256),
        run=RunConfig(steps=40_000, log_every=50, validate_every=2000, checkpoint_every=1000),
    )


RECIPES: Mapping[str, Callable[[], AmodalTraining | CellsTraining]] = MappingProxyType(
    {
        "tiny": tiny,
        "cpu": cpu,
        "cpu_code": cpu_code,
        "cpu_fcn": cpu_fcn,
        "gpu": gpu,
        "paper": paper,
        "cells": cells,
        "cells_tiny": cells_tiny,
        "cells_gpu": cells_gpu,
    }
)
