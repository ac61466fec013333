"""Shared by the promises: example data and a `tiny` training run of one system, made on first access."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from latens.contract import AnySystem, Example
from latens.data.source import Source
from latens.experiments.lab import ExperimentRunner
from latens.training.config import AnyTrainConfig
from latens.training.objective import Trainable
from latens.training.run import RunResult, train


class Workshop:
    """`reached` names the trainable parameters that received a finite, nonzero gradient; `trainable` all of them."""

    def __init__(self, system: AnySystem, folder: Path) -> None:
        self.system, self.folder = system, folder
        self.trainable: set[str] = set()
        self.reached: set[str] = set()
        self.broken: set[str] = set()  # received a gradient that was not finite
        self.exported: dict[str, torch.Tensor] = {}  # weights of the last export, which is that of the best ones

    @cached_property
    def example(self) -> Example:
        return self.system.example(self.folder / "example")

    @cached_property
    def config(self) -> AnyTrainConfig:
        made: AnyTrainConfig = self.system.recipes["tiny"]()
        return made

    @cached_property
    def run(self) -> RunResult:
        """A finished run of `tiny`, watched."""
        return train(self._watched, self.config, self.example.sources, self.folder / "run", device="cpu")

    @cached_property
    def loaded(self) -> Any:
        return self.system.load(self.run.folder / "best", device="cpu")

    def _watched(self, config: AnyTrainConfig, sources: Sequence[Source]) -> Trainable:
        parts = self.system.build(config, sources)
        for name, parameter in parts.model.named_parameters():
            if parameter.requires_grad:
                self.trainable.add(name)
                parameter.register_post_accumulate_grad_hook(lambda p, name=name: self._look(name, p))
        self._watch_export(parts.objective)
        return parts

    def _watch_export(self, objective: Any) -> None:
        export = objective.export

        def watched(*args: Any) -> Any:
            made = export(*args)
            self.exported = {name: weight.detach().clone() for name, weight in made.weights.items()}
            return made

        objective.export = watched

    def _look(self, name: str, parameter: torch.Tensor) -> None:
        if parameter.grad is None:
            return
        if not bool(parameter.grad.isfinite().all()):
            self.broken.add(name)
        elif bool(parameter.grad.any()):
            self.reached.add(name)

    def untrained_loss(self) -> float:
        """The validation loss at step 0."""
        torch.manual_seed(self.config.run.seed)
        parts = self.system.build(self.config, self.example.sources)
        with torch.no_grad():
            numbers = parts.objective.validate(parts.model.eval(), list(parts.data.validation()))
        return numbers["loss"]

    def lab(self, scale: Any, folder: Path) -> ExperimentRunner[Any, Any]:
        """A laboratory as `latens reproduce` makes it, with the trained model in place of the bundled one."""
        return ExperimentRunner(
            build=self.system.build,
            open_model=lambda place: self.loaded if place is None else self.system.load(place, device="cpu"),
            sources=self.example.test_sources,
            scale=scale,
            recipe="tiny",
            folder=folder,
            device="cpu",
        )

    def validation_losses(self) -> list[float]:
        lines = (self.run.folder / "metrics.jsonl").read_text().splitlines()
        return [record["loss"] for record in map(json.loads, lines) if record["kind"] == "validation"]
