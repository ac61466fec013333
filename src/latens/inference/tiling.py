"""Tiled convolutions on large images, with the result of the whole image.

A stack of convolutions has a finite receptive field. A piece that is computed with that much context on every side, and cropped
afterwards, equals the same part of the whole result. No context is added at the image borders, so zero padding acts as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from latens.shapes import Float


class Span(NamedTuple):
    """One piece of an axis, in input samples: [low, high) is the input of the function, [start, stop) is kept."""

    start: int
    stop: int
    low: int
    high: int


def apply_in_row_blocks(
    f: Callable[[Tensor], Tensor],
    x: Float[Tensor, "B C H W"],
    *,
    scale: Fraction,
    halo: int,
    core: int,
    columns: int | None = None,
) -> Float[Tensor, "B D h w"]:
    """f(x) for an `f` made of convolutions and pointwise maps, computed in blocks of `core` rows; without gradients.

    `f` maps H rows and W columns to H * scale and W * scale. `halo` is the number of rows of context that a block needs on
    both sides: the radius of the receptive field, rounded up to the stride. `columns` also splits the blocks by columns, with
    the same halo. H, W, halo, core and columns are multiples of scale.denominator (ValueError otherwise).

    The result equals f(x) up to rounding, as kernels may sum in another order at another size; the same split on the same
    machine gives the same bits. In addition to x and the result, one piece is in memory: about
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
