"""Speed and memory on this machine. Cases run interleaved, so that other load on the machine affects all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, NamedTuple

import torch

from latens.errors import UsageError
from latens.inference.memory import peak_memory
from latens.inference.page import Table

REPEATS = 7


class Case(NamedTuple):
    """An operation to time: `act` is called repeatedly; one call processes `work` units of `unit`."""

    name: str
    act: Callable[[], object]
    work: float = 1.0
    unit: str = "images"


class Timing(NamedTuple):
    """Seconds of one call: median and best of the wall clock, median of the CPU time of all threads."""

    name: str
    wall: float
    best: float
    cpu: float
    work: float
    unit: str


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """Timings, with model, machine and memory."""

    about: str  # model, weights, device, precision
    threads: int
    repeats: int
    timings: tuple[Timing, ...]
    peak_memory: int  # bytes; peak of this process since its start, libraries included
    peak_device_memory: int | None  # bytes allocated on the accelerator

    def table(self) -> str:
        """Text for a terminal."""
        rows = [
            [
                timing.name,
                f"{1e3 * timing.wall:.1f}",
                f"{1e3 * timing.best:.1f}",
                f"{1e3 * timing.cpu:.1f}",
                f"{timing.work / timing.wall:.2f} {timing.unit}/s",
            ]
            for timing in self.timings
        ]
        memory = f"peak memory {self.peak_memory / 1e6:.0f} MB"
        if self.peak_device_memory is not None:
            memory += f", on the device {self.peak_device_memory / 1e6:.0f} MB"
        caption = f"Medians of {self.repeats} interleaved runs, {self.threads} threads; {memory}."
        return f"{self.about}\n\n{Table(['case', 'wall ms', 'best ms', 'CPU ms', 'speed'], rows, caption).text()}"

    def to_dict(self) -> dict[str, Any]:
        """All numbers, in seconds and bytes."""
        return {**asdict(self), "timings": [timing._asdict() for timing in self.timings]}


def bench(cases: Sequence[Case], about: str, device: torch.device, *, repeats: int = REPEATS) -> BenchReport:
    """Time every case `repeats` times after one warm-up call. Raises UsageError for `repeats` below 1."""
    if repeats < 1:
        raise UsageError("at least one repeat is needed", where=f"repeats {repeats}")
    samples: dict[str, list[tuple[float, float]]] = {case.name: [] for case in cases}
    for repeat in range(repeats + 1):
        for case in cases:
            seconds = _time(case.act, device)
            if repeat:  # the first call selects kernels and allocates memory
                samples[case.name].append(seconds)
    return BenchReport(
        about=about,
        threads=torch.get_num_threads(),
        repeats=repeats,
        timings=tuple(_timing(case, samples[case.name]) for case in cases),
        peak_memory=peak_memory(),
        peak_device_memory=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    )


def _time(act: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Wall and CPU seconds of one call, including work on the accelerator."""
    synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    act()
    synchronize(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _timing(case: Case, samples: Sequence[tuple[float, float]]) -> Timing:
    walls = [wall for wall, _ in samples]
    return Timing(case.name, median(walls), min(walls), median(cpu for _, cpu in samples), case.work, case.unit)
