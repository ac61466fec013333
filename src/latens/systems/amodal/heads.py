"""Heads of the pipeline (Jang et al. 2020, Figs. 3 and 4): region features, occlusion branch, mask heads.

Letters: B images, R regions of interest, F feature channels, C classes, K codewords, M code grid, S side of a decoded mask,
N side of a refined mask. Region features are 14 x 14 for masks and 7 x 7 for boxes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from latens.nn.init import small
from latens.shapes import Float
from latens.systems.amodal.config import REGION, HeadConfig, MaskCodeConfig
from latens.systems.amodal.model import MaskAutoencoder

BOX_REGION = 7  # side of the region features of boxes; those of masks are REGION x REGION
SAMPLES = 2  # sampling points per cell and direction
CANONICAL = 224  # side of a box that belongs to the map of stride 16 (Lin et al. 2017, Eq. 1)
LARGEST_DENSE = 128  # largest side of a map for which dense matrix products are faster than `roi_align` on a CPU


class MaskPrediction(NamedTuple):
    mask: Float[Tensor, "R C N N"]  # logits of the amodal mask per class; C is 1 if all classes share one mask
    code: Float[Tensor, "R K M M"] | None  # logits of the codewords, Eq. 3
    direct: bool  # True if the mask is regressed or refined and has a loss of its own


def conv(channels_in: int, channels: int, stride: int = 1) -> nn.Sequential:
    """3 x 3 convolution and ReLU."""
    return nn.Sequential(nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1), nn.ReLU())


def enlarge(channels_in: int, channels: int) -> nn.Sequential:
    """Mask R-CNN's 2 x 2 transposed convolution of stride 2, which doubles the size, and ReLU.

    Its outputs do not overlap, so a 1 x 1 convolution and a pixel shuffle compute it, several times faster on a CPU.
    """
    return nn.Sequential(nn.Conv2d(channels_in, 4 * channels, 1), nn.PixelShuffle(2), nn.ReLU())


def enlargements(channels: int, resolution: int) -> nn.Sequential:
    """Upsampling from 14 x 14 to N x N; N is 14 times a power of two."""
    return nn.Sequential(*(enlarge(channels, channels) for _ in range((resolution // REGION).bit_length() - 1)))


class OcclusionBranch(nn.Module):
    """Four convolutions per pyramid level (Eq. 2); the other heads receive the second-to-last activation."""

    def __init__(self, features: int, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(features, channels), conv(channels, channels), conv(channels, channels))
        self.last = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, pyramid: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The pyramid with the activations as additional channels, and the occlusion logits of every level."""
        hidden = [self.body(level) for level in pyramid]
        joined = [torch.cat((level, extra), dim=1) for level, extra in zip(pyramid, hidden, strict=True)]
        return joined, [self.last(extra)[:, 0] for extra in hidden]


class CodeHead(nn.Module):
    """Three convolutions and one fully connected layer: region features -> logits of the codewords (section 4.2)."""

    def __init__(self, features: int, config: HeadConfig, code: MaskCodeConfig) -> None:
        super().__init__()
        self.shape = (code.codewords, code.grid, code.grid)
        self.body = nn.Sequential(
            conv(features, config.channels),
            conv(config.channels, config.channels),
            conv(config.channels, config.dense, stride=2),
        )
        outputs = code.codewords * code.grid**2
        self.dense = nn.Linear(config.dense * BOX_REGION**2, outputs)
        nn.init.normal_(self.dense.weight, std=0.01)
        nn.init.constant_(self.dense.bias, -math.log(code.codewords - 1))  # sigmoid(bias) = 1 / K

    def forward(self, region: Float[Tensor, "R F 14 14"]) -> Float[Tensor, "R K M M"]:
        logits: Tensor = self.dense(self.body(region).flatten(1))
        return logits.view(-1, *self.shape).float()


class ShapeCodeModule(nn.Module):
    """The VQ-VAE segmentation module (Fig. 4): code, decoded mask, and optionally the refined mask.

    The pretrained, frozen decoder is an argument of `forward`. Codewords are averaged with softmax weights, so that the
    gradient of the refinement loss reaches the code head.
    """

    def __init__(self, features: int, classes: int, config: HeadConfig, code: MaskCodeConfig) -> None:
        super().__init__()
        self.head = CodeHead(features, config, code)
        self.refinement = Refinement(features, classes, config, code) if config.refine else None

    def forward(self, region: Float[Tensor, "R F 14 14"], autoencoder: MaskAutoencoder) -> MaskPrediction:
        logits = self.head(region)
        initial = autoencoder.decode_weights(logits.softmax(dim=1))
        if self.refinement is None:
            return MaskPrediction(initial, logits, False)
        return MaskPrediction(self.refinement(region, initial), logits, True)


class Refinement(nn.Module):
    """Region features and initial mask to one mask per class (Eq. 4). The initial mask is folded to 14 x 14.

    The output is added to the logits of the initial mask, limited to -4 and 4. The weights of the last layer start small, so
    training starts near that mask.
    """

    def __init__(self, features: int, classes: int, config: HeadConfig, code: MaskCodeConfig) -> None:
        super().__init__()
        fold = code.size // REGION
        self.fold = nn.PixelUnshuffle(fold)
        self.resolution = config.resolution
        self.body = nn.Sequential(
            conv(features + fold**2, config.channels),
            conv(config.channels, config.channels),
            enlargements(config.channels, config.resolution),
        )
        self.last = small(nn.Conv2d(config.channels, classes, 1))

    def forward(self, region: Float[Tensor, "R F 14 14"], initial: Float[Tensor, "R 1 S S"]) -> Float[Tensor, "R C N N"]:
        mask = self.fold(initial.sigmoid())
        change = self.last(self.body(torch.cat((region, mask.to(region.dtype)), dim=1)))
        start = F.interpolate(initial, (self.resolution, self.resolution), mode="area")
        return change.float() + start.clamp(-4, 4)


class FcnHead(nn.Module):
    """Mask R-CNN's head: four convolutions, enlargement, one mask per class.

    With `dense` above 0, a fully connected path is added (PANet, Liu et al. 2018). The baseline then has the receptive field
    of the shape-code module and, for a suitable width, as many parameters.
    """

    def __init__(self, features: int, classes: int, config: HeadConfig) -> None:
        super().__init__()
        c = config.channels
        self.resolution = config.resolution
        self.body = nn.Sequential(conv(features, c), conv(c, c), conv(c, c), conv(c, c))
        self.enlarge = enlargements(c, config.resolution)
        self.last = nn.Conv2d(c, classes, 1)
        self.narrow = conv(c, config.dense, stride=2) if config.dense else None
        self.dense = nn.Linear(config.dense * BOX_REGION**2, config.resolution**2) if config.dense else None

    def forward(self, region: Float[Tensor, "R F 14 14"]) -> MaskPrediction:
        hidden = self.body(region)
        mask = self.last(self.enlarge(hidden)).float()
        if self.narrow is not None and self.dense is not None:
            whole = self.dense(self.narrow(hidden).flatten(1)).float()
            mask = mask + whole.view(-1, 1, self.resolution, self.resolution)
        return MaskPrediction(mask, None, True)


class VisibleHead(nn.Module):
    """Visible mask on a 28 x 28 grid, the same head in all variants; the depth order is derived from it (as in ASN)."""

    def __init__(self, features: int, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(features, channels), conv(channels, channels), enlarge(channels, channels))
        self.last = nn.Conv2d(channels, 1, 1)

    def forward(self, region: Float[Tensor, "R F 14 14"]) -> Float[Tensor, "R 28 28"]:
        logits: Tensor = self.last(self.body(region))
        return logits[:, 0].float()


class OcclusionClassifier(nn.Module):
    """ASN's second box head: classifies whether the object of a region is partly hidden; also returns its feature map."""

    def __init__(self, features: int, channels: int, hidden: int) -> None:
        super().__init__()
        self.body = conv(features, channels)
        self.classify = nn.Sequential(
            nn.Flatten(), nn.Linear(channels * BOX_REGION**2, hidden), nn.ReLU(), nn.Linear(hidden, 1)
        )

    def forward(self, region: Float[Tensor, "R F 7 7"]) -> tuple[Float[Tensor, "R c 7 7"], Float[Tensor, "R"]]:
        early = self.body(region)
        return early, self.classify(early)[:, 0].float()


class MultiLevelCoding(nn.Module):
    """ASN's fusion: upsampled feature maps of the box heads are concatenated with the region features of the mask head."""

    def __init__(self, features: int, channels: int) -> None:
        super().__init__()
        self.box = conv(features, channels)
        self.enlarge = nn.Sequential(conv(2 * channels, channels), enlarge(channels, channels))
        self.join = nn.Sequential(conv(features + channels, features), conv(features, features))

    def forward(
        self, region: Float[Tensor, "R F 14 14"], box_region: Float[Tensor, "R F 7 7"], occlusion: Float[Tensor, "R c 7 7"]
    ) -> Float[Tensor, "R F 14 14"]:
        coded = self.enlarge(torch.cat((self.box(box_region), occlusion), dim=1))
        joined: Tensor = self.join(torch.cat((region, coded), dim=1))
        return joined


# --------------------------------------------------------------------------------------------------- region features


def pool_regions(
    pyramid: Sequence[Float[Tensor, "B F h w"]], strides: Sequence[int], boxes: Sequence[Float[Tensor, "n 4"]], size: int
) -> Float[Tensor, "R F S S"]:
    """Features of regions by bilinear sampling (RoIAlign, He et al. 2017), from the map that fits the size of each box.

    Sampling is aligned (no half-pixel shift). `strides` are 4, 8, 16, 32; `boxes` are (x0, y0, x1, y1) in pixels, one tensor
    per image.
    """
    flat = torch.cat([F.pad(part, (1, 0), value=float(index)) for index, part in enumerate(boxes)])
    extent = (flat[:, 3:] - flat[:, 1:3]).clamp(min=1e-3).prod(dim=1).sqrt()
    level = (4 + torch.log2(extent / CANONICAL + 1e-6)).floor().clamp(2, 5).long() - 2
    parts, positions = [], []
    for index, stride in enumerate(strides):
        chosen = (level == index).nonzero()[:, 0]
        if len(chosen):
            parts.append(align(pyramid[index], flat[chosen], size, 1 / stride))
            positions.append(chosen)
    if not parts:
        return pyramid[0].new_zeros(0, pyramid[0].shape[1], size, size)
    return torch.cat(parts)[torch.cat(positions).argsort()]


def align(features: Float[Tensor, "B F h w"], boxes: Float[Tensor, "R 5"], size: int, scale: float) -> Float[Tensor, "R F S S"]:
    """`torchvision.ops.roi_align(..., sampling_ratio=2, aligned=True)`; boxes are (image, x0, y0, x1, y1), sorted by image.

    Bilinear sampling is separable. On a CPU, small maps therefore use two matrix products, whose backward pass is many times
    faster than torchvision's scatter additions.
    """
    height, width = features.shape[2:]
    if features.device.type != "cpu" or max(height, width) > LARGEST_DENSE:
        pooled: Tensor = roi_align(features.float(), boxes, size, scale, SAMPLES, aligned=True)
        return pooled
    rows = _weights(boxes[:, 2], boxes[:, 4], size, scale, height)
    columns = _weights(boxes[:, 1], boxes[:, 3], size, scale, width)
    counts = torch.bincount(boxes[:, 0].long(), minlength=len(features)).tolist()
    parts = []
    for maps, row, column in zip(features, torch.split(rows, counts), torch.split(columns, counts), strict=True):
        flat = maps.permute(1, 2, 0)  # (h, w, F)
        tall = (row.flatten(0, 1) @ flat.reshape(height, -1)).view(-1, size, width, flat.shape[2])
        parts.append(column[:, None] @ tall)
    return torch.cat(parts).permute(0, 3, 1, 2)


def _weights(start: Tensor, end: Tensor, size: int, scale: float, length: int) -> Float[Tensor, "R S length"]:
    """Weight of every pixel along one direction in every cell of a region."""
    step = (torch.arange(size * SAMPLES, device=start.device) + 0.5) / (size * SAMPLES)
    place = start[:, None] * scale - 0.5 + step * ((end - start)[:, None] * scale)
    inside = (place >= -1) & (place <= length)
    pixels = torch.arange(length, device=start.device, dtype=place.dtype)
    near = (1 - (place.clamp(0, length - 1)[:, :, None] - pixels).abs()).clamp(min=0) * inside[:, :, None]
    return near.view(-1, size, SAMPLES, length).mean(dim=2)
