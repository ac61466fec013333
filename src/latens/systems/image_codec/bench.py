"""Speed and memory of the image codec on this machine, part by part."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from latens.data.images import Pixels, read_picture
from latens.errors import UsageError
from latens.inference.demo import photographs
from latens.inference.memory import peak_memory
from latens.inference.page import Table
from latens.systems.image_codec.predict import ImageCodec

SIZE = (768, 512)  # width and height in pixels, those of the Kodak photographs
REPEATS = 9


class Timing(NamedTuple):
    """One part, in seconds: median and best of the wall clock, and median of the CPU time of all threads."""

    part: str
    wall: float
    best: float
    cpu: float
    work: float  # megapixels, or for entropy coding millions of symbols
    unit: str  # of the work


@dataclass(frozen=True)
class BenchReport:
    """Timings of one picture, and the circumstances they were taken in."""

    model: str
    model_id: str
    device: str
    precision: str
    threads: int
    width: int
    height: int
    quality: float
    bytes: int
    repeats: int
    timings: tuple[Timing, ...]
    peak_memory: int  # bytes: most the process has held since it began, libraries included
    peak_device_memory: int | None  # bytes allocated on the accelerator

    def table(self) -> str:
        """Everything for a terminal."""
        rows = [
            [
                timing.part,
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
        heading = (
            f"{self.model}, weights {self.model_id[:12]}: {self.width} x {self.height} at quality {self.quality:g} "
            f"({self.bytes:,} bytes), {self.device}, {self.precision}, {self.threads} threads"
        )
        caption = f"Medians of {self.repeats} interleaved runs; parts that overlap do not add up. {memory}."
        return f"{heading}\n\n{Table(['part', 'wall ms', 'best ms', 'CPU ms', 'speed'], rows, caption).text()}"

    def to_dict(self) -> dict[str, Any]:
        """All numbers, in seconds and bytes."""
        return {**vars(self), "timings": [timing._asdict() for timing in self.timings]}


def run(
    codec: ImageCodec, *, quality: float | None = None, repeats: int = REPEATS, size: tuple[int, int] = SIZE
) -> BenchReport:
    """Times compress, decompress and their parts on a photograph that is installed with latens, resized to `size`.

    The parts take turns in every round, so that what else the machine does falls on all of them alike. Raises UsageError
    for fewer than one repeat or a quality the model does not have.
    """
    if repeats < 1:
        raise UsageError("at least one repeat is needed", where=f"repeats {repeats}")
    quality = codec.default_quality if quality is None else quality
    pixels = photograph(size)
    blob = codec.compress(pixels, quality=quality)
    parts = _parts(codec, pixels, quality, blob)
    for part in parts.values():
        part.act()  # kernels are chosen and memory is taken in the first call
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in parts}
    for _ in range(repeats):
        for name, part in parts.items():
            samples[name].append(_time(part.act, codec.device))
    timings = [_timing(name, samples[name], part) for name, part in parts.items()]
    on_gpu = codec.device.type == "cuda"
    return BenchReport(
        model=codec.name,
        model_id=codec.model_id,
        device=str(codec.device),
        precision=codec.precision,
        threads=torch.get_num_threads(),
        width=size[0],
        height=size[1],
        quality=quality,
        bytes=len(blob),
        repeats=repeats,
        timings=tuple(timings),
        peak_memory=peak_memory(),
        peak_device_memory=torch.cuda.max_memory_allocated(codec.device) if on_gpu else None,
    )


def photograph(size: tuple[int, int]) -> Pixels:
    """The bundled photograph of a cup of coffee at width x height, uint8 (H, W, 3)."""
    return np.asarray(Image.fromarray(read_picture(photographs()[0].path).pixels).resize(size, Image.Resampling.LANCZOS))


class _Part(NamedTuple):
    act: Callable[[], object]
    work: float
    unit: str


def _parts(codec: ImageCodec, pixels: Pixels, quality: float, blob: bytes) -> Mapping[str, _Part]:
    """What is timed; every part works on what the ones before it made, computed once here."""
    from latens.systems.image_codec.format import QUALITY_STEPS

    coding, steps = codec.coding, round(quality * QUALITY_STEPS)
    latent = codec.latent(pixels)
    symbols = codec.quantize(latent, steps)
    level = symbols.parameters.level
    coded_y, coded_z = coding.encode_y(symbols.y, level), coding.encode_z(symbols.z)
    rows, columns = symbols.z.shape[2:]
    pixels_m = pixels.shape[0] * pixels.shape[1] / 1e6
    symbols_m = (symbols.y.numel() + symbols.z.numel()) / 1e6

    def encode() -> object:
        return coding.encode_z(symbols.z), coding.encode_y(symbols.y, level)

    def decode() -> object:
        return coding.decode_z(coded_z, rows, columns), coding.decode_y(coded_y, level)

    acts: dict[str, tuple[Callable[[], object], float, str]] = {
        "compress": (lambda: codec.compress(pixels, quality=quality), pixels_m, "Mpx"),
        "  analysis": (lambda: codec.latent(pixels), pixels_m, "Mpx"),
        "  hyperprior and rounding": (lambda: codec.quantize(latent, steps), pixels_m, "Mpx"),
        "    integer hyper-synthesis": (lambda: coding.parameters(symbols.z), pixels_m, "Mpx"),
        "  entropy encoding": (encode, symbols_m, "Msym"),
        "decompress": (lambda: codec.decompress(blob), pixels_m, "Mpx"),
        "  entropy decoding": (decode, symbols_m, "Msym"),
        "  synthesis": (lambda: codec.reconstruct(symbols, pixels.shape), pixels_m, "Mpx"),
    }
    return {name: _Part(*part) for name, part in acts.items()}


def _time(act: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Wall and CPU seconds of one call, work on the accelerator included."""
    _wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    act()
    _wait(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _timing(name: str, samples: list[tuple[float, float]], part: _Part) -> Timing:
    walls = [wall for wall, _ in samples]
    return Timing(name, median(walls), min(walls), median(cpu for _, cpu in samples), part.work, part.unit)
