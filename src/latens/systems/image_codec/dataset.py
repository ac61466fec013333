"""Random crops of photographs, which are kept in memory as bytes if they fit."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from latens.data.images import IMAGE_ENDINGS, read_each
from latens.data.inputs import files_under
from latens.data.origins import without_drawn
from latens.data.source import Source, plain_paths
from latens.data.splits import place_of
from latens.data.streaming import in_memory_or_streamed
from latens.data.tensors import to_tensor
from latens.errors import UnreadableInput
from latens.systems.image_codec.config import HYPER_STRIDE, CropConfig
from latens.training.data import generator

logger = logging.getLogger(__name__)

SHRUNK_SHARE = 0.5  # of the crops are downsampled
REDUCED = "reduced"  # kind of data: photographs that are halved when they are read, which hides strong JPEG compression


class CropData:
    """Batches {"image": (B, 3, crop, crop) float in [0, 1]} of random crops, mirrored and rotated.

    Photographs of "reduced:FOLDER" are halved by a Lanczos filter. Unreadable photographs and those below `crop` are left out
    with a warning. If none is held out, validation uses the training photographs, with a warning. Raises UsageError for
    another kind of source, UnreadableInput for a path that is not a folder, and if no photograph is left.
    """

    def __init__(self, sources: Sequence[Source], config: CropConfig, seed: int) -> None:
        self.config = config
        self.seed = seed
        found = [photo for source in sources for photo in photographs_of(source)]
        held_out = {photo for photo in found if place_of(photo.path.name) < config.validation_share}
        chosen = held_out if len(held_out) < len(found) else set(found[:1])
        self.train = load_photographs([photo for photo in found if photo not in chosen] or found, config.crop)
        self.held_out = load_photographs([photo for photo in found if photo in chosen], config.crop)
        if not self.train:
            raise UnreadableInput(
                f"no photograph of at least {config.crop} x {config.crop} pixels",
                where=", ".join(map(str, sources)),
                hint=f"give a folder with files ending in {', '.join(sorted(IMAGE_ENDINGS))}",
            )
        if not self.held_out or len(found) == 1:
            logger.warning("no photograph is held out: validation uses the training photographs")
            self.held_out = self.train

    def batch(self, step: int, rank: int) -> dict[str, Tensor]:
        rng = generator(self.seed, step, rank)
        crops = [self._crop(rng) for _ in range(self.config.batch)]
        return {"image": to_tensor(np.stack(crops), channels_last=True)}

    def _crop(self, rng: np.random.Generator) -> np.ndarray:
        image = self.train[int(rng.integers(len(self.train)))]
        height, width = image.shape[:2]
        size = self.config.crop
        reduced = rng.random() < SHRUNK_SHARE and self.config.shrink > 1
        factor = rng.uniform(1, self.config.shrink) if reduced else 1.0
        side = min(int(size * factor), height, width)
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        patch = image[top : top + side, left : left + side]
        if side != size:
            patch = np.asarray(Image.fromarray(patch).resize((size, size), Image.Resampling.LANCZOS))
        patch = patch[:, ::-1] if rng.random() < 0.5 else patch
        return patch.transpose(1, 0, 2) if rng.random() < 0.5 else patch

    def validation(self) -> list[dict[str, Tensor]]:
        """One centered crop of every held-out photograph, its sides the largest multiples of 64 that fit."""
        largest = self.config.validation_crop
        return [{"image": to_tensor(center(image, largest), channels_last=True)} for image in self.held_out]


class Photograph(NamedTuple):
    """An image file of the training data; `reduced` halves its sides."""

    path: Path
    reduced: bool


def photographs_of(source: Source) -> list[Photograph]:
    """The photographs of a folder, or of "reduced:FOLDER". Raises UsageError for another kind."""
    if source.kind == REDUCED:
        return [Photograph(path, True) for path in photographs(source.path)]
    return [Photograph(path, False) for folder in plain_paths([source], "the image codec") for path in photographs(folder)]


def load_photographs(found: Sequence[Photograph], smallest: int) -> Sequence[np.ndarray]:
    """The photographs, uint8 (H, W, 3), with sides of at least `smallest` pixels, in memory or streamed.

    Warnings report those that are left out.
    """
    small: list[Path] = []

    def read(place: int) -> np.ndarray | None:
        photo = found[place]
        for _, pixels in read_each([photo.path]):
            image = halved(pixels) if photo.reduced else pixels
            if min(image.shape[:2]) >= smallest:
                return image
            small.append(photo.path)
        return None

    where = str(found[0].path.parent) if found else ""
    kept = in_memory_or_streamed(len(found), read, lambda image: image.nbytes, where)
    if small:
        logger.warning("left out of the training data: %d photographs with a side below %d pixels", len(set(small)), smallest)
    return kept


def halved(image: np.ndarray) -> np.ndarray:
    """An image uint8 (H, W, 3) at half of its size, at least one pixel."""
    height, width = (max(side // 2, 1) for side in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def photographs(folder: Path) -> list[Path]:
    """Every image file under a folder, sorted by path. Raises UnreadableInput if the path is not a folder."""
    if not folder.is_dir():
        raise UnreadableInput("not a folder", where=str(folder), hint="give the folder that holds the photographs")
    return sorted(without_drawn(files_under(folder, IMAGE_ENDINGS), folder))


def center(image: np.ndarray, largest: int) -> np.ndarray:
    """The center crop of an image (H, W, 3), with sides that are multiples of 64 of at most `largest` pixels."""
    sides = (min(side, largest) // HYPER_STRIDE * HYPER_STRIDE for side in image.shape[:2])
    height, width = (max(HYPER_STRIDE, side) for side in sides)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]
