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
from torch.utils.checkpoint import checkpoint

from latens.shapes import Float


class Span(NamedTuple):
    """One piece of an axis, in input samples: [low, high) is the input of the function, [start, stop) is kept."""

    start: int
    stop: int
    low: int
    high: int

    @property
    def inputs(self) -> slice:
        return slice(self.low, self.high)

    def kept(self, scale: Fraction) -> slice:
        """The part of a piece's output without the halo."""
        return slice(int((self.start - self.low) * scale), int((self.stop - self.low) * scale))

    def place(self, scale: Fraction) -> slice:
        """The place of that part in the whole output."""
        return slice(int(self.start * scale), int(self.stop * scale))


def spans(size: int, core: int, halo: int) -> Iterator[Span]:
    """The pieces of an axis of `size` samples, each of `core` samples with `halo` samples of context on both sides."""
    for start in range(0, size, core):
        stop = min(start + core, size)
        yield Span(start, stop, max(start - halo, 0), min(stop + halo, size))


def in_blocks(
    f: Callable[[slice, slice], Tensor],
    size: tuple[int, int],
    *,
    scale: Fraction,
    halo: int,
    core: int,
    columns: int | None = None,
) -> Float[Tensor, "B D h w"]:
    """A map of convolutions and pointwise maps, computed in blocks of `core` rows; without gradients.

    `f` takes the rows and columns of a piece of the input, whose `size` is (H, W), and maps h rows and w columns to h * scale
    and w * scale. `halo` is the number of rows of context that a block needs on both sides: the radius of the receptive field,
    rounded up to the stride. `columns` also splits the blocks by columns, with the same halo. H, W, halo, core and columns are
    multiples of scale.denominator (ValueError otherwise).

    The result equals that of one piece up to rounding, as kernels may sum in another order at another size; the same split on
    the same machine gives the same bits. Besides input and result, one piece is in memory: about
    (core + 2 halo) * W * scale * widest channels (4 bytes each), twice for input and output of the widest layer.
    The work grows by (core + 2 halo) / core: a core of at least four halos keeps that below 1.5.
    """
    height, width = size
    _check_multiples(scale.denominator, height=height, width=width, halo=halo, core=core, columns=columns or width)
    result: Tensor | None = None
    with torch.no_grad():
        for rows in spans(height, core, halo):
            for cols in spans(width, columns or width, halo):
                piece = f(rows.inputs, cols.inputs)
                if result is None:
                    shape = (*piece.shape[:-2], int(height * scale), int(width * scale))
                    result = piece.new_empty(shape)
                result[..., rows.place(scale), cols.place(scale)] = piece[..., rows.kept(scale), cols.kept(scale)]
    if result is None:
        raise ValueError(f"nothing to do for an input of {height} x {width}")
    return result


def _check_multiples(stride: int, **sizes: int) -> None:
    for name, size in sizes.items():
        if size % stride or size < (name != "halo"):
            raise ValueError(f"{name} is {size}; it must be a positive multiple of {stride}")


def in_row_blocks(
    f: Callable[[Tensor], Tensor], x: Float[Tensor, "B C h w"], *, core: int, halo: int, scale: int
) -> Float[Tensor, "B D H W"]:
    """f(x) with gradients, in blocks of `core` rows with `halo` rows of context; memory for the activations of one block.

    `f` enlarges by `scale`. The backward pass recomputes the activations of each block, unless there is only one.
    """
    height = x.shape[2]
    if height <= core:
        return f(x)
    pieces = []
    for start in range(0, height, core):
        stop, low, high = min(start + core, height), max(start - halo, 0), min(start + core + halo, height)
        piece = checkpoint(f, x[:, :, low:high], use_reentrant=False)
        pieces.append(piece[:, :, (start - low) * scale : (stop - low) * scale])
    return torch.cat(pieces, dim=2)
