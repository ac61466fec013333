"""Rate targets, and the search for the quality at which an image reaches a target rate or PSNR."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from latens.errors import UsageError

TOLERANCE = {"bpp": 0.005, "psnr": 0.0005}  # relative error at which the search stops
MAX_TRIALS = 12


@dataclass(frozen=True)
class RateTarget:
    """Target of an encoding: a quality, bits per pixel (whole file), or PSNR in dB."""

    kind: Literal["quality", "bpp", "psnr"]
    value: float

    @property
    def unit(self) -> str:
        return {"quality": "", "bpp": "bits per pixel", "psnr": "dB"}[self.kind]

    @classmethod
    def of(cls, quality: float | None, bpp: float | None, psnr: float | None, *, default: float, highest: float) -> RateTarget:
        """Target of three options, of which at most one is given; without any, quality `default`. Qualities are 1 to `highest`.

        Raises UsageError if two options are given or a value is out of range.
        """
        given = [(kind, value) for kind, value in (("quality", quality), ("bpp", bpp), ("psnr", psnr)) if value is not None]
        if len(given) > 1:
            raise UsageError(f"{given[0][0]} and {given[1][0]} exclude each other", hint="give one of them")
        kind, value = given[0] if given else ("quality", default)
        if kind == "quality" and not 1 <= value <= highest:
            raise UsageError(f"quality {value:g} is out of range", hint=f"this model has 1 to {highest:g}")
        if not (math.isfinite(value) and value > 0):
            raise UsageError(f"{kind} {value:g} is not a positive number", hint="give a positive number")
        return cls(kind, float(value))  # type: ignore[arg-type]


def search(target: RateTarget, measure: Callable[[int], float], low: int, high: int) -> int:
    """The integer in [low, high] at which the increasing function `measure` is closest to the target.

    Regula falsi in the logarithm, with a bisection step every fourth trial. Raises UsageError if the target is more than 2 %
    outside the range of the function.
    """
    values = {low: measure(low), high: measure(high)}
    _check_range(target, values[low], values[high])
    wanted = math.log(target.value)
    for trial in range(MAX_TRIALS):
        if min(abs(value / target.value - 1) for value in values.values()) <= TOLERANCE[target.kind] or high - low <= 1:
            break
        below, above = math.log(values[low]), math.log(values[high])
        share = (wanted - below) / max(above - below, 1e-9)
        share = 0.5 if trial % 4 == 3 else min(max(share, 0.02), 0.98)
        middle = min(max(round(low + share * (high - low)), low + 1), high - 1)
        values[middle] = measure(middle)
        low, high = (middle, high) if values[middle] < target.value else (low, middle)
    return min(values, key=lambda steps: abs(values[steps] / target.value - 1))


def _check_range(target: RateTarget, lowest: float, highest: float) -> None:
    if lowest <= target.value * 1.02 and highest >= target.value / 1.02:
        return
    raise UsageError(
        f"{target.value:g} {target.unit} is out of reach: this model gives {lowest:.3g} to {highest:.3g} on this image",
        hint="choose a target in that range",
    )
