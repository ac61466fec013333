"""Start or continue a training run in a folder, for `latens train`."""

from __future__ import annotations

import json
import logging
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from latens.data.files import write_atomic
from latens.data.source import Source
from latens.errors import ModelError, OutputExists
from latens.hub import load_model
from latens.settings import to_dict
from latens.training.config import AnyTrainConfig
from latens.training.log import RunLog
from latens.training.loop import Loop
from latens.training.objective import Trainable

logger = logging.getLogger(__name__)

C = TypeVar("C", bound=AnyTrainConfig)


class RunResult(NamedTuple):
    folder: Path  # of the run; its best weights are in folder/best
    step: int
    best: float  # smallest validation loss
    ended: Literal["finished", "time"]


def train(
    build: Callable[[C, Sequence[Source]], Trainable],
    config: C,
    sources: Sequence[Source],
    folder: Path,
    *,
    max_time: float = float("inf"),
    resume: bool = False,
    init: Path | None = None,
    device: str = "auto",
) -> RunResult:
    """Trains what `build` makes of `config` and `sources` into `folder`; `max_time` is in seconds.

    `init` is a model folder whose weights a new run starts from. Raises ModelError when they do not fit, OutputExists when
    the folder holds a run and `resume` is not set, and what `build` raises.
    """
    if not resume and (folder / "checkpoints").exists():
        hint = "--resume continues it; -o names another folder"
        raise OutputExists("this folder already holds a run", where=str(folder), hint=hint)
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)
    AcceleratorState._reset_state()  # a process may train twice, with another precision the second time
    accelerator = Accelerator(mixed_precision=config.run.precision, cpu=device == "cpu")
    torch.manual_seed(config.run.seed)
    parts = build(config, sources)
    if init is not None:
        start_from(parts.model, init)
    if accelerator.is_main_process:
        describe_run(folder, config, sources, init)
    loop = Loop(config, parts, folder, accelerator)
    if resume and not loop.resume():
        logger.warning("%s: no checkpoint yet, starting from step 0", folder)
    log = RunLog(folder, config, loop.step, active=accelerator.is_main_process)
    try:
        ended = loop.run(log, max_seconds=max_time)
    finally:
        log.close()
    return RunResult(folder, loop.step, loop.best, ended)


def start_from(model: torch.nn.Module, folder: Path) -> None:
    """Loads the weights of a model folder into a model of the same sizes. Raises ModelError when they do not fit."""
    found = load_model(folder)
    kept = dict(model.named_buffers())  # training-only buffers (image pools) are not in the folder
    try:
        model.load_state_dict({**{name: kept[name] for name in model.state_dict() if name in kept}, **found.weights})
    except RuntimeError as error:
        what = f"its weights do not fit the recipe ({str(error).splitlines()[1].strip()})"
        raise ModelError(what, where=str(folder), hint="use the recipe it was trained with") from None


def describe_run(folder: Path, config: AnyTrainConfig, sources: Sequence[Source], init: Path | None) -> None:
    """Writes config.json (all settings) and environment.json (data, command, versions)."""
    import numpy

    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "config.json", json.dumps(to_dict(config), indent=2).encode())
    environment = {
        "command": sys.argv,
        "data": [str(source) for source in sources],
        "init": None if init is None else str(init),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    write_atomic(folder / "environment.json", json.dumps(environment, indent=2).encode())
