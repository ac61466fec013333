"""Random crops of a folder of photographs, held in memory as bytes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from latens.data.images import PICTURE_ENDINGS, read_picture
from latens.data.splits import place_of
from latens.data.tensors import to_tensor
from latens.errors import InputError, LimitExceeded, UnreadableInput
from latens.systems.image_codec.config import CropConfig
from latens.training.data import generator

logger = logging.getLogger(__name__)


class CropData:
    """Batches {"image": (B, 3, crop, crop) float in [0, 1]} of random crops, mirrored and turned.

    Raises UnreadableInput when the folders hold no photograph with both sides of at least `crop`.
    """

    def __init__(self, folders: Sequence[Path], config: CropConfig, seed: int) -> None:
        self.config = config
        self.seed = seed
        paths = [path for folder in folders for path in photographs(folder)]
        held_out = [path for path in paths if place_of(path.name) < config.validation_share]
        chosen = set(held_out) if len(held_out) < len(paths) else set(paths[:1])
        self.train = self._load([path for path in paths if path not in chosen] or paths, config.crop)
        self.held_out = self._load([path for path in paths if path in chosen] or paths, config.crop)
        if not self.train:
            raise UnreadableInput(
                f"no photograph of at least {config.crop} x {config.crop} pixels",
                where=", ".join(map(str, folders)),
                hint=f"give a folder with files ending in {', '.join(sorted(PICTURE_ENDINGS))}",
            )

    def _load(self, paths: Sequence[Path], smallest: int) -> list[np.ndarray]:
        pictures = []
        for path in paths:
            try:
                pixels = read_picture(path).pixels
            except (InputError, LimitExceeded) as error:
                # A stray damaged file does not stop a training run.
                logger.warning("left out of the training data: %s", str(error).splitlines()[0])
                continue
            if min(pixels.shape[:2]) >= smallest:
                pictures.append(pixels)
        return pictures

    def batch(self, step: int, rank: int) -> dict[str, Tensor]:
        rng = generator(self.seed, step, rank)
        crops = [self._crop(rng) for _ in range(self.config.batch)]
        return {"image": to_tensor(np.stack(crops), channels_last=True)}

    def _crop(self, rng: np.random.Generator) -> np.ndarray:
        picture = self.train[rng.integers(len(self.train))]
        height, width = picture.shape[:2]
        size = self.config.crop
        factor = rng.uniform(1, self.config.shrink) if rng.random() < self.config.shrink_share else 1.0
        side = min(int(size * factor), height, width)
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        patch = picture[top : top + side, left : left + side]
        if side != size:
            patch = np.asarray(Image.fromarray(patch).resize((size, size), Image.Resampling.LANCZOS))
        patch = patch[:, ::-1] if rng.random() < 0.5 else patch
        return patch.transpose(1, 0, 2) if rng.random() < 0.5 else patch

    def validation(self) -> list[dict[str, Tensor]]:
        """One centered crop of every held-out photograph, its sides the largest multiples of 64 that fit."""
        return [
            {"image": to_tensor(center(picture, self.config.validation_crop), channels_last=True)} for picture in self.held_out
        ]


def photographs(folder: Path) -> list[Path]:
    """Every picture file under `folder`, sorted by name."""
    if not folder.is_dir():
        raise UnreadableInput("not a folder", where=str(folder), hint="give the folder that holds the photographs")
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_ENDINGS)


def center(picture: np.ndarray, largest: int) -> np.ndarray:
    height, width = (max(64, min(side, largest) // 64 * 64) for side in picture.shape[:2])
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return picture[top : top + height, left : left + width]
