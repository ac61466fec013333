"""What a training run is, as frozen data (standard library only), and how `--set key=value` changes it."""

from __future__ import annotations

import dataclasses
import difflib
import json
from dataclasses import dataclass
from typing import Any, TypeVar

from latens.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Adam (or Muon for the matrices) with a linear warm-up, a constant rate and a linear fall to zero at the end."""

    lr: float = 1e-4
    beta1: float = 0.9  # Adam's decay of the mean gradient; 0.5 is usual against a discriminator
    muon_lr: float = 0.0  # above zero: convolution weights are trained by Muon at this rate, the rest by Adam
    warmup: int = 1000  # steps
    decay_share: float = 0.25  # last part of the steps over which the rate falls linearly to zero
    clip: float = 1.0  # largest norm of the gradient of one optimiser
    ema: float = 0.999  # decay of the averaged weights, which are those that are validated and saved


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Length and bookkeeping of a run."""

    steps: int = 1000
    seed: int = 0
    precision: str = "bf16"  # "bf16" or "no": arithmetic of the networks; losses stay in float32
    log_every: int = 100
    validate_every: int = 5000
    checkpoint_every: int = 2000
    keep: int = 2  # complete checkpoints kept


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A complete training configuration; recipes are functions that return one.

    `model`, `data` and `objective` are frozen dataclasses of the system.
    """

    system: str
    recipe: str
    model: Any
    data: Any
    objective: Any
    optim: OptimConfig
    run: RunConfig


Config = TypeVar("Config")


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """Plain JSON-able values, tuples as lists."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def override(config: Config, settings: dict[str, str]) -> Config:
    """A configuration (any frozen dataclass) with dotted keys replaced, e.g. {"run.steps": "500"}.

    Raises UsageError for an unknown key (naming the closest one) and for a value of the wrong type.
    """
    for key, text in settings.items():
        config = _replace(config, key.split("."), text, key)
    return config


def _replace(node: Any, path: list[str], text: str, key: str) -> Any:
    names = [field.name for field in dataclasses.fields(node)]
    head, *rest = path
    if head not in names:
        close = difflib.get_close_matches(head, names, n=1)
        known = f"did you mean '{close[0]}'?" if close else f"known here: {', '.join(names)}"
        raise UsageError(f"no setting '{key}'", where="--set", hint=known)
    value = getattr(node, head)
    if rest:
        if not dataclasses.is_dataclass(value):
            raise UsageError(f"'{head}' has no parts", where=f"--set {key}", hint=f"write --set {head}=VALUE")
        return dataclasses.replace(node, **{head: _replace(value, rest, text, key)})
    if dataclasses.is_dataclass(value):
        inner = [f"{key}.{field.name}" for field in dataclasses.fields(value)]
        raise UsageError(f"'{key}' is a group", where="--set", hint=f"set one of {', '.join(inner)}")
    return dataclasses.replace(node, **{head: _parse(text, value, key)})


def _parse(text: str, current: Any, key: str) -> Any:
    if isinstance(current, str):
        return text
    try:
        value = json.loads(text.lower() if isinstance(current, bool) else text)
    except json.JSONDecodeError:
        value = None
    if isinstance(current, bool):
        fits = isinstance(value, bool)
    elif isinstance(current, int):
        fits = isinstance(value, int) and not isinstance(value, bool)
    elif isinstance(current, float):
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        value = float(value) if fits and value is not None else value
    else:
        fits = isinstance(value, list)
        value = tuple(value) if isinstance(value, list) else value
    if not fits:
        kind = "list, e.g. [1,2]" if isinstance(current, tuple) else type(current).__name__
        raise UsageError(f"'{text}' is not a {kind}", where=f"--set {key}", hint=f"the value now is {json.dumps(current)}")
    return value
