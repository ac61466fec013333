"""Integer flow in floating point, for training: predicts mean and scale of every pixel from the pixels before it.

Letters: B batch, H W sides of a plane, h w those of one of its phases, F inputs of a network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.shapes import Float, Int
from latens.systems.flow.config import IntegerFlow
from latens.systems.flow.pack.color import to_planes
from latens.systems.flow.pack.phases import (
    CENTER,
    PHASES,
    SAME,
    Phase,
    canvas_of,
    extended,
    fourfold_mean,
    phase_size,
    pixels_at,
    sizes,
    stripes,
)

UNIT = 64  # integer inputs are divided by 64; they are in units of 1/4 pixel value
LUMA_LUMA, LUMA_CHROMA = 18, 4  # maximum squared distances of the luma and chroma pixels that predict luma
CHROMA_LUMA, CHROMA_CHROMA = 5, 10  # and those that predict chroma
FINEST = 0  # index of the finest level; its inputs include the position in the 8 x 8 blocks of JPEG
SCALES = 32  # number of scale levels
SMALLEST, RATIO = 0.08, 0.22  # scale of level 0, and logarithm of the ratio of neighboring scales


class Group(NamedTuple):
    """Pixels that are predicted jointly: one phase of one level."""

    level: int
    phase: int


def inputs_of(config: IntegerFlow, group: Group, *, chroma: bool) -> int:
    """F, the number of inputs of a network."""
    phase = PHASES[group.phase]
    place = 6 if group.level == FINEST else 0
    if not chroma:
        return len(phase.within(LUMA_LUMA)) + 2 * len(phase.within(LUMA_CHROMA)) + 3 + place
    return len(phase.within(CHROMA_LUMA)) + 1 + len(SAME) + 2 * len(phase.within(CHROMA_CHROMA)) + 3 + place


class IntegerFlowNet(nn.Module):
    """Networks of all levels; the last set serves all coarser levels. `forward` returns the code length of images."""

    def __init__(self, config: IntegerFlow) -> None:
        super().__init__()
        self.config = config
        self.luma = nn.ModuleDict()
        self.chroma = nn.ModuleDict()
        for level in range(config.levels):
            for number in range(len(PHASES)):
                group = Group(level, number)
                self.luma[name_of(group)] = _network(inputs_of(config, group, chroma=False), config, 2)
                self.chroma[name_of(group)] = _network(inputs_of(config, group, chroma=True), config, 5)

    def forward(self, pixels: Tensor) -> Float[Tensor, "B"]:
        """Bits of each of the images (B, 3, H, W) uint8, without those of the coarsest plane."""
        bits = pixels.new_zeros(len(pixels), dtype=torch.float32)
        planes = to_planes(pixels)
        for level, (plane, coarse) in enumerate(pyramid(planes)):
            for group, phase, canvas in steps(coarse, plane, level, self.config):
                bits = bits + self.group_bits(group, phase, canvas, plane)
        return bits

    def group_bits(self, group: Group, phase: Phase, canvas: Tensor, plane: Tensor) -> Float[Tensor, "B"]:
        size = phase_size(plane.shape[2], plane.shape[3], phase)
        target = plane[:, :, phase.row :: 2, phase.column :: 2].float()
        context = PhaseContext.of(canvas, phase, size)
        mean, scale = run(self.luma[name_of(group)], luma_inputs(context, group, phase, size)).chunk(2, dim=1)
        base = context.base.float() / 4
        total = logistic_bits(target[:, :1] - base[:, :1] - mean, scale).flatten(1).sum(1)
        out = run(self.chroma[name_of(group)], chroma_inputs(context, plane[:, :1], group, phase, size))
        error = target[:, 1:] - base[:, 1:] - out[:, :2]
        error = torch.cat([error[:, :1], error[:, 1:] - out[:, 4:] * error[:, :1]], dim=1)
        result: Tensor = total + logistic_bits(error, out[:, 2:4]).flatten(1).sum(1)
        return result


class PhaseContext(NamedTuple):
    """Known pixels before a phase: the extended plane, and four times the mean of the nearest pixels."""

    wide: Int[Tensor, "B 3 H W"]
    base: Int[Tensor, "B 3 h w"]

    @classmethod
    def of(cls, canvas: Tensor, phase: Phase, size: tuple[int, int]) -> PhaseContext:
        wide = extended(canvas)
        return cls(wide, fourfold_mean(wide, phase, size))


def name_of(group: Group) -> str:
    return f"{group.level}_{group.phase}"


def pyramid(planes: Int[Tensor, "B 3 H W"]) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of a plane and the next coarser plane, from fine to coarse; none for a single pixel."""
    for _ in sizes(*planes.shape[2:])[1:]:
        coarse = planes[:, :, ::2, ::2]
        yield planes, coarse
        planes = coarse


def steps(coarse: Tensor, plane: Tensor, level: int, config: IntegerFlow) -> Iterator[tuple[Group, Phase, Tensor]]:
    """Phases of a level with the known pixels before each of them; phases without pixels are skipped."""
    canvas = canvas_of(coarse, *plane.shape[2:])
    for number, phase in enumerate(PHASES):
        if 0 in phase_size(plane.shape[2], plane.shape[3], phase):
            continue
        yield Group(min(level, config.levels - 1), number), phase, canvas
        canvas[:, :, phase.row :: 2, phase.column :: 2] = plane[:, :, phase.row :: 2, phase.column :: 2]


def luma_inputs(context: PhaseContext, group: Group, phase: Phase, size: tuple[int, int]) -> Int[Tensor, "B F h w"]:
    """Inputs of a luma network in units of 1/4: known luma and chroma minus their local means, and the means."""
    luma, chroma = context.wide[:, :1], context.wide[:, 1:]
    return _inputs(
        [pixels_at(luma, phase, one, size) for one in phase.within(LUMA_LUMA)],
        [pixels_at(chroma, phase, one, size) for one in phase.within(LUMA_CHROMA)],
        context.base,
        group,
    )


def chroma_inputs(
    context: PhaseContext, luma: Tensor, group: Group, phase: Phase, size: tuple[int, int]
) -> Int[Tensor, "B F h w"]:
    """Inputs of a chroma network. `luma` (B, 1, H, W) includes the pixels of the phase."""
    wide, chroma = extended(luma), context.wide[:, 1:]
    return _inputs(
        [pixels_at(wide, phase, one, size) for one in (*phase.within(CHROMA_LUMA), (0, 0), *SAME)],
        [pixels_at(chroma, phase, one, size) for one in phase.within(CHROMA_CHROMA)],
        context.base,
        group,
    )


def _inputs(luma: list[Tensor], chroma: list[Tensor], base: Int[Tensor, "B 3 h w"], group: Group) -> Int[Tensor, "B F h w"]:
    """Neighbors minus the local means, the means at a quarter of the resolution, and at the finest level the block position.

    The tensor is built as (F, B, h, w), the memory layout of the networks.
    """
    parts = [part.transpose(0, 1) for part in (*luma, *chroma, base)]
    size = base.shape[2:]
    if group.level == FINEST:
        parts.append(stripes((size[0], size[1])).to(base.device)[:, None].expand(-1, len(base), -1, -1))
    found, means = torch.cat(parts), base.transpose(0, 1)
    first, last = len(luma), len(luma) + 2 * len(chroma)
    found[:first].mul_(4).sub_(means[:1])
    found[first:last].mul_(4).unflatten(0, (-1, 2)).sub_(means[1:])
    found[last].sub_(4 * CENTER)
    found[last : last + 3].bitwise_right_shift_(2)
    return found.transpose(0, 1)


def _network(inputs: int, config: IntegerFlow, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(config.depth):
        layers += [nn.Conv2d(inputs, config.width, 1), nn.LeakyReLU(1 / 8)]
        inputs = config.width
    last = nn.Conv2d(inputs, outputs, 1)
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.zero_()  # type: ignore[union-attr]
        last.bias[outputs // 2 : 2 * (outputs // 2)] = 14.0  # type: ignore[index]
    return nn.Sequential(*layers, last)


def run(stack: nn.Module, inputs: Int[Tensor, "B F h w"]) -> Float[Tensor, "B O h w"]:
    """Outputs of a network. 1 x 1 convolutions are computed as matrix products, whose gradients take a third of the time."""
    batch, count, height, width = inputs.shape
    x = inputs.transpose(0, 1).reshape(count, -1).float() / UNIT
    for layer in stack.children():
        x = torch.addmm(layer.bias[:, None], layer.weight[:, :, 0, 0], x) if isinstance(layer, nn.Conv2d) else layer(x)  # type: ignore[index]
    return x.view(-1, batch, height, width).transpose(0, 1)


def logistic_bits(error: Tensor, level: Tensor) -> Tensor:
    """Bits of an integer at distance `error` from the mean of a logistic with a real-valued scale level."""
    scale = SMALLEST * torch.exp(RATIO * level.clamp(0, SCALES - 1))
    size = error.abs()
    upper, lower = (0.5 - size) / scale, (-0.5 - size) / scale
    # log(sigmoid(u) - sigmoid(l)) = log(1 - e^(l - u)) - softplus(-u) - softplus(l), with l - u = -1 / scale
    nats = torch.log(-torch.expm1(-1 / scale)) - F.softplus(-upper) - F.softplus(lower)
    return nats / -math.log(2)
