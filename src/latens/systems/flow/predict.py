"""The loaded flow: densities, latents, samples, certificates, classes; of images or of rows of a table."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from latens.codes.logdet import Series
from latens.data.images import ImageLike, Pixels, read_image
from latens.data.squares import center_square
from latens.errors import InputError, ModelError, ModelMissing, UsageError
from latens.hub import load_network, locate, read_config
from latens.inference.device import choose_device
from latens.shapes import Float, UInt8
from latens.systems.flow.config import DensityFlow, FlowConfig, ImageFlow, VectorFlow
from latens.systems.flow.dataset import in_channels
from latens.systems.flow.model import Certificate, Flow
from latens.systems.flow.scoring import Scores, row_estimate, score_images, score_rows
from latens.systems.flow.table import read_table
from latens.systems.flow.unusual import Reference, share_below, statistics_of

logger = logging.getLogger(__name__)

NAME = "flow"
DRAWS = 4  # of noise, for one score
SAMPLE_BATCH = 64
ROW_BATCH = 10_000
MAX_ASPECT = 16  # of the sides: more leaves hardly anything of the image in its middle square


@dataclass(frozen=True)
class Density:
    """The density of one image."""

    bits_per_dim: float
    standard_error: float  # over draws of the noise; NaN for one draw
    unusual: float  # share of held-out images that are less unusual, in [0, 1]; NaN where the model has no reference
    notes: tuple[str, ...]  # what was done to the image

    def to_dict(self) -> dict[str, Any]:
        return {
            "bits_per_dim": round(self.bits_per_dim, 5),
            "standard_error": None if np.isnan(self.standard_error) else round(self.standard_error, 5),
            "unusual": None if np.isnan(self.unusual) else round(self.unusual, 4),
            "notes": list(self.notes),
        }


class DensityModel:
    """A flow with the conveniences of a user. Log-densities are natural logarithms.

    Of images, which may be paths, PIL images, arrays, tensors or sequences of these; or of rows: arrays (n, D), data frames,
    tensors, paths of tables.
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
        """Names of the columns of a table's model."""
        return tuple(self.described.get("columns", ()))

    # ---------------------------------------------------------------------------------------------------------- density

    def log_prob(self, data: Any, *, draws: int = DRAWS) -> Float[np.ndarray, "n"]:
        """Log-density of every row in the units of the table; or the log-probability of every 8-bit image, of which the mean
        over `draws` of noise is a lower bound. float64, in nats.
        """
        if isinstance(self.config, VectorFlow):
            return score_rows(self.model, self._rows(data), terms=self.terms)
        scores = self.scores(self._pixels(data), draws=draws)
        nats: np.ndarray = -scores.mean * self.model.dims * np.log(2)
        return nats

    def density(self, images: Any, *, draws: int = DRAWS) -> list[Density]:
        """Bits per dimension, their standard error, and how unusual each image is. Raises UsageError for a table's model."""
        self._image_config("density")
        return self.density_of(self._squares(images), draws=draws)

    def density_of(self, squares: Sequence[Square], *, draws: int = DRAWS) -> list[Density]:
        """As `density`, of images that `one_square` has prepared."""
        pixels = torch.from_numpy(np.stack([one.pixels for one in squares]))
        scores = self.scores(pixels, draws=draws)
        unusual = self._unusual(pixels, scores)
        rows = zip(scores.mean, scores.standard_error, unusual, squares, strict=True)
        return [Density(float(m), float(e), float(u), one.notes) for m, e, u, one in rows]

    def scores(self, pixels: Tensor, *, draws: int = 1, bounds: bool = False) -> Scores:
        """As `latens.systems.flow.scoring.score_images`, with the terms that the model was validated with."""
        if draws < 1:
            raise UsageError("at least one draw is needed", where=f"draws {draws}")
        return score_images(self.model, pixels, terms=self.terms, draws=draws, bounds=bounds)

    def _unusual(self, pixels: Tensor, scores: Scores) -> np.ndarray:
        reference = self.reference
        if reference is None:
            return np.full(len(pixels), np.nan)
        return reference.unusual(statistics_of(pixels.numpy(), scores.latents, scores.mean, self.model.shape))

    @property
    def reference(self) -> Reference | None:
        """Statistics of held-out images, where the model has them."""
        plain = self.described.get("reference")
        return Reference.from_dict(plain) if isinstance(plain, dict) and "precision" in plain else None

    def unusual_rows(self, log_prob: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Share of held-out rows with a higher density; NaN where the model has no reference."""
        plain = self.described.get("reference")
        if not isinstance(plain, dict) or "nats" not in plain:
            return np.full(len(log_prob), np.nan)
        return share_below(np.array(plain["nats"]), -log_prob)

    # ----------------------------------------------------------------------------------------------- latents and samples

    @torch.no_grad()
    def __call__(self, data: Any) -> Float[Tensor, "n D"]:
        """Latents: of rows, or of images whose values lie in the middle of their cells, (v + 1/2) / 256."""
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
        """Rows, float64, in the units of the table; or images (n, C, S, S), float, whose 8-bit values are floor(256 x)."""
        z = torch.as_tensor(latents, dtype=torch.float32)
        if z.ndim != 2 or z.shape[1] != self.model.dims:
            hint = f"give (n, {self.model.dims}), as the model returns them"
            raise InputError(f"latents of shape {tuple(z.shape)}", where=self.name, hint=hint)
        if not bool(z.isfinite().all()):
            raise InputError("latents that are not finite", where=self.name)
        parts = [self.model.inverse(part.to(self.device)).cpu() for part in z.split(self._batch)]
        return torch.cat(parts) if parts else z

    @property
    def _batch(self) -> int:
        return ROW_BATCH if isinstance(self.config, VectorFlow) else SAMPLE_BATCH

    def sample(self, count: int, *, seed: int = 0, temperature: float = 1.0) -> np.ndarray:
        """New rows (n, D), float64; or images (n, S, S, 3), uint8. `temperature` scales the latents."""
        parts = list(self.sampled(count, seed=seed, temperature=temperature))
        return np.concatenate(parts)

    def sampled(self, count: int, *, seed: int = 0, temperature: float = 1.0) -> Iterator[np.ndarray]:
        """As `sample`, in pieces that fit into memory; each sample depends on the seed and its number alone."""
        if count < 1:
            raise UsageError("at least one sample is needed", where=f"sample {count}")
        if not 0 <= temperature < float("inf"):
            raise UsageError("a temperature is a finite number from 0", where=f"temperature {temperature}")
        for start in range(0, count, self._batch):
            rows = range(start, min(start + self._batch, count))
            latents = np.stack([np.random.default_rng([seed, row]).standard_normal(self.model.dims) for row in rows])
            x = self.inverse(torch.from_numpy(temperature * latents))
            yield x.numpy() if isinstance(self.config, VectorFlow) else as_images(x)

    # ------------------------------------------------------------------------------------------------ certificate, classes

    def certify(self) -> list[Certificate]:
        """A rigorous bound on the Lipschitz constant of every residual map's branch; all below 1: the model is invertible."""
        return self.model.certify()

    def classify(self, images: Any) -> Float[np.ndarray, "n K"]:
        """Probabilities of the classes of a hybrid model. Raises ModelMissing for a model without a classifier."""
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
        """Names of the classes of a hybrid model."""
        return tuple(self.described.get("classes", ()))

    # ------------------------------------------------------------------------------------------------------------- inputs

    def _image_config(self, verb: str) -> ImageFlow:
        if isinstance(self.config, VectorFlow):
            hint = f"use log_prob or sample; for images name a model of images, such as {NAME}"
            raise UsageError(f"{verb} needs a model of images, and this one is of tables", where=self.name, hint=hint)
        assert isinstance(self.config, ImageFlow)
        return self.config

    def _rows(self, data: Any) -> Tensor:
        rows = read_table(data).rows
        if rows.shape[1] != self.model.dims:
            what = f"{rows.shape[1]} columns for a model of {self.model.dims}"
            hint = f"the model's columns are {', '.join(self.columns)}" if self.columns else None
            raise InputError(what, where=str(data) if isinstance(data, str | Path) else self.name, hint=hint)
        return torch.from_numpy(rows)

    def _pixels(self, images: Any) -> UInt8[Tensor, "n C S S"]:
        return torch.from_numpy(np.stack([one.pixels for one in self._squares(images)]))

    def _squares(self, images: Any) -> list[Square]:
        """Raises UsageError for no images, and InputError."""
        config = self._image_config("this")
        several = singles(images)
        if not several:
            raise UsageError("there are no images", where=self.name, hint="give at least one")
        return [one_square(one, config) for one in several]


class Square(NamedTuple):
    """An image as the model takes it."""

    pixels: UInt8[np.ndarray, "C S S"]
    notes: tuple[str, ...]  # what was done to it


def one_square(image: ImageLike, config: ImageFlow) -> Square:
    """The image for a model. Raises InputError or LimitExceeded."""
    loaded = read_image(image)
    height, width = loaded.pixels.shape[:2]
    notes = list(loaded.notes)
    where = str(image) if isinstance(image, str | Path) else None
    if max(height, width) > MAX_ASPECT * min(height, width):
        what = f"of {width} x {height} pixels one side is more than {MAX_ASPECT} times the other"
        raise InputError(what, where=where, hint="crop the image")
    if loaded.alpha is not None:
        notes.append("transparency ignored")
    if loaded.gray and config.channels == 3:
        notes.append("gray repeated as color")
    if not loaded.gray and config.channels == 1:
        notes.append("color reduced to gray")
    if (height, width) != (config.size, config.size):
        notes.append(f"middle square of {width} x {height} resized to {config.size} x {config.size}")
    return Square(in_channels(center_square(loaded.pixels, config.size), config.channels), tuple(notes))


def singles(images: Any) -> list[ImageLike]:
    """One image, a sequence of them or a batch as a list of single images, unread."""
    if isinstance(images, list | tuple) or (isinstance(images, np.ndarray | Tensor) and images.ndim == 4):
        several: Sequence[Any] = list(images)
        return [single for one in several for single in singles(one)]
    return [cast(ImageLike, images)]


def as_images(x: Float[Tensor, "n C S S"]) -> Pixels:
    """8-bit images (n, S, S, 3) of dequantized values: floor(256 x), held to 0..255."""
    values = (x * 256).floor().clamp(0, 255).to(torch.uint8)
    pixels: np.ndarray = values.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()
    return pixels


def load(place: str | Path = NAME, *, device: str = "auto", threads: int | None = None) -> DensityModel:
    """A model of this system by name, or from a model folder or a hub id.

    Raises ModelMissing, ModelError or DeviceUnavailable; UsageError for a model that packs images.
    """
    chosen = choose_device(device, threads)
    folder = locate(place)
    if read_config(folder).get("model", {}).get("kind") == "integer":
        hint = "use it with `latens density pack`; for densities name a flow of images or of a table"
        raise UsageError("this model packs images and has no densities of its own", where=str(place), hint=hint)
    found, model = load_network(folder, NAME, FlowConfig, lambda config: Flow(config, frozen=True))
    if isinstance(model.config, VectorFlow) and not model.config.columns:
        raise ModelError("its settings name no columns", where=str(folder), hint="save or train the model again")
    return DensityModel(model, name=folder.name, sha256=found.sha256, device=chosen, described=found.config)
