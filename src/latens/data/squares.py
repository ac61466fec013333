"""Images of a labeled set at one size: read when asked for, kept in memory as far as a budget allows."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
from PIL import Image
from torch import Tensor

from latens.data.images import Pixels
from latens.data.labeled import LabeledSet
from latens.data.splits import place_of
from latens.data.tensors import to_tensor
from latens.errors import LatensError

logger = logging.getLogger(__name__)

MEGABYTE = 10**6


class Store:
    """Images of a set with their shorter side reduced to `side`, kept in memory up to a number of bytes."""

    def __init__(self, found: LabeledSet, side: int, budget: int) -> None:
        self.found, self.side, self.room = found, side, budget
        self.kept: dict[int, Pixels | None] = {}

    def get(self, i: int) -> Pixels | None:
        """The image, or None (logged once) where it cannot be read."""
        if i in self.kept:
            return self.kept[i]
        pixels: Pixels | None
        try:
            pixels = shrunk(self.found.read(i), self.side)
        except LatensError as error:
            logger.warning("left out: %s", str(error).splitlines()[0])
            pixels = None
        size = 0 if pixels is None else pixels.nbytes
        if size <= self.room:
            self.room -= size
            self.kept[i] = pixels
        return pixels


class Squares:
    """A set as squares of one size, for evaluation: read in order, kept when they fit into `memory` bytes."""

    def __init__(self, found: LabeledSet, size: int, memory: int = 2048 * MEGABYTE) -> None:
        self.found, self.size = found, size
        self.kept = np.zeros((len(found), size, size, 3), np.uint8) if len(found) * size * size * 3 <= memory else None
        self.filled = np.zeros(len(found), bool)

    def __len__(self) -> int:
        return len(self.found)

    def pixels(self, places: np.ndarray) -> Pixels:
        """Squares (n, S, S, 3). A image that cannot be read raises its LatensError."""
        if self.kept is None:
            return np.stack([center_square(self.found.read(int(i)), self.size) for i in places])
        for i in places[~self.filled[places]]:
            self.kept[i] = center_square(self.found.read(int(i)), self.size)
            self.filled[i] = True
        squares: Pixels = self.kept[places]
        return squares

    def subset(self, places: np.ndarray) -> Squares:
        """The squares at some places, with what is kept of them."""
        chosen = Squares(self.found.subset(places), self.size, 0)
        if self.kept is not None:
            chosen.kept, chosen.filled = self.kept[places], self.filled[places]
        return chosen

    def batches(self, count: int) -> Iterator[Tensor]:
        """All images in order, (count, 3, S, S) floats in [0, 1]."""
        for start in range(0, len(self), count):
            yield to_tensor(self.pixels(np.arange(start, min(start + count, len(self)))), channels_last=True)


def readable(found: LabeledSet, size: int) -> Squares:
    """Squares of the images that can be read; the others are logged. Raises the error of the first where none can."""
    squares, good, first = Squares(found, size), [], None
    for i in range(len(found)):
        try:
            squares.pixels(np.array([i]))
            good.append(i)
        except LatensError as error:
            first = first or error
            logger.warning("left out: %s", str(error).splitlines()[0])
    if first is None:
        return squares
    if not good:
        raise first
    return squares.subset(np.array(good))


def first_few(found: LabeledSet, count: int) -> np.ndarray:
    """Places of `count` images chosen by name, in order."""
    order = np.argsort([place_of(f"limit {key}") for key in found.keys], kind="stable")
    return np.sort(order[:count])


def shrunk(pixels: Pixels, side: int) -> Pixels:
    """The image with its shorter side reduced to `side`; a smaller one is left as it is."""
    height, width = pixels.shape[:2]
    factor = side / min(height, width)
    if factor >= 1:
        return pixels
    size = (max(round(width * factor), side), max(round(height * factor), side))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS, reducing_gap=3))


def center_square(pixels: Pixels, size: int) -> Pixels:
    """The middle square of the image at size x size pixels; small images are enlarged."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side]
    if side == size:
        return square
    return np.asarray(Image.fromarray(np.ascontiguousarray(square)).resize((size, size), Image.Resampling.LANCZOS))
