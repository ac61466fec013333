"""Training configurations and measurements of table rows at three scales.

Scale `paper` has the models, the optimizer and the epochs of the thesis (Perugachi-Diaz 2024), `cpu` has models of about 0.2
million parameters each, and `tiny` is for tests.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch

from latens.data.labeled import open_labeled
from latens.data.source import Source, one_source
from latens.errors import UsageError, counted
from latens.experiments.lab import RUNS, ExperimentRunner
from latens.experiments.report import seeds_of
from latens.inference.page import Table
from latens.settings import Count, Natural, NonNegative, settings
from latens.systems.flow.config import (
    ActivationChoice,
    Blocks,
    CouplingBlocks,
    DenseBlocks,
    FlowConfig,
    ImageFlow,
    ImagesConfig,
    IntegerFlow,
    ResidualBlocks,
    WideBlocks,
)
from latens.systems.flow.cpu_time import step_seconds, steps_within, with_steps
from latens.systems.flow.dataset import read_squares
from latens.systems.flow.gaussian import fit_gaussian
from latens.systems.flow.model import Flow
from latens.systems.flow.original import published_for
from latens.systems.flow.predict import DensityModel
from latens.systems.flow.recipes import IMAGENET32_STEPS, FlowTraining, cpu, hybrid, paper, tiny
from latens.systems.flow.scoring import mean_and_error

Size: TypeAlias = Literal["tiny", "cpu", "paper"]
TARGET: Mapping[Size, int] = {"tiny": 3_000, "cpu": 200_000, "paper": 8_700_000}
GAUSSIAN = "Gaussian, full covariance"
FULL_SCALES, FULL_GROWTH = (16, 16, 16), 172  # blocks and growth of the full models for CIFAR-10
SMALL_STEPS = 156_250  # steps of the small models at scale paper: 200 epochs of CIFAR-10


@settings
class ImageScale:
    """Training and test settings of the image models of a table."""

    size: Size = "cpu"  # size of the models
    steps: Count = 4000  # training steps of every row
    minutes: NonNegative = 0.0  # CPU minutes of training of every row, in place of `steps`; 0: use `steps`
    checks: Count = 4  # validations of a training
    images: Count = 600  # maximum number of test images
    draws: Count = 1  # draws of dequantization noise per test image
    seed: Natural = 0  # seed of the weights and the noise
    rows: tuple[str, ...] | None = None  # names of the rows to train; none: all


L: TypeAlias = ExperimentRunner[DensityModel, ImageScale]


# ------------------------------------------------------------------------------------------------------------- images


def image_training(scale: ImageScale, block: Blocks, *, match: bool = True) -> FlowTraining:
    """Training configuration of a row; a short run warms up for at most a fifth of its steps.

    If CPU minutes set the steps, `training_folder` shortens the run. Except at paper scale the width of the blocks is matched
    to the parameters of TARGET.
    """
    base = {"tiny": tiny, "cpu": cpu, "paper": small_paper}[scale.size]()
    assert isinstance(base.model, ImageFlow)
    sizes = replace(base.model, block=block, whiten=False)
    if scale.size == "cpu":
        sizes = replace(
            sizes, scales=(2, 2, 2), tail_width=6, tail_growth=3
        )  # a third of the parameters in the tail, as in the thesis
        base = replace(base, data=replace(base.data, batch=8, validation_limit=96))  # small batches allow more steps
    if match and scale.size != "paper":
        sizes = matched(sizes, TARGET[scale.size])
    config = replace(base, model=sizes, run=replace(base.run, seed=scale.seed))
    return config if scale.minutes else with_steps(config, scale.steps, scale.checks)


def small_paper() -> FlowTraining:
    """`paper` with the small model of sections 4.4.2 and 4.5; its 200 epochs are the steps of the scale."""
    base = paper()
    return replace(base, model=ImageFlow(), objective=replace(base.objective, equal_share=25 / 200))


def full_training(scale: ImageScale, block: Blocks, source: Source | None = None) -> FlowTraining:
    """A full model of section 4.4.3 with its own epochs at paper scale; as `image_training` at the other scales.

    Its steps keep their ratio to those of the small models if the scale has other steps.
    """
    if scale.size != "paper":
        return image_training(scale, block)
    base = paper()
    assert isinstance(base.model, ImageFlow)
    share = scale.steps / SMALL_STEPS
    run = replace(base.run, steps=round(base.run.steps * share), seed=scale.seed)
    full = replace(base, model=replace(base.model, block=block), run=run)
    if source is None or source.kind != "imagenet32":
        return full
    assert isinstance(base.data, ImagesConfig)
    return replace(
        full,
        model=replace(base.model, block=block, scales=(32, 32, 32)),
        data=replace(base.data, flip=False),
        objective=replace(base.objective, equal_share=0.0),
        run=replace(run, steps=round(IMAGENET32_STEPS * share)),
    )


def planned(scale: ImageScale, rows: Mapping[str, FlowTraining]) -> dict[str, FlowTraining]:
    """The training configurations of the rows; none if CPU minutes set the steps, which the table then shows."""
    chosen = [name for name in rows if name in (scale.rows or ())]
    return {} if scale.minutes else {name: rows[name] for name in chosen or rows}


@lru_cache(maxsize=1024)
def parameters(sizes: FlowConfig) -> int:
    """Number of trainable parameters."""
    assert not isinstance(sizes, IntegerFlow)
    with torch.device("meta"):
        return sum(p.numel() for p in Flow(sizes).parameters() if p.requires_grad)


def matched(sizes: ImageFlow, target: int) -> ImageFlow:
    """Sizes with the width or growth whose number of parameters is closest to `target`."""
    low, high = 2, 2048
    while high - low > 2:
        middle = (low + high) // 4 * 2  # even, because concatenated activations halve it
        low, high = (middle, high) if parameters(with_width(sizes, middle)) <= target else (low, middle)
    return min((with_width(sizes, width) for width in (low, high)), key=lambda one: abs(parameters(one) - target))


def with_width(sizes: ImageFlow, width: int) -> ImageFlow:
    block = sizes.block
    changed: Blocks
    if isinstance(block, DenseBlocks | WideBlocks):
        changed = replace(block, growth=width)
    else:
        changed = replace(block, width=width, tail_width=max(width // 4, 4))
    return replace(sizes, block=changed)


def test_pixels(lab: L, size: int, channels: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Test images, their labels, and a fingerprint of the data."""
    found = open_labeled(image_source(lab), "test").first_few(lab.scale.images)
    pixels, kept = read_squares(found, size, channels)
    return pixels, found.labels[kept], found.fingerprint()


def image_source(lab: L) -> Source:
    """The image data set. Raises UsageError unless exactly one is given."""
    source = one_source(lab.sources)
    if source is None:
        hint = "give a folder, a pack, or cifar10:PATH"
        raise UsageError("this table needs a data set of images", where="--data", hint=hint)
    return source


def selected_rows(rows: Mapping[str, Any], chosen: Sequence[str] | None) -> list[str]:
    """Names of the rows to train. Raises UsageError for an unknown name."""
    unknown = [name for name in chosen or () if name not in rows]
    if unknown:
        raise UsageError(f"unknown row '{unknown[0]}'", where="--set rows", hint=f"rows: {', '.join(rows)}")
    return list(chosen or rows)


def trained(lab: L, name: str, config: FlowTraining) -> DensityModel:
    """Trained model of a row."""
    return lab.open_model(training_folder(lab, name, config) / "best")


def training_folder(lab: L, name: str, config: FlowTraining) -> Path:
    """Folder of the finished run of a row. Its CPU time is recorded."""
    identity = [open_labeled(image_source(lab), "train").fingerprint()]
    if lab.scale.minutes:
        key = {"what": "step seconds", "config": with_steps(config, 1, 1), "data": identity}
        seconds = lab.once(key, lambda: step_seconds(lab.build, config, lab.sources, lab.device))
        config = with_steps(config, steps_within(lab.scale.minutes, seconds, lab.scale.checks), lab.scale.checks)
    before, started = set((lab.folder / RUNS).glob("*")), time.process_time()
    folder = lab.trained(config, name=name.replace(" ", "-").replace("/", "-"), identity=identity).parent
    taken = (
        None if folder in before else round(time.process_time() - started, 1)
    )  # None: an earlier process did a part of the run
    lab.once({"what": "training seconds", "run": folder.name}, lambda: taken)
    return folder


def length_of(lab: L, folder: Path) -> tuple[str, str]:
    """Number of steps of a finished run and its CPU minutes with validation, as text; minutes are "-" after a resumption."""
    record = lab.recorded({"what": "training seconds", "run": folder.name})
    steps = json.loads((folder / "config.json").read_text())["run"]["steps"]
    return str(steps), f"{record[0] / 60:.1f}" if record and record[0] is not None else "-"


def measured_bits(lab: L, flow: DensityModel) -> dict[str, Any]:
    """Bits per dimension of every test image, and the accuracy of a hybrid model; recorded measurements are reused."""
    config = flow.config
    assert isinstance(config, ImageFlow)
    pixels, labels, data = test_pixels(lab, config.size, config.channels)

    def measure() -> dict[str, Any]:
        scores = flow.scores(torch.from_numpy(pixels), draws=lab.scale.draws)
        found: dict[str, Any] = {"bits": scores.mean.round(6).tolist()}
        if scores.logits is not None:
            found["accuracy"] = float((scores.logits.argmax(1).numpy() == labels).mean())
        return found

    measured: dict[str, Any] = lab.once(
        {"what": "bits", "model": flow.model_id, "data": data, "draws": lab.scale.draws}, measure
    )
    return measured


def gaussian_bits(lab: L, sizes: ImageFlow) -> np.ndarray:
    """Bits per dimension of the test images under a Gaussian of the training images and their mirror images."""
    pixels, _, data = test_pixels(lab, sizes.size, sizes.channels)
    source = image_source(lab)

    def measure() -> list[float]:
        train = open_labeled(source, "train")
        gaussian = fit_gaussian(read_squares(train, sizes.size, sizes.channels)[0])
        return [float(value) for value in gaussian.bits_per_dim(pixels).round(6)]

    key = {"what": "gaussian", "data": data, "train": str(source), "size": sizes.size, "channels": sizes.channels}
    return np.array(lab.once(key, measure))


def density_table(
    lab: L, rows: Mapping[str, FlowTraining], published: Mapping[str, str], reference: str, caption: str = ""
) -> Table:
    """Table of the Gaussian and all rows: parameters, bits per dimension, paired differences from `reference`, published."""
    published = published_for(image_source(lab), published)
    first = next(iter(rows.values())).model
    assert isinstance(first, ImageFlow)
    bits: dict[str, np.ndarray] = {GAUSSIAN: gaussian_bits(lab, first)}
    facts = {GAUSSIAN: ["-", "-", "-"]}
    for name in selected_rows(rows, lab.scale.rows):
        folder = training_folder(lab, name, rows[name])
        flow = lab.open_model(folder / "best")
        bits[name] = np.array(measured_bits(lab, flow)["bits"])
        facts[name] = [f"{parameters(flow.model.config) / 1e6:.3f}M", *length_of(lab, folder)]
    table = []
    for name in [GAUSSIAN, *rows]:
        if name not in bits:
            table.append([name, f"{parameters(rows[name].model) / 1e6:.3f}M", *["-"] * 6, published.get(name, "-")])
            continue
        mean, error = mean_and_error(bits[name])
        cells = ["-", "-"]
        if reference in bits and name != reference:
            difference, paired = mean_and_error(bits[name] - bits[reference])
            cells = [f"{difference:+.4f}", f"{paired:.4f}"]
        table.append([name, *facts[name], f"{mean:.4f}", f"{error:.4f}", *cells, published.get(name, "-")])
    columns = ["model", "parameters", "steps", "CPU minutes", "bits/dim", "±", f"minus {reference}", "±", "published"]
    about = (
        f"{length(lab.scale)} per row, {len(bits[GAUSSIAN])} test images, differences paired by image; ± is over images. "
        f"{seeds_of(1)} "
    )
    return Table(columns, table, about + caption)


def length(scale: ImageScale) -> str:
    """Training budget of a row as text."""
    return f"{scale.minutes:g} CPU minutes of steps" if scale.minutes else counted(scale.steps, "step")


def dense(
    activation: ActivationChoice = "clipswish", *, learned: bool = True, depth: int = 3, growth: int = 178
) -> DenseBlocks:
    return DenseBlocks(growth=growth, depth=depth, activation=activation, learned=learned)


def residual(activation: ActivationChoice = "lipswish", width: int = 512) -> ResidualBlocks:
    return ResidualBlocks(width=width, activation=activation)


def hybrid_training(scale: ImageScale, block: Blocks, weight: float | Literal["1/D"], classes: int) -> FlowTraining:
    """Training configuration of a row of Table 4.4.5; at paper scale its models are full ones, as in the thesis."""
    base, labeled = image_training(scale, block), hybrid()
    assert isinstance(base.model, ImageFlow)
    assert isinstance(base.data, ImagesConfig)
    width = {"tiny": 4, "cpu": 64, "paper": 256}[scale.size]
    sizes = replace(base.model, input="standardize", classes=classes, head_width=width)
    if scale.size == "paper":
        sizes = replace(sizes, scales=FULL_SCALES)
    data = replace(base.data, pad=labeled.data.pad if scale.size != "tiny" and isinstance(labeled.data, ImagesConfig) else 0)
    return replace(base, model=sizes, data=data, objective=replace(base.objective, generative_weight=weight))


COUPLINGS: Mapping[str, CouplingBlocks] = {"coupling": CouplingBlocks(), "coupling + 1x1 conv": CouplingBlocks(mixing=True)}
