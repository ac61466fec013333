"""Steering a refinement to a rate or a PSNR: lambda is changed on the way until the rounded latents meet the target."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from latens.codes.annealing import Refine
from latens.codes.refine import PEAK, Measurement
from latens.shapes import Float
from latens.systems.image_codec.aim import Aim

CHECKS = 50  # measurements on the way, each of which moves lambda
BEGIN = 0.1  # share of the steps with the first lambda
# How much ln(bpp), or dB, changes per ln(lambda) while latents are refined, as found on photographs: the scale of a move.
SLOPE = {"bpp": 0.35, "psnr": 1.4}
AT_ONCE = 1.0  # part of the error that lambda answers directly
ADDED_UP = 0.35  # part of the error that every check adds to the answer for good
REACH = 30.0  # lambda stays within this factor of the first
# Relative errors: up to the first a target is met, up to the second an error costs PENALTY times itself of the loss.
ALLOWED = {"bpp": (0.005, 0.015), "psnr": (0.0005, 0.003)}
PENALTY = 4.0
MISSED = 1e6


class Target:
    """A `Goal`: the least distortion at a rate (bits per pixel of the file), or the least rate at a PSNR (dB).

    `weight` is the first lambda, `overhead` the bits of a file that are not symbols.
    """

    def __init__(self, aim: Aim, weight: float, pixels: int, overhead: float, settings: Refine, device: torch.device) -> None:
        self.aim = aim
        self.settings = replace(settings, measure_every=max(min(settings.measure_every, settings.steps // CHECKS), 1))
        self._first = math.log(weight)
        self._log_weight = self._first
        self._sum = 0.0
        self._pixels, self._overhead, self._device = pixels, overhead, device

    def weight(self) -> Float[Tensor, "1"]:
        return torch.tensor([math.exp(self._log_weight)], device=self._device)

    def value(self, found: Measurement) -> Float[Tensor, "1"]:
        """What is aimed at, as it was found."""
        return found.bpp(self._pixels) + self._overhead / self._pixels if self.aim.kind == "bpp" else found.psnr()

    def score(self, found: Measurement) -> Float[Tensor, "1"]:
        """Loss at the first lambda, raised where the target is not quite met; where it is missed, by how much."""
        missed = (self.value(found) / self.aim.value - 1).abs()
        loss = found.bpp(self._pixels) + math.exp(self._first) * PEAK * found.mse
        free, most = ALLOWED[self.aim.kind]
        return torch.where(missed <= most, loss * (1 + PENALTY * (missed - free).clamp_min(0)), MISSED * (1 + missed))

    def observe(self, found: Measurement, step: int) -> None:
        if step < BEGIN * self.settings.steps:
            return
        value = float(self.value(found))
        short = math.log(self.aim.value / value) if self.aim.kind == "bpp" else self.aim.value - value
        error = short / SLOPE[self.aim.kind]
        limit = math.log(REACH)
        self._sum = min(max(self._sum + ADDED_UP * error, -limit), limit)
        self._log_weight = self._first + min(max(self._sum + AT_ONCE * error, -limit), limit)
