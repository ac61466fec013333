"""Rate control of a refinement: a controller moves lambda until the rounded latents reach a rate or a PSNR."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from latens.codes.annealing import Refine
from latens.codes.goals import PEAK, Measurement
from latens.codes.rate_target import CLOSE, TOLERANCE, RateTarget
from latens.shapes import Float

PILOT_DIVISOR = 6  # one step in six is spent on a pilot run that estimates the gain of the refinement,
PILOT_STEPS = 20  # but at least this many, or half of the steps
CHECKS = 50  # measurements during a refinement, each followed by an update of lambda
HOLD = 0.1  # share of the steps before the first update of lambda
# d ln(bpp) / d ln(lambda) and d PSNR / d ln(lambda) during a refinement, measured on photographs; they scale the updates.
SLOPE = {"bpp": 0.35, "psnr": 1.4}
PROPORTIONAL = 1.0  # proportional gain of the controller
INTEGRAL = 0.35  # integral gain of the controller
LAMBDA_RANGE = 30.0  # lambda stays within this factor of its first value
# (free, hard) errors of the target, relative for a rate and in dB for a PSNR. Below `free` there is no penalty; between the
# two the loss grows by PENALTY x excess; above `hard` the candidate is rejected.
TOLERANCES = {"bpp": (0.005, 0.015), "psnr": (CLOSE["psnr"], TOLERANCE["psnr"])}
PENALTY = {"bpp": 4.0, "psnr": 0.11}
REJECTED = 1e6


def pilot_steps(steps: int) -> int:
    """How many of all steps of a refinement to a target are those of the pilot run."""
    return max(steps // PILOT_DIVISOR, min(PILOT_STEPS, steps // 2), 1)


def interval(every: int, steps: int) -> int:
    """Steps between measurements of the controller, at most `every`, in a run of `steps`."""
    return max(min(every, steps // CHECKS), 1)


class TargetPlan:
    """A `codes.budget.Plan`: the pilot run, a search of `search` seconds for the quality, and the controlled run."""

    def __init__(self, every: int, search: float) -> None:
        self.every, self.search = every, search

    def first(self, steps: int) -> int:
        return pilot_steps(steps)

    def seconds(self, steps: int, step: float, measurement: float) -> float:
        pilot = pilot_steps(steps)
        rest = max(steps - pilot, 1)
        measurements = -(-pilot // self.every) - (-rest // interval(self.every, rest))
        return (pilot + rest) * step + measurements * measurement + self.search


class RateControl:
    """A `Goal`: minimal distortion at a rate (bits per pixel of the file), or minimal rate at a PSNR (dB).

    A proportional-integral controller changes log lambda, starting from `weight`. `overhead` is the number of bits of a file
    that are not symbols.
    """

    def __init__(
        self, target: RateTarget, weight: float, pixels: int, overhead: float, settings: Refine, device: torch.device
    ) -> None:
        self.target = target
        self.settings = replace(settings, measure_every=interval(settings.measure_every, settings.steps))
        self._first = math.log(weight)
        self._log_weight = self._first
        self._sum = 0.0
        self._pixels, self._overhead, self._device = pixels, overhead, device

    def weight(self) -> Float[Tensor, "1"]:
        return torch.tensor([math.exp(self._log_weight)], device=self._device)

    def value(self, found: Measurement) -> Float[Tensor, "1"]:
        """The controlled quantity of a measurement."""
        return found.bpp(self._pixels) + self._overhead / self._pixels if self.target.kind == "bpp" else found.psnr()

    def score(self, found: Measurement) -> Float[Tensor, "1"]:
        """Loss at the first lambda, with a penalty (see TOLERANCES) for the error of the target.

        Above the hard tolerance the score is larger than every loss and grows with the error.
        """
        missed = self.target.error(self.value(found))
        loss = found.bpp(self._pixels) + math.exp(self._first) * PEAK * found.mse
        free, hard = TOLERANCES[self.target.kind]
        penalty = PENALTY[self.target.kind] * (missed - free).clamp_min(0)
        return torch.where(missed <= hard, loss * (1 + penalty), REJECTED * (1 + missed))

    def observe(self, found: Measurement, step: int) -> None:
        if step < HOLD * self.settings.steps:
            return
        value = float(self.value(found))
        short = math.log(self.target.value / value) if self.target.kind == "bpp" else self.target.value - value
        error = short / SLOPE[self.target.kind]
        limit = math.log(LAMBDA_RANGE)
        self._sum = min(max(self._sum + INTEGRAL * error, -limit), limit)
        self._log_weight = self._first + min(max(self._sum + PROPORTIONAL * error, -limit), limit)
