"""Training and test data of the amodal segmenter: sources of annotated images, held-out sets, and batches.

Values of `--data`:

simulated, simulated:opaque, simulated:translucent    embryos, or generic shapes
nuclei:FOLDER, nuclei-opaque:FOLDER                   composites of real nuclei, from images with label maps
coco:FILE.json,IMAGES  kins: cocoa: d2sa: aistron:    annotation files; without IMAGES the images are beside the file
labelme:FOLDER, labels:FOLDER                         labelme's files; images with label maps or stacks of masks
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latens.data.convert import READABLE, read_collection
from latens.data.instances import Collection, Layers, Sample, Scene
from latens.data.masks import boxes_of, crop
from latens.data.source import Source
from latens.data.stacks import read_frame
from latens.data.tensors import to_tensor
from latens.errors import InputError, UsageError
from latens.shapes import Float
from latens.systems.amodal.config import AmodalConfig, EmbryoConfig, LossConfig, SceneConfig, ShapesConfig
from latens.systems.amodal.simulator.embryos import embryo
from latens.systems.amodal.simulator.nuclei import composite, read_nuclei, split_of
from latens.systems.amodal.simulator.shapes import shapes
from latens.training.data import generator

VALIDATION_SEED, TEST_SEED = 20_110, 20_111  # distinct from all training streams, whose seeds have three numbers
KINDS = ("embryo", "opaque", "translucent")
SMALLEST = 16  # pixels; smaller masks are dropped after resizing
JITTER = 0.1  # standard deviation of the box sides relative to the extent of the box, like that of proposals
SCENES = 4  # images whose objects fill a batch of masks
MAX_EMPTY = 100  # consecutive images without an object after which an error is raised


class HeldOut:
    """Held-out images, made on request because the masks of a whole test set need gigabytes."""

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


def concatenate(sets: Sequence[HeldOut]) -> HeldOut:
    """The concatenation of several sets."""
    places = [(one, number) for one in sets for number in range(len(one))]
    return HeldOut(lambda place: places[place][0][places[place][1]], len(places))


class SampleSource(Protocol):
    """Annotated images. Held-out images are never drawn for training, and are the same at every call."""

    classes: tuple[str, ...]

    def draw(self, rng: np.random.Generator, size: int) -> Sample:
        """A training image whose longer side is `size`."""
        ...

    def held_out(self, split: str, count: int, size: int) -> HeldOut:
        """At most `count` images of the split "validation", "test", or "all" (all annotated images; else the test split)."""
        ...

    def contents(self) -> list[str]:
        """Names or hashes of the training images, which distinguish data sets of one name."""
        ...


def open_source(source: Source, *, rotate: bool = False) -> SampleSource:
    """The images that a value of `--data` names. Raises UsageError for an unknown value, InputError for unusable files."""
    kind, place = source
    if str(source) == "simulated" or (kind == "simulated" and place in KINDS):
        return Simulated(place if kind else "embryo")
    if kind in ("nuclei", "nuclei-opaque") and place:
        return Nuclei(Path(place), opaque=kind == "nuclei-opaque")
    if kind in READABLE and place:
        return Annotated(read_collection(str(source)), rotate=rotate)
    raise UsageError(
        f"'{source}' names no data",
        where="--data",
        hint="write simulated, nuclei:FOLDER, coco:FILE.json,IMAGES (or kins, cocoa, d2sa), labelme:FOLDER or labels:FOLDER",
    )


def common_classes(sources: Sequence[SampleSource], wanted: Sequence[str]) -> tuple[str, ...]:
    """The classes of the model: `wanted`, or those of the data. Simulated and single-class data fit any single class.

    Raises UsageError when the data sets do not have the same classes in the same order.
    """
    names = [tuple(source.classes) for source in sources]
    classes = tuple(wanted) or names[0]
    for found in names:
        if found != classes and not len(found) == len(classes) == 1:
            raise UsageError(
                f"data of the classes {', '.join(found)} for a model of the classes {', '.join(classes)}",
                where="--data",
                hint="train on one set of classes; --set model.classes=[...] names them",
            )
    return classes


class Simulated:
    """Endless images from a simulator of one class."""

    def __init__(self, kind: str) -> None:
        self.classes: tuple[str, ...] = ("cell",) if kind == "embryo" else ("shape",)
        self.kind = kind

    def draw(self, rng: np.random.Generator, size: int) -> Sample:
        if self.kind == "embryo":
            return embryo(rng, EmbryoConfig(size=size))
        return shapes(rng, ShapesConfig(size=size, opaque=self.kind == "opaque"))

    def held_out(self, split: str, count: int, size: int) -> HeldOut:
        return _numbered(lambda rng: self.draw(rng, size), split, count)

    def contents(self) -> list[str]:
        return []


class Nuclei:
    """Endless composites of nuclei; training, validation and test use different images."""

    classes: tuple[str, ...] = ("nucleus",)

    def __init__(self, folder: Path, *, opaque: bool) -> None:
        self.folder = folder
        self.opaque = opaque
        self.train = read_nuclei(folder, "train")

    def draw(self, rng: np.random.Generator, size: int) -> Sample:
        return composite(rng, self.train, size, opaque=self.opaque)

    def held_out(self, split: str, count: int, size: int) -> HeldOut:
        sources = read_nuclei(self.folder, "validation" if split == "validation" else "test")
        return _numbered(lambda rng: composite(rng, sources, size, opaque=self.opaque), split, count)

    def contents(self) -> list[str]:
        return [image.name for image in self.train]


def _numbered(draw: Callable[[np.random.Generator], Sample], split: str, count: int) -> HeldOut:
    seed = VALIDATION_SEED if split == "validation" else TEST_SEED
    return HeldOut(lambda number: draw(np.random.default_rng([seed, number])), count)


class Annotated:
    """The images of a collection. By the hash of the file name, 15 % are held out for validation and 15 % for testing."""

    def __init__(self, collection: Collection, *, rotate: bool = False) -> None:
        self.collection = collection
        self.classes = collection.categories
        self.rotate = rotate
        with_objects = [scene for scene in collection.scenes if scene.instances]
        if not with_objects:
            raise InputError("no image has an annotated object", where=str(collection.root))
        self.splits = split_scenes(with_objects)

    def draw(self, rng: np.random.Generator, size: int) -> Sample:
        scenes = self.splits["train"]
        sample = self._load(scenes[int(rng.integers(len(scenes)))], size)
        return rotated(sample, int(rng.integers(4)) if self.rotate else 0, mirror=rng.random() < 0.5)

    def held_out(self, split: str, count: int, size: int) -> HeldOut:
        scenes: Sequence[Scene] = self.collection.scenes if split == "all" else self.splits[split]
        return HeldOut(lambda number: self._load(scenes[number], size), min(count, len(scenes)))

    def contents(self) -> list[str]:
        return [hashlib.sha256(repr(self.collection.scenes).encode()).hexdigest()]

    def _load(self, scene: Scene, size: int) -> Sample:
        path = self.collection.path(scene)
        pixels = read_frame(path)
        if pixels.shape[:2] != (scene.height, scene.width):
            raise InputError(
                f"the image measures {pixels.shape[1]} x {pixels.shape[0]}, its annotations {scene.width} x {scene.height}",
                where=str(path),
            )
        return resized(Sample(pixels, scene.layers()), size)


def split_scenes(scenes: Sequence[Scene]) -> dict[str, list[Scene]]:
    """Scenes by split. An empty split takes one scene of the largest split; a single scene is used in every split."""
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
    """The sample resized to a longer side of `size`; objects of fewer than SMALLEST pixels are dropped."""
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


def rotated(sample: Sample, quarters: int, *, mirror: bool) -> Sample:
    """The image and its truth, rotated by `quarters` times 90 degrees and mirrored."""
    image, (amodal, visible, layer, category) = np.rot90(sample.image, quarters), sample.layers
    amodal, visible = (np.rot90(masks, quarters, (1, 2)) for masks in (amodal, visible))
    if mirror:
        image, amodal, visible = image[:, ::-1], amodal[:, :, ::-1], visible[:, :, ::-1]
    return Sample(image, Layers(amodal, visible, layer, category))


# ----------------------------------------------------------------------------------------------------------- batches


class AmodalData:
    """{"crops"} in the first `code_steps` steps, then {"image", "amodal", "visible", "label", "owner"}.

    Batches draw from the sources in turn, so that several data sets mix evenly.
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
                    raise InputError("the training images hold no object", hint="objects may be too small: raise model.size")
                samples.append(self._draw(rng, step + len(samples)))
            return {"crops": mask_crops(rng, samples, self.losses.code_batch, self.model.code.size)}
        count = self.scenes.batch
        return collate([self._draw(rng, count * step + number) for number in range(count)], self.model.size)

    def _draw(self, rng: np.random.Generator, number: int) -> Sample:
        return self.sources[number % len(self.sources)].draw(rng, self.model.size)

    def validation(self) -> list[dict[str, Tensor]]:
        share = -(-self.scenes.validation // len(self.sources))
        samples = [sample for source in self.sources for sample in source.held_out("validation", share, self.model.size)]
        step = self.scenes.batch
        return [collate(samples[start : start + step], self.model.size) for start in range(0, len(samples), step)]


def collate(samples: Sequence[Sample], size: int) -> dict[str, Tensor]:
    """Images (B, 3, size, size) in [0, 1], padded at the right and bottom, and their concatenated objects."""
    image = np.zeros((len(samples), size, size, 3), dtype=np.uint8)
    amodal, visible, label, owner = [], [], [], []
    for index, sample in enumerate(samples):
        height, width = sample.image.shape[:2]
        image[index, :height, :width] = sample.image
        room = ((0, 0), (0, size - height), (0, size - width))
        amodal.append(np.pad(sample.layers.amodal, room))
        visible.append(np.pad(sample.layers.visible, room))
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
    """Area coverages of randomly chosen, mirrored and rotated masks in crops with jittered boxes."""
    masks = torch.from_numpy(np.concatenate([sample.layers.amodal for sample in samples]).astype(np.float32))
    boxes = boxes_of(masks)
    chosen = torch.from_numpy(rng.integers(len(masks), size=count))
    extent = (boxes[:, 2:] - boxes[:, :2])[chosen].repeat(1, 2)
    shift = torch.from_numpy(rng.normal(0, JITTER, (count, 4)).clip(-2 * JITTER, 2 * JITTER).astype(np.float32))
    exact = torch.from_numpy(rng.random((count, 1)) < 0.2)
    crops = crop(masks[chosen], boxes[chosen] + torch.where(exact, 0, shift * extent), size)
    turns = rng.integers(8, size=count)
    turned = [torch.rot90(mask.mT if turn >= 4 else mask, int(turn) % 4) for mask, turn in zip(crops, turns, strict=True)]
    return torch.stack(turned)[:, None]
