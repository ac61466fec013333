"""Training batches of any data set: squares of one size, as floats in [0, 1], the same for the same step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from latens.data.images import Pixels
from latens.data.labeled import open_set
from latens.data.splits import place_of
from latens.data.squares import MEGABYTE, Store, center_square, first_few
from latens.data.tensors import to_tensor
from latens.errors import InputError, UnreadableInput
from latens.systems.parts.config import ImagesConfig
from latens.training.data import generator

VALIDATION_BATCH = 64


class ImageData:
    """Batches {"image": (B, 3, S, S) float in [0, 1], "label": (B,) int64}; labels are -1 where there are none.

    Training pictures are drawn with replacement. With `smallest_crop` below 1 a random square of at least that share of the
    shorter side is cut out; with 1 it is the middle. Raises UnreadableInput when no picture can be read.
    """

    def __init__(self, sources: Sequence[str], config: ImagesConfig, size: int, seed: int) -> None:
        self.config, self.size, self.seed = config, size, seed
        sets = [open_set(source, "train") for source in sources]
        if config.limit:
            sets = [found.subset(first_few(found, config.limit)) for found in sets]
        wide = round(size / config.smallest_crop)
        budget = config.memory * MEGABYTE // len(sets)
        self.stores = [Store(found, wide, budget) for found in sets]
        places = [(s, i) for s, found in enumerate(sets) for i in range(len(found))]
        chance = [place_of(sets[s].keys[i]) for s, i in places]
        held_out = sorted(
            (share, place) for place, share in zip(places, chance, strict=True) if share < config.validation_share
        )
        self.train = [place for place, share in zip(places, chance, strict=True) if share >= config.validation_share] or places
        self.held_out = sorted(place for _, place in held_out[: config.validation_most]) or places[:1]

    @property
    def classes(self) -> tuple[str, ...]:
        """What the labels stand for. Raises InputError where one label has several meanings, or some pictures have none."""
        sets = [store.found for store in self.stores]
        first = sets[0].classes
        for found in sets:
            if found.classes != first:
                what = f"the data sets {sets[0].name} and {found.name} have different classes"
                raise InputError(what, where="--data", hint="give one of them, or one folder with the classes of all")
            if first and found.labels.min() < 0:
                hint = "leave the pictures without a label out"
                raise InputError("some pictures have labels and some have none", where=found.name, hint=hint)
        return first

    def batch(self, step: int, rank: int) -> dict[str, Tensor]:
        rng = generator(self.seed, step, rank)
        pictures, labels = [], []
        for place in rng.integers(len(self.train), size=self.config.batch):
            pixels, label = self._readable(int(place))
            pictures.append(self._cut(pixels, rng))
            labels.append(label)
        return as_batch(pictures, labels)

    def validation(self) -> list[dict[str, Tensor]]:
        """The middles of the held-out pictures."""
        pictures, labels = [], []
        for s, i in self.held_out:
            pixels = self.stores[s].get(i)
            if pixels is not None:
                pictures.append(center_square(pixels, self.size))
                labels.append(int(self.stores[s].found.labels[i]))
        if not pictures:
            raise UnreadableInput("none of the held-out pictures can be read", where=self.stores[0].found.name)
        ends = range(0, len(pictures), VALIDATION_BATCH)
        return [as_batch(pictures[k : k + VALIDATION_BATCH], labels[k : k + VALIDATION_BATCH]) for k in ends]

    def _readable(self, place: int) -> tuple[Pixels, int]:
        """The picture at a place of the training list, or the next one that can be read."""
        for offset in range(len(self.train)):
            s, i = self.train[(place + offset) % len(self.train)]
            pixels = self.stores[s].get(i)
            if pixels is not None:
                return pixels, int(self.stores[s].found.labels[i])
        raise UnreadableInput("none of the training pictures can be read", where=self.stores[0].found.name)

    def _cut(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        flip = self.config.flip and rng.random() < 0.5
        if self.config.smallest_crop < 1:
            height, width = pixels.shape[:2]
            side = round(min(height, width) * rng.uniform(self.config.smallest_crop, 1))
            top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
            pixels = pixels[top : top + side, left : left + side]
        pixels = center_square(pixels, self.size)
        return pixels[:, ::-1] if flip else pixels


def as_batch(pictures: Sequence[Pixels], labels: Sequence[int]) -> dict[str, Tensor]:
    return {"image": to_tensor(np.stack(pictures), channels_last=True), "label": torch.tensor(labels, dtype=torch.int64)}
