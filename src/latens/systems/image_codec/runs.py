"""Refinement runs for the tables and figures of 003, chapter 5.

A run refines all images at one lambda under one setting and yields its history: loss, rate and PSNR along the steps, means
over the images. The laboratory keeps runs and finds them again by images, weights and settings.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from latens.codes.annealing import Method, Refine
from latens.codes.gains import quality_at
from latens.codes.refine import Trace, refine
from latens.data.images import PICTURE_ENDINGS, read_picture
from latens.data.inputs import find_inputs
from latens.errors import InputError, UsageError
from latens.experiments.lab import Lab
from latens.settings import Count, Natural, settings, to_dict
from latens.shapes import Float
from latens.systems.image_codec.config import HYPER_STRIDE, LAMBDAS
from latens.systems.image_codec.predict import ImageCodec

logger = logging.getLogger(__name__)

GROUP_PIXELS = 2**19  # pictures of one size are refined together up to about so many pixels


@settings
class Scale:
    """Size of an experiment."""

    images: Natural = 6  # the first of the folder, by name; 0: all
    crop: Natural = 256  # side of the centred square that is used; 0: whole images, sides cut to multiples of 64
    steps: Count = 2000  # of the tables and the loss curves
    rate_steps: Count = 500  # of the rate-distortion figures
    measure_every: Count = 50  # steps between measurements of the true loss
    seed: Natural = 0  # of the noise


SCALES: Mapping[str, Scale] = MappingProxyType(
    {
        "tiny": Scale(images=2, crop=64, steps=20, rate_steps=10, measure_every=5),
        "cpu": Scale(),
        "paper": Scale(images=0, crop=0, rate_steps=2000),
    }
)


class History(NamedTuple):
    """One run along its steps, means over pictures. The first entry is the plain code, before any step."""

    steps: list[int]
    loss: list[float]  # of the relaxed latents; NaN at the start
    true_loss: list[float]  # bpp + lambda * 255^2 * MSE of rounded latents
    bpp: list[float]
    psnr: list[float]  # dB
    seconds: list[float]  # a picture, measuring included

    def at(self, step: int) -> int:
        """The place of the last measurement that is not after `step`."""
        return max(place for place, known in enumerate(self.steps) if known <= step)


class Subject(NamedTuple):
    """A picture under experiment."""

    path: Path
    image: Float[Tensor, "3 H W"]  # in [0, 1]


CodecLab: TypeAlias = Lab[ImageCodec, Scale]


class Refinements:
    """A codec, images and a scale. Raises InputError when there are no images as large as the scale asks for."""

    def __init__(self, lab: CodecLab) -> None:
        self.lab, self.scale, self.codec = lab, lab.scale, lab.loaded
        source = lab.one_source()
        if source is None:
            raise UsageError("this is measured on images", where="--data", hint="give their folder; the thesis used Kodak")
        self.subjects = subjects(source.path, lab.scale)
        self.groups = [_Group(self.codec, images) for images in grouped([subject.image for subject in self.subjects])]

    @property
    def lambdas(self) -> list[float]:
        """The thesis' lambdas that the model serves; its own if it serves none of them."""
        low, high = min(self.codec.lambdas), max(self.codec.lambdas)
        served = [weight for weight in LAMBDAS if low * 0.999 <= weight <= high * 1.001]
        return served or [low]

    def thesis(self, method: Method, classes: int = 2, *, steps: int | None = None, **changes: Any) -> Refine:
        """Settings with the constants of the thesis."""
        steps = steps or self.scale.steps
        every, seed = self.scale.measure_every, self.scale.seed
        return Refine.thesis(method, classes, steps=steps, measure_every=every, seed=seed, **changes)

    def ours(self, steps: int) -> Refine:
        """Settings of `latens compress --refine`, with the measurements of an experiment."""
        return Refine(steps=steps, measure_every=self.scale.measure_every, seed=self.scale.seed)

    def run(self, base: float, settings: Refine, *, target: float | None = None) -> History:
        """The images at the quality of lambda `base`, refined for lambda `target` (by default the same)."""
        weight = base if target is None else target
        histories = [self._history(group, base, weight, settings) for group in self.groups]
        return mean_history(histories, [len(group.images) for group in self.groups])

    def _history(self, group: _Group, base: float, weight: float, settings: Refine) -> list[list[float]]:
        def work() -> list[list[float]]:
            law = settings.rounding()
            what = f"{law.method}, {law.classes} classes, {settings.steps} steps, lambda {base:g} to {weight:g}"
            logger.info("%s", what)
            return [list(trace) for trace in group.refine(base, weight, settings)]

        found: list[list[float]] = self.lab.once(group.key(base, weight, settings), work)
        return found

    def setting(self) -> str:
        """Images and model in a sentence."""
        scale, names = self.scale, [subject.path.stem for subject in self.subjects]
        part = f"their middle {scale.crop} x {scale.crop}" if scale.crop else "whole"
        return (
            f"{len(names)} images ({names[0]} to {names[-1]}), {part}; seed {scale.seed}; "
            f"transforms in {self.codec.precision}; model {self.codec.name}, weights {self.codec.model_id[:12]}."
        )

    def facts(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "model": self.codec.name,
            "model_id": self.codec.model_id,
            "recipe": self.lab.recipe,
            "scale": to_dict(self.scale),
            "images": [subject.path.name for subject in self.subjects],
        }


class _Group:
    """Pictures of one size that are refined together."""

    def __init__(self, codec: ImageCodec, images: Float[Tensor, "B 3 H W"]) -> None:
        self.codec, self.images = codec, images
        self.digest = hashlib.sha256(images.mul(255).round().byte().numpy().tobytes() + repr(images.shape).encode()).hexdigest()

    def key(self, base: float, weight: float, settings: Refine) -> dict[str, Any]:
        """All that decides a run."""
        return {
            "images": self.digest,
            "model": self.codec.model_id,
            "lambdas": [base, weight],
            "settings": dataclasses.asdict(settings),
            "precision": self.codec.precision,
        }

    def refine(self, base: float, weight: float, settings: Refine) -> Iterable[Trace]:
        """Seconds are divided by the number of pictures."""
        images, quality = self.images.to(self.codec.device), quality_at(self.codec.lambdas, base)
        found = refine(self.codec.model, images, weight, quality=quality, settings=settings, precision=self.codec.dtype)
        return [trace._replace(seconds=trace.seconds / len(images)) for trace in found.history]


def subjects(data: Path, scale: Scale) -> list[Subject]:
    """The pictures of a folder that an experiment uses. Raises InputError when one is smaller than the crop."""
    files = find_inputs([data], PICTURE_ENDINGS)
    files = sorted(files, key=lambda file: file.relative)[: scale.images or None]
    return [Subject(file.path, centred(read_picture(file.path).pixels, scale.crop, file.path)) for file in files]


def centred(pixels: np.ndarray, crop: int, path: Path) -> Float[Tensor, "3 H W"]:
    """The middle of a picture (H, W, 3) uint8, in [0, 1]."""
    height, width = (crop or side // HYPER_STRIDE * HYPER_STRIDE for side in pixels.shape[:2])
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    if min(top, left) < 0 or min(height, width) == 0:
        hint = "choose other pictures or --set crop=64"
        raise InputError(f"smaller than the {crop or HYPER_STRIDE} pixels a side that are used", where=str(path), hint=hint)
    middle = pixels[top : top + height, left : left + width]
    return torch.from_numpy(np.ascontiguousarray(middle)).permute(2, 0, 1).float() / 255


def grouped(images: Sequence[Float[Tensor, "3 H W"]]) -> list[Float[Tensor, "B 3 H W"]]:
    """Pictures of one size together, in batches of about GROUP_PIXELS."""
    sizes: dict[tuple[int, ...], list[Tensor]] = {}
    for image in images:
        sizes.setdefault(tuple(image.shape), []).append(image)
    batches = []
    for same in sizes.values():
        count = max(GROUP_PIXELS // same[0][0].numel(), 1)
        batches += [torch.stack(same[start : start + count]) for start in range(0, len(same), count)]
    return batches


def mean_history(histories: Sequence[Sequence[Sequence[float]]], counts: Sequence[int]) -> History:
    """Means over groups of `counts` pictures, up to the step that the shortest of them came to."""
    length = min(map(len, histories))
    table = np.array([history[:length] for history in histories], dtype=np.float64)  # group, entry, column of Trace
    means = np.average(table, axis=0, weights=counts)
    columns = {name: means[:, place].tolist() for place, name in enumerate(Trace._fields)}
    return History(
        [round(step) for step in columns["step"]],
        columns["loss"],
        columns["true_loss"],
        columns["bpp"],
        columns["psnr"],
        columns["seconds"],
    )


def share_saved(history: History, step: int) -> float:
    """By how much of it the true loss has fallen at a step, in percent."""
    return 100 * (1 - history.true_loss[history.at(step)] / history.true_loss[0])


def first_step_at(history: History, true_loss: float) -> int | None:
    """The first measured step whose true loss is not above a value, or None."""
    reached = (step for step, loss in zip(history.steps, history.true_loss, strict=True) if loss <= true_loss)
    return next(reached, None)
