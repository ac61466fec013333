"""Sources of annotated images for the amodal segmenter, and their held-out sets.

Values of `--data`:

simulated, simulated:opaque, simulated:translucent    embryos, or generic shapes
simulated:SHARE                                       embryos that fill this share of the side of the image, in a dish
nuclei:FOLDER, nuclei-opaque:FOLDER                   composites of real nuclei, from images with label maps
coco:FILE.json,IMAGES  kins: cocoa: d2sa: aistron:    annotation files; IMAGES defaults to the folder of the file
kins:FOLDER  cocoa:FOLDER  d2sa:FOLDER                the training and the test file of a published data set (`official`)
labelme:FOLDER, labels:FOLDER                         labelme's files; images with label maps or stacks of masks
"""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from latens.data.convert import READABLE, read_collection
from latens.data.instances import Collection, Layers, Sample, Scene
from latens.data.notes import left_out
from latens.data.source import Source
from latens.data.splits import place_of
from latens.data.stacks import read_frame
from latens.errors import InputError, LimitExceeded, UsageError
from latens.systems.amodal.config import EmbryoConfig, ShapesConfig, network_scale
from latens.systems.amodal.simulator.embryos import embryo
from latens.systems.amodal.simulator.nuclei import composite, read_nuclei
from latens.systems.amodal.simulator.shapes import shapes
from latens.systems.amodal.simulator.surroundings import SMALLEST_SHARE, surrounded

logger = logging.getLogger(__name__)

VALIDATION_SEED, TEST_SEED = 20_110, 20_111  # training streams have seeds of three numbers, so none coincides
KINDS = ("embryo", "opaque", "translucent")
OWN_SIZE = 500  # side of generated images in place of the size 0, their own size


class View(NamedTuple):
    """How the images of a source are divided and resampled, besides the longer side."""

    short_side: int = 0  # shorter side of training images, whose longer side is then at most the size; 0: no such side
    smallest: int = 16  # objects of fewer pixels after resampling are dropped
    validation_share: float = 0.15  # of the images of annotation files
    test_share: float = 0.15
    rotate: bool = False  # in training, by multiples of 90 degrees


VIEW = View()


class HeldOut:
    """Held-out images, computed on access: the masks of a whole test set would need gigabytes of memory."""

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
    """Several held-out sets as one."""
    places = [(one, number) for one in sets for number in range(len(one))]
    return HeldOut(lambda place: places[place][0][places[place][1]], len(places))


class SampleSource(Protocol):
    """Annotated images. Held-out images are never drawn for training, and are the same at every call."""

    classes: tuple[str, ...]

    def draw(self, rng: np.random.Generator, size: int) -> Sample:
        """A training image whose longer side is `size`, or smaller if the view has a shorter side."""
        ...

    def held_out(self, split: str, count: int, size: int) -> HeldOut:
        """At most `count` images of the split "validation", "test" or "all" (every annotated image; if simulated, "test").

        Their longer side is `size`; 0: their own size, with all objects.
        """
        ...

    def contents(self) -> list[str]:
        """Names or hashes of the training images, which distinguish data sets with the same name."""
        ...


def open_source(source: Source, view: View = VIEW) -> SampleSource:
    """Open a value of `--data`. Raises UsageError for an unknown value, InputError for unusable files."""
    kind, place = source
    if kind == "simulated" and (share := share_of(place)) is not None:
        return Surrounded(share, view)
    if str(source) == "simulated" or (kind == "simulated" and place in KINDS):
        return Simulated(place if kind else "embryo", view)
    if kind in ("nuclei", "nuclei-opaque") and place:
        return Nuclei(Path(place), view, opaque=kind == "nuclei-opaque")
    if kind in READABLE and place:
        return Annotated(read_collection(str(source)), view)
    raise UsageError(
        f"unknown data source '{source}'",
        where="--data",
        hint="write simulated, nuclei:FOLDER, coco:FILE.json,IMAGES (or kins, cocoa, d2sa), labelme:FOLDER or labels:FOLDER",
    )


def common_classes(sources: Sequence[SampleSource], wanted: Sequence[str]) -> tuple[str, ...]:
    """Classes of the model: `wanted`, or those of the data. Names are ignored where model and data have a single class.

    Raises UsageError when the data sets do not have the same classes in the same order.
    """
    names = [tuple(source.classes) for source in sources]
    classes = tuple(wanted) or names[0]
    for found in names:
        if found != classes and not len(found) == len(classes) == 1:
            raise UsageError(
                f"the data have the classes {', '.join(found)}, the model has {', '.join(classes)}",
                where="--data",
                hint="train on data with the same classes; name them with --set model.classes=[...]",
            )
    return classes


class Generated(ABC):
    """Unlimited images of one class, square."""

    view: View

    @abstractmethod
    def make(self, rng: np.random.Generator, size: int) -> Sample:
        """An image of `size` pixels on both sides, with its objects."""

    def draw(self, rng: np.random.Generator, size: int) -> Sample:
        return self.make(rng, self.view.short_side or size)

    def held_out(self, split: str, count: int, size: int) -> HeldOut:
        return _numbered(lambda rng: self.make(rng, size or OWN_SIZE), split, count)


class Simulated(Generated):
    """Images from a simulator."""

    def __init__(self, kind: str, view: View = VIEW) -> None:
        self.view = view
        self.classes: tuple[str, ...] = ("cell",) if kind == "embryo" else ("shape",)
        self.kind = kind

    def make(self, rng: np.random.Generator, size: int) -> Sample:
        if self.kind == "embryo":
            return embryo(rng, EmbryoConfig(size=size))
        return shapes(rng, ShapesConfig(size=size, opaque=self.kind == "opaque"))

    def contents(self) -> list[str]:
        return []


def share_of(place: str) -> float | None:
    """The share of `simulated:SHARE`; None for a word. Raises UsageError for a number outside of SMALLEST_SHARE to 1."""
    try:
        share = float(place)
    except ValueError:
        return None
    if not SMALLEST_SHARE <= share <= 1:
        what = f"an embryo can fill {SMALLEST_SHARE:g} to 1 of the side of the image, not {place}"
        raise UsageError(what, where=f"--data simulated:{place}")
    return share


class Surrounded(Generated):
    """Simulated embryos that fill a share of the side of the image, among other things in a dish."""

    classes: tuple[str, ...] = ("cell",)

    def __init__(self, share: float, view: View = VIEW) -> None:
        self.share = share
        self.view = view

    def make(self, rng: np.random.Generator, size: int) -> Sample:
        return surrounded(rng, size, self.share)

    def contents(self) -> list[str]:
        return []


class Nuclei:
    """Composites of real nuclei, in any number. Training, validation and test use nuclei from different images."""

    classes: tuple[str, ...] = ("nucleus",)

    def __init__(self, folder: Path, view: View = VIEW, *, opaque: bool) -> None:
        self.folder = folder
        self.view = view
        self.opaque = opaque
        self.train = read_nuclei(folder, "train")

    def draw(self, rng: np.random.Generator, size: int) -> Sample:
        return composite(rng, self.train, self.view.short_side or size, opaque=self.opaque)

    def held_out(self, split: str, count: int, size: int) -> HeldOut:
        sources = read_nuclei(self.folder, "validation" if split == "validation" else "test")
        return _numbered(lambda rng: composite(rng, sources, size or OWN_SIZE, opaque=self.opaque), split, count)

    def contents(self) -> list[str]:
        return [image.name for image in self.train]


def _numbered(draw: Callable[[np.random.Generator], Sample], split: str, count: int) -> HeldOut:
    seed = VALIDATION_SEED if split == "validation" else TEST_SEED
    return HeldOut(lambda number: draw(np.random.default_rng([seed, number])), count)


class Annotated:
    """The images of a collection. By the hash of the file name, shares are held out for validation and for testing.

    Images that cannot be read are left out with a warning: in training, the next one takes their place.
    """

    def __init__(self, collection: Collection, view: View = VIEW) -> None:
        self.view = view
        self.collection = collection
        self.classes = collection.categories
        with_objects = [scene for scene in collection.scenes if scene.instances]
        if not with_objects:
            raise InputError("no image has an annotated object", where=str(collection.root))
        self.splits = split_scenes(with_objects, view)
        self._unreadable: set[str] = set()  # names of files, so that each is read and reported once

    def draw(self, rng: np.random.Generator, size: int) -> Sample:
        scenes = self.splits["train"]
        first = int(rng.integers(len(scenes)))
        sample = next(self._readable([*scenes[first:], *scenes[:first]], size), None) or self._load(scenes[first], size)
        return rotated(sample, int(rng.integers(4)) if self.view.rotate else 0, mirror=rng.random() < 0.5)

    def held_out(self, split: str, count: int, size: int) -> HeldOut:
        """The readable images among the first `count` of the split; without any, of the training images, with a warning.

        Raises InputError if there is none either.
        """
        scenes: Sequence[Scene] = self.collection.scenes if split == "all" else self.splits[split]
        kept = self._kept(scenes[:count], size)
        if not kept and split != "all":
            logger.warning("no image of the %s split can be read: training images are used", split)
            scenes = self.splits["train"]
            kept = self._kept(scenes[:count], size)
        if not kept:
            self._load(scenes[0], size)  # raises its error
        return HeldOut(lambda number: self._load(kept[number], size), len(kept))

    def _kept(self, scenes: Sequence[Scene], size: int) -> list[Scene]:
        return [scene for scene in scenes if next(self._readable([scene], size), None) is not None]

    def contents(self) -> list[str]:
        return [hashlib.sha256(repr(self.collection.scenes).encode()).hexdigest()]

    def _readable(self, scenes: Sequence[Scene], size: int) -> Iterator[Sample]:
        for scene in scenes:
            if scene.file in self._unreadable:
                continue
            try:
                yield self._load(scene, size)
            except (InputError, LimitExceeded) as error:
                self._unreadable.add(scene.file)
                left_out(error)

    def _load(self, scene: Scene, size: int) -> Sample:
        path = self.collection.path(scene)
        pixels = read_frame(path)
        if pixels.shape[:2] != (scene.height, scene.width):
            raise InputError(
                f"the image has {pixels.shape[1]} x {pixels.shape[0]} pixels, its annotations {scene.width} x {scene.height}",
                where=str(path),
            )
        return resized(Sample(pixels, scene.layers()), size, self.view) if size else Sample(pixels, scene.layers())


def split_scenes(scenes: Sequence[Scene], view: View = VIEW) -> dict[str, list[Scene]]:
    """Scenes by split. An empty split takes one scene of the largest split; a single scene is used in every split."""
    splits: dict[str, list[Scene]] = {"train": [], "validation": [], "test": []}
    for scene in scenes:
        place, tested = place_of(Path(scene.file).name), 1 - view.test_share
        trained = place < tested - view.validation_share
        splits["train" if trained else "validation" if place < tested else "test"].append(scene)
    for split in ("train", "validation"):
        if not splits[split]:
            giver = max(splits.values(), key=len)
            splits[split] = [giver.pop()] if len(giver) > 1 else list(scenes)
    splits["test"] = splits["test"] or splits["validation"]
    return splits


def resized(sample: Sample, size: int, view: View = VIEW) -> Sample:
    """The sample resized as `network_scale`; objects of fewer than `view.smallest` pixels are dropped."""
    height, width = sample.image.shape[:2]
    scale = network_scale((height, width), size, view.short_side)
    target = (max(1, round(width * scale)), max(1, round(height * scale)))
    if target == (width, height):
        return sample
    image = np.asarray(Image.fromarray(sample.image).resize(target, Image.Resampling.BILINEAR))

    def scaled(masks: np.ndarray) -> np.ndarray:
        small = [Image.fromarray(mask.astype(np.uint8) * 255).resize(target, Image.Resampling.BOX) for mask in masks]
        return np.stack([np.asarray(mask) > 127 for mask in small]) if small else np.zeros((0, *target[::-1]), dtype=bool)

    amodal = scaled(sample.layers.amodal)
    visible = scaled(sample.layers.visible) & amodal
    kept = amodal.sum((1, 2)) >= view.smallest
    layers = Layers(amodal[kept], visible[kept], sample.layers.layer[kept], sample.layers.category[kept])
    return Sample(image, layers)


def rotated(sample: Sample, quarters: int, *, mirror: bool) -> Sample:
    """Image and masks rotated by `quarters` times 90 degrees, then mirrored if `mirror`."""
    image, (amodal, visible, layer, category) = np.rot90(sample.image, quarters), sample.layers
    amodal, visible = (np.rot90(masks, quarters, (1, 2)) for masks in (amodal, visible))
    if mirror:
        image, amodal, visible = image[:, ::-1], amodal[:, :, ::-1], visible[:, :, ::-1]
    return Sample(image, Layers(amodal, visible, layer, category))
