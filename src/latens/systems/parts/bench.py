"""Speed and memory of a parts model on this machine: a training step in its parts, and what a user waits for."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from latens.data.images import read_picture
from latens.errors import UsageError
from latens.inference.demo import photographs
from latens.inference.page import Table
from latens.systems.parts.config import LossConfig
from latens.systems.parts.model import BetaVAE, PatchVAE
from latens.systems.parts.objective import Elbo
from latens.systems.parts.predict import Parts
from latens.systems.parts.rivals import build_model

BATCH = 128
REPEATS = 5
CIFAR_STEPS = 390  # steps of 128 pictures in an epoch of 50,000


class Timing(NamedTuple):
    """One part, in seconds: median and best of the wall clock, and median of the CPU time of all threads."""

    part: str
    wall: float
    best: float
    cpu: float
    pictures: int


@dataclass(frozen=True)
class BenchReport:
    """Timings, and the circumstances they were taken in."""

    model: str
    model_id: str
    device: str
    threads: int
    size: int
    repeats: int
    timings: tuple[Timing, ...]
    peak_memory: int  # bytes: most the process has held since it began

    def table(self) -> str:
        """Everything for a terminal."""
        rows = [
            [t.part, f"{1e3 * t.wall:.1f}", f"{1e3 * t.best:.1f}", f"{1e3 * t.cpu:.1f}", f"{t.pictures / t.wall:.0f}"]
            for t in self.timings
        ]
        step = next((t for t in self.timings if t.part == "training step"), None)
        epochs = "" if step is None else f" {3600 / (step.wall * CIFAR_STEPS):.0f} epochs of 50,000 pictures an hour."
        heading = (
            f"{self.model}, weights {self.model_id[:12]}, {self.size} x {self.size}, {self.device}, {self.threads} threads"
        )
        caption = f"Medians of {self.repeats} interleaved runs.{epochs} Peak memory {self.peak_memory / 1e6:.0f} MB."
        return f"{heading}\n\n{Table(['part', 'wall ms', 'best ms', 'CPU ms', 'pictures/s'], rows, caption).text()}"

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "timings": [timing._asdict() for timing in self.timings]}


def run(parts: Parts, *, batch: int = BATCH, repeats: int = REPEATS) -> BenchReport:
    """Times a training step on random pictures, and embedding, encoding and decoding of one photograph.

    Raises UsageError for fewer than one repeat.
    """
    if repeats < 1:
        raise UsageError("at least one repeat is needed", where=f"repeats {repeats}")
    acts = _acts(parts, batch)
    for act, _ in acts.values():
        act()  # kernels are chosen and memory is taken in the first call
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in acts}
    for _ in range(repeats):
        for name, (act, _) in acts.items():
            samples[name].append(timed(act, parts.device))
    timings = []
    for name, (_, count) in acts.items():
        walls, cpus = zip(*samples[name], strict=True)
        timings.append(Timing(name, median(walls), min(walls), median(cpus), count))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    threads = torch.get_num_threads()
    return BenchReport(parts.name, parts.model_id, str(parts.device), threads, parts.config.size, repeats, tuple(timings), peak)


def _acts(parts: Parts, batch: int) -> Mapping[str, tuple[Callable[[], object], int]]:
    acts: dict[str, tuple[Callable[[], object], int]] = {}
    if isinstance(parts.model, PatchVAE | BetaVAE):
        acts["training step"] = (training_step(parts, batch), batch)
    photo = read_picture(photographs()[0].path).pixels
    acts["embed a photograph"] = (lambda: parts.embed(photo), 1)
    if isinstance(parts.model, PatchVAE):
        (code,) = parts.encode(photo)
        acts["encode a photograph"] = (lambda: parts.encode(photo), 1)
        acts["decode a code"] = (lambda: parts.decode(code), 1)
    return acts


def training_step(parts: Parts, batch: int, losses: LossConfig | None = None) -> Callable[[], None]:
    """One whole update, float32 and channels last, of a fresh model of the same sizes; pictures are random."""
    model = build_model(parts.config).to(parts.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    objective = Elbo(losses or LossConfig())
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    shape = (batch, 3, parts.config.size, parts.config.size)
    image: Tensor = torch.rand(shape, device=parts.device).contiguous(memory_format=torch.channels_last)

    def act() -> None:
        for step in objective(model, {"image": image}, 0):
            optimizer.zero_grad(set_to_none=True)
            step.loss.backward()
            optimizer.step()

    return act


def timed(act: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Wall and CPU seconds of one call, work on the accelerator included."""
    wall, cpu = time.perf_counter(), time.process_time()
    act()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - wall, time.process_time() - cpu
