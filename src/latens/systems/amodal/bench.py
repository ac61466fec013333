"""Speed and memory of the segmenter on this machine, beside torchvision's Mask R-CNN with ResNet-50."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch

from latens.errors import UsageError
from latens.inference.memory import peak_memory
from latens.inference.page import Table
from latens.systems.amodal.config import EmbryoConfig
from latens.systems.amodal.predict import AmodalSegmenter
from latens.systems.amodal.simulate import embryo

SIZE = 500  # pixels
REPEATS = 5
SEED = 4  # of the embryo that is segmented


@dataclass(frozen=True)
class BenchReport:
    """Seconds of one picture, medians; memory in bytes."""

    model: str
    model_id: str
    device: str
    precision: str
    threads: int
    size: int
    objects: int
    repeats: int
    seconds: dict[str, float]
    peak_memory: int  # most the process has held before the large model was made
    peak_memory_beside: int  # and after it

    def table(self) -> str:
        """Everything for a terminal."""
        rows = [[name, f"{1e3 * value:.0f}", f"{1 / value:.2f}"] for name, value in self.seconds.items()]
        heading = (
            f"{self.model}, weights {self.model_id[:12]}: {self.size} x {self.size}, {self.objects} objects, "
            f"{self.device}, {self.precision}, {self.threads} threads"
        )
        caption = (
            f"Medians of {self.repeats} interleaved runs. Peak memory {self.peak_memory / 1e6:.0f} MB, "
            f"with torchvision's model {self.peak_memory_beside / 1e6:.0f} MB."
        )
        return f"{heading}\n\n{Table(['part', 'ms', 'pictures/s'], rows, caption).text()}"

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def run(segmenter: AmodalSegmenter, *, repeats: int = REPEATS, size: int = SIZE, beside: bool = True) -> BenchReport:
    """Times a simulated embryo end to end (pixels to masks, order and occlusion), and torchvision's model if `beside`.

    The parts take turns, so that what else the machine does falls on all alike. Raises UsageError for no repeat.
    """
    if repeats < 1:
        raise UsageError("at least one repeat is needed", where=f"repeats {repeats}")
    pixels = embryo(np.random.default_rng(SEED), EmbryoConfig(size=size)).image
    found = segmenter.segment_pixels(pixels)  # kernels are chosen and memory is taken in the first call
    before = peak_memory()
    parts: dict[str, Callable[[], object]] = {"segment": lambda: segmenter.segment_pixels(pixels)}
    if beside:
        parts["torchvision Mask R-CNN, ResNet-50"] = _torchvision(pixels, segmenter.device)
    samples: dict[str, list[float]] = {name: [] for name in parts}
    for turn in range(repeats + 1):
        for name, act in parts.items():
            started = time.perf_counter()
            act()
            if segmenter.device.type == "cuda":
                torch.cuda.synchronize(segmenter.device)
            if turn:
                samples[name].append(time.perf_counter() - started)
    return BenchReport(
        model=segmenter.name,
        model_id=segmenter.model_id,
        device=str(segmenter.device),
        precision=segmenter.precision,
        threads=torch.get_num_threads(),
        size=size,
        objects=len(found),
        repeats=repeats,
        seconds={name: median(values) for name, values in samples.items()},
        peak_memory=before,
        peak_memory_beside=peak_memory(),
    )


def _torchvision(pixels: np.ndarray, device: torch.device) -> Callable[[], object]:
    """The usual model with random weights, on the same picture at its own size (no resizing to 800)."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    side = max(pixels.shape[:2])
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2, min_size=side, max_size=side)
    model = model.to(device).eval()
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div(255).to(device)

    @torch.no_grad()
    def act() -> object:
        return model([image])

    return act
