"""Latent refinement for files: `codes.refine` for one image and a codec, at a quality, a rate or a PSNR.

Gradient steps use the floating-point model. Measurements use the arithmetic of files: symbols relative to the means of the
integer network, code lengths of the tables of the entropy coder, and the decoded 8-bit image.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from latens.codes.annealing import Refine
from latens.codes.budget import Budget, Clock, OneDescent
from latens.codes.coding import INPUT_BITS
from latens.codes.context import CodedLatent, Rounding
from latens.codes.entropy import FactorizedPrior
from latens.codes.gains import lambda_at
from latens.codes.goals import PEAK, Goal, Lagrangian, Measurement
from latens.codes.rate_control import RateControl, TargetPlan, pilot_steps
from latens.codes.rate_target import RateTarget, missed_by_refinement, search
from latens.codes.refine import Latents, Progress, Refined, refine
from latens.data.images import LoadedImage
from latens.data.tensors import pad_to_multiple, to_tensor
from latens.errors import UsageError
from latens.inference.tiling import in_row_blocks
from latens.shapes import Float
from latens.systems.image_codec.bands import Symbols
from latens.systems.image_codec.config import HYPER_STRIDE, STRIDE
from latens.systems.image_codec.format import QUALITY_STEPS
from latens.systems.image_codec.stages import Stages

ROW_BLOCK_PIXELS = 2**21  # larger images are reconstructed in row blocks, whose activations are recomputed in backward
# With six times as many steps, ln(bpp) or the PSNR changes about 1 + GROWTH / n times as much as in a pilot of n steps.
GROWTH = {"bpp": 30.0, "psnr": -10.0}
SIZE_SHARE = 0.985  # rate that refinement aims for, relative to a target size: its own tolerance is 1.5 %


class BudgetTooShort(UsageError):
    """The time for a refinement ended, after `spent` seconds, before its first step."""

    def __init__(self, spent: float) -> None:
        super().__init__(f"no time for a step after {spent:.3g} s", hint="give the refinement more time")
        self.spent = spent


class RefinedImage(NamedTuple):
    """Symbols for `Stages.write`, and the record of the refinement."""

    symbols: Symbols
    refined: Refined
    steps: int  # with which the same settings give the same symbols
    seconds: float


def refine_image(
    codec: Stages,
    image: LoadedImage,
    target: RateTarget,
    settings: Refine,
    on_step: Progress | None = None,
    *,
    nearest: bool = False,
    clock: Clock = time.perf_counter,
) -> RefinedImage:
    """Refined symbols of an image; they are never worse than the unrefined ones.

    For a quality, the objective is bpp + lambda * 255^2 * MSE, with lambda from `settings.rate_weight` or from the quality
    (Perugachi-Diaz 2024, section 5.4.5). For a target rate the PSNR is optimized, for a target PSNR the rate, and lambda is
    controlled so that the target is met. A target size is a rate slightly below it, and the caller checks the file.

    The time of `settings.seconds`, measured by `clock`, begins with this call. It covers analysis, search, steps and
    measurements. Raises BudgetTooShort if it ends before the first step, and UsageError if the result misses the target, unless
    `nearest` is set.
    """
    budget = None if settings.seconds is None else Budget(settings.seconds, OneDescent(settings.measure_every), clock)
    began = clock()
    pixels, asked = image.pixels, target
    if target.kind == "size":
        target = RateTarget("bpp", SIZE_SHARE * 8 * target.value / pixels[..., 0].size)
    latent = codec.latent(pixels)
    if target.kind == "quality":
        opened = clock()
        trial = Trial(codec, latent, pixels, round(target.value * QUALITY_STEPS))
        weight = torch.tensor([settings.rate_weight or trial.weight], device=codec.device)
        start, goal = trial.start, Lagrangian(weight, trial.pixels)
        _check(budget, clock() - opened)
        found = trial, trial.refine(settings, goal, plain=start, on_step=on_step, budget=budget)
    else:
        found = meet_target(Trials(codec, image, latent, target), asked, settings, on_step, budget, nearest=nearest)
    trial, refined = found
    steps = settings.steps if budget is None else budget.steps or 1  # none are fixed if the first loss is not finite
    return RefinedImage(trial.symbols(refined.best), refined, steps, clock() - began)


def meet_target(
    trials: Trials,
    asked: RateTarget,
    settings: Refine,
    on_step: Progress | None = None,
    budget: Budget | None = None,
    *,
    nearest: bool = False,
) -> tuple[Trial, Refined]:
    """Refine for a rate or PSNR; errors name `asked`. A pilot run estimates the gain, which sets the quality of later steps."""
    if settings.rate_weight is not None:
        raise UsageError("a rate target and `rate_weight` exclude each other", hint="give one of them")
    target = trials.target
    first = trials.at(trials.nearest(target.value))
    if budget is not None:
        budget.plan = TargetPlan(settings.measure_every, budget.spent())
        _check(budget, budget.spent() / len(trials.found))
    weight = torch.tensor([first.weight], device=trials.codec.device)
    short = replace(settings, steps=pilot_steps(settings.steps))
    pilot = first.refine(short, Lagrangian(weight, first.pixels), plain=first.start, on_step=on_step, budget=budget)
    trial = trials.at(trials.nearest(target.value * _headroom(trials, first.start, pilot.best, pilot.steps)))

    total = settings.steps if budget is None else budget.steps or 1
    settings = replace(settings, steps=max(total - pilot.steps, 1), seconds=None)
    goal = RateControl(target, trial.weight, trial.pixels, trials.overhead, settings, trial.device)
    later = None if on_step is None else lambda step, *losses: on_step(step + pilot.steps, *losses)
    refined = trial.refine(goal.settings, goal, start=trial.transfer_latents(first, pilot.end), on_step=later)
    if float(goal.score(first.start)) < float(goal.score(refined.best)):
        trial, refined = first, refined._replace(best=first.start)
    reached = float(goal.value(refined.best))
    if not nearest and not target.reached(reached):
        value = reached * trials.image.pixels[..., 0].size / 8 if asked.kind == "size" else reached
        raise missed_by_refinement(asked, value, trial.quality / QUALITY_STEPS, trials.codec.best_quality)
    return trial, refined


def _check(budget: Budget | None, measurement: float) -> None:
    """Note the time of a measurement. Raises BudgetTooShort if no time is left for a step."""
    if budget is None:
        return
    budget.measurement = measurement
    if not budget.allows_a_step():
        raise BudgetTooShort(budget.spent())


def _headroom(trials: Trials, plain: Measurement, pilot: Measurement, steps: int) -> float:
    """Unrefined value over target (rate or PSNR) from which the remaining steps should reach the target."""
    ratio = trials.value(plain) / trials.value(pilot)
    if trials.target.kind == "bpp":
        ratio = max(ratio, 1.0)  # a short pilot may underestimate the gain
    return min(max(ratio ** max(1 + GROWTH[trials.target.kind] / steps, 0.0), 0.7), 1.4)


class Trials:
    """Unrefined symbols of an image at several qualities, each computed once."""

    def __init__(self, codec: Stages, image: LoadedImage, latent: Tensor, target: RateTarget) -> None:
        self.codec, self.image, self.latent, self.target = codec, image, latent, target
        self.found: dict[int, Trial] = {}

    def at(self, quality: int) -> Trial:
        if quality not in self.found:
            self.found[quality] = Trial(self.codec, self.latent, self.image.pixels, quality)
        return self.found[quality]

    def nearest(self, value: float) -> int:
        """The quality in 1/256 whose unrefined rate or PSNR is nearest to `value`."""
        low, high = QUALITY_STEPS, round(self.codec.best_quality * QUALITY_STEPS)
        if value <= self.measure(low):
            return low
        if value >= self.measure(high):
            return high
        return search(RateTarget(self.target.kind, value), self.measure, low, high)

    def measure(self, quality: int) -> float:
        return self.value(self.at(quality).start)

    def value(self, found: Measurement) -> float:
        """The measured rate or PSNR, whichever is the target."""
        if self.target.kind == "psnr":
            return float(found.psnr())
        return (float(found.bits_y + found.bits_z) + self.overhead) / self.image.pixels[..., 0].size

    @cached_property
    def overhead(self) -> float:
        """Bits of a file in addition to its symbols."""
        trial = self.at(QUALITY_STEPS)
        size = len(self.codec.write(self.image, trial.symbols(trial.start)))
        return 8 * size - float(trial.start.bits_y + trial.start.bits_z)


class Trial:
    """One image at one quality: a `Hyperprior` for `codes.refine` that measures with the arithmetic of files."""

    def __init__(self, codec: Stages, latent: Float[Tensor, "1 M h w"], pixels: np.ndarray, quality: int) -> None:
        self.codec, self.quality = codec, quality
        self.size = (pixels.shape[0], pixels.shape[1])
        self.pixels = pixels.shape[0] * pixels.shape[1]
        self.original = pixels
        self.model = codec.model
        self.level = torch.tensor([quality / QUALITY_STEPS], device=codec.device)
        self.latent = latent
        self.plain = codec.quantize(latent, quality, self.size)
        self.medians = codec.coding.medians.to(codec.device).float() / (1 << INPUT_BITS)
        self.prior = CodedPrior(codec.model.prior, self.medians)
        self.hyper_analysis = codec.model.hyper_analysis

    @property
    def device(self) -> torch.device:
        return self.codec.device

    @property
    def weight(self) -> float:
        """Lambda of the quality."""
        return lambda_at(self.codec.lambdas, self.quality / QUALITY_STEPS)

    def refine(
        self,
        settings: Refine,
        goal: Goal,
        *,
        start: Latents | None = None,
        plain: Measurement | None = None,
        on_step: Progress | None = None,
        budget: Budget | None = None,
    ) -> Refined:
        """Refine the latents of the encoder, or those in `start`. The result is no worse than `plain`."""
        return refine(
            self,
            pad_to_multiple(to_tensor(self.original, channels_last=True), HYPER_STRIDE).to(self.codec.device),
            1.0,  # unused: `goal` has its own weight
            settings=settings,
            size=self.size,
            start=start,
            plain=plain,
            measure=self.measure,
            goal=goal,
            precision=self.codec.dtype,
            on_step=on_step,
            budget=budget,
        )

    def scaled_latent(self, image: Tensor, quality: Tensor) -> Float[Tensor, "1 M h w"]:
        """The latent of the codec, scaled for the quality of this trial. The arguments are not used."""
        gains = self.model.gains
        return self.latent if gains is None else self.latent * gains.forward_gain(self.level)

    def code(
        self, y: Float[Tensor, "1 M h w"], z_hat: Float[Tensor, "1 N ..."], quality: Tensor, rounding: Rounding
    ) -> CodedLatent:
        return self.model.code(y, z_hat, self.level, rounding)

    def reconstruct(self, y_hat: Float[Tensor, "1 M h w"], quality: Tensor) -> Float[Tensor, "1 3 H W"]:
        gains = self.model.gains
        scaled = y_hat if gains is None else y_hat * gains.inverse_gain(self.level)
        halo = self.codec.synthesis_halo
        core = max(ROW_BLOCK_PIXELS // (y_hat.shape[3] * STRIDE) // STRIDE, 4 * halo)
        return in_row_blocks(self.model.synthesis, scaled, core=core, halo=halo, scale=STRIDE)

    def transfer_latents(self, other: Trial, latents: Latents) -> Latents:
        """Latents of another trial in units of the quantization steps of this one."""
        gains = self.model.gains
        if gains is None:
            return latents
        return Latents(latents.y * (gains.forward_gain(self.level) / gains.forward_gain(other.level)), latents.z)

    @cached_property
    def start(self) -> Measurement:
        return self._measured(self.plain)

    @torch.no_grad()
    def measure(self, y: Float[Tensor, "1 M h w"], z: Float[Tensor, "1 N h w"]) -> Measurement:
        """Exact code lengths, and distortion of the decoded 8-bit image. `z` is relative to the medians."""
        symbols_z = self.codec.coding.z_symbols(z + self.medians[:, None, None])
        return self._measured(self.codec.round_latent(y, symbols_z, self.quality, lambda residual, scale: residual.round()))

    def symbols(self, found: Measurement) -> Symbols:
        """The symbols of a measurement, for `Stages.write`."""
        return self.codec.replay(found.y, found.z, self.quality).symbols()

    def _measured(self, symbols: Symbols) -> Measurement:
        coding = self.codec.coding
        bits_y, bits_z = coding.code_length(symbols.y, symbols.parameters.level, symbols.z)
        decoded = self.codec.reconstruct(symbols, self.original.shape)
        error = np.square(decoded.astype(np.float32) - self.original.astype(np.float32)).mean(dtype=np.float64)
        values = (torch.tensor([value], device=symbols.y.device) for value in (bits_y, bits_z, float(error) / PEAK))
        return Measurement(symbols.y, symbols.z, *values)


class CodedPrior(NamedTuple):
    """The density of z, with the medians of the entropy coder."""

    density: FactorizedPrior
    center: Float[Tensor, "N"]

    def bits(self, z: Float[Tensor, "B N h w"]) -> Float[Tensor, "B N h w"]:
        return self.density.bits(z)

    def medians(self) -> Float[Tensor, "N"]:
        return self.center
