"""Starts or continues a training run in a folder: what `latens train` calls."""

from __future__ import annotations

import importlib
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from latens.data.files import write_atomic
from latens.errors import ModelError, OutputExists, UsageError
from latens.hub import load_model
from latens.training.checkpoint import load_latest
from latens.training.config import TrainConfig, override, to_dict
from latens.training.log import RunLog
from latens.training.loop import Loop
from latens.training.objective import Trainable


class RunResult(NamedTuple):
    folder: Path
    step: int
    best: float
    ended: str  # "finished" or "time"


def recipe_of(system: str, recipe: str) -> TrainConfig:
    """The configuration that a system's recipe function returns. Raises UsageError for an unknown name."""
    module = importlib.import_module(f"latens.systems.{system}.recipes")
    names = sorted(name for name, value in vars(module).items() if _is_recipe(value, module.__name__))
    if recipe not in names:
        raise UsageError(f"{system} has no recipe '{recipe}'", where="--recipe", hint=f"known: {', '.join(names)}")
    config: TrainConfig = getattr(module, recipe)()
    return config


def _is_recipe(value: object, module: str) -> bool:
    return callable(value) and not isinstance(value, type) and getattr(value, "__module__", "") == module


def train(
    system: str,
    *,
    recipe: str,
    data: Sequence[Path],
    run_dir: Path,
    overrides: dict[str, str],
    max_time: float | None = None,
    resume: bool = False,
    init: Path | None = None,
    device: str = "auto",
) -> RunResult:
    """Trains `system` into `run_dir`; `max_time` is in seconds. The folder of the best weights is run_dir/best.

    `init` is a model folder whose weights a new run starts from. Raises ModelError when they do not fit, OutputExists when
    the folder holds a run and `resume` is not set, UsageError for settings that do not fit.
    """
    config = override(recipe_of(system, recipe), overrides)
    if not resume and (run_dir / "checkpoints").exists():
        raise OutputExists(
            "this folder already holds a run", where=str(run_dir), hint="--resume continues it; -o names another folder"
        )
    if resume and load_latest(run_dir / "checkpoints") is None:
        print(f"latens: {run_dir}: no checkpoint yet, starting from step 0", file=sys.stderr)
    precision = config.run.precision
    if precision not in ("bf16", "no"):
        raise UsageError(f"no precision '{precision}'", where="--set run.precision", hint="use bf16 or no")
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)
    AcceleratorState._reset_state()  # a process may train twice, with another precision the second time
    accelerator = Accelerator(mixed_precision=precision, cpu=device == "cpu")
    torch.manual_seed(config.run.seed)
    build = importlib.import_module(f"latens.systems.{system}.trainable").build
    parts: Trainable = build(config, data)
    if init is not None:
        start_from(parts.model, init)
    if accelerator.is_main_process:
        describe_run(run_dir, config, data, init)
    loop = Loop(config, parts, run_dir, accelerator)
    if resume:
        loop.resume()
    log = RunLog(run_dir, config, loop.step, active=accelerator.is_main_process)
    try:
        ended = loop.run(log, max_seconds=max_time if max_time is not None else float("inf"))
    finally:
        log.close()
    return RunResult(run_dir, loop.step, loop.best, ended)


def start_from(model: torch.nn.Module, folder: Path) -> None:
    """Loads the weights of a model folder into a model of the same sizes. Raises ModelError when they do not fit."""
    found = load_model(folder)
    kept = dict(model.named_buffers())  # what training alone remembers, as a history of pictures, is not in the folder
    try:
        model.load_state_dict({**{name: kept[name] for name in model.state_dict() if name in kept}, **found.weights})
    except RuntimeError as error:
        what = f"its weights do not fit the recipe ({str(error).splitlines()[1].strip()})"
        raise ModelError(what, where=str(folder), hint="use the recipe it was trained with") from None


def describe_run(folder: Path, config: TrainConfig, data: Sequence[Path], init: Path | None) -> None:
    """Writes config.json and environment.json: what ran, with which versions, by which command."""
    import numpy

    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "config.json", json.dumps(to_dict(config), indent=2).encode())
    environment = {
        "command": sys.argv,
        "data": [str(path) for path in data],
        "init": None if init is None else str(init),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    write_atomic(folder / "environment.json", json.dumps(environment, indent=2).encode())
