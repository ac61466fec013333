"""Translation of images of any size between the domains; large images go through the network in tiles."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor

from latens.data.images import Pixels
from latens.data.tensors import pad_to_multiple, part_of, to_bytes, to_tensor
from latens.inference.tiling import in_blocks
from latens.nn.filters import block_mean
from latens.shapes import Float, UInt8
from latens.systems.haze.layers import frozen_norm_stats
from latens.systems.haze.model import STRIDE, Domain, HazeTranslator, receptive_radius

WHOLE_PIXELS = 2**19  # larger images are translated in tiles
TILE = 512  # rows and columns of a tile, without its margin
SMALLEST = 16  # pixels; smaller sides of an image are padded to this


def translated(model: HazeTranslator, image: Float[Tensor, "B 3 H W"], to: Domain) -> Float[Tensor, "B 3 H W"]:
    """Images in the other domain. Tiles of large ones share the statistics of the reduced image."""
    height, width = image.shape[2:]
    if height * width <= WHOLE_PIXELS:
        x = pad_to_multiple(image, padding_of(height, width))
        return model.translate(x, to)[:, :, :height, :width]
    x = pad_to_multiple(image, STRIDE)

    def tile(rows: slice, columns: slice) -> Tensor:
        return model.translate(x[..., rows, columns], to)

    return _in_tiles(model, tile, block_mean(x, reduction(height, width)), (x.shape[2], x.shape[3]), to)[:, :, :height, :width]


@torch.no_grad()
def translated_pixels(
    model: HazeTranslator, pixels: Pixels, to: Domain, device: torch.device, *, strength: float = 1.0
) -> UInt8[Tensor, "3 H W"]:
    """An image moved by `strength` from itself to the other domain; of a large one, only a tile is in memory as floats."""
    height, width = pixels.shape[:2]

    def moved(part: Float[Tensor, "1 3 h w"], made: Float[Tensor, "1 3 h w"]) -> UInt8[Tensor, "1 3 h w"]:
        return to_bytes(torch.lerp(part, made, strength))

    def part(rows: slice, columns: slice) -> Float[Tensor, "1 3 h w"]:
        return to_tensor(part_of(pixels, rows, columns)).to(device)

    if height * width <= WHOLE_PIXELS:
        image = to_tensor(pixels).to(device)
        return moved(image, translated(model, image, to))[0]

    def tile(rows: slice, columns: slice) -> UInt8[Tensor, "1 3 h w"]:
        own = part(rows, columns)
        return moved(own, model.translate(own, to))

    size, factor = (height + -height % STRIDE, width + -width % STRIDE), reduction(height, width)
    tops = range(0, size[0], TILE // factor * factor or factor)
    ends = [*tops[1:], size[0]]
    small = [block_mean(part(slice(top, end), slice(0, size[1])), factor) for top, end in zip(tops, ends, strict=True)]
    return _in_tiles(model, tile, torch.cat(small, dim=2), size, to)[0, :, :height, :width]


def padding_of(height: int, width: int) -> int:
    """The sides of a small image are padded to multiples of this."""
    return SMALLEST if min(height + -height % STRIDE, width + -width % STRIDE) < SMALLEST else STRIDE


def reduction(height: int, width: int) -> int:
    """The factor by which a large image is reduced for its statistics."""
    return -(-int((height * width) ** 0.5) // int(WHOLE_PIXELS**0.5))


def _in_tiles(
    model: HazeTranslator,
    tile: Callable[[slice, slice], Tensor],
    reduced: Float[Tensor, "B 3 h w"],
    size: tuple[int, int],
    to: Domain,
) -> Tensor:
    """The results of `tile` for rows and columns, translated with the statistics of the reduced image."""
    with frozen_norm_stats(model):
        model.translate(pad_to_multiple(reduced, STRIDE), to)
        return in_blocks(tile, size, scale=Fraction(1), halo=receptive_radius(model.config), core=TILE, columns=TILE)
