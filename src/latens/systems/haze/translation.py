"""Translation of images of any size between the domains; large images go through the network in tiles."""

from __future__ import annotations

from fractions import Fraction

from torch import Tensor

from latens.data.tensors import pad_to_multiple
from latens.inference.tiling import apply_in_row_blocks
from latens.nn.filters import block_mean
from latens.shapes import Float
from latens.systems.haze.layers import frozen_norm_stats
from latens.systems.haze.model import STRIDE, Domain, HazeTranslator, receptive_radius

WHOLE_PIXELS = 2**19  # larger images are translated in tiles
TILE = 512  # rows and columns of a tile, without its margin
SMALLEST = 16  # pixels; smaller sides of an image are padded to this


def translated(model: HazeTranslator, image: Float[Tensor, "B 3 H W"], to: Domain) -> Float[Tensor, "B 3 H W"]:
    """Images in the other domain. Tiles of large ones share the statistics of the reduced image."""
    height, width = image.shape[2:]
    x = pad_to_multiple(image, STRIDE)
    if min(x.shape[2:]) < SMALLEST:
        x = pad_to_multiple(image, SMALLEST)
    if height * width <= WHOLE_PIXELS:
        return model.translate(x, to)[:, :, :height, :width]
    with frozen_norm_stats(model):
        factor = -(-int((height * width) ** 0.5) // int(WHOLE_PIXELS**0.5))
        model.translate(pad_to_multiple(block_mean(x, factor), STRIDE), to)
        halo = receptive_radius(model.config)

        def translate_tile(part: Tensor) -> Tensor:
            return model.translate(part, to)

        made = apply_in_row_blocks(translate_tile, x, scale=Fraction(1), halo=halo, core=TILE, columns=TILE)
    return made[:, :, :height, :width]
