"""The encoders phi: three or five stages that a probe can freeze one by one (004, section 4, "Training details").

`resnet` is the paper's: the first layers of a ResNet-18 (He et al. 2016). One cell of its map sees 99 x 99 pixels and an
occurrence logit, whose head is 3 x 3, 115: more than a whole CIFAR picture, so what it calls local is not. `local` has the
same widths and strides but sees 24 x 24 pixels, and its heads are 1 x 1.

Letters: B batch, C channels, H W image size, h w = H/8 W/8 (H/32 W/32 for four residual stages).
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from latens.shapes import Float

MIDDLE, SPREAD = 0.5, 0.25  # what pixels in [0, 1] are shifted and divided by
STEM = 64  # channels after the first stage
WIDTHS = (64, 128, 256, 512)


class Encoder(nn.Module):
    """Phi: pictures in [0, 1] to a map of features. `stages` run one after the other and can be frozen from the front."""

    def __init__(self, stages: list[nn.Module], channels: int, stride: int, head_kernel: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.channels = channels
        self.stride = stride
        self.head_kernel = head_kernel  # side of the layers that should follow: 1 keeps a local encoder local

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        return self.run(self.normalized(image), 0)

    def normalized(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """What stage 0 takes for an image in [0, 1]."""
        return (image - MIDDLE) / SPREAD

    def run(self, x: Tensor, first: int, last: int | None = None) -> Tensor:
        """Stages `first` to before `last` on what the stage before gave; stage 0 takes the shifted picture."""
        for stage in self.stages[first:last]:
            x = stage(x)
        return x


class BasicBlock(nn.Module):
    """Two convolutions of side `kernels` with a shortcut (He et al. 2016, Fig. 5 left)."""

    def __init__(self, inputs: int, outputs: int, stride: int, kernels: tuple[int, int] = (3, 3)) -> None:
        super().__init__()
        first, second = kernels
        self.conv1 = nn.Conv2d(inputs, outputs, first, stride=stride, padding=first // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, second, padding=second // 2, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and inputs == outputs
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        deep = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        return F.relu(deep + self.shortcut(x), inplace=True)


def resnet_encoder(blocks: int) -> Encoder:
    """The first stages of ResNet-18: a 7 x 7 convolution with pooling, then `blocks` stages of two residual blocks."""
    stem = nn.Sequential(
        nn.Conv2d(3, STEM, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(STEM),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
    )
    stages: list[nn.Module] = [stem]
    inputs = STEM
    for index, width in enumerate(WIDTHS[:blocks]):
        stages.append(nn.Sequential(BasicBlock(inputs, width, 1 if index == 0 else 2), BasicBlock(width, width, 1)))
        inputs = width
    return _started(Encoder(stages, inputs, 2 ** (blocks + 1), head_kernel=3))


def local_encoder() -> Encoder:
    """As deep, wide and coarse as the paper's with two stages, but a cell sees only 24 x 24 pixels around it."""
    stem = nn.Sequential(nn.Conv2d(3, STEM, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(STEM), nn.ReLU(inplace=True))
    first = nn.Sequential(BasicBlock(STEM, 64, 2, (3, 1)), BasicBlock(64, 64, 1, (3, 1)))
    second = nn.Sequential(BasicBlock(64, 128, 2, (3, 1)), BasicBlock(128, 128, 1, (1, 1)))
    return _started(Encoder([stem, first, second], 128, 8, head_kernel=1))


def _started(encoder: Encoder) -> Encoder:
    for layer in encoder.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return encoder


class View(NamedTuple):
    """How far one cell of a map looks, in pixels of the picture along one side."""

    size: int
    stride: int


def receptive_field(encoder: Encoder, head: int = 1) -> View:
    """Side of the square a cell sees, with a head of side `head` behind the encoder; by arithmetic along the deepest path."""
    view = View(1, 1)
    for layer in encoder.modules():  # in the order they run; shortcuts look less far than what they pass by
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d) and not _on_shortcut(encoder, layer):
            side, stride = _whole(layer.kernel_size), _whole(layer.stride)
            view = View(view.size + (side - 1) * view.stride, view.stride * stride)
    return View(view.size + (head - 1) * view.stride, view.stride)


def _on_shortcut(encoder: Encoder, layer: nn.Module) -> bool:
    shortcuts = (block.shortcut for block in encoder.modules() if isinstance(block, BasicBlock))
    return any(layer is part for shortcut in shortcuts for part in shortcut.modules())


def _whole(value: object) -> int:
    return int(value[0]) if isinstance(value, tuple) else int(value)  # type: ignore[call-overload]
