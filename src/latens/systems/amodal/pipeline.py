"""Amodal segmentation pipeline (Jang et al. 2020, Fig. 3), based on torchvision's proposal network and box arithmetic.

    image -> backbone -> pyramid --(occlusion branch)--> joined pyramid -> proposals -> boxes, classes
                                                              |                          |
                                                              `--> region features <-----' -> amodal and visible mask

The components that the paper's tables vary are settings of `HeadConfig`. All images of a batch have the same size.

Letters: B images, H W image (multiples of 32), T objects of the batch, R regions, C classes, N side of a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.misc import FrozenBatchNorm2d

from latens.data.masks import boxes_of, crop
from latens.nn.ranks import share_of_mean
from latens.nn.resnet import SlimResNet, Staged, norm
from latens.shapes import Float, Int
from latens.systems.amodal.config import REGION, AmodalConfig, BackboneConfig
from latens.systems.amodal.heads import (
    BOX_REGION,
    FcnHead,
    MaskPrediction,
    MultiLevelCoding,
    OcclusionBranch,
    OcclusionClassifier,
    ShapeCodeModule,
    VisibleHead,
    pool_regions,
)
from latens.systems.amodal.model import MaskAutoencoder, MaskCode

STRIDES = (4, 8, 16, 32)  # of the maps from which region features are pooled
VISIBLE_GRID = 28
MEAN, STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)


class Truth(NamedTuple):
    """Concatenated true objects of a batch of images."""

    owner: Int[Tensor, "T"]  # image, 0..B-1
    label: Int[Tensor, "T"]  # 0..C-1
    amodal: Float[Tensor, "T H W"]
    visible: Float[Tensor, "T H W"]


class Regions(NamedTuple):
    """Inputs of the mask losses: predictions for sampled proposals, and targets from the object each belongs to."""

    boxes: Float[Tensor, "R 4"]
    label: Int[Tensor, "R"]
    prediction: MaskPrediction
    visible: Float[Tensor, "R 28 28"]  # logits
    hidden: Float[Tensor, "R"] | None  # ASN's logit of "partly hidden"
    amodal_target: Float[Tensor, "R S S"]  # area coverage on the grid of the mask code
    mask_target: Float[Tensor, "R N N"]
    visible_target: Float[Tensor, "R 28 28"]
    hidden_target: Float[Tensor, "R"]  # hidden fraction of the object


class Training(NamedTuple):
    """Outputs of the model on one training batch, from which the objective computes its losses."""

    proposal_loss: Float[Tensor, ""]  # L_p
    detection_loss: Float[Tensor, ""]  # L_d
    occlusion_logits: list[Tensor]  # (B, h, w) per level; empty without the branch
    regions: Regions | None  # None if no proposal matches an object


class Detections(NamedTuple):
    """Detected objects of one image by decreasing score. Masks are probabilities on a grid over the box."""

    boxes: Float[Tensor, "R 4"]  # x0, y0, x1, y1 in pixels of the network's image
    scores: Float[Tensor, "R"]
    label: Int[Tensor, "R"]  # 0..C-1
    mask: Float[Tensor, "R N N"]
    visible: Float[Tensor, "R 28 28"]
    code: Int[Tensor, "R M M"] | None  # most likely codewords


class AmodalRCNN(nn.Module):
    """Mask R-CNN with the heads of the paper, or those of a baseline."""

    def __init__(self, config: AmodalConfig) -> None:
        super().__init__()
        self.config = config
        head, detector, classes = config.head, config.detector, len(config.classes)
        self.code = MaskAutoencoder(config.code) if head.mask == "vq" else None
        self.backbone = Backbone(config.backbone)
        features = config.backbone.pyramid + (head.occlusion_channels if head.occlusion else 0)
        self.occlusion = OcclusionBranch(config.backbone.pyramid, head.occlusion_channels) if head.occlusion else None
        self.rpn = proposal_network(config, features)
        self.box_head = TwoMLPHead(features * BOX_REGION**2, detector.box_hidden)
        self.box_scores = nn.Linear(detector.box_hidden, classes + 1)
        self.box_deltas = nn.Linear(detector.box_hidden, 4 * (classes + 1))
        self.classifier = OcclusionClassifier(features, head.channels, detector.box_hidden) if head.asn else None
        self.coding = MultiLevelCoding(features, head.channels) if head.asn else None
        self.mask = (
            ShapeCodeModule(features, classes, head, config.code) if head.mask == "vq" else FcnHead(features, classes, head)
        )
        self.visible = VisibleHead(features, head.channels)
        # Box arithmetic of torchvision (sampling, matching, decoding, suppression), without parameters.
        self.boxes = RoIHeads(
            None, None, None, 0.5, 0.5, detector.roi_samples, 0.25, None,
            detector.smallest_score, detector.nms, detector.detections,
        )  # fmt: skip
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def forward(self, image: Float[Tensor, "B 3 H W"], truth: Truth | None) -> Training | MaskCode:
        """Training pass over images in [0, 1]. Without truth, `image` holds masks (B, 1, S, S) for the mask code."""
        if truth is None:
            assert self.code is not None
            return self.code(image)
        pyramid, occlusion = self.pyramid(image)
        boxes = boxes_of(truth.amodal)
        targets = [{"boxes": boxes[truth.owner == i], "labels": truth.label[truth.owner == i] + 1} for i in range(len(image))]
        proposals, proposal_losses = self.rpn(*self._for_torchvision(image, pyramid), targets)
        proposals, matched, labels, deltas = self.boxes.select_training_samples(proposals, targets)
        box_features = pool_regions(pyramid, STRIDES, proposals, BOX_REGION)
        hidden = self.box_head(box_features)
        class_loss, box_loss = fastrcnn_loss(self.box_scores(hidden).float(), self.box_deltas(hidden).float(), labels, deltas)
        sampled = sum(map(len, labels))
        detection_loss = share_of_mean((class_loss + box_loss) * sampled, sampled)
        regions = self._regions(pyramid, proposals, matched, labels, truth)
        return Training(sum(proposal_losses.values()), detection_loss, occlusion, regions)

    @torch.no_grad()
    def detect(self, image: Float[Tensor, "B 3 H W"]) -> list[Detections]:
        """Objects of images in [0, 1]."""
        pyramid, _ = self.pyramid(image)
        proposals, _ = self.rpn(*self._for_torchvision(image, pyramid))
        hidden = self.box_head(pool_regions(pyramid, STRIDES, proposals, BOX_REGION))
        sizes = [tuple(image.shape[2:])] * len(image)
        found = self.boxes.postprocess_detections(
            self.box_scores(hidden).float(), self.box_deltas(hidden).float(), proposals, sizes
        )
        return [
            self._detections(pyramid, index, boxes, scores, labels - 1)
            for index, (boxes, scores, labels) in enumerate(zip(*found, strict=True))
        ]

    def pyramid(self, image: Float[Tensor, "B 3 H W"]) -> tuple[list[Tensor], list[Tensor]]:
        """The features for all heads, and the occlusion logits of every level (empty without the branch)."""
        levels = self.backbone((image - self.mean) / self.std)
        if self.occlusion is None:
            return levels, []
        joined, logits = self.occlusion(levels)
        return joined, [level.float() for level in logits]

    def segment(self, pyramid: Sequence[Tensor], boxes: list[Tensor]) -> tuple[MaskPrediction, Tensor, Tensor | None]:
        """Logits of amodal and visible masks for boxes of every image, and ASN's logit of "partly hidden"."""
        region = pool_regions(pyramid, STRIDES, boxes, REGION)
        hidden = None
        if self.classifier is not None and self.coding is not None:
            box_region = pool_regions(pyramid, STRIDES, boxes, BOX_REGION)
            early, hidden = self.classifier(box_region)
            region = self.coding(region, box_region, early)
        prediction = self.mask(region) if self.code is None else self.mask(region, self.code)
        return prediction, self.visible(region), hidden

    def _regions(
        self, pyramid: list[Tensor], proposals: list[Tensor], matched: list[Tensor], labels: list[Tensor], truth: Truth
    ) -> Regions | None:
        """Predictions and targets for the sampled proposals that match an object."""
        boxes = [part[label > 0] for part, label in zip(proposals, labels, strict=True)]
        flat = torch.cat(boxes)
        if not len(flat):
            return None
        own = [(truth.owner == i).nonzero()[:, 0] for i in range(len(proposals))]
        objects = torch.cat(
            [own[i][part[label > 0]] for i, (part, label) in enumerate(zip(matched, labels, strict=True)) if len(own[i])]
        )
        prediction, visible, hidden = self.segment(pyramid, boxes)
        amodal, seen = truth.amodal[objects], truth.visible[objects]
        hidden_share = 1 - truth.visible.sum((1, 2)) / truth.amodal.sum((1, 2)).clamp(min=1)
        return Regions(
            boxes=flat,
            label=truth.label[objects],
            prediction=prediction,
            visible=visible,
            hidden=hidden,
            amodal_target=crop(amodal, flat, self.config.code.size),
            mask_target=crop(amodal, flat, prediction.mask.shape[-1]),
            visible_target=crop(seen, flat, VISIBLE_GRID),
            hidden_target=hidden_share[objects],
        )

    def _detections(self, pyramid: list[Tensor], index: int, boxes: Tensor, scores: Tensor, label: Tensor) -> Detections:
        if not len(boxes):
            return self._no_detections(boxes)
        own = [level[index : index + 1] for level in pyramid]
        prediction, visible, _ = self.segment(own, [boxes])
        channel = label if prediction.mask.shape[1] > 1 else torch.zeros_like(label)
        mask = prediction.mask[torch.arange(len(label), device=label.device), channel]
        code = None if prediction.code is None else prediction.code.argmax(dim=1)
        return Detections(boxes, scores, label, mask.sigmoid(), visible.sigmoid(), code)

    def _no_detections(self, boxes: Tensor) -> Detections:
        head, grid = self.config.head, self.config.code.grid
        side = head.resolution if head.refine or self.code is None else self.config.code.size
        empty, none = boxes.new_zeros(0), torch.zeros(0, dtype=torch.long, device=boxes.device)
        code = None if self.code is None else none.view(0, 1, 1).expand(0, grid, grid)
        visible = empty.view(0, 1, 1).expand(0, VISIBLE_GRID, VISIBLE_GRID)
        return Detections(boxes, empty, none, empty.view(0, 1, 1).expand(0, side, side), visible, code)

    def _for_torchvision(self, image: Tensor, pyramid: list[Tensor]) -> tuple[ImageList, dict[str, Tensor]]:
        sizes = [(image.shape[2], image.shape[3])] * len(image)
        return ImageList(image, sizes), {str(index): level for index, level in enumerate(pyramid)}


class Backbone(nn.Module):
    """(B, 3, H, W) -> five maps of the same number of channels at strides 4 to 64."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        if config.kind == "slim":
            self.body: nn.Module = SlimResNet(config.width)
            channels = [config.width, 2 * config.width, 4 * config.width, 8 * config.width]
        else:
            self.body = ResNet50(FrozenBatchNorm2d if config.norm == "frozen" else norm)
            channels = [256, 512, 1024, 2048]
        self.fpn = FeaturePyramidNetwork(channels, config.pyramid, LastLevelMaxPool())

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        maps = {str(index): level for index, level in enumerate(self.body(image))}
        return list(self.fpn(maps).values())


class ResNet50(Staged):
    """The stages of torchvision's ResNet-50 with random weights and a normalization layer of any kind."""

    def __init__(self, norm_layer: Callable[[int], nn.Module]) -> None:
        super().__init__()
        whole = resnet50(weights=None, norm_layer=norm_layer)
        self.stem = nn.Sequential(whole.conv1, whole.bn1, whole.relu, whole.maxpool)
        self.stages = nn.ModuleList([whole.layer1, whole.layer2, whole.layer3, whole.layer4])


class FloatHead(RPNHead):  # type: ignore[misc]
    """The proposal head with float32 outputs: bfloat16 would round box coordinates by whole pixels."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        scores, deltas = super().forward(x)
        return [score.float() for score in scores], [delta.float() for delta in deltas]


def proposal_network(config: AmodalConfig, features: int) -> RegionProposalNetwork:
    """Torchvision's proposal network; anchors of one size and three aspect ratios per level."""
    detector = config.detector
    anchors = AnchorGenerator(tuple((side,) for side in detector.anchors), ((0.5, 1.0, 2.0),) * len(detector.anchors))
    kept = {"training": detector.proposals, "testing": detector.proposals}
    head = FloatHead(features, 3)
    return RegionProposalNetwork(anchors, head, 0.7, 0.3, detector.rpn_samples, 0.5, kept, kept, 0.7)
