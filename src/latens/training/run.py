"""Start or continue a training run in a folder, for `latens train`."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from latens.data.folders import check_writable, claim
from latens.data.source import Source
from latens.errors import Diverged, ModelError, OutputExists, UsageError
from latens.hub import load_model, load_weights
from latens.inference.device import kept_randomness, plain_torch
from latens.progress import OnProgress
from latens.settings import to_dict
from latens.training.checkpoint import Checkpoint, load_latest
from latens.training.config import AnyTrainConfig
from latens.training.log import RunLog
from latens.training.loop import Loop, stop_requests
from latens.training.objective import Trainable
from latens.training.origin import CONFIG, ENVIRONMENT, data_state, describe_run, warn_of_changed_data

logger = logging.getLogger(__name__)

C = TypeVar("C", bound=AnyTrainConfig)
CHECKPOINTS, LOCK = "checkpoints", "training.lock"
PATIENCE = timedelta(hours=2)  # a process waits so long for the others, one of which validates and saves
WRITTEN = (CONFIG, ENVIRONMENT, CHECKPOINTS, "best", "metrics.jsonl", "samples", "tensorboard")  # files of a run


class RunResult(NamedTuple):
    folder: Path  # of the run; its best weights are in folder/best
    step: int
    best: float | None  # smallest validation loss; None on other ranks than the first, which do not validate
    ended: Literal["finished", "time"]


@plain_torch()
@torch.enable_grad()
def train(
    build: Callable[[C, Sequence[Source]], Trainable],
    config: C,
    sources: Sequence[Source],
    folder: Path,
    *,
    max_time: float = float("inf"),
    workers: int = 0,
    resume: bool = False,
    init: Path | None = None,
    branch: Path | None = None,
    device: str = "auto",
    on_progress: OnProgress | None = None,
) -> RunResult:
    """Train the model that `build` makes from `config` and `sources`; all files go into `folder`. `max_time` is in seconds.

    `init` is a model folder whose weights a new run starts from. `branch` is the folder of a run from whose newest checkpoint
    (weights, optimizers, step) a new run continues. With `resume` the run continues from its newest checkpoint,
    or starts if there is none yet. Nothing is written until settings, data and checkpoint are known to fit together.
    Under `torchrun` every process draws its own batches of `data.batch` examples; the first one writes all files.
    `workers` processes decode and draw the next batches, 0: one thread; the batches are the same.
    `on_progress` is called every `run.log_every` steps with the number of steps done and the last losses.

    Raises ModelError if `init` does not fit, UsageError if the checkpoint does not fit or the folder cannot be written,
    OutputExists if another process trains in the folder, or if it holds files of a run and `resume` is not set, Diverged if
    the loss of no validation was finite, and the errors of `build`.
    """
    check_writable(folder)
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)
    AcceleratorState._reset_state()  # a process may train twice, with another precision the second time
    accelerator = Accelerator(
        mixed_precision=config.run.precision,
        cpu=device == "cpu" or not torch.cuda.is_available(),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    main = accelerator.is_main_process
    if main:  # before the data are read
        refuse_folder(folder, resume=resume)
    with stop_requests() as stop, kept_randomness(accelerator.device):
        torch.manual_seed(config.run.seed)
        parts = build(config, sources)
        found = load_latest(folder / CHECKPOINTS) if resume else None if branch is None else start_of_branch(branch)
        if resume and found is None:
            logger.warning("%s: no checkpoint yet, starting from step 0", folder)
        if init is not None and found is None:
            start_from(parts.model, init, config)
        loop = Loop(config, parts, folder, accelerator)
        if found is not None:
            loop.restore(found)
        with alone_in(folder) if main else nullcontext():
            if main:
                refuse_folder(folder, resume=resume, locked=True)  # another process may have started meanwhile
                if branch is not None and not resume:
                    loop.save()  # before the settings mark the folder as a run, or --resume would start it from step 0
                state = data_state(sources, folder)
                if found is not None:
                    warn_of_changed_data(branch or folder, state)
                describe_run(folder, config, sources, state, init)
            log = RunLog(folder, loop.step, active=main, on_progress=on_progress)
            try:
                ended = loop.run(log, max_seconds=max_time, workers=workers, stop=stop)
            finally:
                log.close()
    if main and not math.isfinite(loop.best):
        hint = "lower the learning rate (--set optim.lr=...) in a new run (-o), or check the held-out data"
        raise Diverged("no validation loss was finite, so there are no best weights", where=str(folder), hint=hint)
    return RunResult(folder, loop.step, loop.best if math.isfinite(loop.best) else None, ended)


def start_of_branch(trunk: Path) -> Checkpoint:
    """The newest checkpoint of a run, without its best score. Raises UsageError if there is none."""
    found = load_latest(trunk / CHECKPOINTS)
    if found is None:
        raise UsageError("there is no checkpoint to branch off from", where=str(trunk), hint="wait for its first checkpoint")
    return found._replace(state={**found.state, "best": math.inf})


def holds_run(folder: Path) -> bool:
    """True if a run was started in this folder."""
    return (folder / CONFIG).is_file()


def refuse_folder(folder: Path, *, resume: bool, locked: bool = False) -> None:
    """Raise OutputExists if another process trains in the folder, or if a new run would replace files."""
    if not locked and (folder / LOCK).exists():
        with alone_in(folder):
            pass
    existing = [name for name in WRITTEN if os.path.lexists(folder / name)]
    if existing == [ENVIRONMENT] and _is_environment(folder / ENVIRONMENT):  # of a run that was killed before it began
        return
    if existing and not resume:
        hint = "--resume continues it; -o names another folder" if holds_run(folder) else "name another folder with -o"
        what = "this folder already holds a run" if holds_run(folder) else "a new run would replace files"
        raise OutputExists(f"{what} ({', '.join(existing)})", where=str(folder), hint=hint)


def _is_environment(path: Path) -> bool:
    """True for a file that `describe_run` wrote."""
    try:
        return bool({"command", "data", "init", "torch"} <= json.loads(path.read_bytes()).keys())
    except (OSError, ValueError, AttributeError):
        return False


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Lock a folder against other trainings; the lock ends with this process. Raises OutputExists if one is running."""
    with claim(folder, wait=False, name=LOCK) as claimed:
        if not claimed:
            hint = "wait for it, or name another folder with -o"
            raise OutputExists("another process trains in this folder", where=str(folder), hint=hint)
        yield


def start_from(model: torch.nn.Module, folder: Path, config: AnyTrainConfig) -> None:
    """Load the weights of a model folder into the model of `config`. Raises ModelError if they do not fit.

    A model may list in `starts_from` other systems whose weights it accepts. Its method `restored`, if any, recomputes weights
    that a folder of the same model stores only as frozen integers.
    """
    found = load_model(folder)
    have = " ".join(filter(None, (found.config["system"], _kind(found.config.get("model")))))
    want = " ".join(filter(None, (config.system, _kind(to_dict(config.model)))))
    hint = "use a model of the same recipe, or the recipe it was trained with"
    foreign = have != want
    if foreign and found.config["system"] not in getattr(model, "starts_from", ()):
        raise ModelError(f"this is a model of {have}; the recipe trains one of {want}", where=str(folder), hint=hint)
    kept = dict(model.named_buffers())  # training-only buffers (image pools) are not in the folder
    restored = getattr(model, "restored", None)
    try:
        weights = found.weights if restored is None or foreign else restored(found.weights, found.coding, found.config)
        load_weights(model, {**{name: kept[name] for name in model.state_dict() if name in kept}, **weights})
    except (AttributeError, KeyError, ValueError) as error:
        raise ModelError(f"its weights do not fit the recipe: {error}", where=str(folder), hint=hint) from None


def _kind(model: object) -> str:
    """The kind of a model, for systems with several."""
    return str(model.get("kind", "")) if isinstance(model, dict) else ""
