"""Settings of latent refinement (Perugachi-Diaz 2024, chapter 5). No module here imports torch, so `--help` stays instant.

Equations, sections and tables are those of Perugachi-Diaz 2024.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, get_args

from latens.durations import parse_duration
from latens.errors import UsageError

Method = Literal["ssl", "linear", "cosine", "atanh", "ste", "uniform", "deterministic"]
METHODS: tuple[Method, ...] = get_args(Method)
THREE_CLASS_METHODS: tuple[Method, ...] = ("ssl", "linear", "cosine")

SSL_SHAPE = 4 / 3  # a; section 5.4.6
SSL_SHAPE_THREE = 1.4
THREE_CLASS = {"ssl": (0.93, 1.5), "linear": (0.98, 1.5), "cosine": (0.98, 2.0)}  # r and n; Table 5.4.3

STEPS = 500
HELD = 3  # steps with the first learning rate and temperature; a budget of seconds times them
LONGEST = 1e9  # seconds of a budget
STEPS_TEXT = re.compile(r"0*[1-9]\d{0,8}", re.ASCII)
THESIS_STEPS, THESIS_LR, THESIS_RATE = 2000, 5e-3, 1e-3
# Our defaults, for 60 to 500 steps with decaying temperature and learning rate; larger ones harm smooth images at low rate.
LR = 0.04
HYPER_LR = 2.0
SHAPE = 2.0
STE_LR = 1e-4  # with larger ones straight-through gradients diverge (section 5.4.6)
ATANH_TAU = 0.5  # best maximum temperature of the atanh law (Table 5.4.1 and section 5.4.6)


@dataclass(frozen=True, kw_only=True)
class RoundingLaw:
    """A differentiable substitute for rounding.

    ssl, linear, cosine, atanh: Gumbel-softmax samples of the probabilities of Eqs. 5.3.4, 5.3.2, 5.3.3 and 5.2.3, over
    the two nearest integers, or over three (Eq. 5.3.5) for all but atanh. deterministic: the mean of the atanh law
    without sampling (section 5.2.2). ste: straight-through estimator, rounding with the gradient of the identity.
    uniform: additive noise on [-1/2, 1/2) (section 5.4.2).

    `a` is the shape of ssl. `r` and `n` apply to three classes: r < 1 gives the farthest integer a nonzero probability,
    a larger n makes the law more peaked. Raises UsageError for other values.
    """

    method: Method = "ssl"
    classes: int = 2
    a: float = SSL_SHAPE
    r: float = 1.0
    n: float = 1.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"unknown rounding method '{self.method}'", hint=f"choose one of {', '.join(METHODS)}")
        if self.classes not in (2, 3):
            raise UsageError(f"rounding to {self.classes} classes is not defined", hint="choose 2 or 3")
        if self.classes == 3 and self.method not in THREE_CLASS_METHODS:
            hint = f"three classes are defined for {', '.join(THREE_CLASS_METHODS)}"
            raise UsageError(f"the method {self.method} has two classes, not three", hint=hint)
        if not (self.a > 0 and 0 < self.r <= 1 and self.n > 0):
            raise UsageError(f"a rounding law needs a > 0, 0 < r <= 1 and n > 0, not {self.a}, {self.r}, {self.n}")

    @classmethod
    def thesis(cls, method: Method, classes: int = 2) -> RoundingLaw:
        """The law with the best constants of Perugachi-Diaz 2024 (section 5.4.6, Table 5.4.3)."""
        if classes != 3:
            return cls(method=method, classes=classes)
        r, n = THREE_CLASS.get(method, (1.0, 1.0))
        return cls(method=method, classes=classes, a=SSL_SHAPE_THREE, r=r, n=n)


@dataclass(frozen=True, kw_only=True)
class Refine:
    """Settings of a refinement. The defaults are ours; `Refine.thesis` is the schedule of Perugachi-Diaz 2024.

    The temperature is min(exp(-c t), tau_max) (Eq. 5.4.1). c is `tau_rate`; by default it is chosen so that the temperature
    reaches `tau_end` at the last step. The learning rate decays along a cosine from `lr` to `lr_end` times `lr`. Both decay
    after HELD steps, except a temperature with `tau_rate`. With `seconds`, `codes.budget` finds the number of steps that take
    this time, and `steps` is not used.
    `rate_weight` is the lambda of the objective, by default that of the quality (section 5.4.5). `law` overrides the law of
    `method` and `classes`, which has the constants of Perugachi-Diaz 2024, except a = 2 for two-class ssl. Raises UsageError
    for a setting out of range.
    """

    steps: int = STEPS
    seconds: float | None = None
    method: Method = "ssl"
    classes: int = 2
    law: RoundingLaw | None = None
    lr: float | None = None
    hyper_lr: float = HYPER_LR  # learning rate of z relative to that of y
    lr_end: float = 0.05
    tau_max: float = 1.0
    tau_end: float = 0.4
    tau_rate: float | None = None
    rate_weight: float | None = None
    measure_every: int = 20  # steps between measurements of the true loss
    patience: int | None = None  # measurements without improvement after which to stop
    seed: int = 0

    def __post_init__(self) -> None:
        self.rounding()
        _require(self.steps >= 1, "steps", self.steps, "at least 1")
        _require(self.seconds is None or 0 < self.seconds <= LONGEST, "seconds", self.seconds, "above 0 and at most 1e9")
        _require(self.measure_every >= 1, "measure_every", self.measure_every, "at least 1")
        _require(self.patience is None or self.patience >= 1, "patience", self.patience, "at least 1")
        _require(0 <= self.lr_end <= 1, "lr_end", self.lr_end, "a share of lr, 0 to 1")
        _require(0 < self.tau_end <= 1, "tau_end", self.tau_end, "above 0 and at most 1")
        for name in ("lr", "hyper_lr", "tau_max", "tau_rate", "rate_weight"):
            value = getattr(self, name)
            _require(value is None or (math.isfinite(value) and value > 0), name, value, "above 0")

    @classmethod
    def of(cls, value: object) -> Refine:
        """Settings of a number of steps (200 or "200") or of a time ("20s", "1.5s", "2m"). Raises UsageError."""
        if isinstance(value, Refine):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return cls(steps=value)
        if isinstance(value, str):
            text = value.strip()
            if STEPS_TEXT.fullmatch(text):
                return cls(steps=int(text))
            if text.endswith(("s", "m", "h")):
                with suppress(UsageError):
                    return cls(seconds=parse_duration(text))
        what = f"refine is {value!r}, which is neither a number of steps nor a time"
        raise UsageError(what, hint="write steps such as 200, or a time above 0 such as 20s, 1.5s or 2m")

    @classmethod
    def thesis(cls, method: Method = "ssl", classes: int = 2, *, steps: int = THESIS_STEPS, **changes: Any) -> Refine:
        """Constants of sections 5.4 and 5.4.6: c = 0.001 for any number of steps, a constant learning rate."""
        settings: dict[str, Any] = {
            "lr": STE_LR if method == "ste" else THESIS_LR,
            "lr_end": 1.0,
            "hyper_lr": 1.0,
            "law": RoundingLaw.thesis(method, classes),
            "tau_max": ATANH_TAU if method == "atanh" else 1.0,
            "tau_rate": THESIS_RATE,
        }
        return cls(steps=steps, method=method, classes=classes, **{**settings, **changes})

    def rounding(self) -> RoundingLaw:
        if self.law is not None:
            return self.law
        if (self.method, self.classes) == ("ssl", 2):
            return RoundingLaw(a=SHAPE)
        return RoundingLaw.thesis(self.method, self.classes)

    def temperature(self, step: int) -> float:
        """Temperature at a step, counted from 0 (Eq. 5.4.1)."""
        if self.tau_rate is not None:
            return min(math.exp(-self.tau_rate * float(step)), self.tau_max)
        return min(math.pow(self.tau_end, self._decayed(step)), self.tau_max)

    def learning_rate(self, step: int) -> float:
        """Learning rate of Adam at a step, counted from 0."""
        default = STE_LR if self.rounding().method == "ste" else LR
        highest = self.lr if self.lr is not None else default
        along = 0.5 * (1 + math.cos(math.pi * self._decayed(step)))
        return highest * (self.lr_end + (1 - self.lr_end) * along)

    def _decayed(self, step: int) -> float:
        """The share of the decay before a step: 0 for the first HELD steps, then up to 1 after all steps."""
        return max(step - HELD + 1, 0) / max(self.steps - HELD + 1, 1)


def _require(condition: bool, name: str, value: object, rule: str) -> None:
    if not condition:
        raise UsageError(f"{name} {value} is out of range", hint=f"{name} is {rule}")
