"""Image sets as square crops of one size, for probes and evaluations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from latens.data.images import Pixels
from latens.data.labeled import LabeledImages
from latens.data.notes import first_line
from latens.data.tensors import to_tensor
from latens.errors import LatensError
from latens.shapes import Float

MEMORY = 2048 * 10**6  # bytes


class Squares:
    """A set as square crops of one size; they are cached if all fit into `memory` bytes."""

    def __init__(self, found: LabeledImages, size: int, memory: int = MEMORY) -> None:
        self.found, self.size = found, size
        self.kept = np.zeros((len(found), size, size, 3), np.uint8) if len(found) * size * size * 3 <= memory else None
        self.filled = np.zeros(len(found), bool)

    def __len__(self) -> int:
        return len(self.found)

    def pixels(self, indices: np.ndarray) -> Pixels:
        """Squares (n, S, S, 3). Raises the LatensError of an unreadable image."""
        if self.kept is None:
            return np.stack([center_square(self.found.read(int(i)), self.size) for i in indices])
        for i in indices[~self.filled[indices]]:
            self.kept[i] = center_square(self.found.read(int(i)), self.size)
            self.filled[i] = True
        kept: Pixels = self.kept[indices]
        return kept

    def subset(self, indices: np.ndarray) -> Squares:
        """The squares at these indices, with a copy of the cache."""
        chosen = Squares(self.found.subset(indices), self.size, 0)
        if self.kept is not None:
            chosen.kept, chosen.filled = self.kept[indices], self.filled[indices]
        return chosen

    def batches(self, count: int) -> Iterator[Float[Tensor, "B 3 S S"]]:
        """Batches of at most `count` images in order, in [0, 1], channels last in memory."""
        for start in range(0, len(self), count):
            yield to_tensor(self.pixels(np.arange(start, min(start + count, len(self)))), channels_last=True)


class Readable(NamedTuple):
    squares: Squares
    left_out: tuple[str, ...]  # one line per unreadable image


def readable(found: LabeledImages, size: int) -> Readable:
    """Squares of the readable images; the caller reports the others. Raises the first error if no image is readable."""
    squares, good, errors = Squares(found, size), [], []
    for i in range(len(found)):
        try:
            squares.pixels(np.array([i]))
            good.append(i)
        except LatensError as error:
            errors.append(error)
    if errors and not good:
        raise errors[0]
    return Readable(squares.subset(np.array(good)) if errors else squares, tuple(map(first_line, errors)))


def shrink(pixels: Pixels, side: int) -> Pixels:
    """The image with its shorter side reduced to `side`; smaller images are unchanged."""
    height, width = pixels.shape[:2]
    factor = side / min(height, width)
    if factor >= 1:
        return pixels
    size = (max(round(width * factor), side), max(round(height * factor), side))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS, reducing_gap=3))


def center_square(pixels: Pixels, size: int) -> Pixels:
    """The central square of the image, resized to size x size pixels."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side]
    if side == size:
        return square
    return np.asarray(Image.fromarray(np.ascontiguousarray(square)).resize((size, size), Image.Resampling.LANCZOS))
