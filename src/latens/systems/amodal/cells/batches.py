"""Training batches of the star model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from latens.systems.amodal.cells.augment import augmented
from latens.systems.amodal.cells.compose import MARGIN, Canvas, real_canvas
from latens.systems.amodal.cells.config import CropConfig
from latens.systems.amodal.cells.fields import FieldImage, Kind
from latens.systems.amodal.cells.simulate import FLAT, empty_canvas, flat_canvas, simulated_canvas
from latens.systems.amodal.cells.targets import targets_of
from latens.training.data import generator

KIND_SHARES: Mapping[Kind, float] = {"fluorescent": 0.6, "stained": 0.32, "bright": 0.08}
VALIDATION_SEED = 20_118


class Material(NamedTuple):
    """Images of a split: annotated ones, and photographs without cells."""

    images: Sequence[FieldImage]
    photographs: Sequence[np.ndarray]


class CellsData:
    """Batches of normalized crops with the targets of `targets.Targets`, stacked."""

    def __init__(self, train: Material, held_out: Material, config: CropConfig, rays: int, seed: int) -> None:
        self.train = train
        self.held_out = held_out
        self.config = config
        self.rays = rays
        self.seed = seed

    def batch(self, step: int, rank: int) -> dict[str, Tensor]:
        rng = generator(self.seed, step, rank)
        return self._stacked(rng, self.train, self.config.batch, change=True)

    def validation(self) -> list[dict[str, Tensor]]:
        rng = np.random.default_rng(VALIDATION_SEED)
        count, size = self.config.validation, 16
        return [self._stacked(rng, self.held_out, min(size, count - start), change=False) for start in range(0, count, size)]

    def _stacked(self, rng: np.random.Generator, material: Material, count: int, *, change: bool) -> dict[str, Tensor]:
        crops = [self._crop(rng, material, change=change) for _ in range(count)]
        names = crops[0].keys()
        return {name: torch.from_numpy(np.stack([crop[name] for crop in crops])) for name in names}

    def _crop(self, rng: np.random.Generator, material: Material, *, change: bool) -> dict[str, np.ndarray]:
        crop = self.config.crop
        canvas = self.draw(rng, material)
        pixels = canvas.pixels[MARGIN : MARGIN + crop, MARGIN : MARGIN + crop]
        if change:
            pixels = augmented(rng, pixels, canvas.kind)
        found = targets_of(canvas.things, crop + 2 * MARGIN, crop, self.rays, canvas.inside)
        image = np.ascontiguousarray(np.moveaxis(pixels, 2, 0), dtype=np.float32)
        return {"image": image, **found._asdict()}

    def draw(self, rng: np.random.Generator, material: Material) -> Canvas:
        """A canvas of a random kind."""
        crop, place = self.config.crop, rng.random()
        if place < self.config.empty:
            return empty_canvas(rng, material.photographs, crop)
        if place < self.config.empty + self.config.simulated or not material.images:
            return (flat_canvas if rng.random() < FLAT else simulated_canvas)(rng, crop)
        image = chosen(rng, material.images)
        return real_canvas(rng, image, crop, paste=rng.random() < self.config.compose)


def chosen(rng: np.random.Generator, images: Sequence[FieldImage]) -> FieldImage:
    """A random image: first its kind, then its field, so that neither many tiles nor many fields of a kind prevail."""
    kinds = sorted({image.kind for image in images})
    weight = np.array([KIND_SHARES[kind] for kind in kinds])
    kind = kinds[int(rng.choice(len(kinds), p=weight / weight.sum()))]
    of_kind = [image for image in images if image.kind == kind]
    fields = sorted({image.field for image in of_kind})
    field = fields[int(rng.integers(len(fields)))]
    tiles = [image for image in of_kind if image.field == field]
    return tiles[int(rng.integers(len(tiles)))]
