"""Sizes of the mask code, the detector and the heads (000, sections 3 and 4), and of the data they are trained on.

Nothing here imports torch, so `--help` stays instant.
"""

from __future__ import annotations

from dataclasses import field

from latens.settings import settings


@settings
class MaskCodeConfig:
    """The vector-quantised autoencoder of masks (000, Fig. 2)."""

    size: int = 56  # S: masks are resampled to S x S, area coverage in [0, 1]
    grid: int = 7  # M: the code is an M x M grid; S / M is a power of two
    codewords: int = 128  # K
    width: int = 32  # D: dimension of one codeword
    channels: int = 32  # of the finest convolutions, doubled where the size is halved
    commitment: float = 0.25  # beta of Eq. 1
    decay: float = 0.99  # of the moving averages that the codebook follows; 0: it is learned by gradients, as in Eq. 1
    delay: int = 50  # steps before k-means places the codebook


@settings
class BackboneConfig:
    """What turns a picture into a pyramid of features."""

    kind: str = "slim"  # "slim": ResNet-18 of any width with group norm; "resnet50": that of torchvision
    width: int = 32  # channels of the first stage of the slim one; the paper's ResNet-18 has 64
    pyramid: int = 96  # channels of every level of the feature pyramid


@settings
class DetectorConfig:
    """Proposals and boxes (torchvision's names and meanings)."""

    proposals: int = 200  # kept after non-maximum suppression
    rpn_samples: int = 128  # anchors that enter the loss, a picture
    roi_samples: int = 64  # proposals that enter the loss, a picture; at most a quarter are objects
    box_hidden: int = 256  # units of the two fully connected layers of the box head
    nms: float = 0.5  # boxes that overlap more than this are one
    detections: int = 30  # most objects of a picture
    smallest_score: float = 0.05
    anchors: tuple[int, ...] = (16, 32, 64, 128, 256)  # side of the anchors of every pyramid level, pixels


@settings
class HeadConfig:
    """Which parts of the paper are in: every row of its tables is a choice of these."""

    mask: str = "vq"  # "vq": shape code (section 4.2); "fcn": direct regression, the baseline
    refine: bool = True  # the refinement decoder, Eq. 4
    occlusion: bool = True  # the occlusion branch, Eq. 2
    asn: bool = False  # occlusion classification and multi-level coding of Qi et al. 2019
    resolution: int = 28  # N: the refined (or regressed) mask is N x N
    channels: int = 64  # of the convolutions of the mask heads
    dense: int = 8  # channels of the 7 x 7 map that the fully connected layer reads; with "fcn", 0 leaves that layer out
    occlusion_channels: int = 32  # that the occlusion branch adds to every level of the pyramid


@settings
class AmodalConfig:
    """The whole pipeline (000, Fig. 3). Without `classes` those of the training data are taken."""

    classes: tuple[str, ...] = ()
    size: int = 256  # the longer side of a picture is resampled to this
    code: MaskCodeConfig = field(default_factory=MaskCodeConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    head: HeadConfig = field(default_factory=HeadConfig)


@settings
class LossConfig:
    """Weights of the losses (000, section 4.3), and the first stage, in which the mask code is learned."""

    detection: float = 1.0  # alpha
    occlusion: float = 0.01  # beta
    code: float = 1.0  # gamma
    refinement: float = 1.0  # delta; of the regressed mask for the baseline
    visible: float = 1.0  # of the visible mask, which all variants predict alike; not in the paper
    code_steps: int = 2000  # first steps of the run, in which only the mask code is trained; later it is frozen
    code_batch: int = 64  # masks of one such step
    code_from: str = ""  # a model folder to take the mask code from instead; code_steps is then not used


@settings
class SceneConfig:
    """What a training batch is made of."""

    batch: int = 4
    validation: int = 32  # pictures
    turns: bool = False  # annotated pictures are not only mirrored but turned by quarters too


@settings
class EmbryoConfig:
    """The simulator of embryos."""

    size: int = 500  # pixels
    cells: tuple[int, int] = (2, 8)
    overlap: float = 0.12  # of the contact distance of two cells
    translucency: float = 1.0  # of what lies in front: 1 hides nothing, 0 everything
    contrast: float = 1.0


@settings
class ShapesConfig:
    """The simulator of generic occluded shapes."""

    size: int = 500
    shapes: tuple[int, int] = (1, 8)
    opaque: bool = True  # False: opacities from 0.2 to 1
