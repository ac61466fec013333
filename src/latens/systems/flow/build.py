"""Parts of a training run (model, loss and data of a configuration), and `fit` for tables in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from latens.arguments import path, whole
from latens.data.source import Source
from latens.errors import UsageError
from latens.inference.device import choose_device, plain_torch
from latens.systems.flow.config import CropsConfig, FlowConfig, ImageFlow, ImagesConfig, IntegerFlow, PointsConfig, VectorFlow
from latens.systems.flow.dataset import ImageData, SimulatedPoints, TableData, open_points
from latens.systems.flow.model import Flow
from latens.systems.flow.objective import Likelihood, after_update
from latens.systems.flow.pack.model import IntegerFlowNet
from latens.systems.flow.pack.training import CodeLength, CropData
from latens.systems.flow.predict import DensityModel, load
from latens.systems.flow.recipes import MAX_EXACT, FlowTraining, toy
from latens.systems.flow.table import read_table
from latens.training.objective import Trainable


def build(config: FlowTraining, sources: Sequence[Source]) -> Trainable:
    """Model, loss and data of a run. Raises UsageError for missing or unsuitable sources, InputError for unusable contents."""
    if isinstance(config.data, PointsConfig):
        return of_points(config, open_points(sources, config.data, config.run.seed))
    if isinstance(config.data, CropsConfig):
        return of_crops(config, CropData(sources, config.data, config.run.seed))
    assert isinstance(config.model, ImageFlow)
    return of_images(config, ImageData(sources, config.data, config.model.size, config.model.channels, config.run.seed))


def of_points(config: FlowTraining, data: SimulatedPoints | TableData) -> Trainable:
    """A flow on rows. Its first step standardizes the columns."""
    assert isinstance(config.model, VectorFlow)
    found = len(data.columns)
    if config.model.columns not in (0, found):
        raise UsageError(f"the data have {found} columns", where=f"--set model.columns={config.model.columns}")
    if config.objective.log_det == "exact" and found > MAX_EXACT:
        hint = "use --set objective.log_det=poisson"
        raise UsageError(
            f"exact log-determinants are limited to {MAX_EXACT} columns; the data have {found}",
            where="objective.log_det",
            hint=hint,
        )
    sizes = replace(config.model, columns=found)
    model = Flow(sizes, recompute=config.objective.recompute)
    model.steps[0].mean.copy_(torch.from_numpy(np.asarray(data.mean)))  # type: ignore[operator]
    model.steps[0].deviation.copy_(torch.from_numpy(np.asarray(data.deviation)))  # type: ignore[operator]
    return _trainable(config, sizes, model, data, {"columns": list(data.columns)})


def of_images(config: FlowTraining, data: ImageData) -> Trainable:
    """A flow on images. A hybrid model takes its classes from the data."""
    assert isinstance(config.model, ImageFlow)
    assert isinstance(config.data, ImagesConfig)
    sizes, classes = config.model, data.classes
    if sizes.classes:
        if len(classes) < 2 or int(data.labels.min()) < 0:
            hint = "give one folder of images for every class, or train with --recipe cpu"
            raise UsageError("a hybrid model needs labeled images", where="--data", hint=hint)
        sizes = replace(sizes, classes=len(classes))
    model = Flow(sizes, recompute=config.objective.recompute)
    return _trainable(config, sizes, model, data, {"classes": list(classes)} if sizes.classes else {})


def of_crops(config: FlowTraining, data: CropData) -> Trainable:
    """The integer flow of the packer on crops of images."""
    assert isinstance(config.model, IntegerFlow)
    return Trainable(IntegerFlowNet(config.model), CodeLength(config.model, data.config), data)


def _trainable(config: FlowTraining, sizes: FlowConfig, model: Flow, data: Any, described: dict[str, Any]) -> Trainable:
    objective = Likelihood(config.objective, sizes, described)
    return Trainable(model, objective, data, after_update(config.objective, config.run.steps))


@plain_torch()
def fit(
    table: Any,
    *,
    steps: int = 3000,
    seed: int = 0,
    out: str | Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    config: FlowTraining | None = None,
) -> DensityModel:
    """Fits a density to a table: an array (n, D), a data frame, a tensor, or a path (.csv, .tsv, .txt, .npy).

    The model standardizes the columns in float64; densities are in the units of the table. A tenth of the rows is held out to
    select the weights. `out` is a folder in which the run is kept. `config` replaces the recipe `toy`; its number of steps is
    replaced by `steps`, its seed by `seed`. Raises InputError for non-finite cells, constant columns, and tables of one row,
    UsageError for options of a wrong type.
    """
    from latens.training.run import train

    if (steps := whole(steps, "steps")) < 1:
        raise UsageError("the number of steps must be at least 1", where=f"steps {steps}")
    if (seed := whole(seed, "seed")) < 0:
        raise UsageError("the seed must be at least 0", where=f"seed {seed}")
    if config is not None and not isinstance(config, FlowTraining):
        raise UsageError("this is no configuration of a flow", where="config", hint="give latens.systems.flow.recipes.toy()")
    kept = None if out is None else path(out, "out")
    read = read_table(table)
    chosen = toy() if config is None else config
    exact: Literal["exact", "poisson"] = "exact" if read.rows.shape[1] <= MAX_EXACT // 4 else "poisson"
    run = replace(chosen.run, steps=steps, seed=seed, validate_every=max(steps // 5, 1))
    chosen = replace(chosen, run=run, objective=replace(chosen.objective, log_det=exact)) if config is None else chosen
    assert isinstance(chosen.data, PointsConfig)
    data = TableData(read, chosen.data, chosen.run.seed)
    place = str(choose_device(device, threads))
    with tempfile.TemporaryDirectory() as spare:
        folder = kept or Path(spare) / "fit"
        train(lambda config, _: of_points(config, data), chosen, [], folder, device=place)
        return load(folder / "best", device=device, threads=threads)
