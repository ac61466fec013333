"""The interface of all segmenters: images of any kind, stacks page by page, and a result with the masks of every object."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch

from latens.catalogue import training_data
from latens.data.images import ImageLike, LoadedImage
from latens.data.instances import Layers, Placed, Scene
from latens.data.soft_maps import Maps
from latens.data.stacks import memory_frame, read_frame, read_frames
from latens.inference.device import transform_precision
from latens.inference.many import OnError, many
from latens.shapes import Bool, Float, UInt8
from latens.systems.amodal.order import SCORE_THRESHOLD


class Found(Protocol):
    """The objects of one image by decreasing score."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        ...

    @property
    def scores(self) -> Float[np.ndarray, "N"]: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def placed(self) -> Sequence[Placed]:
        """Masks of every object in a window around it."""
        ...

    @property
    def occlusion(self) -> Bool[np.ndarray, "H W"]:
        """Pixels where an object continues behind or in front of another."""
        ...

    @property
    def layers(self) -> Layers:
        """Dense masks (N, H, W)."""
        ...

    @property
    def maps(self) -> Maps:
        """Soft maps by name, if they were asked for."""
        ...

    @property
    def facts(self) -> dict[str, Any]:
        """Further facts about the image, for files: an estimated diameter, warnings."""
        ...

    def __len__(self) -> int: ...
    def scene(self, file: str = "") -> Scene:
        """The objects with run-length coded masks."""
        ...


F = TypeVar("F", bound=Found, covariant=True)


class Segmenter(ABC, Generic[F]):
    """Instance segmentation of images of any size."""

    as_label_maps = False  # files have a label map and an overlap map in place of a page for every object

    def __init__(self, *, name: str, sha256: str, device: torch.device, classes: tuple[str, ...]) -> None:
        self.name = name
        self.device = device
        self.model_id = sha256
        self.precision = transform_precision(device)
        self.trained_on = training_data(sha256)  # bundled models only
        self.classes = classes

    def __repr__(self) -> str:
        classes = ", ".join(self.classes)
        return f"{type(self).__name__}({self.name}, weights {self.model_id[:12]}, {self.device}, classes {classes})"

    @abstractmethod
    def segment_pixels(
        self, pixels: UInt8[np.ndarray, "H W 3"], *, least_score: float = SCORE_THRESHOLD, maps: bool = False
    ) -> F:
        """The objects of an image given as uint8 pixels. Raises UsageError for pixels of another type or shape."""

    def segment(self, image: ImageLike | LoadedImage, *, least_score: float = SCORE_THRESHOLD, maps: bool = False) -> F:
        """Objects of an image (of a TIFF stack: its first page) with a score of at least `least_score`.

        With `maps`, the attribute `maps` of the result has soft maps: values in [0, 1] for every pixel, by name.
        Values of more than 8 bits are stretched from their 0.1 to their 99.9 percentile, in arrays and PIL images as in files.
        Raises InputError for input that is not an image, LimitExceeded for an image that is too large.
        """
        return self.segment_pixels(pixels_of(image), least_score=least_score, maps=maps)

    def segment_many(self, images: Iterable[ImageLike], *, on_error: OnError | None = None, **options: Any) -> Iterator[F]:
        """Yield the objects of images, one at a time; options as in `segment`. See `latens.inference.many`."""
        return many(self.segment, images, on_error, options)

    def segment_frames(
        self, path: str | Path, *, least_score: float = SCORE_THRESHOLD, maps: bool = False, notes: list[str] | None = None
    ) -> Iterator[tuple[np.ndarray, F]]:
        """Yield (pixels uint8 (H, W, 3), objects) for every page of a TIFF stack, or for the image of any other file.

        Notes on conversions and on lost channels are added to `notes`.
        """
        for pixels in read_frames(Path(path), notes=notes):
            yield pixels, self.segment_pixels(pixels, least_score=least_score, maps=maps)


def pixels_of(image: ImageLike | LoadedImage) -> UInt8[np.ndarray, "H W 3"]:
    """The uint8 pixels of an image of any accepted kind; arrays and PIL images of more than 8 bits are stretched like files."""
    if isinstance(image, LoadedImage):
        return image.pixels
    if isinstance(image, str | Path):
        return read_frame(Path(image))
    return memory_frame(image)
