"""Training of the integer flow on crops of images. The loss is bits per dimension."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from latens.data.labeled import open_labeled
from latens.data.notes import first_line
from latens.data.source import Source
from latens.data.splits import place_of
from latens.errors import LatensError, UnreadableInput, UsageError
from latens.settings import to_dict
from latens.systems.flow.config import CropsConfig, IntegerFlow
from latens.systems.flow.pack.frozen import freeze
from latens.training.data import generator
from latens.training.objective import ONE_OPTIMIZER, Export, Step

logger = logging.getLogger(__name__)

BLOCK = 8  # crop offsets are multiples of the JPEG block size
FREEZING = 600  # number of crops that calibrate the integer networks
HALVED = 0.25  # share of the crops of a large image that are taken at half resolution, which hides JPEG artifacts
RESCALED = 0.6  # share of the larger crops that are taken from a randomly downscaled image
SCALES = (0.5, 0.9)  # range of the downscaling factors
LARGE_CROPS = 12  # maximum number of larger crops of one image


class Crops(NamedTuple):
    """Crops (n, S, S, 3) and larger crops (m, L, L, 3) of one data set."""

    small: np.ndarray
    large: np.ndarray

    @classmethod
    def of(cls, small: list[np.ndarray], large: list[np.ndarray], config: CropsConfig) -> Crops:
        return cls(*(_stacked(crops, size) for crops, size in ((small, config.size), (large, config.large))))


class CropData:
    """Batches {"pixels": (B, 3, S, S) uint8}, with `config.large` also {"large": (b, 3, L, L) uint8}.

    All data sets are drawn with equal probability. Crops are held in memory. Raises UsageError without images, and where
    `config.large` exceeds all images.
    """

    def __init__(self, sources: Sequence[Source], config: CropsConfig, seed: int) -> None:
        if not sources:
            raise UsageError("training the packer needs images", where="--data", hint="give folders of images or .npz packs")
        self.config, self.seed = config, seed
        self.sets, held_out = [], []
        for source in sources:
            kept, aside = read_crops(source, config)
            self.sets.append(kept if len(kept.small) else aside)
            held_out.append(aside)
        self.held_out = Crops(*map(np.concatenate, zip(*held_out, strict=True)))
        if not len(self.held_out.small):
            logger.warning("the images are too few for a validation set: validation uses training images")
            every = map(np.concatenate, zip(*self.sets, strict=True))
            self.held_out = Crops(*(crops[: config.validation_limit] for crops in every))
        self.large = [one.large for one in self.sets if len(one.large)]
        if config.large and not self.large:
            raise UsageError(f"no image has sides of at least {config.large} pixels", where="data.large", hint="set it to 0")

    def batch(self, step: int, rank: int) -> dict[str, Tensor]:
        rng = generator(self.seed, step, rank)
        batch = {"pixels": drawn([one.small for one in self.sets], self.config.batch, rng)}
        if self.large:
            batch["large"] = drawn(self.large, max(1, self.config.batch * self.config.size**2 // self.config.large**2), rng)
        return batch

    def validation(self) -> list[dict[str, Tensor]]:
        small, large = self.held_out
        batches = [{"pixels": as_tensor(part)} for part in np.split(small, range(64, len(small), 64))]
        return batches + [{"large": as_tensor(part)} for part in np.split(large, range(8, len(large), 8)) if len(part)]


def drawn(sets: Sequence[np.ndarray], count: int, rng: np.random.Generator) -> Tensor:
    """Random batch of crops; each is mirrored with probability 1/2."""
    chosen = [sets[i] for i in rng.integers(len(sets), size=count)]
    pixels = np.stack([crops[rng.integers(len(crops))] for crops in chosen])
    flip = rng.random(len(pixels)) < 0.5
    pixels[flip] = pixels[flip, :, ::-1]
    return as_tensor(pixels)


def read_crops(source: Source, config: CropsConfig) -> tuple[Crops, Crops]:
    """Crops for training and for validation, from disjoint images. Raises UnreadableInput if no image can be read."""
    found = open_labeled(source, "train")
    kept: list[np.ndarray] = []
    aside: list[np.ndarray] = []
    large: list[np.ndarray] = []
    large_aside: list[np.ndarray] = []
    for i, key in enumerate(found.keys):
        place = place_of(key)
        try:
            pixels, rng = found.read(i), np.random.default_rng(int(place * 2**32))
        except LatensError as error:
            logger.warning("left out: %s", first_line(error))
            continue
        crops, larger = crops_of(pixels, config, rng), larger_crops(pixels, config, rng)
        if place >= config.validation_share:
            kept += crops
            large += larger
        elif len(aside) < config.validation_limit:
            aside += crops[: config.validation_limit // 8 or 1]
            large_aside += larger
    if not kept and not aside:
        raise UnreadableInput("none of the images can be read", where=str(source))
    return Crops.of(kept, large, config), Crops.of(aside, large_aside, config)


def _stacked(crops: list[np.ndarray], size: int) -> np.ndarray:
    return np.stack(crops) if crops else np.empty((0, size, size, 3), np.uint8)


def crops_of(pixels: np.ndarray, config: CropsConfig, rng: np.random.Generator) -> list[np.ndarray]:
    """Random crops of one image, some at half resolution. An image smaller than a crop is extended by reflection."""
    size = config.size
    missing = [max(size - side, 0) for side in pixels.shape[:2]]
    if any(missing):
        pixels = np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")
    crops = []
    half = None
    for _ in range(max(1, min(config.crops, pixels.shape[0] * pixels.shape[1] // size**2))):
        image = pixels
        if min(pixels.shape[:2]) >= 4 * size and rng.random() < HALVED:
            half = halved(pixels) if half is None else half
            image = half
        top, left = (BLOCK * int(rng.integers((side - size) // BLOCK + 1)) for side in image.shape[:2])
        crops.append(image[top : top + size, left : left + size].copy())
    return crops


def larger_crops(pixels: np.ndarray, config: CropsConfig, rng: np.random.Generator) -> list[np.ndarray]:
    """Random crops with sides of `config.large` pixels, most from the downscaled image; none of a smaller image."""
    size = config.large
    if not size or min(pixels.shape[:2]) < size:
        return []
    crops = []
    for _ in range(LARGE_CROPS):
        image = pixels
        factor = rng.uniform(*SCALES)
        if rng.random() < RESCALED and min(pixels.shape[:2]) * factor >= size + 1:
            height, width = (round(side * factor) for side in pixels.shape[:2])
            image = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
        top, left = (BLOCK * int(rng.integers((side - size) // BLOCK + 1)) for side in image.shape[:2])
        crops.append(image[top : top + size, left : left + size].copy())
    return crops


def halved(pixels: np.ndarray) -> np.ndarray:
    """Image at half resolution: means of 2 x 2 pixels."""
    height, width = (side // 2 * 2 for side in pixels.shape[:2])
    four = pixels[:height, :width].astype(np.uint16).reshape(height // 2, 2, width // 2, 2, 3)
    return ((four.sum((1, 3)) + 2) >> 2).astype(np.uint8)


def as_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))


NUMBERS: Mapping[str, str] = MappingProxyType({"pixels": "bits_per_dim", "large": "large_bits_per_dim"})


class CodeLength:
    """Loss: bits per dimension under the logistics of the flow, the ideal code length."""

    optimizers = ONE_OPTIMIZER

    def __init__(self, model: IntegerFlow, data: CropsConfig) -> None:
        self.model, self.data = model, data

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> Iterator[Step]:
        bits = {kind: model(pixels).mean() / pixels[0].numel() for kind, pixels in batch.items()}
        yield Step("model", torch.stack(list(bits.values())).mean(), {NUMBERS[kind]: value for kind, value in bits.items()})

    @torch.no_grad()
    def validate(self, model: Any, batches: Sequence[dict[str, Tensor]]) -> dict[str, float]:
        found: dict[str, list[Tensor]] = {}
        for batch in batches:
            for kind, pixels in batch.items():
                found.setdefault(NUMBERS[kind], []).append(model(pixels) / pixels[0].numel())
        bits = {name: float(torch.cat(parts).double().mean()) for name, parts in found.items()}
        return {"loss": sum(bits.values()) / len(bits), **bits}

    def images(self, model: Any, batches: Sequence[dict[str, Tensor]]) -> dict[str, np.ndarray]:
        return {}

    def export(self, model: Any, batches: Sequence[dict[str, Tensor]]) -> Export:
        kinds = [
            torch.cat([b[kind] for b in batches if kind in b]).cpu() for kind in NUMBERS if any(kind in b for b in batches)
        ]
        budget = FREEZING * self.data.size**2 // len(kinds)  # pixels
        chosen = [pixels[:: -(-len(pixels) * pixels[0, 0].numel() // budget)] for pixels in kinds]
        frozen = freeze(copy.deepcopy(model).cpu(), *chosen)
        return Export(model.state_dict(), frozen.tensors(), {"model": to_dict(self.model), "coding": frozen.spec()})
