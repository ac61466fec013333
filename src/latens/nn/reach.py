"""Reach of a convolutional network: the neighboring input samples on which an output sample depends.

Row-wise processing of large images (`latens.inference.tiling`) needs that much context on both sides of a block.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

from torch import nn

from latens.nn.blocks import BLOCK, BlockAnalysis, BlockSynthesis
from latens.nn.conv import Residual
from latens.nn.gdn import GDN
from latens.nn.transforms import Sum

POINTWISE = (nn.LeakyReLU, nn.ReLU, nn.Identity, GDN)


class Reach(NamedTuple):
    """Output sample o depends on the inputs from o * step - before to o * step + after."""

    before: Fraction
    after: Fraction
    step: Fraction  # input samples per output sample


def halo(network: nn.Module, multiple: int) -> int:
    """Input samples of context that a block of rows needs on each side, rounded up to a multiple of `multiple`.

    Exact for networks that only reduce or only enlarge the resolution, an upper bound for others.
    """
    found = reach(network)
    beyond = max(found.before, found.after - max(found.step - 1, Fraction(0)))
    return math.ceil(beyond / multiple) * multiple


def reach(network: nn.Module) -> Reach:
    """The reach along one axis. Raises ValueError for a module whose reach is not known."""
    if isinstance(network, POINTWISE):
        return _reach(0, 0, Fraction(1))
    if isinstance(network, nn.Sequential):
        return _in_sequence(network)
    if isinstance(network, Residual):
        return _in_sequence(network.body)
    if isinstance(network, Sum):
        deep, linear = reach(network.deep), reach(network.linear)
        return Reach(max(deep.before, linear.before), max(deep.after, linear.after), deep.step)
    if isinstance(network, BlockAnalysis):
        return _reach(0, BLOCK - 1, Fraction(BLOCK))
    if isinstance(network, BlockSynthesis):
        return _reach(0, 0, Fraction(1, BLOCK))
    if isinstance(network, nn.PixelUnshuffle):
        return _reach(0, network.downscale_factor - 1, Fraction(network.downscale_factor))
    if isinstance(network, nn.PixelShuffle):
        return _reach(0, 0, Fraction(1, network.upscale_factor))
    if isinstance(network, nn.Conv2d):
        kernel, padding = network.kernel_size[0], int(network.padding[0])
        return _reach(padding, kernel - 1 - padding, Fraction(network.stride[0]))
    if isinstance(network, nn.ConvTranspose2d):
        # Output o depends on the inputs i with 0 <= o - i * stride + padding < kernel.
        kernel, stride, padding = network.kernel_size[0], network.stride[0], int(network.padding[0])
        return Reach(Fraction(max(kernel - stride - padding, 0), stride), Fraction(padding, stride), Fraction(1, stride))
    raise ValueError(f"the reach of {type(network).__name__} is not known")


def _reach(before: int, after: int, step: Fraction) -> Reach:
    return Reach(Fraction(before), Fraction(after), step)


def _in_sequence(layers: Iterable[nn.Module]) -> Reach:
    total = _reach(0, 0, Fraction(1))
    for layer in layers:
        own = reach(layer)
        before, after = total.before + own.before * total.step, total.after + own.after * total.step
        total = Reach(before, after, total.step * own.step)
    return total
