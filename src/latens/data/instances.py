"""Objects of an image: amodal mask (the full extent, including hidden parts), visible mask, depth order and class.

There are two forms: dense arrays for training and simulation (`Layers`, NumPy only), and run-length codes for files and
evaluation (`Instance`, `Scene`, `Collection`).

Letters: N instances, H W image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from latens.data.image_paths import image_path
from latens.data.masks import Rle, area, corner_box, decode, encode, encode_window, window_of
from latens.data.planes import Plane
from latens.errors import InputError, LimitExceeded
from latens.shapes import Bool, Float, Int, UInt8

MAX_MASKS = 2**33  # bytes of the masks of all objects of an image
UNKNOWN = -1


class Layers(NamedTuple):
    """Dense masks of one image. `layer` is 0 in front, 1 behind it, ...; -1 if unknown."""

    amodal: Bool[np.ndarray, "N H W"]
    visible: Bool[np.ndarray, "N H W"]
    layer: Int[np.ndarray, "N"]
    category: Int[np.ndarray, "N"]  # 0..C-1

    def __repr__(self) -> str:
        count, height, width = self.amodal.shape
        return f"Layers({count} objects, {width} x {height})"

    @property
    def occlusion(self) -> Bool[np.ndarray, "H W"]:
        """Pixels where some object is hidden (the label l of Jang et al. 2020, Eq. 2)."""
        hidden: np.ndarray = (self.amodal & ~self.visible).any(axis=0)
        return hidden

    def hidden_fraction(self) -> Float[np.ndarray, "N"]:
        """Hidden share of the area of every object, in [0, 1]."""
        whole = self.amodal.sum(axis=(1, 2))
        hidden = (self.amodal & ~self.visible).sum(axis=(1, 2))
        return np.asarray(hidden / np.maximum(whole, 1), dtype=np.float64)


class Placed(NamedTuple):
    """The masks of one object in the window whose top left pixel is (top, left); fields fill memory no faster than objects."""

    top: int
    left: int
    amodal: Bool[np.ndarray, "h w"]
    visible: Bool[np.ndarray, "h w"]
    layer: int = UNKNOWN
    category: int = 0

    @property
    def window(self) -> tuple[slice, slice]:
        """The window as an index of the image."""
        height, width = self.amodal.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def placed_of(layers: Layers) -> list[Placed]:
    """Dense masks, cut out around every object; an empty mask has a window of one pixel."""
    found = []
    for amodal, visible, layer, category in zip(*layers, strict=True):
        y, x = window_of(amodal)
        found.append(Placed(y.start, x.start, amodal[y, x], visible[y, x], int(layer), int(category)))
    return found


def check_masks(count: int, height: int, width: int, where: str | None = None) -> None:
    """Raises LimitExceeded for so many objects of an image that their masks would take more than MAX_MASKS bytes."""
    if count * height * width > MAX_MASKS:
        what = f"the masks of {count:,} objects of {width} x {height} pixels need more than {MAX_MASKS:,} bytes"
        raise LimitExceeded(what, where=where, hint="cut the image and its annotations into tiles")


def layers_of_placed(placed: Sequence[Placed], size: tuple[int, int]) -> Layers:
    """Dense masks of objects in an image of `size` (H, W)."""
    amodal = np.zeros((len(placed), *size), dtype=bool)
    visible = np.zeros_like(amodal)
    for index, each in enumerate(placed):
        amodal[(index, *each.window)] = each.amodal
        visible[(index, *each.window)] = each.visible
    numbers = (np.array([getattr(each, name) for each in placed], dtype=np.int64) for name in ("layer", "category"))
    return Layers(amodal, visible, *numbers)


def label_map(placed: Sequence[Placed], size: tuple[int, int]) -> tuple[Int[np.ndarray, "H W"], UInt8[np.ndarray, "H W"]]:
    """The number of the object of every pixel (from 1, in the given order; 0: none), and how many objects cover it.

    Numbers have 16 bits, above 65,535 objects 32.
    """
    numbers = np.zeros(size, dtype=np.uint16 if len(placed) < 2**16 else np.uint32)
    coverage = np.zeros(size, dtype=np.uint8)
    for number, each in enumerate(placed, start=1):
        numbers[each.window][each.visible] = number
        coverage[each.window] += each.amodal
    return numbers, coverage


class Sample(NamedTuple):
    """An image and its ground truth."""

    image: UInt8[np.ndarray, "H W 3"]
    layers: Layers


def paint(
    amodal: Bool[np.ndarray, "N H W"], layer: Int[np.ndarray, "N"], category: Int[np.ndarray, "N"] | None = None
) -> Layers:
    """Visible masks by the painter's algorithm: where objects overlap, the one with the smallest `layer` is visible.

    For translucent objects, "visible" means "in front". The returned layers are distinct; ties keep the given order.
    """
    order = np.argsort(layer, kind="stable")
    visible = np.zeros_like(amodal)
    taken = np.zeros(amodal.shape[1:], dtype=bool)
    rank = np.empty(len(amodal), dtype=np.int64)
    for position, index in enumerate(order):
        visible[index] = amodal[index] & ~taken
        taken |= amodal[index]
        rank[index] = position
    return Layers(amodal, visible, rank, np.zeros(len(amodal), dtype=np.int64) if category is None else category)


def paint_placed(placed: Sequence[Placed], size: tuple[int, int]) -> list[Placed]:
    """The same for objects in windows of an image of `size` (H, W), without dense masks; `layer` is kept."""
    taken = np.zeros(size, dtype=bool)
    found = list(placed)
    for index in np.argsort([each.layer for each in placed], kind="stable"):
        each = placed[index]
        found[index] = each._replace(visible=each.amodal & ~taken[each.window])
        taken[each.window] |= each.amodal
    return found


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One object. `visible` lies inside `amodal`; `layer` is 0 in front, None if unknown."""

    amodal: Rle
    visible: Rle
    category: int = 0  # position in the collection's `categories`
    layer: int | None = None
    score: float = 1.0  # 1 for ground truth

    @property
    def area(self) -> int:
        return area(self.amodal)

    @property
    def hidden_fraction(self) -> float:
        """Hidden share of the area, in [0, 1]."""
        whole = self.area
        return (whole - area(self.visible)) / whole if whole else 0.0

    @property
    def box(self) -> tuple[float, float, float, float]:
        """COCO's (x, y, width, height) of the amodal mask."""
        return corner_box(self.amodal)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One image: its file (relative to the root of the collection, or a name), size and objects."""

    file: str
    height: int
    width: int
    instances: tuple[Instance, ...] = ()
    plane: Plane | None = None  # time, slice, channel and pixel size, if the annotations have them

    def layers(self) -> Layers:
        """The objects as dense masks. Raises LimitExceeded above MAX_MASKS."""
        size = (self.height, self.width)
        check_masks(len(self.instances), *size, self.file or None)
        amodal = [decode(instance.amodal) for instance in self.instances]
        visible = [decode(instance.visible) for instance in self.instances]
        layer = [UNKNOWN if instance.layer is None else instance.layer for instance in self.instances]
        return Layers(
            np.stack(amodal) if amodal else np.zeros((0, *size), dtype=bool),
            np.stack(visible) if visible else np.zeros((0, *size), dtype=bool),
            np.array(layer, dtype=np.int64),
            np.array([instance.category for instance in self.instances], dtype=np.int64),
        )


def scene_of(layers: Layers, file: str = "", scores: Sequence[float] | None = None) -> Scene:
    """Convert dense masks to run-length coded objects."""
    height, width = layers.amodal.shape[1:]
    instances = tuple(
        Instance(
            amodal=encode(layers.amodal[i]),
            visible=encode(layers.visible[i]),
            category=int(layers.category[i]),
            layer=None if layers.layer[i] == UNKNOWN else int(layers.layer[i]),
            score=1.0 if scores is None else float(scores[i]),
        )
        for i in range(len(layers.amodal))
    )
    return Scene(file=file, height=height, width=width, instances=instances)


def scene_of_placed(placed: Sequence[Placed], size: tuple[int, int], file: str, scores: Sequence[float]) -> Scene:
    """Convert objects in windows to run-length coded objects of an image of `size` (H, W)."""
    instances = tuple(
        Instance(
            amodal=encode_window(each.amodal, each.top, each.left, size),
            visible=encode_window(each.visible, each.top, each.left, size),
            category=each.category,
            layer=None if each.layer == UNKNOWN else each.layer,
            score=float(score),
        )
        for each, score in zip(placed, scores, strict=True)
    )
    return Scene(file=file, height=size[0], width=size[1], instances=instances)


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Annotated images of one data set, with its class names; `root` is the folder of the images."""

    categories: tuple[str, ...]
    scenes: tuple[Scene, ...]
    root: Path | None = None
    info: dict[str, Any] = field(default_factory=dict)

    def path(self, scene: Scene) -> Path:
        """The file of an image. Raises InputError for a path outside `root`, and for a pipe or a device."""
        return Path(scene.file) if self.root is None else image_path(self.root, scene.file)


def check_classes(expected: Sequence[str], found: Sequence[str], where: str) -> None:
    """Raise InputError unless both have the same classes in the same order; otherwise scores would silently be zero."""
    if tuple(expected) != tuple(found):
        raise InputError(
            f"its classes are {', '.join(found)}; expected are {', '.join(expected)}",
            where=where,
            hint="use annotations with the expected classes in this order, or a model trained on the classes found",
        )
