"""Features of the cells of an image, for names: phi with its surroundings, color, texture and place.

A cell is 8 x 8 pixels of the image at the working resolution. Color is luminance and two differences of channels. Texture is
the deviation of the luminance, and the mean absolute derivative in four directions at two scales, as logarithms. Surroundings
are means over 3 x 3 and 7 x 7 cells. Place is row, squared row and distance from the middle column.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from latens.nn.filters import box_mean, luminance
from latens.nn.stages import StagedEncoder
from latens.shapes import Float

Kind = Literal["phi", "hand", "place", "color"]  # hand: color and texture
KINDS: tuple[Kind, ...] = ("phi", "hand", "place")
ALL_KINDS: tuple[Kind, ...] = (*KINDS, "color")
COLORS = 3  # channels of color in `color_and_texture`
RADII = (1, 3)  # of the surroundings, in cells
FLOOR = 1e-4  # of derivatives, before the logarithm


@torch.no_grad()
def cell_features(
    encoder: StagedEncoder, image: Float[Tensor, "1 3 H W"], kinds: tuple[Kind, ...] = KINDS
) -> Float[Tensor, "h w F"]:
    """Features of every cell of an image in [0, 1] whose sides are multiples of the stride of the encoder."""
    height, width = (side // encoder.stride for side in image.shape[2:])
    makers = {
        "phi": lambda: with_surroundings(encoder(image)),
        "hand": lambda: with_surroundings(color_and_texture(image, encoder.stride)),
        "color": lambda: color_and_texture(image, encoder.stride)[:, :COLORS],
        "place": lambda: place(height, width).to(image.device),
    }
    return torch.cat([makers[kind]().float() for kind in kinds], 1)[0].permute(1, 2, 0)


def with_surroundings(cells: Float[Tensor, "1 C h w"]) -> Float[Tensor, "1 D h w"]:
    return torch.cat([cells, *(box_mean(cells, radius) for radius in RADII)], 1)


def color_and_texture(image: Float[Tensor, "1 3 H W"], stride: int) -> Float[Tensor, "1 12 h w"]:
    """Means over every cell: color, deviation of the luminance, derivatives."""
    gray = luminance(image)
    color = F.avg_pool2d(torch.cat([gray, image[:, :1] - gray, image[:, 2:] - gray], 1), stride)
    variance = F.avg_pool2d(gray * gray, stride) - color[:, :1] ** 2
    half = F.interpolate(derivatives(F.avg_pool2d(gray, 2)), size=(gray.shape[2], gray.shape[3]))
    edges = F.avg_pool2d(torch.cat([derivatives(gray), half], 1), stride)
    return torch.cat([color, variance.clamp_min(0).sqrt(), edges.clamp_min(FLOOR).log()], 1)


def derivatives(gray: Float[Tensor, "1 1 H W"]) -> Float[Tensor, "1 4 H W"]:
    """Absolute differences of neighbors: along rows, along columns, along both diagonals."""
    inner, right, below = gray[..., :-1, :-1], gray[..., :-1, 1:], gray[..., 1:, :-1]
    both = torch.cat([right - inner, below - inner, gray[..., 1:, 1:] - inner, below - right], 1).abs()
    return F.pad(both, (0, 1, 0, 1))


def place(height: int, width: int) -> Float[Tensor, "1 3 h w"]:
    rows = torch.linspace(-1, 1, height)[:, None].expand(height, width)
    columns = torch.linspace(-1, 1, width)[None, :].expand(height, width)
    return torch.stack([rows, rows * rows, columns.abs()])[None]
