"""The derived reach of a network is that of its gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from latens.nn.conv import Residual, double, down, halve, up
from latens.nn.reach import halo
from latens.nn.transforms import Sum, compact_image_analysis, compact_image_synthesis, paper_synthesis


def measured(network: nn.Module, channels: int, length: int, block: tuple[int, int]) -> int:
    """Input rows outside of a block of output rows on which these rows depend, on the side where there are more."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.uniform_(parameter, 0.5, 1.0)
    x = torch.rand(1, channels, length, 16, dtype=torch.float64, requires_grad=True)
    y = network.double()(x)
    scale = y.shape[2] / length
    first, last = (int(edge * scale) for edge in block)
    y[:, :, first:last].sum().backward()
    assert x.grad is not None
    used = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    return max(block[0] - int(used.min()), int(used.max()) + 1 - block[1])


STACKS = {
    "5 x 5, stride 2": (nn.Sequential(down(2, 2), down(2, 2)), 2, 1),
    "2 x 2, stride 2": (nn.Sequential(halve(2, 2), Residual(2), halve(2, 2), Residual(2, 1)), 2, 1),
    "transposed 5 x 5": (nn.Sequential(up(2, 2), Residual(2), up(2, 2)), 2, 1),
    "transposed 2 x 2": (nn.Sequential(Residual(2), double(2, 2), Residual(2), double(2, 2), Residual(2)), 2, 1),
    "unshuffle": (nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(32, 2, 3, padding=1), halve(2, 2), Residual(2)), 2, 1),
    "shuffle": (
        nn.Sequential(Residual(2), double(2, 2), Residual(2), nn.Conv2d(2, 16, 3, padding=1), nn.PixelShuffle(4)),
        2,
        1,
    ),
}


@pytest.mark.parametrize("name", STACKS)
def test_reach_of_stacks(name: str) -> None:
    network, channels, multiple = STACKS[name]
    assert halo(network, multiple) == measured(network, channels, 64, (24, 40))


@pytest.mark.parametrize("multiple", [1, 64])
def test_reach_of_transforms(multiple: int) -> None:
    analysis = compact_image_analysis(6, 8)
    synthesis, paper = compact_image_synthesis(8, 6), paper_synthesis(4, 4, 3)
    assert isinstance(synthesis, Sum)
    found = measured(Sum(analysis.deep, analysis.linear), 3, 512, (192, 256))  # type: ignore[arg-type]
    assert halo(Sum(analysis.deep, analysis.linear), multiple) == -(-found // multiple) * multiple  # type: ignore[arg-type]
    for network, channels in ((synthesis, 8), (paper, 4)):
        found = measured(network, channels, 32, (12, 16))
        assert halo(network, multiple) == -(-found // multiple) * multiple


def test_an_unknown_module_is_refused() -> None:
    with pytest.raises(ValueError, match="Softmax"):
        halo(nn.Sequential(nn.Softmax()), 1)
