"""Row blocks give the result of the whole image.

Weights and inputs are small integers in float64, so that sums are exact in any order and equality is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from latens.inference.tiling import in_blocks


class Layer(NamedTuple):
    """A (transposed) convolution along one axis: odd kernel, zero padding of (kernel - 1) / 2.

    PixelUnshuffle(s) and PixelShuffle(s) are Layer(1, s); pointwise layers need not be listed.
    """

    kernel: int
    stride: int


def analysis_halo(layers: Sequence[Layer]) -> int:
    """Rows of context on each side for a stack of strided convolutions, first layer first.

    One output row of layer l reaches pad_l rows of its input further than its own stride block does on the far side;
    in rows of the image that is pad_l times the strides before it. Summed, and rounded up to the whole stride so
    that strips stay aligned: four 5x5 convolutions of stride 2 reach 2 + 4 + 8 + 16 = 30, so 32.
    """
    reach, stride = 0, 1
    for layer in layers:
        reach += (layer.kernel - 1) // 2 * stride
        stride *= layer.stride
    return -(-reach // stride) * stride


def synthesis_halo(layers: Sequence[Layer]) -> int:
    """Input rows of context on each side for a stack of transposed convolutions, first layer first.

    Output o of a layer of stride s and padding p sums the inputs i with o - p <= s i <= o + p (of a shuffle, that with
    o - s < s i <= o). The outputs of input row 0, [0, S - 1] with S the product of the strides, are followed back
    through the layers from the last: each turns [a, b] into [ceil((a - p) / s), floor((b + p) / s)]. Four 5x5 layers
    of stride 2 end at [-1, 2]: a halo of 2.
    """
    first, last = 0, 1
    for layer in layers:
        last *= layer.stride
    last -= 1
    for layer in reversed(layers):
        pad = (layer.kernel - 1) // 2
        first = -((max(pad, layer.stride - 1) - first) // layer.stride)
        last = (last + pad) // layer.stride
    return max(-first, last)


DOWN = Fraction(1, 16)
UP = Fraction(16)
FIVES = [Layer(5, 2)] * 4
SHUFFLED_DOWN = [Layer(1, 4), Layer(3, 1), Layer(5, 2), Layer(5, 2)]
SHUFFLED_UP = [Layer(5, 2), Layer(5, 2), Layer(3, 1), Layer(1, 4)]


class Fold(nn.Module):
    """A pointwise map across channels, like GDN, that keeps integers small and exact."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.remainder(x + x.sum(1, keepdim=True).abs(), 5) - 2


def integer_weights(net: nn.Sequential) -> nn.Sequential:
    generator = torch.Generator().manual_seed(3)
    for parameter in net.double().parameters():
        parameter.data = torch.randint(-2, 3, parameter.shape, generator=generator).double()
    return net


def analysis(channels: int = 3) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs in (1, channels, channels, channels):
        layers += [nn.Conv2d(inputs, channels, 5, stride=2, padding=2), Fold()]
    return integer_weights(nn.Sequential(*layers))


def synthesis(channels: int = 3) -> nn.Sequential:
    layers: list[nn.Module] = []
    for outputs in (channels, channels, channels, 1):
        layers += [nn.ConvTranspose2d(channels, outputs, 5, stride=2, padding=2, output_padding=1), Fold()]
    return integer_weights(nn.Sequential(*layers))


def shuffled_analysis() -> nn.Sequential:
    convolutions = [nn.Conv2d(16, 3, 3, padding=1), *(nn.Conv2d(3, 3, 5, stride=2, padding=2) for _ in range(2))]
    return integer_weights(nn.Sequential(nn.PixelUnshuffle(4), *(layer for c in convolutions for layer in (c, Fold()))))


def shuffled_synthesis() -> nn.Sequential:
    ups = [nn.ConvTranspose2d(3, 3, 5, stride=2, padding=2, output_padding=1) for _ in range(2)]
    layers = [layer for up in ups for layer in (up, Fold())]
    return integer_weights(nn.Sequential(*layers, nn.Conv2d(3, 16, 3, padding=1), nn.PixelShuffle(4)))


def image(height: int, width: int, channels: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randint(-3, 4, (1, channels, height, width), generator=generator).double()


def blockwise(
    f: Callable[[Tensor], Tensor], x: Tensor, *, scale: Fraction, halo: int, core: int, columns: int | None = None
) -> Tensor:
    size = (x.shape[-2], x.shape[-1])
    return in_blocks(lambda rows, cols: f(x[..., rows, cols]), size, scale=scale, halo=halo, core=core, columns=columns)


def test_halos_are_as_derived() -> None:
    assert analysis_halo(FIVES) == 32  # 2 + 4 + 8 + 16 = 30 rows, up to a multiple of 16
    assert synthesis_halo(FIVES) == 2  # latent rows -1 .. 2 reach the 16 rows of latent row 0
    assert analysis_halo(SHUFFLED_DOWN) == 32  # 4 + 8 + 16 = 28
    assert synthesis_halo([Layer(3, 1)]) == analysis_halo([Layer(3, 1)]) == 1
    assert synthesis_halo([Layer(5, 2)]) == 1


@pytest.mark.parametrize(("height", "core"), [(16, 16), (80, 16), (96, 32), (208, 64), (64, 256)])
def test_analysis_in_strips_is_exact(height: int, core: int) -> None:
    net, x = analysis(), image(height, 48)
    assert torch.equal(blockwise(net, x, scale=DOWN, halo=32, core=core), net(x))


@pytest.mark.parametrize(("height", "core"), [(1, 1), (7, 1), (9, 2), (16, 4), (3, 64)])
def test_synthesis_in_strips_is_exact(height: int, core: int) -> None:
    net, y = synthesis(), image(height, 3, channels=3)
    assert torch.equal(blockwise(net, y, scale=UP, halo=2, core=core), net(y))


@pytest.mark.parametrize(
    ("make", "shape", "scale", "halo", "core", "columns"),
    [
        (analysis, (1, 96, 112), DOWN, 32, 32, 48),
        (synthesis, (3, 6, 7), UP, 2, 2, 3),
        (shuffled_analysis, (1, 112, 96), DOWN, analysis_halo(SHUFFLED_DOWN), 16, 32),
        (shuffled_synthesis, (3, 7, 8), UP, synthesis_halo(SHUFFLED_UP), 1, 2),
    ],
)
def test_pieces_of_both_axes_are_exact(
    make: Callable[[], nn.Sequential],
    shape: tuple[int, int, int],
    scale: Fraction,
    halo: int,
    core: int,
    columns: int,
) -> None:
    net, x = make(), image(shape[1], shape[2], channels=shape[0])
    pieces = blockwise(net, x, scale=scale, halo=halo, core=core, columns=columns)
    assert torch.equal(pieces, net(x))


def test_smaller_halos_would_show_seams() -> None:
    x, y = image(96, 32), image(8, 2, channels=3)
    encoder, decoder = analysis(), synthesis()
    assert not torch.equal(blockwise(encoder, x, scale=DOWN, halo=16, core=32), encoder(x))
    assert not torch.equal(blockwise(decoder, y, scale=UP, halo=1, core=4), decoder(y))


def test_float32_differs_by_rounding_only() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Conv2d(i, 8, 5, stride=2, padding=2) for i in (3, 8, 8, 8)))
    x = torch.rand(2, 3, 160, 64)
    whole = net(x).detach()
    strips = blockwise(net, x, scale=DOWN, halo=32, core=48)
    assert (strips - whole).abs().max() <= 1e-5 * whole.abs().max()
    assert torch.equal(strips, blockwise(net, x, scale=DOWN, halo=32, core=48))
    assert not strips.requires_grad


def test_memory_is_that_of_a_strip() -> None:
    seen: list[int] = []

    def watch(piece: Tensor) -> Tensor:
        seen.append(piece.shape[-2])
        return piece[..., ::16, ::16]

    blockwise(watch, image(1600, 16), scale=DOWN, halo=32, core=64)
    assert len(seen) == 25
    assert max(seen) == 64 + 2 * 32


@pytest.mark.parametrize(("height", "halo", "core"), [(90, 32, 32), (96, 30, 32), (96, 32, 24), (96, 32, 0)])
def test_misaligned_sizes_are_refused(height: int, halo: int, core: int) -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        blockwise(analysis(), image(height, 32), scale=DOWN, halo=halo, core=core)
