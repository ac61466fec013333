"""The training loop of all systems: steps, updates, weight averaging, validation, checkpoints.

Random generators are seeded with (seed, step, rank) before each step, and data are a function of the same three, so a resumed
run is bit-exact on the same machine. With several processes every rank computes its own batches; gradients are averaged after
each backward pass, so all ranks hold the same weights, and the first rank validates and saves.
"""

from __future__ import annotations

import logging
import math
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from latens.errors import Diverged, LatensError, UsageError
from latens.hub import CONFIG, load_weights
from latens.nn.ranks import normalize_across_ranks, sharing_batches
from latens.training.checkpoint import (
    Checkpoint,
    join_optimizer,
    random_states,
    restore_random_states,
    save_checkpoint,
    split_optimizer,
)
from latens.training.config import AnyTrainConfig
from latens.training.data import Feed, feed_of, generator
from latens.training.log import RunLog
from latens.training.objective import Objective, Step, Trainable
from latens.training.optim import build_optimizers, rate_factor
from latens.training.ranks import agree, average_gradients, mean_numbers, same_start

logger = logging.getLogger(__name__)

PATIENCE = 10  # consecutive non-finite steps after which the run stops
SLOWER = "lower the learning rate (--set optim.lr=...) and --resume from the last checkpoint"
NOT_A_NUMBER = re.compile(r"\b(nan|inf)\b", re.IGNORECASE)
ONE_REQUEST = 1.0  # seconds in which several signals count as one: `timeout` sends a process two
STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # Ctrl-C, kill, and a terminal that is closed


class Loop:
    """One training run. Its attributes are the contents of a checkpoint."""

    def __init__(self, config: AnyTrainConfig, parts: Trainable, folder: Path, accelerator: Accelerator) -> None:
        self.config = config
        self.folder = folder
        self.accelerator = accelerator
        self.objective: Objective = parts.objective
        self.data = parts.data
        self.after_update = parts.after_update
        model = parts.model.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizers = build_optimizers(model, parts.objective.optimizers, config.optim)
        self.rates = {name: [g["lr"] for g in opt.param_groups] for name, opt in self.optimizers.items()}
        self.average = averaged(model, config.optim.ema)
        self.plain: nn.Module = model
        # Only the autocast of the forward pass: gradients are averaged in `apply`, as losses call parts of the model.
        self.model: nn.Module = accelerator.prepare_model(model, evaluation_mode=True)
        if accelerator.num_processes > 1:
            normalize_across_ranks(model)
        self.step = 0
        self.best = math.inf
        self.skipped = 0  # non-finite steps in a row

    def run(
        self, log: RunLog, *, max_seconds: float = math.inf, workers: int = 0, stop: Sequence[int] = ()
    ) -> Literal["finished", "time"]:
        """Train to the last step or for `max_seconds`; return "finished" or "time". `workers` processes prepare the batches.

        Every stop validates and saves, also after a signal, which raises KeyboardInterrupt at the end of its step, after an
        error of the data, and if no step is left. `stop` are the signals so far, of `stop_requests`. Who sends one may kill
        the process before the validation ends (torchrun: after 30 seconds), so a signal saves before it, too.
        """
        run = self.config.run
        same_start(self.accelerator, self.plain, self.step, self.folder)
        feed = feed_of(self.data, self.accelerator.process_index, range(self.step, run.steps), workers)
        started = time.monotonic()
        try:
            if self.step >= run.steps:
                self.without_steps(log)
            while self.step < run.steps:
                numbers = self.attempt(feed, log)
                self.step += 1
                last = self.step == run.steps
                # A later signal stops after the next step. All ranks stop after the same one.
                closed, stopped = agree(self.accelerator, time.monotonic() - started > max_seconds, bool(stop))
                ends = last or closed or stopped
                if last or self.step % run.log_every == 0:
                    log.training(self.step, mean_numbers(self.accelerator, numbers))
                if stopped and not last:
                    self.save()
                if ends or self.step % run.validate_every == 0:
                    self.validate_or_save(log)
                if ends or self.step % run.checkpoint_every == 0:
                    self.save()
                if stopped and not last:
                    self.accelerator.wait_for_everyone()  # torchrun stops the first, which may validate, when another has ended
                    raise KeyboardInterrupt
                if closed and not last:
                    return "time"
            return "finished"
        finally:
            feed.close()

    def without_steps(self, log: RunLog) -> None:
        """A run whose steps are all done already: validate and save, unless its best weights are there."""
        steps = self.config.run.steps
        logger.warning("no steps are left: this is step %d of run.steps=%d; --set run.steps=... adds some", self.step, steps)
        if not math.isfinite(self.best):
            self.validate(log)
            self.save()

    def attempt(self, feed: Feed, log: RunLog) -> dict[str, Any]:
        """One step. If its data cannot be read or its gradients diverge, the weights are validated before the error."""
        try:
            batch = feed.batch(self.step)
        except (LatensError, OSError):
            if self.step:
                self.validate_or_save(log)
                self.save()
            raise
        try:
            return self.train_step(batch)
        except Diverged:
            self.validate(log)
            raise
        except (RuntimeError, ValueError) as error:  # such as sampling from probabilities that are not finite
            if is_finite(self.plain) and not NOT_A_NUMBER.search(str(error)):
                raise
            raise Diverged(f"values are not finite in step {self.step}", where=str(self.folder), hint=SLOWER) from error

    def validate_or_save(self, log: RunLog) -> None:
        """Validate; if that fails, as on damaged held-out data, the steps so far are saved before the error."""
        try:
            self.validate(log)
        except (LatensError, OSError):
            self.save()
            raise

    def train_step(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        """All updates of one step. Non-finite gradients are not applied; PATIENCE consecutive such steps raise Diverged."""
        seed_everything(self.config.run.seed, self.step, self.accelerator.process_index)
        factor = rate_factor(self.step, self.config.run.steps, self.config.optim)
        moved = {name: tensor.to(self.accelerator.device, non_blocking=True) for name, tensor in batch.items()}
        self.model.train()
        numbers: dict[str, Any] = {}
        finite = True
        with self.accelerator.autocast(), sharing_batches():
            for update in self.objective(self.model, moved, self.step):
                numbers |= {"loss" if update.optimizer == "model" else update.optimizer: update.loss.detach()}
                numbers |= {k: v.detach() if isinstance(v, Tensor) else v for k, v in update.logs.items()}
                finite &= self.apply(update, factor)
        self.skipped = 0 if finite else self.skipped + 1
        if self.skipped >= PATIENCE:
            shown = ", ".join(f"{name} {float(value):.4g}" for name, value in numbers.items())
            raise Diverged(
                f"gradients were not finite in {PATIENCE} consecutive steps (step {self.step}: {shown})",
                where=str(self.folder),
                hint=SLOWER,
            )
        if self.average is not None and finite:
            self.average.update_parameters(self.plain)
        return numbers

    def apply(self, update: Step, factor: float) -> bool:
        optimizer = self.optimizers[update.optimizer]
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.accelerator.device.type, enabled=False):
            self.accelerator.backward(update.loss)
        average_gradients(self.accelerator, [p for group in optimizer.param_groups for p in group["params"]])
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.optim.clip)
        if not bool(norm.isfinite()):
            return False
        for group, rate in zip(optimizer.param_groups, self.rates[update.optimizer], strict=True):
            group["lr"] = rate * factor
        optimizer.step()
        torch.clear_autocast_cache()  # otherwise later updates of this step would use cached old weights
        if self.after_update is not None:
            self.after_update(self.plain, self.step)
        return True

    @torch.no_grad()
    def validate(self, log: RunLog) -> None:
        """Evaluate the averaged weights, if they are finite, on held-out data and save them if they are the best so far."""
        if not self.accelerator.is_main_process:
            return
        model = self.candidate().eval()
        if not is_finite(model):
            logger.warning("step %d: the weights are not finite, so they are not validated", self.step)
            return
        batches = [{k: v.to(self.accelerator.device) for k, v in b.items()} for b in self.data.validation()]
        numbers = self.objective.validate(model, batches)
        best = numbers["loss"] < self.best
        if best:  # saved before it is recorded, or a kill in between would leave a best loss without its weights
            log.save_best(self.config, self.objective.export(model, batches), {"step": self.step, **numbers})
            self.best = numbers["loss"]
        log.validation(self.step, numbers, self.objective.images(model, batches), best=best)

    def candidate(self) -> nn.Module:
        """The model that is validated and saved: the averaged weights, or the current ones without averaging."""
        return self.plain if self.average is None else self.average.module

    def save(self) -> None:
        if not self.accelerator.is_main_process:
            return
        tensors = {"model": self.plain.state_dict()}
        if self.average is not None:
            tensors["average"] = self.average.module.state_dict()
        state: dict[str, Any] = {
            "best": self.best,
            "skipped": self.skipped,
            "random": random_states(),
            "optimizers": {},
        }
        for name, optimizer in self.optimizers.items():
            tensors[f"optimizer-{name}"], state["optimizers"][name] = split_optimizer(optimizer)
        save_checkpoint(self.folder / "checkpoints", Checkpoint(self.step, tensors, state), self.config.run.keep)

    def restore(self, found: Checkpoint) -> None:
        """Continue from a checkpoint. Raises UsageError if it does not fit the settings."""
        try:
            load_weights(self.plain, found.tensors["model"])
            if self.average is not None:
                load_weights(self.average.module, found.tensors["average"])
                self.average.n_averaged.fill_(max(found.step, 1))
            for name, optimizer in self.optimizers.items():
                join_optimizer(optimizer, found.tensors[f"optimizer-{name}"], found.state["optimizers"][name])
            self.step, self.best, self.skipped = found.step, found.state["best"], found.state["skipped"]
        except (KeyError, ValueError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            hint = "undo the change of model or optimizer (--set, config.json), or start a new run with -o"
            what = f"the settings do not fit the checkpoint of step {found.step}: {reason}"
            raise UsageError(what, where=str(self.folder), hint=hint) from None
        restore_random_states(found.state["random"])
        if math.isfinite(self.best) and not (self.folder / "best" / CONFIG).is_file():
            logger.warning("%s: the best weights so far are missing; the next validation saves new ones", self.folder)
            self.best = math.inf


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect the STOP_SIGNALS, so that the current step can end: half a step cannot be repeated.

    Before the first step, as while the data are read, a run ends after that step, or it would have no weights to export.

    A signal that comes ONE_REQUEST after the first raises KeyboardInterrupt at once. Signals that the caller ignores, as under
    nohup, stay ignored. Only the main thread receives signals.
    """
    received: list[int] = []
    first = 0.0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal first
        received.append(number)
        if len(received) == 1:
            first = time.monotonic()
            when = "after the step in progress, or after the first"
            logger.warning("stopping %s; a second signal stops at once and keeps the last checkpoint", when)
        elif time.monotonic() - first > ONE_REQUEST:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    numbers = [getattr(signal, name) for name in STOP_SIGNALS if hasattr(signal, name)]
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    earlier = {number: signal.signal(number, note) for number in heard}
    try:
        yield received
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def is_finite(model: nn.Module) -> bool:
    return all(bool(weight.isfinite().all()) for weight in model.state_dict().values())


def averaged(model: nn.Module, decay: float) -> AveragedModel | None:
    """A running mean of the weights with this decay, or None for decay 0."""
    if not decay:
        return None

    @torch.no_grad()
    def average(averages: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        if not averages[0].is_floating_point():  # counters of batch normalization
            torch._foreach_copy_(list(averages), list(current))
            return
        # The first averages use a smaller decay; otherwise initial weights would persist for thousands of steps.
        decay_now = min(decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(list(averages), list(current), 1 - decay_now)

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)


def seed_everything(seed: int, step: int, rank: int) -> None:
    """Seed torch for one step of one rank."""
    torch.manual_seed(int(generator(seed, step, rank).integers(2**63)))
