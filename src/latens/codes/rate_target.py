"""Rate targets, and the search for the quality at which an image reaches a target rate or PSNR."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from latens.arguments import byte_size, real
from latens.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

Number = TypeVar("Number", "float", "Tensor")

# Errors of a target as in `RateTarget.error`: relative for a rate or size, in dB for a PSNR.
CLOSE = {"bpp": 0.005, "psnr": 0.01, "size": 0.005}  # error at which the search stops
TOLERANCE = {"bpp": 0.02, "psnr": 0.05, "size": 0.03}  # largest error of a target that counts as reached
MAX_TRIALS = 12


@dataclass(frozen=True)
class RateTarget:
    """Target of an encoding: a quality, bits per pixel (whole file), PSNR in dB, or size of the file in bytes."""

    kind: Literal["quality", "bpp", "psnr", "size"]
    value: float

    @property
    def unit(self) -> str:
        return {"quality": "", "bpp": "bits per pixel", "psnr": "dB", "size": "bytes"}[self.kind]

    def shown(self, *values: float) -> str:
        """Values in the unit of the target, such as "0.5 to 2 bits per pixel"."""
        form = ",.0f" if self.kind == "size" else ".4g"
        return f"{' to '.join(format(value, form) for value in values)} {self.unit}"

    @property
    def aim(self) -> float:
        """The value that a search aims for: a size must not be exceeded."""
        return self.value * (1 - CLOSE["size"] / 2) if self.kind == "size" else self.value

    def error(self, value: Number) -> Number:
        """Distance of a value from the target: relative for a rate or size, in dB for a PSNR; infinite above a size."""
        if self.kind == "psnr":
            return abs(value - self.value)
        if self.kind == "size" and value > self.value:
            return value * math.inf
        return abs(value / self.value - 1)

    def reached(self, value: float) -> bool:
        """True if the value is within TOLERANCE of the target."""
        return self.error(value) <= TOLERANCE[self.kind]

    @classmethod
    def of(
        cls,
        quality: float | None,
        bpp: float | None,
        psnr: float | None,
        size: float | str | None = None,
        *,
        default: float,
        highest: float,
    ) -> RateTarget:
        """Target of four options, of which at most one is given; without any, quality `default`. Qualities are 1 to `highest`.

        Raises UsageError if two options are given or a value is out of range.
        """
        options: dict[str, Any] = {"quality": quality, "bpp": bpp, "psnr": psnr, "size": size}
        given = [(kind, value) for kind, value in options.items() if value is not None]
        if len(given) > 1:
            raise UsageError(f"{given[0][0]} and {given[1][0]} exclude each other", hint="give one of them")
        kind, value = given[0] if given else ("quality", default)
        value = byte_size(value, kind) if kind == "size" else real(value, kind)
        if kind == "quality" and not 1 <= value <= highest:
            raise UsageError(f"quality {value:g} is out of range", hint=f"this model has 1 to {highest:g}")
        if not (math.isfinite(value) and value > 0):
            raise UsageError(f"{kind} {value:g} is not a positive number", hint="give a positive number")
        return cls(kind, float(value))  # type: ignore[arg-type]


def search(target: RateTarget, measure: Callable[[int], float], low: int, high: int, *, nearest: bool = False) -> int:
    """The integer in [low, high] at which the increasing function `measure` is closest to the target, and not above a size.

    Regula falsi in the logarithm, with a bisection step every fourth trial. For a target outside the range of the function by
    more than TOLERANCE, raises UsageError, or returns the nearest end if `nearest` is set.
    """
    values = {low: measure(low), high: measure(high)}
    if not nearest:
        _check_range(target, values[low], values[high])
    if not values[low] < target.value < values[high]:
        return min(values, key=lambda steps: target.error(values[steps]))
    wanted = math.log(target.aim)
    for trial in range(MAX_TRIALS):
        if min(map(target.error, values.values())) <= CLOSE[target.kind] or high - low <= 1:
            break
        below, above = math.log(values[low]), math.log(values[high])
        share = (wanted - below) / max(above - below, 1e-9)
        share = 0.5 if trial % 4 == 3 else min(max(share, 0.02), 0.98)
        middle = min(max(round(low + share * (high - low)), low + 1), high - 1)
        values[middle] = measure(middle)
        low, high = (middle, high) if values[middle] < target.value else (low, middle)
    return min(values, key=lambda steps: target.error(values[steps]))


def _check_range(target: RateTarget, lowest: float, highest: float) -> None:
    if lowest <= target.value <= highest or target.reached(lowest) or target.reached(highest):
        return
    what = f"{target.shown(target.value)} is out of reach: this model gives {target.shown(lowest, highest)} on this image"
    raise UsageError(what, hint="choose a target in that range")


def missed_by_refinement(target: RateTarget, value: float, quality: float, highest: float) -> UsageError:
    """The error for a refinement that reached `value` at a quality in 1 to `highest`, with the targets within its reach."""
    above = value > target.value
    end = 1.0 if above else highest
    what = f"{target.shown(target.value)} is out of reach: refinement reached {target.shown(value)}"
    if quality != end:
        return UsageError(f"{what} on this image", hint="choose a nearer target or more steps")
    share = 1 + (TOLERANCE["bpp"] if target.kind != "psnr" else 0.0) * (1 if above else -1)
    what += f" at quality {quality:g}, the {'lowest' if above else 'highest'}"
    return UsageError(what, hint=f"choose {'at least' if above else 'at most'} {target.shown(share * value)}")
