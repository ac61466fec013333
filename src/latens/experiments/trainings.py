"""How a row of a table was trained: recipe, steps and data, read from its run folder or from its configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from latens.experiments.report import Report
from latens.hub import read_config
from latens.inference.page import Table
from latens.training.config import AnyTrainConfig


def described(config: AnyTrainConfig) -> str:
    """A planned training in a few words: recipe, steps, batch."""
    return _sentence(config.recipe, config.run.steps, config.run.steps, getattr(config.data, "batch", None))


def training_of(model: Path) -> str:
    """How the model in a folder was trained, as far as its files tell.

    For RUN/best they are the settings, the data and the last step of the run, which may have been stopped; for a model folder
    alone the step of its weights.
    """
    run = model.parent
    settings = settings_of(run)
    if model.name != "best" or "run" not in settings:
        step = read_config(model).get("scores", {}).get("step")
        return f"model {model.name}" if step is None else f"model {model.name}, weights of step {step:,}"
    planned = settings["run"]["steps"]
    data = ", ".join(Path(place).name for place in _json(run / "environment.json").get("data", []))
    return _sentence(settings["recipe"], _last_step(run), planned, settings["data"].get("batch")) + (
        f"; {data}" if data else ""
    )


def settings_of(folder: Path) -> dict[str, Any]:
    """config.json of a run folder or a model folder as plain values; empty for a folder without it."""
    return _json(folder / "config.json")


def with_trainings(report: Report, trainings: Mapping[str, AnyTrainConfig]) -> Report:
    """The report with the planned training of every row: in `about` if it is the same for all, else in a table of its own.

    The fact `training` holds it by row. A report that has this fact already is returned as it is.
    """
    if not trainings or "training" in report.facts:
        return report
    found = {row: described(config) for row, config in trainings.items()}
    report = replace(report, facts={**report.facts, "training": found})
    if len(set(found.values())) == 1:
        return replace(report, about=f"{report.about.rstrip('.')}. Training of every row: {next(iter(found.values()))}.")
    return replace(report, blocks=[*report.blocks, Table(["row", "training"], [list(row) for row in found.items()])])


def _sentence(recipe: str, done: int, planned: int, batch: int | None) -> str:
    steps = f"{done:,}" if done >= planned else f"{done:,} of {planned:,}"
    return f"{recipe}, {steps} steps" + ("" if batch is None else f" of {batch}")


def _last_step(run: Path) -> int:
    """The last step in the log of a run; 0 without a log."""
    try:
        lines: Sequence[str] = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return max((json.loads(line).get("step", 0) for line in lines if line.endswith("}")), default=0)


def _json(path: Path) -> dict[str, Any]:
    """The content of a JSON file, empty if there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
