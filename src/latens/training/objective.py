"""The interface between systems and the training loop: model, data, and a generator of losses, one per update."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from latens.training.data import StepData


class Group(NamedTuple):
    """Parameters of one optimizer with one learning rate: their name prefixes ("" for all) and a factor on the rate."""

    prefixes: tuple[str, ...]
    lr_factor: float = 1.0


class Step(NamedTuple):
    """One update: the optimizer to use, the scalar it minimizes, numbers to log."""

    optimizer: str
    loss: Tensor
    logs: dict[str, Tensor | float]


class Export(NamedTuple):
    """Contents of `RUN/best` besides the model's settings: weights, frozen integers, and their description."""

    weights: dict[str, Tensor]
    coding: dict[str, Tensor]
    config: dict[str, Any]


@runtime_checkable
class Objective(Protocol):
    """The losses of a model. `optimizers` maps the name of each optimizer to its groups of parameters.

    A call yields the `Step`s of one training step in order. After each, the loop runs the backward pass and the update of the
    named optimizer; adversarial training yields two steps. The main optimizer is named "model".
    """

    optimizers: Mapping[str, Sequence[Group]]

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> Iterator[Step]: ...

    def validate(self, model: Any, batches: Sequence[dict[str, Tensor]]) -> dict[str, float]:
        """Numbers on held-out data; "loss" (smaller is better) chooses the best weights."""
        ...

    def images(self, model: Any, batches: Sequence[dict[str, Tensor]]) -> dict[str, np.ndarray]:
        """Named images (H, W, 3) uint8 of validation results; may be empty."""
        ...

    def export(self, model: Any, batches: Sequence[dict[str, Tensor]]) -> Export:
        """The weights and settings of the model folder."""
        ...


class Trainable(NamedTuple):
    """Model, objective and data of a training run.

    `after_update`, if given, is called with the model and the step after every applied update (for example for
    power iterations of spectral norms).
    """

    model: nn.Module
    objective: Objective
    data: StepData
    after_update: Callable[[nn.Module, int], None] | None = None


ONE_OPTIMIZER: Mapping[str, Sequence[Group]] = MappingProxyType({"model": (Group(("",)),)})
"""One optimizer, "model", for all parameters."""
