"""Settings of a training run: optimizer, schedule, length and bookkeeping. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Generic, Literal, TypeAlias, TypeVar

from annotated_types import Ge, Gt, Lt
from pydantic import Field

from latens.settings import Count, Natural, Positive, Share, settings

Decay = Annotated[float, Ge(0), Lt(1)]


@settings
class Schedule:
    """Settings of all optimizers: linear warm-up, constant learning rate, linear decay to zero at the end."""

    lr: Positive = 1e-4  # learning rate of Adam or SGD
    warmup: Natural = 1000  # steps of the linear increase of the learning rates from zero
    decay_share: Share = 0.25  # share of the steps, at the end, over which the learning rates fall linearly to zero
    clip: Positive = 1.0  # larger gradients of one optimizer are scaled to this norm; 1e9 disables clipping
    ema: Decay = 0.999  # decay of the averaged weights, which are validated and saved; 0: no averaging


@settings
class Adam(Schedule):
    """Adam (Kingma and Ba 2015)."""

    kind: Literal["adam"] = "adam"  # name of the optimizer
    beta1: Decay = 0.9  # decay of the mean gradient; 0.5 is usual against a discriminator


@settings
class Muon(Schedule):
    """Muon (Jordan et al. 2024) for the weights of convolutions and matrices, Adam at the rate `lr` for the rest."""

    kind: Literal["muon"] = "muon"  # name of the optimizer
    muon_lr: Positive = 1e-3  # learning rate of Muon
    max_side: Annotated[int, Gt(0)] = 256  # matrices whose smaller side is larger are left to Adam


@settings
class Sgd(Schedule):
    """Stochastic gradient descent with Nesterov momentum."""

    kind: Literal["sgd"] = "sgd"  # name of the optimizer
    momentum: Decay = 0.9  # decay of the velocity
    weight_decay: Annotated[float, Ge(0)] = 0.0  # added to the gradient, in units of the weights


OptimConfig: TypeAlias = Annotated[Adam | Muon | Sgd, Field(discriminator="kind")]
S = TypeVar("S", bound=Schedule)


def shortened(optim: S, steps: int) -> S:
    """The optimizer for a run of `steps` steps: its warm-up takes at most a fifth of them."""
    return replace(optim, warmup=min(optim.warmup, steps // 5))


@settings
class RunConfig:
    """Length and bookkeeping of a run."""

    steps: Natural = 1000  # number of training steps
    seed: Natural = 0  # seed of weights, data and noise
    precision: Literal["bf16", "no"] = "bf16"  # arithmetic of the networks; losses stay in float32
    log_every: Count = 100  # steps between two lines of metrics.jsonl
    validate_every: Count = 5000  # steps between two validations
    checkpoint_every: Count = 2000  # steps between two checkpoints
    keep: Count = 2  # number of complete checkpoints that are kept


M = TypeVar("M", covariant=True)
D = TypeVar("D", covariant=True)
O = TypeVar("O", covariant=True)  # noqa: E741


@settings
class TrainConfig(Generic[M, D, O]):
    """A complete training configuration; recipes are functions that return one.

    `model`, `data` and `objective` are settings of the system.
    """

    system: str  # name of the system
    recipe: str  # name of the recipe
    model: M
    data: D
    objective: O
    optim: OptimConfig
    run: RunConfig


AnyTrainConfig: TypeAlias = TrainConfig[Any, Any, Any]
