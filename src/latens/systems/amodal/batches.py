"""Training batches of the amodal segmenter: crops of masks for the mask code, then images with their objects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from latens.data.instances import Sample
from latens.data.masks import boxes_of, crop
from latens.data.tensors import to_tensor
from latens.errors import InputError
from latens.shapes import Float
from latens.systems.amodal.config import STRIDE, AmodalConfig, LossConfig, SceneConfig
from latens.systems.amodal.dataset import SampleSource
from latens.training.data import generator

JITTER = 0.1  # standard deviation of the shift of each box side, relative to the extent of the box
SCENES = 4  # number of images that supply the masks of a batch of crops
MAX_EMPTY = 100  # number of images without an object after which an error is raised


class AmodalData:
    """Batches {"crops"} in the first `code_steps` steps, then {"image", "amodal", "visible", "label", "owner"}.

    The images of a batch come from the sources in turn, so several data sets have equal shares.
    """

    def __init__(
        self,
        sources: Sequence[SampleSource],
        model: AmodalConfig,
        scenes: SceneConfig,
        code_steps: int,
        losses: LossConfig,
        seed: int,
    ) -> None:
        self.sources = sources
        self.model = model
        self.scenes = scenes
        self.code_steps = code_steps
        self.losses = losses
        self.seed = seed

    def batch(self, step: int, rank: int) -> dict[str, Tensor]:
        rng = generator(self.seed, step, rank)
        if step < self.code_steps:
            samples = [self._draw(rng, SCENES * step + number) for number in range(SCENES)]
            while not any(len(sample.layers.layer) for sample in samples):
                if len(samples) > MAX_EMPTY:
                    raise InputError("no object in the training images", hint="objects may be too small: increase model.size")
                samples.append(self._draw(rng, step + len(samples)))
            return {"crops": mask_crops(rng, samples, self.losses.code_batch, self.model.code.size)}
        count = self.scenes.batch
        return self._collate([self._draw(rng, count * step + number) for number in range(count)])

    def _draw(self, rng: np.random.Generator, number: int) -> Sample:
        return self.sources[number % len(self.sources)].draw(rng, self.model.size)

    def validation(self) -> list[dict[str, Tensor]]:
        share = -(-self.scenes.validation // len(self.sources))
        samples = [sample for source in self.sources for sample in source.held_out("validation", share, self.model.size)]
        step = self.scenes.batch
        return [self._collate(samples[start : start + step]) for start in range(0, len(samples), step)]

    def _collate(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Square images, or with a shorter side, images of the size of the largest of the batch."""
        size = self.model.size
        if not self.model.short_side:
            return collate(samples, (size, size))
        largest = np.max([sample.image.shape[:2] for sample in samples], axis=0)
        height, width = (-(-int(side) // STRIDE) * STRIDE for side in largest)
        return collate(samples, (height, width))


def collate(samples: Sequence[Sample], size: tuple[int, int]) -> dict[str, Tensor]:
    """Images (B, 3, *size) in [0, 1], padded at the right and bottom, and their concatenated objects."""
    image = np.zeros((len(samples), *size, 3), dtype=np.uint8)
    amodal, visible, label, owner = [], [], [], []
    for index, sample in enumerate(samples):
        height, width = sample.image.shape[:2]
        image[index, :height, :width] = sample.image
        padding = ((0, 0), (0, size[0] - height), (0, size[1] - width))
        amodal.append(np.pad(sample.layers.amodal, padding))
        visible.append(np.pad(sample.layers.visible, padding))
        label.append(sample.layers.category)
        owner.append(np.full(len(sample.layers.category), index))
    return {
        "image": to_tensor(image, channels_last=True),
        "amodal": torch.from_numpy(np.concatenate(amodal).astype(np.uint8)),
        "visible": torch.from_numpy(np.concatenate(visible).astype(np.uint8)),
        "label": torch.from_numpy(np.concatenate(label).astype(np.int64)),
        "owner": torch.from_numpy(np.concatenate(owner).astype(np.int64)),
    }


def mask_crops(rng: np.random.Generator, samples: Sequence[Sample], count: int, size: int) -> Float[Tensor, "N 1 S S"]:
    """Area coverages in [0, 1] of random masks, cropped with jittered boxes, mirrored and rotated in steps of 90 degrees."""
    masks = torch.from_numpy(np.concatenate([sample.layers.amodal for sample in samples]).astype(np.float32))
    boxes = boxes_of(masks)
    chosen = torch.from_numpy(rng.integers(len(masks), size=count))
    extent = (boxes[:, 2:] - boxes[:, :2])[chosen].repeat(1, 2)
    shift = torch.from_numpy(rng.normal(0, JITTER, (count, 4)).clip(-2 * JITTER, 2 * JITTER).astype(np.float32))
    exact = torch.from_numpy(rng.random((count, 1)) < 0.2)
    crops = crop(masks[chosen], boxes[chosen] + torch.where(exact, 0, shift * extent), size)
    turns = rng.integers(8, size=count)
    rotated = [torch.rot90(mask.mT if turn >= 4 else mask, int(turn) % 4) for mask, turn in zip(crops, turns, strict=True)]
    return torch.stack(rotated)[:, None]
