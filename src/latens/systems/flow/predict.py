"""Loaded flow: densities, latents, samples, certificates and class probabilities of images or of rows of a table."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from latens.arguments import real, whole
from latens.codes.logdet import Series
from latens.data.images import ImageLike, Pixels, read_image
from latens.data.squares import center_square
from latens.errors import InputError, ModelError, ModelMissing, UnreadableInput, UsageError
from latens.hub import fitting, load_network, locate, read_config
from latens.inference.device import choose_device, in_plain_torch, plain_torch
from latens.inference.kept import keepable
from latens.inference.many import OnError, many
from latens.shapes import Float, UInt8
from latens.systems.flow.config import DensityFlow, FlowConfig, ImageFlow, VectorFlow
from latens.systems.flow.dataset import in_channels
from latens.systems.flow.kinds import refuse_images, refuse_table
from latens.systems.flow.model import Certificate, Flow
from latens.systems.flow.scoring import Scores, row_estimate, score_images, score_rows
from latens.systems.flow.table import read_table
from latens.systems.flow.unusual import STATISTICS, Reference, share_below, statistics_of

logger = logging.getLogger(__name__)

NAME = "flow"
DRAWS = 4  # default number of draws of dequantization noise
SAMPLE_BATCH = 64
ROW_BATCH = 10_000
MAX_ASPECT = 16  # maximum ratio of the sides: the center square holds less than 1/16 of a longer image


@dataclass(frozen=True)
class Density:
    """Density of one image."""

    bits_per_dim: float
    standard_error: float  # over draws of noise; NaN for one draw
    unusual: float  # share of held-out images that are less unusual, in [0, 1]; NaN without reference statistics
    notes: tuple[str, ...]  # conversions of the image

    def to_dict(self) -> dict[str, Any]:
        return {
            "bits_per_dim": round(self.bits_per_dim, 5),
            "standard_error": None if np.isnan(self.standard_error) else round(self.standard_error, 5),
            "unusual": None if np.isnan(self.unusual) else round(self.unusual, 4),
            "notes": list(self.notes),
        }


@in_plain_torch
class DensityModel:
    """A flow on images or on rows, loaded for use. Log-densities are natural logarithms.

    Images are paths, PIL images, arrays, tensors, or sequences of these. Rows are arrays (n, D), data frames, tensors, or paths
    of tables.
    """

    def __init__(
        self, model: Flow, *, name: str, sha256: str, device: torch.device, described: dict[str, Any] | None = None
    ) -> None:
        self.model = model.to(device).eval().requires_grad_(False)
        self.name, self.model_id, self.device, self.precision = name, sha256, device, "float32"
        self.described = described or {}
        self.terms = int(self.described.get("terms", 12))

    def __repr__(self) -> str:
        return f"DensityModel({self.name}, weights {self.model_id[:12]}, {self.device}, {self.config.kind})"

    @property
    def config(self) -> DensityFlow:
        return self.model.config

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of a table model; empty for an image model."""
        return tuple(self.described.get("columns", ()))

    # ---------------------------------------------------------------------------------------------------------- density

    def log_prob(self, data: Any, *, draws: int = DRAWS) -> Float[np.ndarray, "n"]:
        """Log-density in nats (float64) of every row, in the units of the table; or of every image, a lower bound on the
        log-probability of its 8-bit values, averaged over `draws` of noise.
        """
        if isinstance(self.config, VectorFlow):
            return score_rows(self.model, self._rows(data), terms=self.terms)
        scores = self.scores(self._pixels(data), draws=draws)
        nats: np.ndarray = -scores.mean * self.model.dims * np.log(2)
        return nats

    def density(self, images: Any, *, draws: int = DRAWS) -> list[Density]:
        """Bits per dimension, standard error and `unusual` of every image. Raises UsageError for a table model."""
        self._image_config("density")
        return self.density_of(self._squares(images), draws=draws)

    def density_many(
        self, images: Iterable[ImageLike], *, on_error: OnError | None = None, **options: Any
    ) -> Iterator[Density]:
        """Yield the densities of images, one at a time; options as in `density`. See `latens.inference.many`."""
        return many(lambda image, **given: self.density(image, **given)[0], images, on_error, options)

    def density_of(self, squares: Sequence[Square], *, draws: int = DRAWS) -> list[Density]:
        """`density` of images prepared by `one_square`."""
        pixels = torch.from_numpy(np.stack([one.pixels for one in squares]))
        scores = self.scores(pixels, draws=draws)
        unusual = self._unusual(pixels, scores)
        rows = zip(scores.mean, scores.standard_error, unusual, squares, strict=True)
        return [Density(float(m), float(e), float(u), one.notes) for m, e, u, one in rows]

    def scores(self, pixels: Tensor, *, draws: int = 1, bounds: bool = False) -> Scores:
        """`latens.systems.flow.scoring.score_images` with the number of series terms of the model's validation."""
        if whole(draws, "draws") < 1:
            raise UsageError("the number of draws must be at least 1", where=f"draws {draws}")
        return score_images(self.model, pixels, terms=self.terms, draws=draws, bounds=bounds)

    def _unusual(self, pixels: Tensor, scores: Scores) -> np.ndarray:
        reference = self.reference
        if reference is None:
            return np.full(len(pixels), np.nan)
        return reference.unusual(statistics_of(pixels.numpy(), scores.latents, scores.mean, self.model.shape))

    @property
    def reference(self) -> Reference | None:
        """Statistics of held-out images; None if the model has none."""
        plain = self.described.get("reference")
        return Reference.from_dict(plain) if isinstance(plain, dict) and "precision" in plain else None

    def check_reference(self) -> None:
        """Raises ValueError, TypeError or KeyError for statistics of held-out images or rows that cannot be used."""
        if isinstance(self.config, VectorFlow):
            self.unusual_rows(np.zeros(1))
        elif self.reference is not None:
            self.reference.unusual(np.zeros((1, len(STATISTICS))))

    def unusual_rows(self, log_prob: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Share of held-out rows with a higher density, in [0, 1]; NaN without reference statistics."""
        plain = self.described.get("reference")
        if not isinstance(plain, dict) or "nats" not in plain:
            return np.full(len(log_prob), np.nan)
        return share_below(np.array(plain["nats"], dtype=np.float64), -log_prob)

    # ----------------------------------------------------------------------------------------------- latents and samples

    @torch.no_grad()
    def __call__(self, data: Any) -> Float[Tensor, "n D"]:
        """Latents of rows, or of images dequantized without noise: (v + 1/2) / 256."""
        if isinstance(self.config, VectorFlow):
            rows = self._rows(data)
            estimate = row_estimate(self.model.dims, 1)
            return torch.cat([self.model(part.to(self.device), estimate).latent.cpu() for part in rows.split(ROW_BATCH)])
        pixels = self._pixels(data)
        parts = [self._code(part) for part in pixels.split(SAMPLE_BATCH)]
        return torch.cat(parts)

    def _code(self, pixels: Tensor) -> Tensor:
        x = ((pixels.to(self.device).float() + 0.5) / 256).contiguous(memory_format=torch.channels_last)
        latent: Tensor = self.model(x, Series(1)).latent.cpu()
        return latent

    def inverse(self, latents: Float[Tensor, "n D"]) -> Tensor:
        """Rows (float64) in the units of the table, or images (n, C, S, S), float, with 8-bit values floor(256 x).

        Raises InputError for latents of another shape and for non-finite values.
        """
        try:
            z = torch.as_tensor(latents, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            what = f"an object of the type {type(latents).__name__} is no array of latents"
            raise InputError(what, where=self.name, hint=f"give an array of shape (n, {self.model.dims})") from error
        if z.ndim != 2 or z.shape[1] != self.model.dims:
            hint = f"give latents of shape (n, {self.model.dims})"
            raise InputError(f"latents of shape {tuple(z.shape)} do not fit the model", where=self.name, hint=hint)
        if not bool(z.isfinite().all()):
            raise InputError("the latents contain values that are not finite", where=self.name)
        parts = [self.model.inverse(part.to(self.device)).cpu() for part in z.split(self._batch)]
        return torch.cat(parts) if parts else z

    @property
    def _batch(self) -> int:
        return ROW_BATCH if isinstance(self.config, VectorFlow) else SAMPLE_BATCH

    def sample(self, count: int, *, seed: int = 0, temperature: float = 1.0) -> np.ndarray:
        """`count` random rows (n, D), float64, or images (n, S, S, 3), uint8. `temperature` (>= 0) multiplies the latents.

        Raises UsageError for a count below 1 and for another temperature.
        """
        parts = list(self.sampled(count, seed=seed, temperature=temperature))
        return np.concatenate(parts)

    def sampled(self, count: int, *, seed: int = 0, temperature: float = 1.0) -> Iterator[np.ndarray]:
        """Batches of `sample`. Each sample depends only on the seed and on its index. Raises UsageError like `sample`."""
        if whole(count, "count") < 1:
            raise UsageError(f"the number of samples must be at least 1, not {count}", where="sample")
        if (seed := whole(seed, "seed")) < 0:
            raise UsageError("the seed must be at least 0", where=f"seed {seed}")
        if not 0 <= real(temperature, "temperature") < float("inf"):
            raise UsageError("the temperature must be finite and at least 0", where=f"temperature {temperature}")
        for start in range(0, count, self._batch):
            rows = range(start, min(start + self._batch, count))
            latents = np.stack([np.random.default_rng([seed, row]).standard_normal(self.model.dims) for row in rows])
            x = self.inverse(torch.from_numpy(temperature * latents))
            yield x.numpy() if isinstance(self.config, VectorFlow) else as_images(x)

    # ------------------------------------------------------------------------------------------------ certificate, classes

    def certify(self) -> list[Certificate]:
        """Proven Lipschitz bounds of all residual maps. The model is invertible if all are below 1."""
        return self.model.certify()

    def classify(self, images: Any) -> Float[np.ndarray, "n K"]:
        """Class probabilities of a hybrid model. Raises ModelMissing for a model without a classifier."""
        config = self._image_config("classify")
        if not config.classes:
            hint = (
                "train one: `latens train flow --recipe hybrid --data cifar10:PATH -o runs/hybrid`, then name runs/hybrid/best"
            )
            raise ModelMissing("this model has no classifier", where=self.name, hint=hint)
        scores = score_images(self.model, self._pixels(images), terms=1)
        assert scores.logits is not None
        return scores.logits.softmax(1).double().numpy()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of a hybrid model; empty for other models."""
        return tuple(self.described.get("classes", ()))

    # ------------------------------------------------------------------------------------------------------------- inputs

    def _image_config(self, verb: str) -> ImageFlow:
        if isinstance(self.config, VectorFlow):
            hint = f"use log_prob or sample; for images load an image model such as {NAME}"
            raise UsageError(f"{verb} needs an image model, and this is a table model", where=self.name, hint=hint)
        assert isinstance(self.config, ImageFlow)
        return self.config

    def check_table(self, data: Any) -> None:
        """Raises InputError for images given to a table model."""
        refuse_images(data, self.name, self.model.dims, self.columns)

    def _rows(self, data: Any) -> Tensor:
        self.check_table(data)
        rows = read_table(data).rows
        if rows.shape[1] != self.model.dims:
            what = f"the table has {rows.shape[1]} columns, the model {self.model.dims}"
            hint = f"the columns of the model are {', '.join(self.columns)}" if self.columns else None
            raise InputError(what, where=str(data) if isinstance(data, str | Path) else self.name, hint=hint)
        return torch.from_numpy(rows)

    def _pixels(self, images: Any) -> UInt8[Tensor, "n C S S"]:
        return torch.from_numpy(np.stack([one.pixels for one in self._squares(images)]))

    def _squares(self, images: Any) -> list[Square]:
        """Square images for the model. Raises UsageError without images, and the exceptions of `one_square`."""
        config = self._image_config("this call")
        several = single_images(images)
        if not several:
            raise UsageError("no images were given", where=self.name, hint="give at least one")
        return [one_square(one, config) for one in several]


class Square(NamedTuple):
    """Square image in the size of the model."""

    pixels: UInt8[np.ndarray, "C S S"]
    notes: tuple[str, ...]  # conversions of the image


def one_square(image: ImageLike, config: ImageFlow) -> Square:
    """Reads an image and crops and resizes it for a model. Raises InputError, UnreadableInput or LimitExceeded."""
    try:
        loaded = read_image(image)
    except UnreadableInput:
        refuse_table(image, config.size)
        raise
    height, width = loaded.pixels.shape[:2]
    notes = list(loaded.notes_without_alpha())
    where = str(image) if isinstance(image, str | Path) else None
    if max(height, width) > MAX_ASPECT * min(height, width):
        what = f"the image of {width} x {height} pixels has an aspect ratio above {MAX_ASPECT}"
        raise InputError(what, where=where, hint="crop the image")
    if loaded.gray and config.channels == 3:
        notes.append("gray repeated in three channels")
    if not loaded.gray and config.channels == 1:
        notes.append("color converted to gray")
    if (height, width) != (config.size, config.size):
        notes.append(f"center square of {width} x {height} resized to {config.size} x {config.size}")
    return Square(in_channels(center_square(loaded.pixels, config.size), config.channels), tuple(notes))


def single_images(images: Any) -> list[ImageLike]:
    """Flat list of the images in one image, a (nested) sequence of images, or a batch; files are not read."""
    if isinstance(images, list | tuple) or (isinstance(images, np.ndarray | Tensor) and images.ndim == 4):
        several: Sequence[Any] = list(images)
        return [single for one in several for single in single_images(one)]
    return [cast(ImageLike, images)]


def as_images(x: Float[Tensor, "n C S S"]) -> Pixels:
    """8-bit images (n, S, S, 3) of dequantized values x in [0, 1]: floor(256 x), clipped to 0..255. Gray becomes RGB."""
    values = (x * 256).floor().clamp(0, 255).to(torch.uint8)
    pixels: np.ndarray = values.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()
    return pixels


@keepable
@plain_torch()
def load(place: str | Path = NAME, *, device: str | torch.device = "auto", threads: int | None = None) -> DensityModel:
    """Loads a flow by name, model folder or hub id.

    Raises ModelMissing, ModelError or DeviceUnavailable; UsageError for a model of `latens density pack`.
    """
    chosen = choose_device(device, threads)
    folder = locate(place)
    if read_config(folder).get("model", {}).get("kind") == "integer":
        hint = "use it with `latens density pack`; for densities load an image or table model"
        raise UsageError("this model packs images and does not compute densities", where=str(place), hint=hint)
    found, model = load_network(folder, NAME, FlowConfig, lambda config: Flow(config, frozen=True))
    if isinstance(model.config, VectorFlow) and not model.config.columns:
        raise ModelError("the settings of the model have no columns", where=str(folder), hint="save or train the model again")
    with fitting(folder):
        made = DensityModel(model, name=folder.name, sha256=found.sha256, device=chosen, described=found.config)
        made.check_reference()
    return made
