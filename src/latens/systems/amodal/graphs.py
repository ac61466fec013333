"""Networks of both segmenters for ONNX: all maps of the nuclei model, the feature pyramid of the embryo model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from latens.inference.onnx import Graph, example_images, free_sides
from latens.shapes import Float, UInt8
from latens.systems.amodal.cells.network import StarNet
from latens.systems.amodal.config import STRIDE

if TYPE_CHECKING:
    from latens.systems.amodal.pipeline import AmodalRCNN

SIZES = ((4, 6), (8, 8), (5, 3))  # of the examples, in multiples of the stride
LEVELS = (12.0, 220.0)  # low and high of the examples


class Maps(nn.Module):
    """The star-convex network with its normalization."""

    def __init__(self, network: StarNet) -> None:
        super().__init__()
        self.network = network.float()

    def forward(self, image: UInt8[Tensor, "1 H W 3"], low: Float[Tensor, ""], high: Float[Tensor, ""]) -> tuple[Tensor, ...]:
        """Center, overlap, log rays, foreground and contact (see `StarMaps`), for an image seen from `low` to `high`."""
        pixels = image.permute(0, 3, 1, 2).float()
        return tuple(self.network(((pixels - low) / (high - low)).clamp(-0.5, 2.0)))


class Pyramid(nn.Module):
    """The backbone with its normalization."""

    def __init__(self, model: AmodalRCNN) -> None:
        super().__init__()
        self.model = model.float()

    def forward(self, image: UInt8[Tensor, "1 H W 3"]) -> tuple[Tensor, ...]:
        """Features at strides 4 to 64."""
        pixels = image.permute(0, 3, 1, 2).float() / 255
        return tuple(self.model.backbone((pixels - self.model.mean) / self.model.std))


def graphs(segmenter: Any) -> list[Graph]:
    """The maps of `cells`, or the pyramid of `embryo`."""
    if isinstance(segmenter.model, StarNet):
        stride = segmenter.model.config.coarsest
        levels = tuple(torch.tensor(level) for level in LEVELS)
        about = (
            "Image, 0 to 255, resampled to nuclei of 24 pixels, and its levels that are seen as 0 and 1, to logits of centers "
            "and overlaps and log distances to the outline at half size, and logits of foreground and contact at full size."
        )
        outputs = ("center", "overlap", "log_rays", "foreground", "contact")
        inputs, examples = ("image", "low", "high"), [(image, *levels) for image in example_images(stride, SIZES)]
        return [Graph("maps", about, Maps(segmenter.model), inputs, outputs, (free_sides(stride), {}, {}), examples)]
    about = f"RGB image, 0 to 255, with a longer side of {segmenter.model.config.size} pixels, to the feature pyramid."
    names = tuple(f"stride{4 * 2**level}" for level in range(5))
    stride = 2 * STRIDE  # the coarsest level has half of the samples of the last stage
    examples = [(image,) for image in example_images(stride, SIZES)]
    return [Graph("backbone", about, Pyramid(segmenter.model), ("image",), names, (free_sides(stride),), examples)]
