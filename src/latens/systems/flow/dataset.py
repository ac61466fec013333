"""Training batches of the flow: rows of tables, simulated points, and square 8-bit images."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from latens.data.labeled import LabeledImages, open_labeled
from latens.data.notes import left_out
from latens.data.source import Source
from latens.data.splits import place_of
from latens.data.squares import center_square
from latens.data.streaming import in_memory_or_streamed
from latens.errors import InputError, LatensError, UnreadableInput, UsageError, did_you_mean
from latens.shapes import UInt8
from latens.systems.flow.config import ImagesConfig, PointsConfig
from latens.systems.flow.points import NAMES, PointsName, draw
from latens.systems.flow.table import TABLE_ENDINGS, NumberTable, read_table, standardization
from latens.training.data import generator

logger = logging.getLogger(__name__)

VALIDATION_BATCH = 64
VALIDATION_SEED = 2**31  # seed of the simulated validation points
MAX_COLORS = 200_000  # number of pixels sampled from a folder of images


def points_name(sources: Sequence[Source]) -> PointsName | None:
    """The simulated distribution that the data name, else None.

    The bare names in NAMES always mean simulated points; a file or folder of that name is written ./NAME, and a warning says so
    where one exists. Raises UsageError for a name together with other data.
    """
    names = [name for name in NAMES if any(str(source) == name for source in sources)]
    if not names:
        return None
    name = names[0]
    if len(sources) > 1:
        raise UsageError("simulated points are not mixed with other data", where="--data", hint=f"give {name} alone")
    if sources[0].path.exists():
        logger.warning("--data %s: simulated points are used, not the path %s; for the path write ./%s", name, name, name)
    return name


def require_images(sources: Sequence[Source]) -> None:
    """Raises UsageError where the data name a simulated distribution."""
    if points_name(sources) is not None:
        hint = f"use --recipe toy, or write ./{sources[0]} for a folder of that name"
        raise UsageError(f"{sources[0]} names simulated points, not images", where="--data", hint=hint)


class SimulatedPoints:
    """Batches {"rows": (B, 2) float64} of new points of a distribution at every step."""

    columns = ("x", "y")

    def __init__(self, name: PointsName, config: PointsConfig, seed: int) -> None:
        self.name, self.config, self.seed = name, config, seed
        self.mean, self.deviation = np.zeros(2), np.ones(2)

    def batch(self, step: int, rank: int) -> dict[str, Tensor]:
        return {"rows": torch.from_numpy(draw(self.name, self.config.batch, generator(self.seed, step, rank)))}

    def validation(self) -> list[dict[str, Tensor]]:
        rng = np.random.default_rng(VALIDATION_SEED)
        return [{"rows": torch.from_numpy(draw(self.name, self.config.validation_limit, rng))}]


class TableData:
    """Batches {"rows": (B, D) float64}, drawn with replacement from the rows of a table.

    A hash of its position decides whether a row is held out.
    """

    def __init__(self, table: NumberTable, config: PointsConfig, seed: int) -> None:
        self.table, self.config, self.seed, self.columns = table, config, seed, table.columns
        self.mean, self.deviation = standardization(table)
        chance = np.array([place_of(f"row {i}") for i in range(len(table.rows))])
        held_out = np.flatnonzero(chance < config.validation_share)[: config.validation_limit]
        kept = np.flatnonzero(chance >= config.validation_share)
        if len(held_out) < 2 or not len(kept):
            logger.warning("%d rows are too few for a validation set: validation uses training rows", len(chance))
            held_out = kept = np.arange(len(chance))
        self.kept, self.held_out = kept, held_out

    def batch(self, step: int, rank: int) -> dict[str, Tensor]:
        rng = generator(self.seed, step, rank)
        return {"rows": torch.from_numpy(self.table.rows[self.kept[rng.integers(len(self.kept), size=self.config.batch)]])}

    def validation(self) -> list[dict[str, Tensor]]:
        return [{"rows": torch.from_numpy(self.table.rows[self.held_out])}]


def open_points(sources: Sequence[Source], config: PointsConfig, seed: int) -> SimulatedPoints | TableData:
    """Simulated points by name, rows of tables, or colors of images. Raises UsageError, InputError or UnreadableInput."""
    if not sources:
        hint = f"give {', '.join(NAMES)}, tables (.csv, .tsv, .npy) or folders of images"
        raise UsageError("training a density needs data", where="--data", hint=hint)
    name = points_name(sources)
    if name is not None:
        return SimulatedPoints(name, config, seed)
    for source in sources:
        if not source.kind and not source.path.exists():
            hint = did_you_mean(str(source), NAMES, f"give {', '.join(NAMES)}, a table or a folder of images")
            raise UnreadableInput("file or folder not found", where=str(source), hint=hint)
    tables = [
        read_table(source.path)
        if not source.kind and source.path.suffix.lower() in TABLE_ENDINGS
        else colors_of(open_labeled(source, "train"), seed)
        for source in sources
    ]
    widths = {table.rows.shape[1] for table in tables}
    if len(widths) > 1:
        raise InputError(
            f"the tables have {' and '.join(map(str, sorted(widths)))} columns",
            where="--data",
            hint="give tables with the same columns",
        )
    return TableData(NumberTable(np.concatenate([table.rows for table in tables]), tables[0].columns), config, seed)


def colors_of(found: LabeledImages, seed: int) -> NumberTable:
    """Table of the dequantized colors of random pixels: columns red, green and blue in [0, 1)."""
    logger.info("%s: images given, so the rows are the colors of their pixels", found.name)
    rng = np.random.default_rng(seed)
    share = -(-MAX_COLORS // len(found))
    rows = []
    for i in range(len(found)):
        try:
            pixels = found.read(i).reshape(-1, 3)
        except LatensError as error:
            left_out(error)
            continue
        chosen = pixels[rng.permutation(len(pixels))[:share]]
        rows.append((chosen + rng.random(chosen.shape)) / 256)
    if not rows:
        raise UnreadableInput("none of the images can be read", where=found.name)
    return NumberTable(np.concatenate(rows), ("red", "green", "blue"))


# ------------------------------------------------------------------------------------------------------------- images


class Square(NamedTuple):
    """A square image and its label, -1 without one."""

    pixels: UInt8[np.ndarray, "C S S"]
    label: int


class ImageData:
    """Batches {"pixels": (B, C, S, S) uint8, "label": (B,) int64}; the label of an unlabeled image is -1.

    Squares are held in memory if they fit into its budget (`latens.data.streaming`), else training images are read at every
    step; held-out images always stay in memory. Training images are drawn with replacement. Raises UsageError without images,
    and UnreadableInput where no image can be read.
    """

    def __init__(self, sources: Sequence[Source], config: ImagesConfig, size: int, channels: int, seed: int) -> None:
        self.config, self.size, self.channels, self.seed = config, size, channels, seed
        if not sources:
            hint = "give a folder of images, an .npz pack, or cifar10:PATH, mnist:PATH, imagenet32:PATH"
            raise UsageError("training a density of images needs images", where="--data", hint=hint)
        require_images(sources)
        sets = [open_labeled(source, "train") for source in sources]
        if config.limit:
            sets = [found.first_few(config.limit) for found in sets]
        self.classes = sets[0].classes if len({found.classes for found in sets}) == 1 else ()
        self.labels = np.concatenate([found.labels for found in sets])
        self.name = ", ".join(found.name for found in sets)
        self.places = [(found, index) for found in sets for index in range(len(found))]
        self.resized = 0
        chance = np.array([place_of(key) for found in sets for key in found.keys])
        first = np.argsort(chance, kind="stable")[: int((chance < config.validation_share).sum())]
        self.held_out = self._held_out(first)
        self.train = self._squares(np.flatnonzero(chance >= config.validation_share))
        if not len(self.train) or not self.held_out:
            logger.warning("%d images are too few for a validation set: validation uses training images", len(chance))
            self.train = self._squares(np.arange(len(chance)))
            self.held_out = self.held_out or list(self.train[: config.validation_limit or 1])
        if not len(self.train):
            raise UnreadableInput("none of the images can be read", where=self.name)
        if self.resized:
            text = "%s: the center squares of %d images were resized to %d x %d"
            logger.info(text, self.name, self.resized, size, size)

    def _read(self, place: int) -> Square | None:
        found, index = self.places[place]
        try:
            image = found.read(index)
        except LatensError as error:
            left_out(error)
            return None
        self.resized += image.shape[:2] != (self.size, self.size)
        return Square(in_channels(center_square(image, self.size), self.channels), int(self.labels[place]))

    def _held_out(self, places: np.ndarray) -> list[Square]:
        """The first readable squares among these places, at most `validation_limit`, in the order of the data."""
        readable = ((int(place), one) for place in places if (one := self._read(int(place))) is not None)
        chosen = itertools.islice(readable, self.config.validation_limit)
        return [one for _, one in sorted(chosen, key=lambda each: each[0])]

    def _squares(self, places: np.ndarray) -> Sequence[Square]:
        return in_memory_or_streamed(
            len(places), lambda number: self._read(int(places[number])), lambda one: one.pixels.nbytes, self.name
        )

    def batch(self, step: int, rank: int) -> dict[str, Tensor]:
        rng = generator(self.seed, step, rank)
        chosen = [self.train[int(number)] for number in rng.integers(len(self.train), size=self.config.batch)]
        return as_batch([one._replace(pixels=self._varied(one.pixels, rng)) for one in chosen])

    def _varied(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Random mirroring and cropping, as configured."""
        if self.config.flip and rng.random() < 0.5:
            pixels = pixels[:, :, ::-1]
        pad = self.config.pad
        if pad:
            wide = np.pad(pixels, ((0, 0), (pad, pad), (pad, pad)), mode="reflect")
            top, left = rng.integers(2 * pad + 1, size=2)
            pixels = wide[:, top : top + pixels.shape[1], left : left + pixels.shape[2]]
        return pixels

    def validation(self) -> list[dict[str, Tensor]]:
        starts = range(0, len(self.held_out), VALIDATION_BATCH)
        return [as_batch(self.held_out[start : start + VALIDATION_BATCH]) for start in starts]


def read_squares(found: LabeledImages, size: int, channels: int) -> tuple[UInt8[np.ndarray, "n C S S"], np.ndarray]:
    """Center squares of all readable images, and the indices of these; unreadable images are logged.

    Raises UnreadableInput where no image can be read.
    """
    pixels, good, resized = [], [], 0
    for i in range(len(found)):
        try:
            image = found.read(i)
        except LatensError as error:
            left_out(error)
            continue
        resized += image.shape[:2] != (size, size)
        pixels.append(in_channels(center_square(image, size), channels))
        good.append(i)
    if not pixels:
        raise UnreadableInput("none of the images can be read", where=found.name)
    if resized:
        logger.info("%s: the center squares of %d images were resized to %d x %d", found.name, resized, size, size)
    return np.stack(pixels), np.array(good)


def in_channels(pixels: UInt8[np.ndarray, "S S 3"], channels: int) -> UInt8[np.ndarray, "C S S"]:
    """Channels first. One channel is the luma of Rec. 601."""
    if channels == 1:
        luma = np.rint(pixels @ np.array([0.299, 0.587, 0.114]))
        return np.clip(luma, 0, 255).astype(np.uint8)[None]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def as_batch(squares: Sequence[Square]) -> dict[str, Tensor]:
    pixels = np.stack([one.pixels for one in squares])
    return {"pixels": torch.from_numpy(pixels), "label": torch.tensor([one.label for one in squares], dtype=torch.int64)}
