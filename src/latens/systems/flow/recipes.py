"""Training configurations of the flow system; `gpu` and `paper` have the models of Perugachi-Diaz 2024."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from latens.settings import settings, validator
from latens.systems.flow.config import (
    CropsConfig,
    DataConfig,
    DenseBlocks,
    FlowConfig,
    ImageFlow,
    ImagesConfig,
    IntegerFlow,
    LikelihoodConfig,
    PointsConfig,
    VectorFlow,
)
from latens.training.config import Adam, RunConfig, TrainConfig

CIFAR_STEPS = 1000 * (50_000 // 64)  # 1,000 epochs of batches of 64
IMAGENET32_STEPS = 20 * (1_281_167 // 64)  # 20 epochs
MAX_EXACT = 64  # maximum number of dimensions for exact log-determinants in training


@settings
class FlowTraining(TrainConfig[FlowConfig, DataConfig, LikelihoodConfig]):
    """Training configuration of a flow. Model and data must be of matching kinds."""

    model: FlowConfig  # kind and sizes of the flow
    data: DataConfig  # training data: points for vector, images for image, crops for integer models
    objective: LikelihoodConfig  # loss and estimators

    @validator
    def _fits(self) -> FlowTraining:
        fitting = {"vector": "points", "image": "images", "integer": "crops"}[self.model.kind]
        if self.data.kind != fitting:
            what = f"model.kind {self.model.kind} needs data.kind {fitting}"
            raise ValueError(f"{what}; set both (--set model.kind={self.model.kind} --set data.kind={fitting})")
        if isinstance(self.model, ImageFlow):
            if self.objective.log_det == "exact" and self.model.channels * self.model.size**2 > MAX_EXACT:
                raise ValueError(f"objective.log_det=exact is limited to {MAX_EXACT} dimensions; use poisson")
            if self.objective.generative_weight == 0 and not self.model.classes:
                raise ValueError("objective.generative_weight=0 needs a classifier (model.classes)")
        elif self.objective.generative_weight != 1:
            raise ValueError("objective.generative_weight applies to models with classes; leave it at 1")
        return self


def tiny() -> FlowTraining:
    """Seconds on a CPU; for tests."""
    return FlowTraining(
        system="flow",
        recipe="tiny",
        model=ImageFlow(size=8, scales=(1, 1), block=DenseBlocks(growth=8, depth=2), tail=1, tail_width=8, tail_growth=4),
        data=ImagesConfig(batch=16, validation_share=0.25, validation_limit=16),
        objective=LikelihoodConfig(validation_terms=6),
        optim=Adam(lr=5e-3, warmup=5, ema=0.9),
        run=RunConfig(steps=40, precision="no", log_every=10, validate_every=20, checkpoint_every=20),
    )


def toy() -> FlowTraining:
    """One CPU core, minutes: rows of a table or simulated points, ten dense blocks, exact log-determinants.

    The data are moons, circles or checkerboard (simulated; ./moons is a path), a table of numbers, or a folder of images, whose
    colors are the rows.
    """
    return FlowTraining(
        system="flow",
        recipe="toy",
        model=VectorFlow(),
        data=PointsConfig(),
        objective=LikelihoodConfig(log_det="exact", power_iterations=2),
        optim=Adam(lr=2e-2, warmup=100, ema=0.998, decay_share=0.5),
        run=RunConfig(steps=12_000, precision="no", log_every=200, validate_every=2000, checkpoint_every=2000),
    )


def cpu() -> FlowTraining:
    """One CPU core, hours: color images of 32 x 32 pixels, small dense blocks; recipe of the bundled model `flow`.

    Every scale starts with a whitening of its channels, which the thesis does not have; short runs converge faster with it.
    """
    return FlowTraining(
        system="flow",
        recipe="cpu",
        model=ImageFlow(scales=(1, 2, 3), whiten=True, block=DenseBlocks(growth=32), tail=1, tail_width=16, tail_growth=16),
        data=ImagesConfig(batch=16),
        objective=LikelihoodConfig(),
        optim=Adam(lr=2e-3, warmup=100, ema=0.998, decay_share=0.5),
        run=RunConfig(steps=20_000, precision="no", log_every=50, validate_every=500, checkpoint_every=250),
    )


def gpu() -> FlowTraining:
    """One data-center GPU, half a day: the small model of the thesis (4-4-4 blocks, 8.7 million parameters)."""
    return replace(
        cpu(),
        recipe="gpu",
        model=ImageFlow(),
        data=ImagesConfig(batch=64),
        optim=Adam(lr=1e-3, warmup=1000, ema=0.999, decay_share=0.25),
        run=RunConfig(steps=60_000, precision="no", log_every=100, validate_every=2000, checkpoint_every=1000),
    )


def paper() -> FlowTraining:
    """The large model of the thesis: 16-16-16 blocks, 24.9 million parameters, 1000 epochs of CIFAR-10, 20 terms in validation.

    For ImageNet32 (20 epochs) add `--set model.scales=32,32,32 --set data.flip=false --set objective.equal_share=0 --set
    run.steps=400360`; for MNIST (200 epochs of the small model) add `--set model.channels=1 --set model.scales=4,4,4 --set
    model.block.growth=108 --set model.block.activation=lipswish --set model.coefficient=0.93 --set model.alpha=1e-6 --set
    data.flip=false --set objective.equal_share=0.125 --set run.steps=187400`.
    """
    return replace(
        gpu(),
        recipe="paper",
        model=ImageFlow(scales=(16, 16, 16), block=DenseBlocks(growth=172)),
        objective=LikelihoodConfig(validation_terms=20, equal_share=0.025),
        optim=Adam(lr=1e-3, warmup=1000, ema=0.999, decay_share=0.0),
        run=RunConfig(steps=CIFAR_STEPS, precision="no", log_every=100, validate_every=7810, checkpoint_every=3905),
    )


def hybrid() -> FlowTraining:
    """One CPU core, hours: a small hybrid of density and classifier on labeled images (section 4.4.4), lambda = 1/D."""
    small = cpu()
    assert isinstance(small.model, ImageFlow)
    return replace(
        small,
        recipe="hybrid",
        model=replace(small.model, input="standardize", classes=10, head_width=64),
        data=ImagesConfig(batch=16, pad=4),
        objective=LikelihoodConfig(generative_weight="1/D"),
    )


def pack() -> FlowTraining:
    """One CPU core, half an hour: the integer flow of `latens density pack`, on crops of images of any size."""
    return FlowTraining(
        system="flow",
        recipe="pack",
        model=IntegerFlow(),
        data=CropsConfig(),
        objective=LikelihoodConfig(),
        optim=Adam(lr=3e-3, warmup=100, ema=0.99, decay_share=0.5),
        run=RunConfig(steps=2200, precision="no", log_every=50, validate_every=500, checkpoint_every=250),
    )


RECIPES: Mapping[str, Callable[[], FlowTraining]] = MappingProxyType(
    {"tiny": tiny, "toy": toy, "cpu": cpu, "gpu": gpu, "paper": paper, "hybrid": hybrid, "pack": pack}
)
