"""What a system hands to the loop: a generator of losses, one per optimiser update."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor, nn


class Step(NamedTuple):
    """One update: the optimiser to use, the scalar it minimises, numbers to log."""

    optimizer: str
    loss: Tensor
    logs: dict[str, Tensor | float]


class Export(NamedTuple):
    """What `RUN/best` holds beside the sizes of the model: weights as they are shipped, frozen integers, their description."""

    weights: dict[str, Tensor]
    coding: dict[str, Tensor]
    config: dict[str, Any]


class Objective(Protocol):
    """`optimizers` maps a name to the prefixes of the parameters it owns; "" stands for all.

    Calling it yields the `Step`s of one training step in order: the loop runs backward and the named update after each, so
    that an adversarial pair or an auxiliary loss looks like a plain model.
    """

    optimizers: Mapping[str, tuple[str, ...]]

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> Iterator[Step]: ...

    def validate(self, model: Any, batches: Sequence[dict[str, Tensor]]) -> dict[str, float]:
        """Numbers on held-out data; "loss" (smaller is better) chooses the best weights."""
        ...

    def pictures(self, model: Any, batches: Sequence[dict[str, Tensor]]) -> dict[str, np.ndarray]:
        """Named pictures (H, W, 3) uint8 that show what the model does now."""
        ...

    def export(self, model: Any, batches: Sequence[dict[str, Tensor]]) -> Export:
        """The parts of a model folder that the system's verbs can load."""
        ...


class Trainable(NamedTuple):
    """Everything a run needs from a system."""

    model: nn.Module
    objective: Objective
    data: Any  # a training.data.StepData
