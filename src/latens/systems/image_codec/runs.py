"""Refinement runs for the tables and figures of Perugachi-Diaz 2024, chapter 5.

A run refines all images at one lambda with one setting. Its history holds loss, rate and PSNR at several steps, averaged over
the images. The `ExperimentRunner` identifies runs by images, weights and settings, so tables share runs, and a stopped command
continues.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from latens.codes.annealing import Method, Refine
from latens.codes.gains import quality_at
from latens.codes.refine import Trace, refine
from latens.data.images import IMAGE_ENDINGS, read_image
from latens.data.inputs import find_inputs
from latens.data.source import plain_paths
from latens.data.tensors import to_tensor
from latens.errors import InputError, UsageError, counted
from latens.experiments.lab import ExperimentRunner
from latens.experiments.report import Report
from latens.inference.page import Block
from latens.settings import Count, Natural, settings, to_dict
from latens.shapes import Float
from latens.systems.image_codec.config import HYPER_STRIDE, LAMBDAS
from latens.systems.image_codec.predict import ImageCodec

logger = logging.getLogger(__name__)

OF_ONE_IMAGE = "figure5.4.4"  # files of one whole image, whatever the crop of the scale
GROUP_PIXELS = 2**19  # approximate number of pixels in a batch


@settings
class CodecScale:
    """Size of an experiment."""

    images: Natural = 6  # number of images, the first by name; 0: all
    crop: Natural = 256  # side of the center crop; 0: whole images with sides cropped to multiples of 64
    steps: Count = 2000  # refinement steps of the tables and the loss curves
    rate_steps: Count = 500  # refinement steps of the rate-distortion figures
    measure_every: Count = 50  # steps between measurements of the true loss
    seed: Natural = 0  # of the noise
    seeds: Count = 1  # runs of every row of a table, with noise from seed, seed + 1, ...; figures have one


SCALES = MappingProxyType(
    {
        "tiny": CodecScale(images=2, crop=64, steps=20, rate_steps=10, measure_every=5),
        "cpu": CodecScale(),
        "paper": CodecScale(images=0, crop=0, rate_steps=2000),
    }
)

CodecLab: TypeAlias = ExperimentRunner[ImageCodec, CodecScale]


class History(NamedTuple):
    """Measurements of one run, averaged over images. The first entry is the unrefined code."""

    steps: list[int]
    loss: list[float]  # of the relaxed latents; NaN at the start
    true_loss: list[float]  # bpp + lambda * 255^2 * MSE of rounded latents
    bpp: list[float]
    psnr: list[float]  # dB
    seconds: list[float]  # per image, measurements included

    def at(self, step: int) -> int:
        """The index of the last measurement at or before `step`."""
        return max(place for place, known in enumerate(self.steps) if known <= step)

    def share_saved(self, step: int) -> float:
        """Relative decrease of the true loss at a step, in percent."""
        return 100 * (1 - self.true_loss[self.at(step)] / self.true_loss[0])

    def first_step_at(self, true_loss: float) -> int | None:
        """The first measured step whose true loss is at most `true_loss`, or None."""
        reached = (step for step, loss in zip(self.steps, self.true_loss, strict=True) if loss <= true_loss)
        return next(reached, None)


class Subject(NamedTuple):
    """An image of an experiment."""

    path: Path
    image: Float[Tensor, "3 H W"]  # in [0, 1]


class Study:
    """The codec, the images and the runs of a `ExperimentRunner`.

    Raises UsageError without data, InputError for an image smaller than the crop of the scale.
    """

    def __init__(self, lab: CodecLab) -> None:
        if not lab.sources:
            raise UsageError("this table or figure needs images", where="--data", hint="give a folder; the paper used Kodak")
        self.lab, self.scale, self.codec = lab, lab.scale, lab.loaded
        self.subjects = subjects(plain_paths(lab.sources, "the image codec"), lab.scale)
        self.groups = [_Group(self.codec, images) for images in grouped([subject.image for subject in self.subjects])]

    @property
    def lambdas(self) -> list[float]:
        """The lambdas of the paper that the model covers; the smallest lambda of the model if there are none."""
        low, high = min(self.codec.lambdas), max(self.codec.lambdas)
        served = [weight for weight in LAMBDAS if low * 0.999 <= weight <= high * 1.001]
        return served or [low]

    def published(self, method: Method, classes: int = 2, *, steps: int | None = None, **changes: Any) -> Refine:
        """Settings with the constants of the paper."""
        steps = steps or self.scale.steps
        every, seed = self.scale.measure_every, self.scale.seed
        return Refine.thesis(method, classes, steps=steps, measure_every=every, seed=seed, **changes)

    def ours(self, steps: int) -> Refine:
        """Settings of `latens compress --refine`, with the measurement interval of the experiment."""
        return Refine(steps=steps, measure_every=self.scale.measure_every, seed=self.scale.seed)

    def runs(self, base: float, refinement: Refine) -> list[History]:
        """`run` with every seed of the scale."""
        seeds = range(self.scale.seed, self.scale.seed + self.scale.seeds)
        return [self.run(base, dataclasses.replace(refinement, seed=seed)) for seed in seeds]

    def run(self, base: float, refinement: Refine, *, target: float | None = None) -> History:
        """The run that starts at the quality of lambda `base` and is refined for lambda `target` (default: `base`)."""
        weight = base if target is None else target
        histories = [self._history(group, base, weight, refinement) for group in self.groups]
        return mean_history(histories, [len(group.images) for group in self.groups])

    def _history(self, group: _Group, base: float, weight: float, refinement: Refine) -> list[list[float]]:
        def measure() -> list[list[float]]:
            law = refinement.rounding()
            shown = f"{law.method}, {law.classes} classes, {refinement.steps} steps"
            logger.info("%s, lambda %g to %g", shown, base, weight)
            return [list(trace) for trace in group.refine(base, weight, refinement)]

        key = {
            "images": group.digest,
            "model": self.codec.model_id,
            "precision": self.codec.precision,
            "base": base,
            "lambda": weight,
            "refinement": dataclasses.asdict(refinement),
        }
        found: list[list[float]] = self.lab.once(key, measure)
        return found

    def report(self, name: str, title: str, blocks: Sequence[Block]) -> Report:
        """The report of a table or figure."""
        names = [subject.path.stem for subject in self.subjects]
        middle = self.scale.crop and name != OF_ONE_IMAGE
        whose, span = ("their", f"{names[0]} to {names[-1]}") if len(names) > 1 else ("its", names[0])
        part = f"{whose} middle {self.scale.crop} x {self.scale.crop}" if middle else "whole"
        first, last = self.scale.seed, self.scale.seed + (0 if name.startswith("figure") else self.scale.seeds - 1)
        seeds = f"seed {first}" if first == last else f"seeds {first} to {last}"
        about = (
            f"{counted(len(names), 'image')} ({span}), {part}; {seeds}; transforms in "
            f"{self.codec.precision}; model {self.codec.name}, weights {self.codec.model_id[:12]}."
        )
        facts = {
            "model": self.codec.name,
            "model_id": self.codec.model_id,
            "recipe": self.lab.recipe,
            "scale": to_dict(self.scale),
            "images": [subject.path.name for subject in self.subjects],
        }
        return Report(name=name, title=title, about=about, blocks=blocks, facts=facts)


class _Group:
    """Images of one size that are refined together."""

    def __init__(self, codec: ImageCodec, images: Float[Tensor, "B 3 H W"]) -> None:
        self.codec, self.images = codec, images
        self.digest = hashlib.sha256(images.mul(255).round().byte().numpy().tobytes() + repr(images.shape).encode()).hexdigest()

    def refine(self, base: float, weight: float, refinement: Refine) -> list[Trace]:
        """The history of the refinement of the batch; seconds are per image."""
        images, quality = self.images.to(self.codec.device), quality_at(self.codec.lambdas, base)
        model, precision = self.codec.model, self.codec.dtype
        found = refine(model, images, weight, quality=quality, settings=refinement, precision=precision)
        return [trace._replace(seconds=trace.seconds / len(images)) for trace in found.history]


def subjects(paths: Sequence[Path], scale: CodecScale) -> list[Subject]:
    """The images of an experiment. Raises InputError for an image smaller than the crop."""
    files = sorted(find_inputs(paths, IMAGE_ENDINGS), key=lambda file: file.relative)[: scale.images or None]
    return [Subject(file.path, centered(read_image(file.path).pixels, scale.crop, file.path)) for file in files]


def centered(pixels: np.ndarray, crop: int, path: Path) -> Float[Tensor, "3 H W"]:
    """The center crop of an image, uint8 (H, W, 3), as floats in [0, 1].

    With `crop` 0 its sides are the largest multiples of 64. Raises InputError for an image smaller than the crop.
    """
    height, width = (crop or side // HYPER_STRIDE * HYPER_STRIDE for side in pixels.shape[:2])
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    if min(top, left) < 0 or min(height, width) == 0:
        hint = "choose other images, or --set crop=64"
        raise InputError(f"the image has a side below {crop or HYPER_STRIDE} pixels", where=str(path), hint=hint)
    return to_tensor(pixels[top : top + height, left : left + width])[0]


def grouped(images: Sequence[Float[Tensor, "3 H W"]]) -> list[Float[Tensor, "B 3 H W"]]:
    """Batches of images of equal size, of about GROUP_PIXELS pixels each."""
    sizes: dict[tuple[int, ...], list[Tensor]] = {}
    for image in images:
        sizes.setdefault(tuple(image.shape), []).append(image)
    batches = []
    for same in sizes.values():
        count = max(GROUP_PIXELS // same[0][0].numel(), 1)
        batches += [torch.stack(same[start : start + count]) for start in range(0, len(same), count)]
    return batches


def mean_history(histories: Sequence[Sequence[Sequence[float]]], counts: Sequence[int]) -> History:
    """Means over images, from histories of groups of `counts` images; as long as the shortest history."""
    length = min(map(len, histories))
    table = np.array([history[:length] for history in histories], dtype=np.float64)  # group, entry, column of Trace
    means = np.average(table, axis=0, weights=counts)
    columns = {name: means[:, place].tolist() for place, name in enumerate(Trace._fields)}
    steps = [round(step) for step in columns["step"]]
    return History(steps, *(columns[name] for name in ("loss", "true_loss", "bpp", "psnr", "seconds")))
