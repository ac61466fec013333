"""Grids of images and maps of densities, as pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from latens.data.images import Pixels
from latens.shapes import Float, UInt8

GAP = 2  # pixels between images
# Dark blue over green to yellow, in even steps of lightness.
COLORS = np.array([[13, 16, 54], [34, 70, 116], [33, 122, 124], [84, 170, 96], [190, 205, 60], [253, 238, 140]], dtype=float)


def image_grid(images: Sequence[UInt8[np.ndarray, "H W 3"]], *, columns: int, enlarge: int = 1) -> Pixels:
    """Images of one size in rows of `columns`, every pixel enlarged to a square of `enlarge`, on white."""
    height, width = (side * enlarge for side in images[0].shape[:2])
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for number, image in enumerate(images):
        top, left = number // columns * (height + GAP), number % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = image.repeat(enlarge, axis=0).repeat(enlarge, axis=1)
    return sheet


def colored(values: Float[np.ndarray, "H W"]) -> Pixels:
    """Values in [0, 1] in colors of even steps of lightness."""
    place = np.clip(values, 0, 1) * (len(COLORS) - 1)
    lower = np.minimum(place.astype(int), len(COLORS) - 2)
    mixed = COLORS[lower] + (place - lower)[..., None] * (COLORS[lower + 1] - COLORS[lower])
    return np.rint(mixed).astype(np.uint8)
