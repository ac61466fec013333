"""Training of the integer flow: crops of images, and bits per dimension as the loss."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
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

BLOCK = 8  # crops start at multiples of it, as the blocks of a JPEG do
FREEZING = 600  # crops that the integers are fitted to
HALVED = 0.25  # share of the crops of a large image that are taken from it at half its size, where no JPEG shows


class CropData:
    """Batches {"pixels": (B, 3, S, S) uint8}; every data set is drawn as often as any other. Crops are held in memory."""

    def __init__(self, sources: Sequence[Source], config: CropsConfig, seed: int) -> None:
        if not sources:
            raise UsageError("the packer is trained on images", where="--data", hint="give folders of images or .npz packs")
        self.config, self.seed = config, seed
        self.sets, held_out = [], []
        for source in sources:
            kept, aside = read_crops(source, config)
            self.sets.append(kept if len(kept) else aside)
            held_out.append(aside)
        self.held_out = np.concatenate(held_out)
        if not len(self.held_out):
            logger.warning("the images are too few to hold some out: validation uses training images")
            self.held_out = np.concatenate(self.sets)[: config.validation_limit]

    def batch(self, step: int, rank: int) -> dict[str, Tensor]:
        rng = generator(self.seed, step, rank)
        chosen = [self.sets[i] for i in rng.integers(len(self.sets), size=self.config.batch)]
        pixels = np.stack([crops[rng.integers(len(crops))] for crops in chosen])
        flip = rng.random(len(pixels)) < 0.5
        pixels[flip] = pixels[flip, :, ::-1]
        return {"pixels": as_tensor(pixels)}

    def validation(self) -> list[dict[str, Tensor]]:
        return [{"pixels": as_tensor(part)} for part in np.split(self.held_out, range(64, len(self.held_out), 64))]


def read_crops(source: Source, config: CropsConfig) -> tuple[np.ndarray, np.ndarray]:
    """Crops (n, S, S, 3) for training and for validation, of different images; at most `validation_limit` of the latter."""
    found = open_labeled(source, "train")
    kept: list[np.ndarray] = []
    aside: list[np.ndarray] = []
    for i, key in enumerate(found.keys):
        place = place_of(key)
        try:
            crops = crops_of(found.read(i), config, np.random.default_rng(int(place * 2**32)))
        except LatensError as error:
            logger.warning("left out: %s", first_line(error))
            continue
        if place >= config.validation_share:
            kept += crops
        elif len(aside) < config.validation_limit:
            aside += crops[: config.validation_limit // 8 or 1]
    if not kept and not aside:
        raise UnreadableInput("none of the images can be read", where=str(source))
    empty = np.empty((0, config.size, config.size, 3), np.uint8)
    return np.stack(kept) if kept else empty, np.stack(aside) if aside else empty


def crops_of(pixels: np.ndarray, config: CropsConfig, rng: np.random.Generator) -> list[np.ndarray]:
    """Random crops of one image, some of them at half its size; a smaller image is continued by mirror images."""
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


def halved(pixels: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels."""
    height, width = (side // 2 * 2 for side in pixels.shape[:2])
    four = pixels[:height, :width].astype(np.uint16).reshape(height // 2, 2, width // 2, 2, 3)
    return ((four.sum((1, 3)) + 2) >> 2).astype(np.uint8)


def as_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))


class CodeLength:
    """Bits per dimension of the flow's logistics, which are what the range coder will need."""

    optimizers = ONE_OPTIMIZER

    def __init__(self, model: IntegerFlow) -> None:
        self.model = model

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> Iterator[Step]:
        bits = model(batch["pixels"]).mean() / batch["pixels"][0].numel()
        yield Step("model", bits, {"bits_per_dim": bits})

    @torch.no_grad()
    def validate(self, model: Any, batches: Sequence[dict[str, Tensor]]) -> dict[str, float]:
        bits = torch.cat([model(batch["pixels"]) / batch["pixels"][0].numel() for batch in batches])
        mean = float(bits.double().mean())
        return {"loss": mean, "bits_per_dim": mean}

    def images(self, model: Any, batches: Sequence[dict[str, Tensor]]) -> dict[str, np.ndarray]:
        return {}

    def export(self, model: Any, batches: Sequence[dict[str, Tensor]]) -> Export:
        pixels = torch.cat([batch["pixels"] for batch in batches]).cpu()
        frozen = freeze(copy.deepcopy(model).cpu(), pixels[:: -(-len(pixels) // FREEZING)])
        return Export(model.state_dict(), frozen.tensors(), {"model": to_dict(self.model), "coding": frozen.spec()})
