"""Where training and test pictures come from, by the words that `--data` takes.

simulated, simulated:opaque, simulated:translucent    embryos, or generic shapes
nuclei:FOLDER, nuclei-opaque:FOLDER                   real nuclei laid over each other, from pictures with label maps
coco:FILE.json,IMAGES  kins: cocoa: d2sa: aistron:    annotation files; without IMAGES the pictures are beside the file
labelme:FOLDER, labels:FOLDER                         labelme's files; pictures with label maps or stacks of masks
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from latens.data.convert import READABLE, read_collection
from latens.data.instances import Collection, Layers, Sample, Scene
from latens.data.stacks import read_frame
from latens.errors import InputError, UsageError
from latens.systems.amodal.config import EmbryoConfig, ShapesConfig
from latens.systems.amodal.simulator.embryos import embryo
from latens.systems.amodal.simulator.nuclei import composite, read_sources, split_of
from latens.systems.amodal.simulator.shapes import shapes

VALIDATION_SEED, TEST_SEED = 20_110, 20_111  # streams apart from every training stream, which have three numbers
KINDS = ("embryo", "opaque", "translucent")
SMALLEST = 16  # pixels of a mask that is still an object after resizing


class HeldOut:
    """Held-out pictures, each made when it is asked for: the masks of a whole test set need gigabytes."""

    def __init__(self, make: Callable[[int], Sample], count: int) -> None:
        self._make = make
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Sample:
        if not 0 <= number < self._count:
            raise IndexError(number)
        return self._make(number)

    def __iter__(self) -> Iterator[Sample]:
        return map(self._make, range(self._count))


def together(sets: Sequence[HeldOut]) -> HeldOut:
    """Several sets, one after the other."""
    places = [(one, number) for one in sets for number in range(len(one))]
    return HeldOut(lambda place: places[place][0][places[place][1]], len(places))


class ImageSource(Protocol):
    """Pictures with truth. Held-out pictures are never drawn in training, and are the same at every call."""

    classes: tuple[str, ...]

    def draw(self, rng: np.random.Generator, size: int) -> Sample:
        """A training picture whose longer side is `size`."""
        ...

    def held_out(self, split: str, count: int, size: int) -> HeldOut:
        """At most `count` pictures of the split "validation" or "test"."""
        ...


def source_of(text: str) -> ImageSource:
    """The source that a word of `--data` names. Raises UsageError for an unknown word, InputError for unusable files."""
    kind, _, place = text.partition(":")
    if kind == "simulated" and (place or "embryo") in KINDS:
        return Simulated(place or "embryo")
    if kind in ("nuclei", "nuclei-opaque") and place:
        return Nuclei(Path(place), opaque=kind == "nuclei-opaque")
    if kind in READABLE and place:
        return Annotated(read_collection(text))
    raise UsageError(
        f"'{text}' names no data",
        where="--data",
        hint="write simulated, nuclei:FOLDER, coco:FILE.json,IMAGES (or kins, cocoa, d2sa), labelme:FOLDER or labels:FOLDER",
    )


class Simulated:
    """Endless pictures from a simulator of one class."""

    def __init__(self, kind: str) -> None:
        self.classes: tuple[str, ...] = ("cell",) if kind == "embryo" else ("shape",)
        self.kind = kind

    def draw(self, rng: np.random.Generator, size: int) -> Sample:
        if self.kind == "embryo":
            return embryo(rng, EmbryoConfig(size=size))
        return shapes(rng, ShapesConfig(size=size, opaque=self.kind == "opaque"))

    def held_out(self, split: str, count: int, size: int) -> HeldOut:
        return _numbered(lambda rng: self.draw(rng, size), split, count)


class Nuclei:
    """Endless composites of nuclei; training, validation and test use different pictures."""

    classes: tuple[str, ...] = ("nucleus",)

    def __init__(self, folder: Path, *, opaque: bool) -> None:
        self.folder = folder
        self.opaque = opaque
        self.train = read_sources(folder, "train")

    def draw(self, rng: np.random.Generator, size: int) -> Sample:
        return composite(rng, self.train, size, opaque=self.opaque)

    def held_out(self, split: str, count: int, size: int) -> HeldOut:
        sources = read_sources(self.folder, "test" if split == "test" else "validation")
        return _numbered(lambda rng: composite(rng, sources, size, opaque=self.opaque), split, count)


def _numbered(draw: Callable[[np.random.Generator], Sample], split: str, count: int) -> HeldOut:
    seed = TEST_SEED if split == "test" else VALIDATION_SEED
    return HeldOut(lambda number: draw(np.random.default_rng([seed, number])), count)


class Annotated:
    """The pictures of a collection. One in seven, by file name, is held out for validation, and as many for test.

    A collection that is only evaluated is used whole: `held_out("all", ...)`.
    """

    def __init__(self, collection: Collection, *, rotate: bool = False) -> None:
        self.collection = collection
        self.classes = collection.categories
        self.rotate = rotate
        with_objects = [scene for scene in collection.scenes if scene.instances]
        if not with_objects:
            raise InputError("no picture has an annotated object", where=str(collection.root))
        self.splits = split_scenes(with_objects)

    def draw(self, rng: np.random.Generator, size: int) -> Sample:
        scenes = self.splits["train"]
        sample = self._load(scenes[int(rng.integers(len(scenes)))], size)
        return turned(sample, int(rng.integers(4)) if self.rotate else 0, mirror=rng.random() < 0.5)

    def held_out(self, split: str, count: int, size: int) -> HeldOut:
        scenes: Sequence[Scene] = self.collection.scenes if split == "all" else self.splits[split]
        return HeldOut(lambda number: self._load(scenes[number], size), min(count, len(scenes)))

    def _load(self, scene: Scene, size: int) -> Sample:
        path = self.collection.path(scene)
        pixels = read_frame(path)
        if pixels.shape[:2] != (scene.height, scene.width):
            raise InputError(
                f"the picture measures {pixels.shape[1]} x {pixels.shape[0]}, its annotations {scene.width} x {scene.height}",
                where=str(path),
            )
        return resized(Sample(pixels, scene.layers()), size)


def split_scenes(scenes: Sequence[Scene]) -> dict[str, list[Scene]]:
    """Scenes by split. A set so small that a split would be empty gives one scene up for it; a single scene serves all."""
    splits: dict[str, list[Scene]] = {"train": [], "validation": [], "test": []}
    for scene in scenes:
        splits[split_of(Path(scene.file).name)].append(scene)
    for split in ("train", "validation"):
        if not splits[split]:
            giver = max(splits.values(), key=len)
            splits[split] = [giver.pop()] if len(giver) > 1 else list(scenes)
    splits["test"] = splits["test"] or splits["validation"]
    return splits


def resized(sample: Sample, size: int) -> Sample:
    """The longer side brought to `size`; objects that become too small are left out."""
    height, width = sample.image.shape[:2]
    scale = size / max(height, width)
    target = (max(1, round(width * scale)), max(1, round(height * scale)))
    if target == (width, height):
        return sample
    image = np.asarray(Image.fromarray(sample.image).resize(target, Image.Resampling.BILINEAR))

    def scaled(masks: np.ndarray) -> np.ndarray:
        small = [Image.fromarray(mask.astype(np.uint8) * 255).resize(target, Image.Resampling.BOX) for mask in masks]
        return np.stack([np.asarray(mask) > 127 for mask in small]) if small else np.zeros((0, *target[::-1]), dtype=bool)

    amodal = scaled(sample.layers.amodal)
    visible = scaled(sample.layers.visible) & amodal
    kept = amodal.sum((1, 2)) >= SMALLEST
    layers = Layers(amodal[kept], visible[kept], sample.layers.layer[kept], sample.layers.category[kept])
    return Sample(image, layers)


def turned(sample: Sample, quarters: int, *, mirror: bool) -> Sample:
    """Turned by quarters and mirrored, truth and all."""
    image, (amodal, visible, layer, category) = np.rot90(sample.image, quarters), sample.layers
    amodal, visible = (np.rot90(masks, quarters, (1, 2)) for masks in (amodal, visible))
    if mirror:
        image, amodal, visible = image[:, ::-1], amodal[:, :, ::-1], visible[:, :, ::-1]
    return Sample(image, Layers(amodal, visible, layer, category))
