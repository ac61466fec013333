"""Inference with an amodal segmenter: objects of an image with their hidden parts and depth order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latens.arguments import real
from latens.data.image_arrays import check_uint8
from latens.data.instances import Layers, Placed, Scene, check_masks, layers_of_placed, scene_of_placed
from latens.data.soft_maps import Maps
from latens.data.tensors import to_tensor
from latens.errors import counted
from latens.hub import load_network, locate
from latens.inference.device import choose_device, in_plain_torch, plain_torch
from latens.inference.kept import keepable
from latens.shapes import Bool, Float, Int, UInt8
from latens.systems.amodal.cells.config import StarConfig
from latens.systems.amodal.cells.network import StarNet
from latens.systems.amodal.config import STRIDE, AmodalConfig, AnyModel, network_scale
from latens.systems.amodal.finder import Boxes, Window, find_embryo
from latens.systems.amodal.order import SCORE_THRESHOLD, SoftMask, objects_of
from latens.systems.amodal.pipeline import AmodalRCNN, Detections
from latens.systems.amodal.segmenter import Segmenter

if TYPE_CHECKING:
    from latens.systems.amodal.cells.predict import CellSegmenter

NAME = "amodal"
ANY = "any object"  # name of a soft map


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """The objects of one image by decreasing score."""

    size: tuple[int, int]  # height and width of the image
    placed: Sequence[Placed]  # masks of every object in a window around it; layer 0 is in front
    scores: Float[np.ndarray, "N"]
    classes: tuple[str, ...]
    codes: Int[np.ndarray, "N M M"] | None = None  # most likely codewords of every object
    maps: Maps = field(default_factory=dict)  # soft maps by name (`MaskMaps`), if they were asked for
    window: Window | None = None  # the part of the image in which an embryo was found; None: the whole image

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        return f"Segmentation({counted(len(self), 'object')}, {self.size[1]} x {self.size[0]})"

    @cached_property
    def layers(self) -> Layers:
        """Dense masks (N, H, W). Raises LimitExceeded if they are too large for memory: use `placed`."""
        check_masks(len(self), *self.size)
        return layers_of_placed(self.placed, self.size)

    @cached_property
    def occlusion(self) -> Bool[np.ndarray, "H W"]:
        """Pixels where an object continues behind another."""
        hidden = np.zeros(self.size, dtype=bool)
        for each in self.placed:
            hidden[each.window] |= each.amodal & ~each.visible
        return hidden

    @property
    def facts(self) -> dict[str, Any]:
        """The window, if the embryo fills a part of the image, for files."""
        return {} if self.window is None else {"window": self.window._asdict()}

    def scene(self, file: str = "") -> Scene:
        """The objects with run-length coded masks, for files and evaluation."""
        return scene_of_placed(self.placed, self.size, file, self.scores.tolist())


@in_plain_torch
class AmodalSegmenter(Segmenter[Segmentation]):
    """Amodal instance segmentation of images of any size: whole masks, visible masks and depth order.

    With `searches`, as in the bundled model for embryos, an embryo that fills a part of the image is found first.
    """

    def __init__(self, model: AmodalRCNN, *, name: str, sha256: str, device: torch.device) -> None:
        super().__init__(name=name, sha256=sha256, device=device, classes=model.config.classes)
        self.model = model.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
        self.searches = self.trained_on is not None

    def segment_pixels(
        self, pixels: UInt8[np.ndarray, "H W 3"], *, least_score: float = SCORE_THRESHOLD, maps: bool = False
    ) -> Segmentation:
        """The objects of an image given as uint8 pixels; with `maps`, probabilities of their whole and visible masks."""
        check_uint8(pixels)
        height, width = pixels.shape[:2]
        found, scale = self._detected(pixels)
        window = find_embryo(pixels, self._boxes(pixels, found), self._search) if self.searches else None
        if window is not None:
            found, scale = self._detected(window.of(pixels))
        return self._finish(found, scale, window, (height, width), least_score, maps=maps)

    @torch.no_grad()
    def _detected(self, pixels: UInt8[np.ndarray, "h w 3"]) -> tuple[Detections, tuple[float, float]]:
        """The objects of an image or a part of it, in pixels of the network image, and its scale factors (x, y)."""
        small, scale = network_image(pixels, self.model.config.size, self.model.config.short_side)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            (found,) = self.model.detect(small.to(self.device))
        return found, scale

    def _boxes(self, pixels: UInt8[np.ndarray, "h w 3"], found: Detections) -> Boxes:
        height, width = pixels.shape[:2]
        longer = max(height, width)
        corners = found.boxes.float().cpu().numpy() / self.model.config.size
        return Boxes(corners, found.scores.float().cpu().numpy(), (width / longer, height / longer))

    def _search(self, parts: Sequence[UInt8[np.ndarray, "h w 3"]]) -> list[Boxes]:
        """The boxes of every part of an image."""
        return [self._boxes(part, self._detected(part)[0]) for part in parts]

    def _finish(
        self,
        found: Detections,
        scale: tuple[float, float],
        window: Window | None,
        size: tuple[int, int],
        least_score: float,
        *,
        maps: bool,
    ) -> Segmentation:
        kept = found.scores >= real(least_score, "least_score")
        boxes = found.boxes[kept].float() / torch.tensor([*scale, *scale], device=found.boxes.device)
        if window is not None:
            boxes = boxes + torch.tensor([window.left, window.top] * 2, device=boxes.device)
        scores = found.scores[kept].float().cpu().numpy()
        objects = objects_of(found.mask[kept], found.visible[kept], boxes, scores, found.label[kept].cpu().numpy(), size)
        return Segmentation(
            size=size,
            placed=objects.placed,
            scores=scores[objects.kept],
            classes=self.classes,
            codes=None if found.code is None else found.code[kept].cpu().numpy()[objects.kept],
            window=window,
            maps=MaskMaps(objects.whole, objects.visible, size) if maps else {},
        )


class MaskMaps(Mapping[str, Float[np.ndarray, "H W"]]):
    """The largest probability of any object, and the probabilities of the whole and the visible mask of every object.

    A map is computed when it is read: those of all objects of a large image need much memory.
    """

    def __init__(self, whole: Sequence[SoftMask], visible: Sequence[SoftMask], size: tuple[int, int]) -> None:
        self._whole, self._size = whole, size
        self._of_objects = {
            f"object {number}, {part}": mask
            for number, pair in enumerate(zip(whole, visible, strict=True), start=1)
            for part, mask in zip(("whole", "visible"), pair, strict=True)
        }

    def __len__(self) -> int:
        return 1 + len(self._of_objects)

    def __iter__(self) -> Iterator[str]:
        yield ANY
        yield from self._of_objects

    def __getitem__(self, name: str) -> Float[np.ndarray, "H W"]:
        if name != ANY:
            return self._of_objects[name].whole()
        largest = np.zeros(self._size, dtype=np.float32)
        for mask in self._whole:
            part = largest[mask.window]
            np.maximum(part, mask.values(mask.window), out=part)
        return largest


def network_image(pixels: np.ndarray, size: int, short_side: int = 0) -> tuple[Float[Tensor, "1 3 h w"], tuple[float, float]]:
    """Network input: the image resized as `network_scale`, padded to multiples of 32; and its scale factors (x, y)."""
    height, width = pixels.shape[:2]
    factor = network_scale((height, width), size, short_side)
    target = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = np.asarray(Image.fromarray(pixels).resize(target, Image.Resampling.BILINEAR))
    padding = ((0, -target[1] % STRIDE), (0, -target[0] % STRIDE), (0, 0))
    return to_tensor(np.pad(small, padding), channels_last=True), (target[0] / width, target[1] / height)


@keepable
@plain_torch()
def load(
    place: str | Path = NAME, *, device: str | torch.device = "auto", threads: int | None = None
) -> AmodalSegmenter | CellSegmenter:
    """Load a segmenter by name, model folder or hub id. Raises ModelMissing, ModelError, DeviceUnavailable."""
    chosen = choose_device(device, threads)
    folder = locate(place)
    found, model = load_network(folder, NAME, AnyModel, build_network)
    if isinstance(model, StarNet):
        from latens.systems.amodal.cells.predict import CellSegmenter

        return CellSegmenter(model, name=folder.name, sha256=found.sha256, device=chosen, fit=found.config.get("fit"))
    return AmodalSegmenter(model, name=folder.name, sha256=found.sha256, device=chosen)


def build_network(config: AmodalConfig | StarConfig) -> AmodalRCNN | StarNet:
    """The network of a model of this system."""
    return StarNet(config) if isinstance(config, StarConfig) else AmodalRCNN(config)
