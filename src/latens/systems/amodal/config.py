"""Settings of the mask code, the detector and the heads (000, sections 3 and 4), their losses and data. No torch here."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from annotated_types import Ge, Lt, MaxLen, MinLen, MultipleOf

from latens.settings import Count, Natural, NonNegative, Share, settings, validator

STRIDE = 32  # input samples per sample of the coarsest level of the pyramid

Decay = Annotated[float, Ge(0), Lt(1)]
Anchors = Annotated[tuple[Count, ...], MinLen(5), MaxLen(5)]
ImageSide = Annotated[int, Ge(2 * STRIDE), MultipleOf(STRIDE)]


@settings
class MaskCodeConfig:
    """The vector-quantised autoencoder of masks (000, Fig. 2)."""

    size: Count = 56  # S: masks are resampled to S x S, area coverage in [0, 1]
    grid: Count = 7  # M: the code is an M x M grid; S / M is a power of two
    codewords: Count = 128  # K: entries of the codebook
    width: Count = 32  # D: dimension of one codeword
    channels: Count = 32  # of the finest convolutions, doubled where the size is halved
    commitment: NonNegative = 0.25  # beta of Eq. 1
    decay: Decay = 0.99  # of the moving averages that the codebook follows; 0: it is learned by gradients, as in Eq. 1
    delay: Natural = 50  # steps before k-means places the codebook

    @validator
    def halves_to_the_grid(self) -> MaskCodeConfig:
        halvings = (self.size // self.grid).bit_length() - 1
        if self.grid << halvings != self.size:
            raise ValueError(f"size {self.size} is not grid {self.grid} times a power of two")
        return self


@settings
class BackboneConfig:
    """The network that turns an image into a pyramid of features."""

    kind: Literal["slim", "resnet50"] = "slim"  # "slim": ResNet-18 of any width, group norm; "resnet50": of torchvision
    width: Count = 32  # channels of the first stage of the slim one; the paper's ResNet-18 has 64
    pyramid: Count = 96  # channels of every level of the feature pyramid


@settings
class DetectorConfig:
    """Proposals and boxes (torchvision's names and meanings)."""

    proposals: Count = 200  # kept after non-maximum suppression
    rpn_samples: Count = 128  # anchors that enter the loss, per image
    roi_samples: Count = 64  # proposals that enter the loss, per image; at most a quarter are objects
    box_hidden: Count = 256  # units of the two fully connected layers of the box head
    nms: Share = 0.5  # boxes that overlap more than this are one
    detections: Count = 30  # most objects of an image
    smallest_score: Share = 0.05  # of a detection
    anchors: Anchors = (16, 32, 64, 128, 256)  # side of the anchors of every pyramid level, pixels


@settings
class HeadConfig:
    """Parts of the paper that are used; every row of its tables is a choice of these."""

    mask: Literal["vq", "fcn"] = "vq"  # "vq": shape code (section 4.2); "fcn": direct regression, the baseline
    refine: bool = True  # the refinement decoder, Eq. 4
    occlusion: bool = True  # the occlusion branch, Eq. 2
    asn: bool = False  # occlusion classification and multi-level coding of Qi et al. 2019
    resolution: Count = 28  # N: the refined (or regressed) mask is N x N
    channels: Count = 64  # of the convolutions of the mask heads
    dense: Natural = 8  # channels of the 7 x 7 map that the fully connected layer reads; with "fcn", 0 leaves that layer out
    occlusion_channels: Count = 32  # that the occlusion branch adds to every level of the pyramid


@settings
class AmodalConfig:
    """The whole pipeline (000, Fig. 3)."""

    classes: tuple[str, ...] = ()  # names; empty: those of the training data
    size: ImageSide = 256  # the longer side of an image is resampled to this, a multiple of 32
    code: MaskCodeConfig = field(default_factory=MaskCodeConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    head: HeadConfig = field(default_factory=HeadConfig)


@settings
class LossConfig:
    """Weights of the losses (000, section 4.3), and the first stage, in which the mask code is learned."""

    detection: NonNegative = 1.0  # alpha
    occlusion: NonNegative = 0.01  # beta
    code: NonNegative = 1.0  # gamma
    refinement: NonNegative = 1.0  # delta; of the regressed mask for the baseline
    visible: NonNegative = 1.0  # of the visible mask, which all variants predict alike; not in the paper
    code_steps: Natural = 2000  # first steps of the run, in which only the mask code is trained; later it is frozen
    code_batch: Count = 64  # masks of one such step
    code_from: str = ""  # a model folder to take the mask code from instead; code_steps is then not used


@settings
class SceneConfig:
    """Training batches of images."""

    batch: Count = 4  # images
    validation: Count = 32  # images
    rotate: bool = False  # annotated images are not only mirrored but turned by quarters too


@settings
class EmbryoConfig:
    """The simulator of embryos."""

    size: Count = 500  # side in pixels
    cells: tuple[Count, Count] = (2, 8)  # fewest and most
    overlap: Annotated[float, Ge(0), Lt(1)] = 0.12  # of the contact distance of two cells
    translucency: Share = 1.0  # of what lies in front: 1 hides nothing, 0 everything
    contrast: NonNegative = 1.0  # of the modulation


@settings
class ShapesConfig:
    """The simulator of generic occluded shapes."""

    size: Count = 500  # side in pixels
    shapes: tuple[Count, Count] = (1, 8)  # fewest and most
    opaque: bool = True  # false: opacities from 0.2 to 1
