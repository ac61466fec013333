"""Training data whose every batch is a function of (seed, step, rank), so that resuming needs no loader state."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor


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
