"""Inference with an amodal segmenter: objects of an image with their hidden parts and depth order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latens.arguments import real
from latens.data.instances import Layers, Placed, Scene, placed_of, scene_of
from latens.data.soft_maps import Maps
from latens.data.tensors import to_tensor
from latens.errors import counted
from latens.hub import load_network, locate
from latens.inference.device import choose_device, in_float32
from latens.inference.kept import keepable
from latens.shapes import Bool, Float, Int, UInt8
from latens.systems.amodal.cells.config import StarConfig
from latens.systems.amodal.cells.network import StarNet
from latens.systems.amodal.config import STRIDE, AmodalConfig, AnyModel, network_scale
from latens.systems.amodal.finder import Boxes, Window, find_embryo
from latens.systems.amodal.order import SCORE_THRESHOLD, ordered, paste_each
from latens.systems.amodal.pipeline import AmodalRCNN, Detections
from latens.systems.amodal.segmenter import Segmenter

if TYPE_CHECKING:
    from latens.systems.amodal.cells.predict import CellSegmenter

NAME = "amodal"


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """The objects of one image by decreasing score. `layers` has dense masks at the size of the image; layer 0 is in front."""

    layers: Layers
    scores: Float[np.ndarray, "N"]
    classes: tuple[str, ...]
    codes: Int[np.ndarray, "N M M"] | None = None  # most likely codewords of every object
    maps: Maps = field(default_factory=dict)  # soft maps by name (`soft_masks`), if they were asked for
    window: Window | None = None  # the part of the image in which an embryo was found; None: the whole image

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        height, width = self.layers.amodal.shape[1:]
        return f"Segmentation({counted(len(self), 'object')}, {width} x {height})"

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        height, width = self.layers.amodal.shape[1:]
        return int(height), int(width)

    @cached_property
    def placed(self) -> Sequence[Placed]:
        """Masks of every object in a window around it."""
        return placed_of(self.layers)

    @property
    def occlusion(self) -> Bool[np.ndarray, "H W"]:
        """Pixels where an object continues behind another."""
        return self.layers.occlusion

    @property
    def facts(self) -> dict[str, Any]:
        """The window, if the embryo fills a part of the image, for files."""
        return {} if self.window is None else {"window": self.window._asdict()}

    def scene(self, file: str = "") -> Scene:
        """The objects with run-length coded masks, for files and evaluation."""
        return scene_of(self.layers, file, self.scores.tolist())


@in_float32
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
        whole, visible = (paste_each(masks[kept], boxes, size) for masks in (found.mask, found.visible))
        amodal = whole > SCORE_THRESHOLD
        scores = found.scores[kept].float().cpu().numpy()
        label = found.label[kept].cpu().numpy()
        filled = amodal.any((1, 2))
        amodal, visible, scores, label = amodal[filled], visible[filled], scores[filled], label[filled]
        layers = ordered(amodal, visible, scores, label)
        codes = None if found.code is None else found.code[kept].cpu().numpy()[filled]
        soft = soft_masks(whole[filled], visible) if maps else {}
        return Segmentation(layers=layers, scores=scores, classes=self.classes, codes=codes, window=window, maps=soft)


def soft_masks(whole: Float[np.ndarray, "N H W"], visible: Float[np.ndarray, "N H W"]) -> Maps:
    """The largest probability of any object, and the probabilities of the whole and the visible mask of every object."""
    found = {"any object": whole.max(0, initial=0)}
    for number, pair in enumerate(zip(whole, visible, strict=True), start=1):
        found |= {f"object {number}, whole": pair[0], f"object {number}, visible": pair[1]}
    return found


def network_image(pixels: np.ndarray, size: int, short_side: int = 0) -> tuple[Float[Tensor, "1 3 h w"], tuple[float, float]]:
    """Network input: the image resized as `network_scale`, padded to multiples of 32; and its scale factors (x, y)."""
    height, width = pixels.shape[:2]
    factor = network_scale((height, width), size, short_side)
    target = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = np.asarray(Image.fromarray(pixels).resize(target, Image.Resampling.BILINEAR))
    padding = ((0, -target[1] % STRIDE), (0, -target[0] % STRIDE), (0, 0))
    return to_tensor(np.pad(small, padding), channels_last=True), (target[0] / width, target[1] / height)


@keepable
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
