"""A Gaussian fitted to a table: the smallest complete system."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from toy.recipes import RECIPES, ToyConfig, ToyTraining

from latens.contract import Artifact, Evaluation, Example, System
from latens.data.source import Source
from latens.errors import UnreadableInput
from latens.experiments.lab import ExperimentRunner
from latens.experiments.report import Report
from latens.hub import load_model, locate
from latens.inference.device import choose_device
from latens.inference.page import Table
from latens.settings import Count, decode, settings
from latens.training.data import generator
from latens.training.objective import ONE_OPTIMIZER, Export, Step, Trainable


class Gaussian(nn.Module):
    """Independent normal columns."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(config.columns))
        self.log_deviation = nn.Parameter(torch.zeros(config.columns))

    def forward(self, rows: Tensor) -> Tensor:
        """Negative log-likelihood of every row, in nats, without its constant."""
        scaled = (rows - self.mean) / self.log_deviation.exp()
        return (scaled.square() / 2 + self.log_deviation).sum(dim=1)


class Likelihood:
    optimizers = ONE_OPTIMIZER

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> Iterator[Step]:
        yield Step("model", self.weight * model(batch["rows"]).mean(), {})

    def validate(self, model: Any, batches: Sequence[dict[str, Tensor]]) -> dict[str, float]:
        return {"loss": float(np.mean([model(batch["rows"]).mean() for batch in batches]))}

    def images(self, model: Any, batches: Sequence[dict[str, Tensor]]) -> dict[str, np.ndarray]:
        return {}

    def export(self, model: Any, batches: Sequence[dict[str, Tensor]]) -> Export:
        return Export(model.state_dict(), {}, {})


class Rows(NamedTuple):
    table: Tensor
    size: int
    seed: int

    def batch(self, step: int, rank: int) -> dict[str, Tensor]:
        return {"rows": self.table[generator(self.seed, step, rank).integers(len(self.table), size=self.size)]}

    def validation(self) -> Sequence[dict[str, Tensor]]:
        return [{"rows": self.table}]


class Fitted(NamedTuple):
    """A loaded model."""

    name: str
    model_id: str
    device: torch.device
    precision: str
    model: Gaussian

    def __repr__(self) -> str:
        return f"Fitted({self.name}, weights {self.model_id[:12]}, {self.device})"


def read_table(path: Path) -> Tensor:
    try:
        return torch.from_numpy(np.loadtxt(path, delimiter=",", ndmin=2, dtype=np.float32))
    except (OSError, ValueError) as error:
        raise UnreadableInput("no table of numbers", where=str(path)) from error


def example(folder: Path) -> Example:
    folder.mkdir(parents=True)
    path = folder / "table.csv"
    np.savetxt(path, np.random.default_rng(0).normal(3, 2, (50, 2)), delimiter=",")
    return Example("table", [Source("", str(path))], [path], [Source("", str(path))])


def build(config: ToyTraining, sources: Sequence[Source]) -> Trainable:
    table = torch.cat([read_table(source.path) for source in sources])
    return Trainable(
        Gaussian(config.model), Likelihood(config.objective.weight), Rows(table, config.data.batch, config.run.seed)
    )


def load(place: str | Path, *, device: str | torch.device = "auto", threads: int | None = None) -> Fitted:
    folder = locate(place)
    found = load_model(folder)
    model = Gaussian(decode(ToyConfig, found.config["model"], where=str(folder))).eval()
    model.load_state_dict(found.weights)
    chosen = choose_device(device, threads)
    return Fitted(folder.name, found.sha256, chosen, "float32", model.to(chosen))


@torch.no_grad()
def apply(fitted: Fitted, path: Path) -> Mapping[str, np.ndarray]:
    return {"nats": fitted.model(read_table(path)).numpy()}


@settings
class ToyEvaluation:
    """Options of the evaluation."""

    rows: Count = 1000  # at most


def evaluate(fitted: Fitted, sources: Sequence[Source], options: ToyEvaluation, folder: Path | None) -> Report:
    nats = [float(apply(fitted, source.path)["nats"][: options.rows].mean()) for source in sources]
    rows = [[str(source), f"{value:.3f}"] for source, value in zip(sources, nats, strict=True)]
    return Report(name="evaluation", title="Toy", about=fitted.name, blocks=[Table(["table", "nats"], rows)])


@settings
class Scale:
    """Scale of the table: length of the fit."""

    steps: Count = 100  # of training


def trainings(scale: Scale) -> dict[str, ToyTraining]:
    recipe = RECIPES["tiny"]()
    return {"ours": replace(recipe, run=replace(recipe.run, steps=scale.steps))}


def table1(lab: ExperimentRunner[Fitted, Scale]) -> Report:
    fitted = lab.open_model(lab.trained(trainings(lab.scale)["ours"], name="toy"))
    nats = lab.once({"model": fitted.model_id}, lambda: float(apply(fitted, lab.sources[0].path)["nats"].mean()))
    return Report(name="table1", title="Toy", about="", blocks=[Table(["model", "nats"], [["ours", f"{nats:.3f}"]])])


SYSTEM = System[ToyTraining, Fitted](
    name="toy",
    title="Gaussians fitted to tables",
    recipes=RECIPES,
    example=example,
    build=build,
    load=load,
    apply=apply,
    evaluation=Evaluation(options=ToyEvaluation(), run=evaluate),
    artifacts={"table1": Artifact(table1, {"tiny": Scale(steps=10), "cpu": Scale(), "paper": Scale(steps=10**6)}, trainings)},
)
