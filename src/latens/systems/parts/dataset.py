"""Training batches of image sets: square crops of one size; a batch is a function of seed and step."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from latens.data.images import Pixels
from latens.data.labeled import LabeledImages, open_labeled
from latens.data.notes import left_out
from latens.data.source import Source
from latens.data.splits import place_of
from latens.data.squares import center_square, shrink
from latens.data.tensors import to_tensor
from latens.errors import InputError, LatensError, UnreadableInput
from latens.systems.parts.config import ImagesConfig
from latens.training.data import generator

logger = logging.getLogger(__name__)

MEGABYTE = 10**6
VALIDATION_BATCH = 64


class ImageData:
    """Batches {"image": (B, 3, S, S) float in [0, 1], "label": (B,) int64}; missing labels are -1.

    Training images are drawn with replacement. With `smallest_crop` below 1 the crop is a random square whose side is at least
    that share of the shorter side; with 1 it is the center square. Raises UnreadableInput if no image can be read.
    """

    def __init__(self, sources: Sequence[Source], config: ImagesConfig, size: int, seed: int) -> None:
        self.config, self.size, self.seed = config, size, seed
        sets = [open_labeled(source, "train") for source in sources]
        if config.limit:
            sets = [found.first_few(config.limit) for found in sets]
        wide = round(size / config.smallest_crop)
        budget = config.memory * MEGABYTE // len(sets)
        self.stores = [Store(found, wide, budget) for found in sets]
        images = [(s, i) for s, found in enumerate(sets) for i in range(len(found))]
        chance = [place_of(sets[s].keys[i]) for s, i in images]
        held_out = sorted((c, image) for image, c in zip(images, chance, strict=True) if c < config.validation_share)
        kept = [image for image, c in zip(images, chance, strict=True) if c >= config.validation_share]
        if not kept or not held_out:
            logger.warning("with %d images, none could be held out: validation uses training images", len(images))
        self.train = kept or images
        self.held_out = sorted(image for _, image in held_out[: config.validation_limit]) or images[:1]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the labels. Raises InputError for data sets of different classes and for images without a label."""
        sets = [store.found for store in self.stores]
        first = sets[0].classes
        for found in sets:
            if found.classes != first:
                what = f"the data sets {sets[0].name} and {found.name} have different classes"
                raise InputError(what, where="--data", hint="give one of them, or one folder with all classes")
            if first and found.labels.min() < 0:
                raise InputError("some images have no label", where=found.name, hint="remove the images without a label")
        return first

    def batch(self, step: int, rank: int) -> dict[str, Tensor]:
        rng = generator(self.seed, step, rank)
        images, labels = [], []
        for index in rng.integers(len(self.train), size=self.config.batch):
            pixels, label = self._readable(int(index))
            images.append(self._crop(pixels, rng))
            labels.append(label)
        return as_batch(images, labels)

    def validation(self) -> list[dict[str, Tensor]]:
        """The center squares of the held-out images."""
        images, labels = [], []
        for s, i in self.held_out:
            pixels = self.stores[s].get(i)
            if pixels is not None:
                images.append(center_square(pixels, self.size))
                labels.append(int(self.stores[s].found.labels[i]))
        if not images:
            raise UnreadableInput("none of the held-out images could be read", where=self.stores[0].found.name)
        starts = range(0, len(images), VALIDATION_BATCH)
        return [as_batch(images[k : k + VALIDATION_BATCH], labels[k : k + VALIDATION_BATCH]) for k in starts]

    def _readable(self, index: int) -> tuple[Pixels, int]:
        """The image at an index of the training list, or the next one that can be read."""
        for offset in range(len(self.train)):
            s, i = self.train[(index + offset) % len(self.train)]
            pixels = self.stores[s].get(i)
            if pixels is not None:
                return pixels, int(self.stores[s].found.labels[i])
        raise UnreadableInput("none of the training images could be read", where=self.stores[0].found.name)

    def _crop(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        flip = self.config.flip and rng.random() < 0.5
        if self.config.smallest_crop < 1:
            height, width = pixels.shape[:2]
            side = round(min(height, width) * rng.uniform(self.config.smallest_crop, 1))
            top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
            pixels = pixels[top : top + side, left : left + side]
        pixels = center_square(pixels, self.size)
        return pixels[:, ::-1] if flip else pixels


class Store:
    """Images of a set with their shorter side reduced to `side`, cached in memory up to `budget` bytes."""

    def __init__(self, found: LabeledImages, side: int, budget: int) -> None:
        self.found, self.side, self.capacity = found, side, budget
        self.kept: dict[int, Pixels | None] = {}

    def get(self, i: int) -> Pixels | None:
        """The image; None, with a warning, if it cannot be read."""
        if i in self.kept:
            return self.kept[i]
        pixels: Pixels | None
        try:
            pixels = shrink(self.found.read(i), self.side)
        except LatensError as error:
            left_out(error)
            pixels = None
        size = 0 if pixels is None else pixels.nbytes
        if size <= self.capacity:
            self.capacity -= size
            self.kept[i] = pixels
        return pixels


def as_batch(images: Sequence[Pixels], labels: Sequence[int]) -> dict[str, Tensor]:
    image = to_tensor(np.stack(images), channels_last=True)
    return {"image": image, "label": torch.tensor(labels, dtype=torch.int64)}
