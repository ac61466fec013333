"""Annotated nuclei, read into memory and split by microscope field.

An image is often a tile of a larger field, and neighboring tiles show the same cells. The file fields.csv (columns name, field)
of a folder lists them (as for the nuclei of Caicedo et al. 2019); without it every image is a field. Training, validation and
test have different fields of every kind of image (fluorescent, stained, bright), drawn with a fixed seed.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from latens.data.convert import read_collection
from latens.data.images import read_image
from latens.data.instances import Scene, label_map, placed_of
from latens.data.labels import IMAGE_MARK, pairs_in, read_label_map
from latens.data.notes import readable
from latens.data.stacks import read_frame
from latens.errors import InputError
from latens.shapes import Float, Int, UInt8

Kind = Literal["fluorescent", "stained", "bright"]
Split = Literal["train", "validation", "test"]

SPLIT_SEED = 2018
TEST_SHARE, VALIDATION_SHARE = 0.25, 0.17  # of the fields of every kind
LOW, HIGH = 0.5, 99.8  # percentiles that become 0 and 1
FLATTEST = 12.0  # smallest difference of the two, in levels: noise of an empty slide is not stretched to full contrast
COLORED = 6.0  # mean difference between channels above which an image is stained
MIN_AREA = 9  # pixels; smaller objects are foreground without an outline


class Contrast(NamedTuple):
    """The levels of an image that the network sees as 0 and 1."""

    low: float
    high: float

    def apply(self, pixels: np.ndarray) -> Float[np.ndarray, "H W 3"]:
        """Normalized float32 pixels, clipped to [-0.5, 2]."""
        scaled = (pixels.astype(np.float32) - np.float32(self.low)) / np.float32(self.high - self.low)
        return np.clip(scaled, -0.5, 2.0, out=scaled)


def contrast_of(pixels: np.ndarray) -> Contrast:
    """The contrast of a whole image: percentiles over all channels, at least FLATTEST levels apart."""
    step = max(1, int(np.sqrt(pixels.shape[0] * pixels.shape[1] / 2**18)))  # a quarter of a million pixels are enough
    low, high = np.percentile(pixels[::step, ::step], (LOW, HIGH))
    middle, half = (low + high) / 2, max(high - low, FLATTEST) / 2
    return Contrast(float(middle - half), float(middle + half))


class FieldImage(NamedTuple):
    """An annotated image. `labels` numbers its objects from 1."""

    name: str
    kind: Kind
    field: str
    pixels: UInt8[np.ndarray, "H W 3"]
    labels: Int[np.ndarray, "H W"]
    contrast: Contrast
    diameter: float  # median over the objects, pixels; 0 without objects
    ground: Float[np.ndarray, "3"]  # median background, normalized
    whole: tuple[int, ...]  # objects that touch neither another object nor the border


def read_fields(folder: Path) -> list[FieldImage]:
    """The images of a folder with their label maps; unreadable ones are left out with a warning. Raises InputError."""
    pairs = pairs_in(folder)
    fields = field_names(folder, [image for image, _ in pairs])
    return list(readable(pairs, lambda pair: _read(*pair, fields[pair[0]])))


def read_collection_fields(source: str) -> list[FieldImage]:
    """The visible parts of the objects of annotation files (`coco:FILE.json,IMAGES`, `labelme:FOLDER`); an image is a field.

    Unreadable images are left out with a warning. Raises InputError for unusable annotations.
    """
    collection = read_collection(source)

    def read(scene: Scene) -> FieldImage:
        placed = placed_of(scene.layers())
        numbers = label_map(placed, (scene.height, scene.width))[0].astype(np.int32)
        pixels = read_frame(collection.path(scene))
        if pixels.shape[:2] != numbers.shape:
            raise InputError("the image and its annotations differ in size", where=str(collection.path(scene)))
        return field_image(Path(scene.file).name, scene.file, pixels, numbers)

    return list(readable(collection.scenes, read))


def of_split(images: Sequence[FieldImage], split: Split, where: str) -> list[FieldImage]:
    """The images of a split. Raises InputError, with the source `where`, if there is none."""
    splits = split_of(images)
    chosen = [image for image in images if splits[image.field] == split]
    if not chosen:
        raise InputError(f"no field belongs to the {split} split", where=where, hint="four fields are needed at least")
    return chosen


def field_names(folder: Path, images: Sequence[Path]) -> dict[Path, str]:
    """The field of every image: that of fields.csv (names without ending and without _img), or its own name.

    Raises InputError for a table without the columns name and field, and for an image that it lacks.
    """
    table = folder / "fields.csv"
    if not table.is_file():
        return {image: image.stem for image in images}
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        known = {row["name"]: row["field"] for row in rows}
    except KeyError as error:
        raise InputError(f"the table has no column {error}", where=str(table), hint="its columns are name and field") from None
    names = {image: IMAGE_MARK.sub("", image.stem) for image in images}
    missing = [name for name in names.values() if name not in known]
    if missing:
        raise InputError(f"{len(missing)} images are not in the table, {missing[0]} first", where=str(table))
    return {image: known[name] for image, name in names.items()}


def split_of(images: Sequence[FieldImage]) -> dict[str, Split]:
    """The split of every field, drawn separately for every kind of image."""
    by_kind: dict[str, set[str]] = defaultdict(set)
    placed: set[str] = set()
    for image in images:
        if image.field not in placed:
            by_kind[image.kind].add(image.field)
            placed.add(image.field)
    splits: dict[str, Split] = {}
    for kind in sorted(by_kind):
        names = sorted(by_kind[kind])
        order = np.random.default_rng(SPLIT_SEED).permutation(len(names))
        test, validation = round(TEST_SHARE * len(names)), round(VALIDATION_SHARE * len(names))
        for place, index in enumerate(order):
            splits[names[index]] = "test" if place < test else "validation" if place < test + validation else "train"
    return splits


def _read(image: Path, labels: Path, field: str) -> FieldImage:
    pixels = np.ascontiguousarray(read_image(image).pixels)
    numbers = read_label_map(labels)
    if numbers.shape != pixels.shape[:2]:
        raise InputError("the label map and its image differ in size", where=str(labels))
    return field_image(image.name, field, pixels, numbers)


def field_image(name: str, field: str, pixels: UInt8[np.ndarray, "H W 3"], numbers: Int[np.ndarray, "H W"]) -> FieldImage:
    """An image and its label map, measured."""
    contrast = contrast_of(pixels)
    empty = pixels[numbers == 0]
    ground = np.median(empty if len(empty) else pixels.reshape(-1, 3), axis=0)
    areas = np.bincount(numbers.ravel())[1:]
    areas = areas[areas >= MIN_AREA]
    diameter = float(np.median(2 * np.sqrt(areas / np.pi))) if len(areas) else 0.0
    kind = kind_of(pixels, ground)
    return FieldImage(name, kind, field, pixels, numbers, contrast, diameter, contrast.apply(ground), whole_objects(numbers))


def kind_of(pixels: np.ndarray, ground: np.ndarray) -> Kind:
    """Stained: colored; fluorescent: gray with a dark background; bright: gray with a light background."""
    if float((pixels.max(axis=2) - pixels.min(axis=2)).mean()) > COLORED:
        return "stained"
    return "fluorescent" if float(ground.mean()) < 128 else "bright"


def whole_objects(labels: Int[np.ndarray, "H W"]) -> tuple[int, ...]:
    """Numbers of the objects that touch neither the border nor another object, and have MIN_AREA pixels."""
    count = int(labels.max(initial=0))
    area = np.bincount(labels.ravel(), minlength=count + 1)
    cut = np.zeros(count + 1, dtype=bool)
    for line in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        cut[line] = True
    for a, b in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
        touching = (a != b) & (a > 0) & (b > 0)
        cut[a[touching]] = cut[b[touching]] = True
    return tuple(int(number) for number in np.flatnonzero(~cut & (area >= MIN_AREA)) if number)
