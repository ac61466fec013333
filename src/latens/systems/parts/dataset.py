"""Training batches of any data set: squares of one size, as floats in [0, 1], the same for the same step."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latens.data.images import Pixels
from latens.errors import InputError, LatensError, UnreadableInput
from latens.systems.parts.config import PicturesConfig
from latens.systems.parts.sources import PictureSet, fraction_of, open_set
from latens.training.data import generator

MEGABYTE = 10**6
VALIDATION_BATCH = 64


class PictureData:
    """Batches {"image": (B, 3, S, S) float in [0, 1], "label": (B,) int64}; labels are -1 where there are none.

    Training pictures are drawn with replacement. With `smallest_crop` below 1 a random square of at least that share of the
    shorter side is cut out; with 1 it is the middle. Raises UnreadableInput when no picture can be read.
    """

    def __init__(self, sources: Sequence[Path], config: PicturesConfig, size: int, seed: int) -> None:
        self.config, self.size, self.seed = config, size, seed
        sets = [open_set(source, "train") for source in sources]
        if config.limit:
            sets = [found.subset(first_few(found, config.limit)) for found in sets]
        wide = round(size / config.smallest_crop)
        budget = config.memory * MEGABYTE // len(sets)
        self.stores = [Store(found, wide, budget) for found in sets]
        places = [(s, i) for s, found in enumerate(sets) for i in range(len(found))]
        chance = [fraction_of(sets[s].keys[i]) for s, i in places]
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
                pictures.append(centre_square(pixels, self.size))
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
        pixels = centre_square(pixels, self.size)
        return pixels[:, ::-1] if flip else pixels


class Store:
    """Pictures of a set with their shorter side reduced to `side`, kept in memory up to a number of bytes."""

    def __init__(self, found: PictureSet, side: int, budget: int) -> None:
        self.found, self.side, self.room = found, side, budget
        self.kept: dict[int, Pixels | None] = {}

    def get(self, i: int) -> Pixels | None:
        """The picture, or None (said once on stderr) where it cannot be read."""
        if i in self.kept:
            return self.kept[i]
        pixels: Pixels | None
        try:
            pixels = shrunk(self.found.read(i), self.side)
        except LatensError as error:
            print(f"latens: left out: {error}".splitlines()[0], file=sys.stderr)
            pixels = None
        size = 0 if pixels is None else pixels.nbytes
        if size <= self.room:
            self.room -= size
            self.kept[i] = pixels
        return pixels


class Squares:
    """A set as squares of one size, for evaluation: read in order, kept when they fit into `memory` bytes."""

    def __init__(self, found: PictureSet, size: int, memory: int = 2048 * MEGABYTE) -> None:
        self.found, self.size = found, size
        self.kept = np.zeros((len(found), size, size, 3), np.uint8) if len(found) * size * size * 3 <= memory else None
        self.filled = np.zeros(len(found), bool)

    def __len__(self) -> int:
        return len(self.found)

    def pixels(self, places: np.ndarray) -> Pixels:
        """Squares (n, S, S, 3). A picture that cannot be read raises its LatensError."""
        if self.kept is None:
            return np.stack([centre_square(self.found.read(int(i)), self.size) for i in places])
        for i in places[~self.filled[places]]:
            self.kept[i] = centre_square(self.found.read(int(i)), self.size)
            self.filled[i] = True
        return self.kept[places]

    def subset(self, places: np.ndarray) -> Squares:
        """The squares at some places, with what is kept of them."""
        chosen = Squares(self.found.subset(places), self.size, 0)
        if self.kept is not None:
            chosen.kept, chosen.filled = self.kept[places], self.filled[places]
        return chosen

    def batches(self, count: int) -> Iterator[Tensor]:
        """All pictures in order, (count, 3, S, S) floats in [0, 1]."""
        for start in range(0, len(self), count):
            yield to_tensor(self.pixels(np.arange(start, min(start + count, len(self)))))


def readable(found: PictureSet, size: int, tell: Callable[[str], None]) -> Squares:
    """Squares of the pictures that can be read; the others are told. Raises the error of the first where none can."""
    squares, good, first = Squares(found, size), [], None
    for i in range(len(found)):
        try:
            squares.pixels(np.array([i]))
            good.append(i)
        except LatensError as error:
            first = first or error
            tell(f"left out: {error}".splitlines()[0])
    if first is None:
        return squares
    if not good:
        raise first
    return squares.subset(np.array(good))


def first_few(found: PictureSet, count: int) -> np.ndarray:
    """Places of `count` pictures chosen by name, in order."""
    order = np.argsort([fraction_of(f"limit {key}") for key in found.keys], kind="stable")
    return np.sort(order[:count])


def shrunk(pixels: Pixels, side: int) -> Pixels:
    """The picture with its shorter side reduced to `side`; a smaller one is left as it is."""
    height, width = pixels.shape[:2]
    factor = side / min(height, width)
    if factor >= 1:
        return pixels
    size = (max(round(width * factor), side), max(round(height * factor), side))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS, reducing_gap=3))


def centre_square(pixels: Pixels, size: int) -> Pixels:
    """The middle square of the picture at size x size pixels; small pictures are enlarged."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side]
    if side == size:
        return square
    return np.asarray(Image.fromarray(np.ascontiguousarray(square)).resize((size, size), Image.Resampling.LANCZOS))


def as_batch(pictures: Sequence[Pixels], labels: Sequence[int]) -> dict[str, Tensor]:
    return {"image": to_tensor(np.stack(pictures)), "label": torch.tensor(labels, dtype=torch.int64)}


def to_tensor(pixels: np.ndarray) -> Tensor:
    """(B, H, W, 3) bytes -> (B, 3, H, W) float in [0, 1], channels last in memory."""
    tensor = torch.from_numpy(np.array(pixels, order="C")).permute(0, 3, 1, 2)
    return tensor.float().div(255).contiguous(memory_format=torch.channels_last)
