"""Composites of real nuclei: real textures with exact amodal masks.

Label maps contain only visible parts. Therefore unoccluded nuclei are cut out of an image, rotated, and pasted with overlap on
its background color. Intensities add in fluorescence and multiply in stained tissue; with `opaque`, the nucleus in front hides
those behind it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from latens.data.images import read_image
from latens.data.instances import Sample, paint
from latens.data.labels import pairs_in, read_labels
from latens.data.masks import window_of
from latens.data.notes import readable
from latens.data.splits import place_of
from latens.errors import InputError
from latens.shapes import Bool, Float

logger = logging.getLogger(__name__)

Split = Literal["train", "validation", "test"]
MARGIN = 3  # pixels of background that are cut out around a nucleus; they fade out
MIN_AREA, MIN_COUNT = 80, 4  # smallest area of a nucleus in pixels, smallest number of nuclei of an image
NUCLEI = (3, 10)  # smallest and largest number of nuclei of a composite
TRIES = 60  # random positions per nucleus


class Nucleus(NamedTuple):
    mask: Bool[np.ndarray, "h w"]
    ratio: Float[np.ndarray, "h w 3"]  # intensity divided by the background (bright background), or minus it (dark background)


class NucleiImage(NamedTuple):
    """The unoccluded nuclei of one image, and its background."""

    name: str
    dark: bool  # dark background, as in fluorescence
    ground: Float[np.ndarray, "3"]  # background color, 0..255
    noise: float  # robust standard deviation of the background
    nuclei: tuple[Nucleus, ...]


def read_nuclei(folder: Path, split: Split) -> list[NucleiImage]:
    """The images of a label folder that belong to a split (70, 15, 15 % by the hash of their name) and have whole nuclei.

    Unreadable images are left out with a warning. Raises InputError if there is none.
    """
    pairs = [(image, labels) for image, labels in pairs_in(folder) if split_of(image.name) == split]
    read = list(readable(pairs, lambda pair: _nuclei_of(*pair)))
    images = [each for each in read if len(each.nuclei) >= MIN_COUNT]
    if not images:
        raise InputError(f"no image of the {split} split has at least {MIN_COUNT} unoccluded nuclei", where=str(folder))
    if len(images) < len(read):
        few = len(read) - len(images)
        logger.warning(
            "%s: skipped %d of %d images (%s) with fewer than %d whole nuclei", folder, few, len(read), split, MIN_COUNT
        )
    return images


def split_of(name: str) -> Split:
    """The split of an image, by its name alone."""
    place = place_of(name)
    return "train" if place < 0.7 else "validation" if place < 0.85 else "test"


def _nuclei_of(image: Path, labels: Path) -> NucleiImage:
    pixels = read_image(image).pixels.astype(np.float32)
    layers = read_labels(labels)
    if layers.amodal.shape[1:] != pixels.shape[:2]:
        raise InputError("the label map and its image differ in size", where=str(labels))
    empty = pixels[~layers.amodal.any(axis=0)]
    if not len(empty):
        return NucleiImage(image.name, True, np.zeros(3, dtype=np.float32), 0.0, ())
    ground = np.median(empty, axis=0)
    inside = pixels[layers.amodal.any(axis=0)]
    dark = bool(len(inside) == 0 or inside.mean() > ground.mean())
    noise = float(np.median(np.abs(empty - ground)) * 1.48)
    occupied = layers.amodal.sum(axis=0) > 0
    nuclei = tuple(cut for mask in layers.amodal if (cut := _cut(pixels, mask, occupied & ~mask, ground, dark)) is not None)
    return NucleiImage(image.name, dark, ground, noise, nuclei)


def _cut(pixels: np.ndarray, mask: np.ndarray, others: np.ndarray, ground: np.ndarray, dark: bool) -> Nucleus | None:
    """A nucleus with a margin that fades to the background; None if it touches the image border or is too small."""
    rows, columns = window_of(mask)
    top, bottom, left, right = rows.start - MARGIN, rows.stop + MARGIN, columns.start - MARGIN, columns.stop + MARGIN
    if mask.sum() < MIN_AREA or top < 0 or left < 0 or bottom > mask.shape[0] or right > mask.shape[1]:
        return None
    window = (slice(top, bottom), slice(left, right))
    soft = mask[window].astype(np.float32)
    for _ in range(MARGIN):  # each round dilates by one pixel, with decreasing weight
        grown = np.maximum.reduce([np.roll(soft, shift, axis) for axis in (0, 1) for shift in (-1, 1)])
        soft = np.maximum(soft, grown * np.float32(0.6))
    soft = np.where(mask[window], 1, np.where(others[window], 0, soft * 0.8))[..., None]
    part = pixels[window]
    if dark:
        return Nucleus(mask[window], soft * (part - ground))
    return Nucleus(mask[window], 1 + soft * (part / np.maximum(ground, 1) - 1))


def composite(rng: np.random.Generator, images: Sequence[NucleiImage], size: int, *, opaque: bool = False) -> Sample:
    """A composite of 3 to 10 nuclei of one image, most of which overlap another; layer 0 is in front.

    By default nuclei are translucent: intensities add (dark background) or multiply (bright background).
    """
    donor = images[int(rng.integers(len(images)))]
    chosen = [donor.nuclei[int(rng.integers(len(donor.nuclei)))] for _ in range(rng.integers(*NUCLEI, endpoint=True))]
    scale = _scale(rng, chosen, size)
    amodal = np.zeros((0, size, size), dtype=bool)
    light = np.zeros((size, size, 3), dtype=np.float32) if donor.dark else np.ones((size, size, 3), dtype=np.float32)
    for nucleus in chosen:
        turned = _turn(rng, _resize(nucleus, scale, donor.dark))
        place = _place(rng, turned.mask, amodal)
        if place is None:
            continue
        window = (slice(place[0], place[0] + turned.mask.shape[0]), slice(place[1], place[1] + turned.mask.shape[1]))
        if opaque:
            light[window] = np.where(turned.mask[..., None], turned.ratio, light[window])
        elif donor.dark:
            light[window] += turned.ratio
        else:
            light[window] *= turned.ratio
        mask = np.zeros((1, size, size), dtype=bool)
        mask[(0, *window)] = turned.mask
        amodal = np.concatenate((amodal, mask))
    layers = paint(amodal, np.arange(len(amodal))[::-1])
    exposure = rng.uniform(80, 240) / max(float(np.percentile(light, 99.5)), 1.0) if donor.dark else 1.0
    composed = donor.ground + light * np.float32(min(exposure, 8.0)) if donor.dark else donor.ground * light
    grain = rng.standard_normal((size, size, 1), dtype=np.float32) * np.float32(min(donor.noise, 8.0) + 0.5)
    return Sample(np.clip(composed + grain, 0, 255).astype(np.uint8), layers)


def _scale(rng: np.random.Generator, chosen: Sequence[Nucleus], size: int) -> float:
    """Scale factor after which the mean size of the nuclei is a random 12 to 25 % of the side of the image."""
    side = np.mean([np.sqrt(nucleus.mask.sum()) for nucleus in chosen])
    return float(np.clip(size * rng.uniform(0.12, 0.25) / side, 0.5, 4.0))


def _resize(nucleus: Nucleus, scale: float, dark: bool) -> Nucleus:
    height, width = (max(4, round(side * scale)) for side in nucleus.mask.shape)
    planes = [
        np.asarray(Image.fromarray(nucleus.ratio[..., c]).resize((width, height), Image.Resampling.BILINEAR)) for c in range(3)
    ]
    soft = Image.fromarray(nucleus.mask.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    return Nucleus(np.asarray(soft) > 0.5, np.stack(planes, axis=-1))


def _turn(rng: np.random.Generator, nucleus: Nucleus) -> Nucleus:
    quarters, mirror = int(rng.integers(4)), rng.random() < 0.5
    mask, ratio = np.rot90(nucleus.mask, quarters), np.rot90(nucleus.ratio, quarters)
    return Nucleus(mask[:, ::-1], ratio[:, ::-1]) if mirror else Nucleus(mask, ratio)


def _place(rng: np.random.Generator, mask: np.ndarray, amodal: np.ndarray) -> tuple[int, int] | None:
    """A random top left corner with an overlap of 10 to 60 % (for some nuclei: below 2 %); None if none is found."""
    size = amodal.shape[1]
    free = (size - mask.shape[0], size - mask.shape[1])
    if min(free) < 1:
        return None
    taken = np.asarray(amodal.any(axis=0))
    alone = not len(amodal) or rng.random() < 0.15
    for _ in range(TRIES):
        top, left = int(rng.integers(free[0])), int(rng.integers(free[1]))
        share = (taken[top : top + mask.shape[0], left : left + mask.shape[1]] & mask).sum() / mask.sum()
        if (alone and share < 0.02) or (not alone and 0.1 < share < 0.6):
            return top, left
    return None
