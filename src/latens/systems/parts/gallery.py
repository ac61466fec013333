"""Patches of parts: where a part occurs, cut from the pictures themselves with what lies around the cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from latens.data.images import Pixels
from latens.shapes import Float

PRESENT = 0.5  # probability from which a part counts as there
PATCH_CELLS = 5  # side of a patch, in cells: the cell and enough around it to see what it belongs to
PATCH_SIDE = 32 * PATCH_CELLS  # pixels at most: the patches of hundreds of photographs are held together
MEAN_CELLS = 3  # side of what is averaged: what a local encoder sees of a cell
MEAN_SIDE = 24  # pixels of the average
MEAN_OVER = 256  # occurrences, the surest ones
MEAN_PLACES = 8  # of one picture in an average


@dataclass(frozen=True)
class PartCode:
    """The code of one picture. `size` is the picture's height and width; a cell stands for an equal share of it."""

    occurrence: Float[np.ndarray, "N h w"]  # probability that a part is at a cell
    appearance: Float[np.ndarray, "N D"]  # mean of each part's appearance
    size: tuple[int, int]

    def present(self) -> list[int]:
        """Parts that are likelier there than not somewhere, the surest first."""
        surest = self.occurrence.max(axis=(1, 2))
        return [int(n) for n in np.argsort(-surest, kind="stable") if surest[n] > PRESENT]


class Patch(NamedTuple):
    """A place where a part occurs: which picture of the request, the cell, how sure, and the pixels around it."""

    picture: int
    cell: tuple[int, int]  # row, column
    score: float
    pixels: Pixels
    box: tuple[int, int, int, int]  # left, top, right and bottom of the cell within `pixels`


class PartGallery(NamedTuple):
    """The surest occurrences of one part, the surest first, and the average of up to 256 of them."""

    part: int
    patches: list[Patch]
    occurrences: int  # pictures, or places of one picture, in which the part is likelier there than not
    mean: Pixels  # of the surroundings, three cells wide: what the occurrences have in common
    alike: float  # share of what varies among all the surroundings of all parts that this average explains of its own


class Occurrence(NamedTuple):
    """An occurrence that is not cut out yet."""

    picture: int
    cell: tuple[int, int]
    score: float


class Occurrences(NamedTuple):
    """Occurrences of one part, the surest first: those to show, and those to average."""

    part: int
    shown: list[Occurrence]
    averaged: list[Occurrence]


def one_a_picture(codes: Sequence[PartCode], part: int) -> Occurrences:
    """To show, the surest cell of every picture in which a part is likelier there than not; to average, a few of each."""
    found = [Occurrence(i, *peak) for i, code in enumerate(codes) for peak in peaks(code.occurrence[part], MEAN_PLACES)]
    found.sort(key=lambda place: (-place.score, place.picture))
    surest = {place.picture: place for place in reversed(found)}
    shown = sorted(surest.values(), key=lambda place: (-place.score, place.picture))
    return Occurrences(part, shown, found[:MEAN_OVER])


def within_picture(code: PartCode, part: int) -> Occurrences:
    """The cells of one picture where a part is, no two of which touch."""
    found = [Occurrence(0, *peak) for peak in peaks(code.occurrence[part], code.occurrence[part].size)]
    return Occurrences(part, found, found[:MEAN_OVER])


def peaks(occurrence: Float[np.ndarray, "h w"], most: int) -> list[tuple[tuple[int, int], float]]:
    """At most so many cells where a part is likelier there than not, no two of which touch, the surest first."""
    left = occurrence.copy()
    found: list[tuple[tuple[int, int], float]] = []
    while len(found) < most and left.max() > PRESENT:
        row, column = (int(k) for k in np.unravel_index(left.argmax(), left.shape))
        found.append(((row, column), float(left[row, column])))
        left[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = 0
    return found


def cut_galleries(
    places: Sequence[Occurrences], codes: Sequence[PartCode], read: Callable[[int], Pixels], most: int
) -> list[PartGallery]:
    """A gallery of at most so many patches for each. Every picture is read once."""
    if not places:
        return []
    patches: list[dict[Occurrence, Patch]] = [{} for _ in places]
    windows: list[list[Float[np.ndarray, "S S 3"]]] = [[] for _ in places]
    for picture in sorted({found.picture for place in places for found in (*place.shown[:most], *place.averaged)}):
        pixels, grid = read(picture), codes[picture].occurrence.shape[1:]
        for row, place in enumerate(places):
            for found in place.shown[:most]:
                if found.picture == picture:
                    patches[row][found] = cut(pixels, grid, found)
            windows[row] += [surroundings(pixels, grid, found.cell) for found in place.averaged if found.picture == picture]
    means = [np.mean(seen, axis=0) for seen in windows]
    middle = np.mean(means, axis=0)
    return [
        PartGallery(place.part, [patches[row][found] for found in place.shown[:most]], len(place.shown),
                    np.rint(means[row]).astype(np.uint8), explained(windows[row], means[row], middle))
        for row, place in enumerate(places)
    ]  # fmt: skip


def explained(windows: Sequence[Float[np.ndarray, "S S 3"]], mean: np.ndarray, middle: np.ndarray) -> float:
    """Share of the squared distance of windows from the middle of all parts that goes when the part is known; 0 to 1."""
    around = float(np.mean([np.square(window - middle).mean() for window in windows]))
    return float(np.square(mean - middle).mean()) / around if around > 0 else 0.0


def cut(pixels: Pixels, grid: tuple[int, ...], place: Occurrence) -> Patch:
    """A square of five cells around a cell, as far as it lies within the picture; a large one is reduced."""
    (row, column), (rows, columns), (height, width) = place.cell, grid, pixels.shape[:2]
    tall, wide = height / rows, width / columns
    reach = PATCH_CELLS / 2 * min(tall, wide)
    top, bottom = _within((row + 0.5) * tall, reach, height)
    left, right = _within((column + 0.5) * wide, reach, width)
    patch = pixels[top:bottom, left:right].copy()  # a view would keep the whole picture
    scale = min(1.0, PATCH_SIDE / (2 * reach))
    if scale < 1:
        size = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
        patch = np.asarray(Image.fromarray(patch).resize(size, Image.Resampling.LANCZOS))
    corners = (column * wide - left, row * tall - top, (column + 1) * wide - left, (row + 1) * tall - top)
    ends = (patch.shape[1], patch.shape[0]) * 2
    box = tuple(min(max(round(edge * scale), 0), end) for edge, end in zip(corners, ends, strict=True))
    return Patch(place.picture, place.cell, place.score, patch, (box[0], box[1], box[2], box[3]))


def _within(middle: float, reach: float, end: int) -> tuple[int, int]:
    """First and last pixel but one of a stretch, cut at the border of the picture; at least one pixel."""
    start = min(max(round(middle - reach), 0), end - 1)
    return start, max(min(round(middle + reach), end), start + 1)


def surroundings(pixels: Pixels, grid: tuple[int, ...], cell: tuple[int, int]) -> Float[np.ndarray, "S S 3"]:
    """The cell in the middle of its neighbours, 24 x 24; beyond the picture its border goes on."""
    (row, column), (rows, columns), (height, width) = cell, grid, pixels.shape[:2]
    reach, tall, wide = MEAN_CELLS / 2, height / rows, width / columns
    across = _samples((column + 0.5 - reach) * wide, MEAN_CELLS * wide, width)
    down = _samples((row + 0.5 - reach) * tall, MEAN_CELLS * tall, height)
    window = pixels[down[0] : down[-1] + 1, across[0] : across[-1] + 1]
    window = window[np.ix_(down - down[0], across - across[0])]
    size = (MEAN_SIDE, MEAN_SIDE)
    return np.asarray(Image.fromarray(np.ascontiguousarray(window)).resize(size, Image.Resampling.BOX), np.float32)


def _samples(start: float, length: float, end: int) -> np.ndarray:
    """Every pixel of a stretch, those beyond the picture held at its border."""
    return np.clip(np.arange(round(start), max(round(start + length), round(start) + 1)), 0, end - 1)
