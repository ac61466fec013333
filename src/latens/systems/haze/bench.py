"""Speed of every dehazing method on this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from latens.errors import UsageError
from latens.inference.page import Table
from latens.systems.haze.config import CLASSICAL, LEARNED
from latens.systems.haze.predict import Haze
from latens.systems.haze.simulate import street

SIZES = ((640, 480), (1920, 1080))  # width and height
REPEATS = 5


class Timing(NamedTuple):
    """Seconds of one call: median of the wall clock, best, and median of the CPU time of all threads."""

    method: str
    width: int
    height: int
    wall: float
    best: float
    cpu: float


@dataclass(frozen=True)
class BenchReport:
    model: str
    device: str
    threads: int
    repeats: int
    timings: tuple[Timing, ...]

    def table(self) -> str:
        """Everything for a terminal."""
        rows = [
            [t.method, f"{t.width} x {t.height}", f"{1e3 * t.wall:.1f}", f"{1e3 * t.best:.1f}", f"{1e3 * t.cpu:.1f}"]
            for t in self.timings
        ]
        caption = f"Medians of {self.repeats} interleaved runs, {self.device}, {self.threads} threads."
        return Table(["method", "pixels", "wall ms", "best ms", "CPU ms"], rows, caption).text()

    def to_dict(self) -> dict[str, Any]:
        """All numbers, in seconds."""
        return {**vars(self), "timings": [timing._asdict() for timing in self.timings]}


def run(haze: Haze, *, repeats: int = REPEATS, sizes: tuple[tuple[int, int], ...] = SIZES) -> BenchReport:
    """Times `Haze.dehaze` by every method that can run here on a simulated street. Raises UsageError for no repeats."""
    if repeats < 1:
        raise UsageError("at least one repeat is needed", where=f"repeats {repeats}")
    names = [method for method in (*CLASSICAL, *LEARNED) if haze.has(method)]
    timings = []
    for width, height in sizes:
        pixels = np.asarray(Image.fromarray(street(0, (240, 320)).image).resize((width, height)))
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        for turn in range(repeats + 1):
            for name in names:
                taken = _time(haze, pixels, name)
                if turn:  # the first call prepares kernels
                    samples[name].append(taken)
        for name, taken_all in samples.items():
            walls = [wall for wall, _ in taken_all]
            timings.append(Timing(name, width, height, median(walls), min(walls), median(cpu for _, cpu in taken_all)))
    return BenchReport(haze.name, str(haze.device), torch.get_num_threads(), repeats, tuple(timings))


def _time(haze: Haze, pixels: np.ndarray, method: str) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    haze.dehaze(pixels, method=method)  # ends on the CPU, so work on an accelerator is waited for
    return time.perf_counter() - wall, time.process_time() - cpu
