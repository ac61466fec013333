"""Outputs of a training run: metrics.jsonl, TensorBoard, sample images, best weights, progress."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np

from latens.data.files import write_atomic
from latens.data.image_output import png_bytes
from latens.data.records import Records
from latens.hub import save_model
from latens.progress import OnProgress
from latens.settings import to_dict
from latens.training.config import AnyTrainConfig
from latens.training.objective import Export

logger = logging.getLogger(__name__)


class RunLog:
    """Writes to the run folder, on the first rank only. `on_progress` is called with the steps done and the last numbers."""

    def __init__(self, folder: Path, start: int, *, active: bool = True, on_progress: OnProgress | None = None) -> None:
        self.folder = folder
        self.start = start
        self.active = active
        self.on_progress = on_progress if active else None
        self.started = time.monotonic()
        self.board: Any = None
        if active:
            (folder / "samples").mkdir(parents=True, exist_ok=True)
            self.board = _tensorboard(folder / "tensorboard")

    def training(self, step: int, numbers: dict[str, float]) -> None:
        pace = (step - self.start) / max(time.monotonic() - self.started, 1e-9)
        self._write("train", step, {**numbers, "steps_per_second": pace})
        if self.on_progress is not None:
            self.on_progress(step, _line(numbers))

    def validation(self, step: int, numbers: dict[str, float], images: dict[str, np.ndarray], *, best: bool) -> None:
        self._write("validation", step, {**numbers, "best": float(best)})
        samples = {self.folder / "samples" / f"{name}-{step:08d}.png": pixels for name, pixels in images.items()}
        for path, pixels in samples.items():
            write_atomic(path, png_bytes(pixels))
        Records().draw(samples)
        if self.active:
            logger.info("step %d: %s%s", step, _line(numbers), "  (best)" if best else "")

    def save_best(self, config: AnyTrainConfig, export: Export, scores: dict[str, float]) -> None:
        """Write RUN/best, a model folder for `latens.load` and `--model`."""
        described = {
            "system": config.system,
            "model": to_dict(config.model),
            **export.config,
            "scores": scores,
        }
        save_model(self.folder / "best", described, export.weights, export.coding)

    def _write(self, kind: str, step: int, numbers: dict[str, float]) -> None:
        if not self.active:
            return
        line = json.dumps({"kind": kind, "step": step, "time": round(time.time(), 3), **numbers})
        with (self.folder / "metrics.jsonl").open("a") as stream:
            stream.write(line + "\n")
        if self.board is not None:
            for name, value in numbers.items():
                self.board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


def _line(numbers: dict[str, float]) -> str:
    shown = list(numbers.items())[:4]
    return "  ".join(f"{name} {value:.4g}" for name, value in shown)


def _tensorboard(folder: Path) -> Any:
    """A TensorBoard writer, or None if tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))
