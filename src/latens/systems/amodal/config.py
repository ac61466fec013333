"""Settings of the mask code, the detector, the heads and the training data (Jang et al. 2020, sections 3 and 4).

This module does not import torch, so that `--help` is fast.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal, TypeAlias, TypeVar

from annotated_types import Ge, Len, Lt, MultipleOf
from pydantic import Field

from latens.settings import Count, Natural, NonNegative, Positive, Share, settings, validator
from latens.systems.amodal.cells.config import StarConfig

STRIDE = 32  # both sides of an image that enters the network are multiples of this
REGION = 14  # side of the region features that mask heads read
Decay = Annotated[float, Ge(0), Lt(1)]


@settings
class MaskCodeConfig:
    """The vector-quantized autoencoder of masks (Fig. 2)."""

    size: Count = 56  # S: masks are resampled to S x S, area coverage in [0, 1]
    grid: Count = 7  # M: the code is an M x M grid; S / M is a power of two
    codewords: Annotated[int, Ge(2)] = 128  # K: number of codewords
    width: Count = 32  # D: dimension of one codeword
    channels: Count = 32  # of the finest convolutions; the coarser ones have twice as many
    commitment: NonNegative = 0.25  # beta of Eq. 1
    decay: Decay = 0.99  # decay of the moving averages that update the codebook; 0: gradient descent, Eq. 1
    delay: Natural = 50  # steps before k-means initializes the codebook

    @validator
    def _fold(self) -> MaskCodeConfig:
        ratio = self.size // self.grid
        if self.size != self.grid * ratio or ratio < 2 or ratio & (ratio - 1):
            raise ValueError(f"size ({self.size}) must be grid ({self.grid}) times a power of two (2, 4, 8, ...)")
        return self

    @property
    def halvings(self) -> int:
        """Number of halvings from the mask to the grid, at least 1."""
        return (self.size // self.grid).bit_length() - 1


@settings
class BackboneConfig:
    """The backbone: image to feature pyramid."""

    kind: Literal["slim", "resnet50"] = "slim"  # slim: ResNet-18 with group norm; resnet50: torchvision's architecture
    norm: Literal["group", "frozen"] = "group"  # of resnet50; frozen: the statistics of pretrained weights
    width: Count = 32  # channels of the first stage of `slim`; the original ResNet-18 has 64
    pyramid: Count = 96  # channels of every level of the feature pyramid

    def without_effect(self) -> dict[str, str]:
        if self.kind == "resnet50":
            return {"width": "the width of resnet50 is fixed"}
        return {"norm": "slim has group normalization"}


@settings
class DetectorConfig:
    """Proposals and boxes of Faster R-CNN as torchvision implements it."""

    proposals: Count = 200  # kept after non-maximum suppression
    rpn_samples: Count = 128  # anchors of one image that enter the loss
    roi_samples: Count = 64  # proposals of one image that enter the loss; at most a quarter are objects
    box_hidden: Count = 256  # units of the two fully connected layers of the box head
    nms: Share = 0.5  # IoU above which the box with the lower score is dropped
    detections: Count = 30  # largest number of objects in one image
    smallest_score: Share = 0.05  # detections with a lower score are dropped
    anchors: Annotated[tuple[Count, ...], Len(5, 5)] = (
        16,
        32,
        64,
        128,
        256,
    )  # side of the anchors of each pyramid level, pixels


@settings
class HeadConfig:
    """Choice and sizes of the mask heads. The rows of the paper's tables differ in these settings."""

    mask: Literal["vq", "fcn"] = "vq"  # vq: shape code (section 4.2); fcn: direct regression, the baseline
    refine: bool = True  # the refinement decoder, Eq. 4
    occlusion: bool = True  # the occlusion branch, Eq. 2
    asn: bool = False  # occlusion classification and multi-level coding of Qi et al. 2019
    resolution: Annotated[int, Ge(REGION)] = 28  # N: the refined (or regressed) mask is N x N
    channels: Count = 64  # of the convolutions of the mask heads
    dense: Natural = 8  # channels of the 7 x 7 map before the fully connected layer; 0 (fcn only): no such layer
    occlusion_channels: Count = 32  # channels that the occlusion branch adds to every level of the pyramid

    @validator
    def _sizes(self) -> HeadConfig:
        ratio = self.resolution // REGION
        if self.resolution != REGION * ratio or ratio & (ratio - 1):
            raise ValueError(f"resolution ({self.resolution}) must be {REGION} times a power of two (1, 2, 4, ...)")
        if self.mask == "vq" and not self.dense:
            raise ValueError("dense is 0, but mask=vq requires the fully connected layer")
        return self

    def without_effect(self) -> dict[str, str]:
        unused: dict[str, str] = {}
        if self.mask == "fcn":
            names = ("refine", ".model.code", ".objective.code", ".objective.code_steps", ".objective.code_batch")
            unused = dict.fromkeys((*names, ".objective.code_from"), "the mask head `fcn` has no mask code")
        elif not self.refine:
            unused = dict.fromkeys(("resolution", ".objective.refinement"), "model.head.refine is false")
        if not self.occlusion:
            unused |= dict.fromkeys(("occlusion_channels", ".objective.occlusion"), "model.head.occlusion is false")
        return unused


@settings
class AmodalConfig:
    """The whole pipeline (Fig. 3)."""

    kind: Literal["rcnn"] = "rcnn"  # model
    classes: tuple[str, ...] = ()  # names of the classes; empty: those of the training data
    size: Annotated[int, Ge(2 * STRIDE), MultipleOf(STRIDE)] = 256  # longer side of the resampled image, pixels
    short_side: Natural = 0  # shorter side of the resampled image, whose longer side is at most `size`; 0: `size` alone decides
    code: MaskCodeConfig = field(default_factory=MaskCodeConfig)  # mask code
    backbone: BackboneConfig = field(default_factory=BackboneConfig)  # feature extractor
    detector: DetectorConfig = field(default_factory=DetectorConfig)  # proposals and boxes
    head: HeadConfig = field(default_factory=HeadConfig)  # mask heads

    @validator
    def _fit(self) -> AmodalConfig:
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"class names must be distinct: {', '.join(self.classes)}")
        if self.head.mask == "vq" and self.head.refine and self.code.size % REGION:
            raise ValueError(f"refinement needs a code.size that is a multiple of {REGION}, not {self.code.size}")
        return self


def network_scale(shape: tuple[int, int], size: int, short_side: int) -> float:
    """Factor to a longer side of `size` pixels; with `short_side`, to that shorter side if the longer one is at most `size`."""
    factor = size / max(shape)
    return min(factor, short_side / min(shape)) if short_side else factor


@settings
class LossConfig:
    """Loss weights (section 4.3), and length of the first stage, which trains the mask code."""

    detection: NonNegative = 1.0  # alpha
    occlusion: NonNegative = 0.01  # beta
    code: NonNegative = 1.0  # gamma
    refinement: NonNegative = 1.0  # delta; with the baseline, weight of the regressed mask
    visible: NonNegative = 1.0  # weight of the visible mask, which all variants predict; not in the paper
    code_steps: Natural = 2000  # length of the first stage, which trains only the mask code; after it the code is frozen
    code_batch: Count = 64  # masks per step of that stage
    code_from: str = ""  # model folder that supplies a trained mask code; the first stage is skipped
    backbone_from: str = ""  # file with pretrained weights of ResNet-50; its first two stages stay fixed

    def without_effect(self) -> dict[str, str]:
        return dict.fromkeys(("code_steps", "code_batch"), "code_from supplies a trained mask code") if self.code_from else {}


@settings
class SceneConfig:
    """Training batches and validation set."""

    batch: Count = 4  # images
    validation: Count = 32  # held-out images
    validation_share: Share = 0.15  # of the images of annotation files, by the hash of the file name
    test_share: Share = 0.15  # of them, kept out of the training for tests; 0 where another file holds the test images
    smallest: Count = 16  # objects of fewer pixels after resampling are dropped
    rotate: bool = False  # rotate annotated images by multiples of 90 degrees, in addition to mirroring


AnyModel: TypeAlias = Annotated[AmodalConfig | StarConfig, Field(discriminator="kind")]


@settings
class EmbryoConfig:
    """Settings of the embryo simulator."""

    size: Annotated[int, Ge(16)] = 500  # side of the image, pixels
    cells: tuple[Count, Count] = (2, 8)  # smallest and largest number of cells
    overlap: Share = 0.12  # overlap of touching cells, relative to the sum of their radii
    translucency: Share = 1.0  # of the cells in front; 1: fully transparent, 0: opaque
    contrast: Positive = 1.0  # gain of the modulation contrast

    @validator
    def _range(self) -> EmbryoConfig:
        return _ordered(self, "cells", self.cells)


@settings
class ShapesConfig:
    """Settings of the simulator of generic occluded shapes."""

    size: Annotated[int, Ge(16)] = 500  # side of the image, pixels
    shapes: tuple[Count, Count] = (1, 8)  # smallest and largest number of shapes
    opaque: bool = True  # False: opacities from 0.2 to 1

    @validator
    def _range(self) -> ShapesConfig:
        return _ordered(self, "shapes", self.shapes)


C = TypeVar("C")


def _ordered(config: C, name: str, bounds: tuple[int, int]) -> C:
    if bounds[0] > bounds[1]:
        raise ValueError(f"{name}: the minimum {bounds[0]} exceeds the maximum {bounds[1]}")
    return config
