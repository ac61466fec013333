"""Tiled convolutions on large images, with the result of the whole image.

A stack of convolutions has a finite receptive field. A piece that is computed with that much context on every side, and cropped
afterwards, equals the same part of the whole result. No context is added at the image borders, so zero padding acts as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from latens.shapes import Float


class Layer(NamedTuple):
    """A (transposed) convolution along one axis: odd kernel, zero padding of (kernel - 1) / 2.

    PixelUnshuffle(s) and PixelShuffle(s) are Layer(1, s); pointwise layers need not be listed.
    """

    kernel: int
    stride: int


class Span(NamedTuple):
    """One piece of an axis, in input samples: [low, high) is the input of the function, [start, stop) is kept."""

    start: int
    stop: int
    low: int
    high: int


def apply_in_strips(
    f: Callable[[Tensor], Tensor],
    x: Float[Tensor, "B C H W"],
    *,
    scale: Fraction,
    halo: int,
    core: int,
    columns: int | None = None,
) -> Float[Tensor, "B D h w"]:
    """f(x) for an `f` made of convolutions and pointwise maps, computed in strips of `core` rows; without gradients.

    `f` turns H rows and W columns into H * scale and W * scale. `halo` is how many rows of context a strip needs on
    both sides: `analysis_halo` or `synthesis_halo` of its layers. `columns` splits the strips into pieces as well,
    with the same halo. H, W, halo, core and columns are multiples of scale.denominator (ValueError otherwise).

    Equal to f(x) up to the rounding of the kernels, which may sum in another order at another size; the same split on
    the same machine gives the same bits. Beside x and the result, memory is that of one piece: about
    (core + 2 halo) * W * scale * widest channels (4 bytes each), twice for input and output of the widest layer.
    The work grows by (core + 2 halo) / core: a core of at least four halos keeps that below 1.5.
    """
    height, width = x.shape[-2:]
    _check_multiples(scale.denominator, height=height, width=width, halo=halo, core=core, columns=columns or width)
    result: Tensor | None = None
    with torch.no_grad():
        for rows in _spans(height, core, halo):
            for cols in _spans(width, columns or width, halo):
                piece = f(x[..., rows.low : rows.high, cols.low : cols.high])
                if result is None:
                    shape = (*piece.shape[:-2], int(height * scale), int(width * scale))
                    result = piece.new_empty(shape)
                kept = piece[..., _kept(rows, scale), _kept(cols, scale)]
                result[..., _place(rows, scale), _place(cols, scale)] = kept
    if result is None:
        raise ValueError(f"nothing to do for a tensor of shape {tuple(x.shape)}")
    return result


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


def _spans(size: int, core: int, halo: int) -> Iterator[Span]:
    for start in range(0, size, core):
        stop = min(start + core, size)
        yield Span(start, stop, max(start - halo, 0), min(stop + halo, size))


def _kept(span: Span, scale: Fraction) -> slice:
    """The part of a piece's output without the halo."""
    return slice(int((span.start - span.low) * scale), int((span.stop - span.low) * scale))


def _place(span: Span, scale: Fraction) -> slice:
    return slice(int(span.start * scale), int(span.stop * scale))


def _check_multiples(stride: int, **sizes: int) -> None:
    for name, size in sizes.items():
        if size % stride or size < (name != "halo"):
            raise ValueError(f"{name} is {size}; it must be a positive multiple of {stride}")
