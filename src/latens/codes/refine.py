"""Refinement of the latents of one image for a frozen model (Yang et al. 2020; Perugachi-Diaz 2024, chapter 5).

    y = analysis(x), z = hyper_analysis(y)              the start
    z_hat ~ round(z - median) + median                  a relaxed rounding, codes/rounding.py
    mean, scale = hyper_synthesis(z_hat)
    y_hat ~ round(y - mean) + mean                      the same law and temperature; a context model rounds in phases
    L = bits(y_hat) + bits(z_hat) per pixel + lambda * 255^2 * MSE(x, synthesis(y_hat)), minimized over y and z

The decoder does not change. During the optimization the loss of the rounded latents is measured, including that of the
unrefined start; the result is the best measurement.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from latens.codes.adam import Adam
from latens.codes.annealing import Refine, RoundingLaw
from latens.codes.budget import Budget, OneDescent
from latens.codes.context import CodedLatent, Rounding
from latens.codes.goals import PEAK, Goal, Lagrangian, Measurement
from latens.codes.rounding import relax
from latens.shapes import Float, Int


@runtime_checkable
class Prior(Protocol):
    """The density of z."""

    def bits(self, z: Tensor, /) -> Tensor: ...
    def medians(self) -> Tensor: ...


@runtime_checkable
class Hyperprior(Protocol):
    """Interface of a refinable codec with a latent y, scaled to unit quantization steps, and a hyper-latent z.

    `systems.image_codec.model.MeanScaleHyperprior` implements it. Shapes: image (B, 3, H, W), y (B, M, h, w).
    """

    @property
    def prior(self) -> Prior: ...
    @property
    def hyper_analysis(self) -> Callable[[Tensor], Tensor]: ...
    def scaled_latent(self, image: Tensor, quality: Tensor, /) -> Tensor: ...
    def code(self, y: Tensor, z_hat: Tensor, quality: Tensor, rounding: Rounding, /) -> CodedLatent: ...
    def reconstruct(self, y_hat: Tensor, quality: Tensor, /) -> Tensor: ...


class Latents(NamedTuple):
    """Optimized latents: y in quantization steps, z in quantization steps relative to the medians."""

    y: Float[Tensor, "B M h w"]
    z: Float[Tensor, "B N h w"]


class Trace(NamedTuple):
    """One measurement, averaged over the batch. `loss` is the loss of the relaxed latents, NaN at the start."""

    step: int
    seconds: float
    loss: float
    true_loss: float  # bpp + lambda * 255^2 * MSE, or the score of the goal
    bpp: float
    psnr: float
    weight: float


class Refined(NamedTuple):
    """Symbols of the best measured latents, and the history of the optimization."""

    best: Measurement
    start: Measurement
    best_step: Int[Tensor, "B"]  # 0 if the start was not improved
    steps: int  # of the schedule
    history: tuple[Trace, ...]
    end: Latents  # after the last step, for a later `start`


Measure = Callable[[Tensor, Tensor], Measurement]
Progress = Callable[[int, float, float], None]  # step, loss, true loss of the last measurement


def refine(
    model: Hyperprior,
    image: Float[Tensor, "B 3 H W"],
    rate_weight: float | Float[Tensor, "B"],
    *,
    quality: float | Float[Tensor, "B"] = 1.0,
    settings: Refine = Refine(),  # noqa: B008
    size: tuple[int, int] | None = None,
    start: Latents | None = None,
    plain: Measurement | None = None,
    measure: Measure | None = None,
    goal: Goal | None = None,
    precision: torch.dtype = torch.float32,
    on_step: Progress | None = None,
    budget: Budget | None = None,
) -> Refined:
    """Refine the latents of images to minimize bpp + rate_weight * 255^2 * MSE (Perugachi-Diaz 2024, Eq. 5.2.2).

    `image` has intensities in [0, 1] and sides that the model accepts. `size` is the (height, width) of the image proper; the
    rest is padding, which the loss ignores. `start` replaces the latents of the encoder, `plain` the measurement that the
    result must improve on, `measure` the model's own measurement (for files with other arithmetic), and `goal` the Lagrangian
    with `rate_weight`. `precision` (float32 or bfloat16) is the precision of the networks during the optimization; rates and
    losses are float32. `on_step` is called after every step. `settings.rate_weight` is not used here; callers use it to choose
    lambda. `budget` fixes the number of steps of settings with `seconds`; by default it begins with this call.

    The model does not change, and no gradients of its weights are computed. The same seed gives the same result on the same
    machine. A non-finite loss ends the optimization; the best result until then is returned.
    """
    shape = size if size is not None else (image.shape[2], image.shape[3])
    image = image.contiguous(memory_format=torch.channels_last)
    levels = _per_image(quality, image)
    medians = model.prior.medians().to(image.device)[:, None, None]
    objective = _Objective(model, image, shape, levels, medians, settings.rounding(), precision)
    goal = goal if goal is not None else Lagrangian(_per_image(rate_weight, image), shape[0] * shape[1])
    if budget is None and settings.seconds is not None:
        budget = Budget(settings.seconds, OneDescent(settings.measure_every))
    with frozen(model):
        begin = objective.encode() if start is None else start
        leaves = Latents(*(v.detach().clone(memory_format=torch.channels_last).requires_grad_() for v in begin))
        measure = measure or objective.measure
        if plain is None:
            measured = partial(measure, leaves.y.detach(), leaves.z.detach())
            plain = measured() if budget is None else budget.timed(measured)
        tracker = _BestTracker(goal, plain, objective.pixels)
        return _descend(objective, leaves, settings, tracker, measure, on_step, budget)


class _Objective:
    """Loss of relaxed latents and cost of rounded ones, for given images."""

    def __init__(
        self,
        model: Hyperprior,
        image: Tensor,
        size: tuple[int, int],
        quality: Tensor,
        medians: Tensor,
        law: RoundingLaw,
        precision: torch.dtype,
    ) -> None:
        self.model, self.image, self.size, self.quality = model, image, size, quality
        self.medians, self.law, self.precision = medians, law, precision
        self.pixels = size[0] * size[1]

    @torch.no_grad()
    def encode(self) -> Latents:
        with self._arithmetic():
            y = self.model.scaled_latent(self.image, self.quality).float()
        return Latents(y, self.model.hyper_analysis(y).float() - self.medians)

    def loss(self, y: Tensor, z: Tensor, weight: Tensor, tau: float, generator: torch.Generator) -> Tensor:
        """Loss per image; y in quantization steps, z relative to the medians."""
        z_hat = relax(z, self.law, tau, generator) + self.medians
        with self._arithmetic():
            coded = self.model.code(y, z_hat, self.quality, lambda residual, _: relax(residual, self.law, tau, generator))
        bits = coded.bits().sum((1, 2, 3)) + self.model.prior.bits(z_hat).sum((1, 2, 3))
        return bits / self.pixels + weight * PEAK * self._mse(coded.y_hat)

    @torch.no_grad()
    def measure(self, y: Tensor, z: Tensor) -> Measurement:
        """Measurement with the model's own arithmetic; the image is neither clamped nor rounded."""
        symbols_z = z.round()
        z_hat = symbols_z + self.medians
        coded = self.model.code(y, z_hat, self.quality, lambda residual, _: residual.round())
        return Measurement(
            coded.symbols.to(torch.int64),
            symbols_z.to(torch.int64),
            coded.bits().sum((1, 2, 3)),
            self.model.prior.bits(z_hat).sum((1, 2, 3)),
            self._mse(coded.y_hat),
        )

    def _mse(self, y_hat: Tensor) -> Tensor:
        with self._arithmetic():
            found = self.model.reconstruct(y_hat, self.quality)
        rows, columns = self.size
        return (found.float() - self.image)[:, :, :rows, :columns].square().mean((1, 2, 3))

    def _arithmetic(self) -> torch.autocast:
        return torch.autocast(self.image.device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16)


@torch.enable_grad()
def _descend(
    objective: _Objective,
    latents: Latents,
    settings: Refine,
    tracker: _BestTracker,
    measure: Measure,
    on_step: Progress | None,
    budget: Budget | None,
) -> Refined:
    y, z = latents
    generator = torch.Generator(y.device).manual_seed(settings.seed)
    adam = Adam([y, z])
    step = 0
    while budget is not None or step < settings.steps:
        step += 1
        if budget is not None:
            budget.begin_step()
        losses = objective.loss(y, z, tracker.goal.weight(), settings.temperature(step - 1), generator)
        loss = losses.sum()
        loss.backward()  # type: ignore[no-untyped-call]
        mean_loss = float(loss.detach()) / len(losses)
        if not math.isfinite(mean_loss):
            break
        rate = settings.learning_rate(step - 1)
        adam.step([rate, rate * settings.hyper_lr])
        if budget is not None and (steps := budget.after(step)) is not None:
            settings, budget = replace(settings, steps=steps, seconds=None), None
        if step % settings.measure_every == 0 or step == settings.steps:
            tracker.add(measure(y.detach(), z.detach()), step, mean_loss)
        if on_step is not None:
            on_step(step, mean_loss, tracker.history[-1].true_loss)
        if settings.patience is not None and tracker.stalled >= settings.patience:
            break
    return tracker.result(settings.steps if budget is None else 1, Latents(y.detach(), z.detach()))


class _BestTracker:
    """Holds the best measurement of every image, by the goal's score."""

    def __init__(self, goal: Goal, start: Measurement, pixels: int) -> None:
        self.goal, self.start, self.pixels, self.began = goal, start, pixels, time.perf_counter()
        self.history: list[Trace] = []
        self.stalled = 0
        self.best = start
        self.best_score = goal.score(start)
        self.best_step = torch.zeros(len(start.mse), dtype=torch.int64, device=start.mse.device)
        self._note(start, 0, math.nan)

    def add(self, found: Measurement, step: int, loss: float) -> None:
        score = self.goal.score(found)
        better = score < self.best_score
        self.best_score = torch.where(better, score, self.best_score)
        self.best_step = torch.where(better, step, self.best_step)
        self.best = Measurement(*(_choose(better, new, old) for new, old in zip(found, self.best, strict=True)))
        self.stalled = 0 if bool(better.any()) else self.stalled + 1
        self._note(found, step, loss)

    def _note(self, found: Measurement, step: int, loss: float) -> None:
        self.goal.observe(found, step)
        values = (self.goal.score(found), found.bpp(self.pixels), found.psnr(), self.goal.weight())
        means = [float(value.double().mean()) for value in values]
        self.history.append(Trace(step, time.perf_counter() - self.began, loss, *means))

    def result(self, steps: int, end: Latents) -> Refined:
        return Refined(self.best, self.start, self.best_step, steps, tuple(self.history), end)


@contextmanager
def frozen(model: object) -> Iterator[None]:
    """Context in which no weight of a module requires a gradient."""
    weights = [p for p in model.parameters() if p.requires_grad] if isinstance(model, torch.nn.Module) else []
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


def _choose(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(mask.view(-1, *[1] * (new.dim() - 1)), new, old)


def _per_image(value: float | Tensor, image: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float32, device=image.device).expand(len(image)).clone()
