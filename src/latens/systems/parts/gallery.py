"""Galleries of parts: image patches around the cells in which a part occurs, their average, and a color for each part."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from latens.data.images import Pixels
from latens.shapes import Float

PRESENT = 0.5  # probability above which a part counts as present
PATCH_CELLS = 5  # side of a patch, in cells: the cell and its context
PATCH_SIDE = 32 * PATCH_CELLS  # largest side of a patch in pixels; patches of hundreds of images are in memory at once
MEAN_CELLS = 3  # side of an averaged window in cells: the receptive field of the local encoder
MEAN_SIDE = 24  # pixels of the average
MEAN_LIMIT = 256  # largest number of occurrences in an average, highest scores first
MEAN_PER_IMAGE = 8  # largest number of occurrences per image in an average


class Patch(NamedTuple):
    """An occurrence of a part and the pixels around it."""

    image: int  # index among the images of the request
    cell: tuple[int, int]  # row, column
    score: float  # probability of the part in the cell
    pixels: Pixels
    box: tuple[int, int, int, int]  # left, top, right and bottom of the cell within `pixels`


class PartGallery(NamedTuple):
    """Occurrences of one part, highest score first, and the average of up to 256 of them."""

    part: int
    patches: list[Patch]
    occurrences: int  # images with the part, or occurrences in one image
    mean: Pixels  # average window of 3 x 3 cells
    explained: float  # share of the variance about the mean of all parts that `mean` explains, in [0, 1]


class Occurrence(NamedTuple):
    """A cell of an image in which a part occurs."""

    image: int
    cell: tuple[int, int]
    score: float


class Occurrences(NamedTuple):
    """Occurrences of one part, highest score first: `shown` in its gallery, and `averaged`."""

    part: int
    shown: list[Occurrence]
    averaged: list[Occurrence]


def one_per_image(maps: Sequence[Float[np.ndarray, "N h w"]], part: int) -> Occurrences:
    """Shown: the highest-scoring cell with p > 0.5 per image. Averaged: up to `MEAN_PER_IMAGE` cells per image."""
    found = [Occurrence(i, *peak) for i, one in enumerate(maps) for peak in peaks(one[part], MEAN_PER_IMAGE)]
    found.sort(key=lambda occurrence: (-occurrence.score, occurrence.image))
    best = {occurrence.image: occurrence for occurrence in reversed(found)}
    shown = sorted(best.values(), key=lambda occurrence: (-occurrence.score, occurrence.image))
    return Occurrences(part, shown, found[:MEAN_LIMIT])


def within_image(maps: Float[np.ndarray, "N h w"], part: int) -> Occurrences:
    """Non-adjacent cells of one image in which a part occurs."""
    found = [Occurrence(0, *peak) for peak in peaks(maps[part], maps[part].size)]
    return Occurrences(part, found, found[:MEAN_LIMIT])


def peaks(occurrence: Float[np.ndarray, "h w"], most: int) -> list[tuple[tuple[int, int], float]]:
    """At most `most` non-adjacent cells with p > 0.5, highest probability first."""
    left = occurrence.copy()
    found: list[tuple[tuple[int, int], float]] = []
    while len(found) < most and left.max() > PRESENT:
        row, column = (int(k) for k in np.unravel_index(left.argmax(), left.shape))
        found.append(((row, column), float(left[row, column])))
        left[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = 0
    return found


def cut_galleries(
    parts: Sequence[Occurrences], grids: Sequence[tuple[int, ...]], read: Callable[[int], Pixels], most: int
) -> list[PartGallery]:
    """A gallery of at most `most` patches per part. `grids` are the map sizes of the images; each image is read once."""
    if not parts:
        return []
    patches: list[dict[Occurrence, Patch]] = [{} for _ in parts]
    windows: list[list[Float[np.ndarray, "S S 3"]]] = [[] for _ in parts]
    for image in sorted({found.image for part in parts for found in (*part.shown[:most], *part.averaged)}):
        pixels, grid = read(image), grids[image]
        for row, part in enumerate(parts):
            for found in part.shown[:most]:
                if found.image == image:
                    patches[row][found] = cut(pixels, grid, found)
            windows[row] += [surroundings(pixels, grid, found.cell) for found in part.averaged if found.image == image]
    means = [np.mean(of_part, axis=0) for of_part in windows]
    middle = np.mean(means, axis=0)
    return [
        PartGallery(part.part, [patches[row][found] for found in part.shown[:most]], len(part.shown),
                    np.rint(means[row]).astype(np.uint8), explained(windows[row], means[row], middle))
        for row, part in enumerate(parts)
    ]  # fmt: skip


def explained(windows: Sequence[Float[np.ndarray, "S S 3"]], mean: np.ndarray, middle: np.ndarray) -> float:
    """Explained variance in [0, 1]: squared distance of the mean of the part from `middle`, relative to that of its windows."""
    around = float(np.mean([np.square(window - middle).mean() for window in windows]))
    return float(np.square(mean - middle).mean()) / around if around > 0 else 0.0


def cut(pixels: Pixels, grid: tuple[int, ...], found: Occurrence) -> Patch:
    """A square of 5 x 5 cells around a cell, cropped at the image border and reduced to `PATCH_SIDE` pixels if larger."""
    (row, column), (rows, columns), (height, width) = found.cell, grid, pixels.shape[:2]
    tall, wide = height / rows, width / columns
    radius = PATCH_CELLS / 2 * min(tall, wide)
    top, bottom = _within((row + 0.5) * tall, radius, height)
    left, right = _within((column + 0.5) * wide, radius, width)
    patch = pixels[top:bottom, left:right].copy()  # a view would keep the whole image
    scale = min(1.0, PATCH_SIDE / (2 * radius))
    if scale < 1:
        size = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
        patch = np.asarray(Image.fromarray(patch).resize(size, Image.Resampling.LANCZOS))
    corners = (column * wide - left, row * tall - top, (column + 1) * wide - left, (row + 1) * tall - top)
    ends = (patch.shape[1], patch.shape[0]) * 2
    box = tuple(min(max(round(edge * scale), 0), end) for edge, end in zip(corners, ends, strict=True))
    return Patch(found.image, found.cell, found.score, patch, (box[0], box[1], box[2], box[3]))


def _within(middle: float, radius: float, end: int) -> tuple[int, int]:
    """Start and end of a range of pixels, cropped at the border of the image; at least one pixel."""
    start = min(max(round(middle - radius), 0), end - 1)
    return start, max(min(round(middle + radius), end), start + 1)


def surroundings(pixels: Pixels, grid: tuple[int, ...], cell: tuple[int, int]) -> Float[np.ndarray, "S S 3"]:
    """The cell and its neighbors, resampled to 24 x 24 pixels; the image border is replicated."""
    (row, column), (rows, columns), (height, width) = cell, grid, pixels.shape[:2]
    radius, tall, wide = MEAN_CELLS / 2, height / rows, width / columns
    across = _samples((column + 0.5 - radius) * wide, MEAN_CELLS * wide, width)
    down = _samples((row + 0.5 - radius) * tall, MEAN_CELLS * tall, height)
    window = pixels[down[0] : down[-1] + 1, across[0] : across[-1] + 1]
    window = window[np.ix_(down - down[0], across - across[0])]
    size = (MEAN_SIDE, MEAN_SIDE)
    return np.asarray(Image.fromarray(np.ascontiguousarray(window)).resize(size, Image.Resampling.BOX), np.float32)


def _samples(start: float, length: float, end: int) -> np.ndarray:
    """Indices of a range of pixels, clipped to the image."""
    return np.clip(np.arange(round(start), max(round(start + length), round(start) + 1)), 0, end - 1)


def part_colors(parts: int) -> Float[np.ndarray, "N 3"]:
    """Colors in [0, 1] around the hue circle; consecutive parts differ most in hue."""
    hue = (np.arange(parts) * (math.sqrt(5) - 1) / 2 % 1)[:, None]
    wave = np.cos(2 * np.pi * (hue + np.array([0, 1 / 3, 2 / 3])))
    return 0.5 + 0.5 * wave
