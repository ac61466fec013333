"""Training configurations and measurements of table rows on simulated points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from latens.data.source import Source
from latens.experiments.lab import ExperimentRunner
from latens.settings import Count, settings
from latens.systems.flow.config import Blocks, PointsConfig, VectorFlow
from latens.systems.flow.points import PointsName, draw, log_density
from latens.systems.flow.predict import DensityModel
from latens.systems.flow.recipes import FlowTraining, toy
from latens.systems.flow.scoring import mean_and_error
from latens.systems.flow.trials import selected_rows


@settings
class ToyScale:
    """Training and test settings of the models of simulated points."""

    steps: Count = 2500  # training steps of every row
    points: Count = 1_000_000  # number of test points
    seeds: Count = 1  # runs per row, with seeds 0, 1, ...
    blocks: Count = 10  # number of residual maps
    names: tuple[PointsName, ...] = ("circles", "checkerboard", "moons")  # distributions
    rows: tuple[str, ...] | None = None  # names of the rows to train; none: all


def toy_training(scale: ToyScale, block: Blocks, seed: int) -> FlowTraining:
    """Training configuration of a row on simulated points."""
    base = toy()
    assert isinstance(base.model, VectorFlow)
    run = replace(base.run, steps=scale.steps, seed=seed, validate_every=max(scale.steps // 4, 1))
    points = base.data
    assert isinstance(points, PointsConfig)
    points = replace(points, validation_limit=min(points.validation_limit, scale.points))
    return replace(base, model=replace(base.model, block=block, blocks=scale.blocks), data=points, run=run)


def toy_trainings(scale: ToyScale, rows: Mapping[str, Blocks]) -> dict[str, FlowTraining]:
    """The training configurations of the selected rows, which are the same for every distribution."""
    return {row: toy_training(scale, rows[row], 0) for row in selected_rows(rows, scale.rows)}


def toy_model(lab: ExperimentRunner[DensityModel, ToyScale], name: str, row: str, block: Blocks, seed: int) -> DensityModel:
    """Trained model of a row on one distribution."""
    config = toy_training(lab.scale, block, seed)
    made = lab.trained(config, name=f"{name}-{row}-{seed}".replace(" ", "-"), sources=[Source("", name)])
    return lab.open_model(made)


def toy_excess(lab: ExperimentRunner[DensityModel, ToyScale], flow: DensityModel, name: PointsName, seed: int) -> list[float]:
    """On new points: mean negative log-likelihood in nats, mean excess over the true density, and its standard error."""

    def measure() -> list[float]:
        points = draw(name, lab.scale.points, np.random.default_rng([seed, 10**6]))
        nats = -flow.log_prob(points)
        excess = nats + log_density(name, points)
        return [float(nats.mean()), *mean_and_error(excess)]

    key = {"what": "toy", "model": flow.model_id, "points": [name, lab.scale.points, seed]}
    found: list[float] = lab.once(key, measure)
    return found
