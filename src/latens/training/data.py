"""Training data whose every batch is a function of (seed, step, rank), so that resuming needs no loader state."""

from __future__ import annotations

import logging
import signal
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

PACKED = "packed"  # key of a batch between processes
logger = logging.getLogger(__name__)


@runtime_checkable
class StepData(Protocol):
    """The interface of a training data source."""

    def batch(self, step: int, rank: int) -> dict[str, Tensor]:
        """The batch of one step on one rank, on the CPU; the same arguments give the same tensors."""
        ...

    def validation(self) -> Sequence[dict[str, Tensor]]:
        """The held-out batches, the same at every call."""
        ...


def generator(seed: int, step: int, rank: int) -> np.random.Generator:
    """An independent random stream for one batch."""
    return np.random.default_rng([seed, step, rank])


@runtime_checkable
class Feed(Protocol):
    """The batches of one rank in order."""

    def batch(self, step: int) -> dict[str, Tensor]:
        """The batch of the next step."""
        ...

    def close(self) -> None:
        """End the preparation of batches."""
        ...


def feed_of(data: StepData, rank: int, steps: range, workers: int) -> Feed:
    """Batches that are prepared ahead by `workers` processes, or in one thread for 0. Their contents are the same."""
    if workers and "fork" not in torch.multiprocessing.get_all_start_methods():
        logger.warning("this system cannot fork processes: batches are prepared in one thread instead of %d workers", workers)
        workers = 0
    return Workers(data, rank, steps, workers) if workers else Prefetch(data, rank)


class Workers:
    """Prepares the next batches in several processes, each of which takes every n-th step."""

    def __init__(self, data: StepData, rank: int, steps: range, count: int) -> None:
        self.step = steps.start
        loader = DataLoader(
            Steps(data, rank, steps),
            batch_size=None,
            num_workers=count,
            prefetch_factor=2,
            multiprocessing_context="fork",
            worker_init_fn=ignore_interrupts,
        )
        self.batches = iter(loader)

    def batch(self, step: int) -> dict[str, Tensor]:
        """The batch of the next step. Raises ValueError for another one."""
        if step != self.step:
            raise ValueError(f"step {self.step} is next, not {step}")
        self.step += 1
        found = next(self.batches)
        return {
            name: tensor if name not in found[PACKED] else as_image(tensor) for name, tensor in found.items() if name != PACKED
        }

    def close(self) -> None:
        del self.batches  # ends the processes


class Steps(Dataset[dict[str, Any]]):
    """Batches by their position in a range of steps; PACKED names the tensors that are bytes."""

    def __init__(self, data: StepData, rank: int, steps: range) -> None:
        self.data, self.rank, self.steps = data, rank, steps

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, place: int) -> dict[str, Any]:
        batch = self.data.batch(self.steps[place], self.rank)
        small = {name: found for name, tensor in batch.items() if (found := as_bytes(tensor)) is not None}
        return {**batch, **small, PACKED: list(small)}


def as_image(pixels: Tensor) -> Tensor:
    """Bytes as floats in [0, 1], like `to_tensor`."""
    return pixels.float().div_(255)


def as_bytes(images: Tensor) -> Tensor | None:
    """The bytes of which `as_image` makes exactly these images (B, ...); None if there are none, as for most other tensors.

    Images pass between processes as bytes: a quarter of the shared memory, whose pages cost more time than the conversion.
    """
    if images.dtype != torch.float32 or not images.ndim:
        return None
    pixels = torch.empty_like(images, dtype=torch.uint8)
    for image, found in zip(images, pixels, strict=True):
        found.copy_(image.mul(255).round_().clamp_(0, 255))
        if not as_image(found).equal(image):
            return None
    return pixels


def ignore_interrupts(worker: int) -> None:
    """Ctrl-C reaches all processes; the training ends its step first and then stops the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # of the training, which ends the workers with it


class Prefetch:
    """Prepares the next batch in a thread during the current step; order and contents do not change."""

    def __init__(self, data: StepData, rank: int) -> None:
        self.data = data
        self.rank = rank
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="latens-data")
        self.pending: tuple[int, Future[dict[str, Any]]] | None = None

    def batch(self, step: int) -> dict[str, Tensor]:
        pending = self.pending
        if pending is not None and pending[0] == step:
            ready = pending[1].result()
        else:
            ready = self.data.batch(step, self.rank)
        self.pending = (step + 1, self.pool.submit(self.data.batch, step + 1, self.rank))
        return ready

    def close(self) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)
