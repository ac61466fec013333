"""Image grids and color maps of densities as pixel arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from latens.data.images import Pixels
from latens.shapes import Float, UInt8

GAP = 2  # pixels between images
CELL, MARGIN, TEXT = 56, 64, 15  # sizes in a heat map, in pixels: cells, margin for labels, font
# Dark blue over green to yellow, in even steps of lightness.
COLORS = np.array([[13, 16, 54], [34, 70, 116], [33, 122, 124], [84, 170, 96], [190, 205, 60], [253, 238, 140]], dtype=float)


def image_grid(images: Sequence[UInt8[np.ndarray, "H W 3"]], *, columns: int, enlarge: int = 1) -> Pixels:
    """Grid of equal-sized images on white, with `columns` images a row; every pixel becomes a square of `enlarge` pixels."""
    height, width = (side * enlarge for side in images[0].shape[:2])
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for number, image in enumerate(images):
        top, left = number // columns * (height + GAP), number % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = image.repeat(enlarge, axis=0).repeat(enlarge, axis=1)
    return sheet


def colored(values: Float[np.ndarray, "H W"]) -> Pixels:
    """Color map of values in [0, 1], with even steps of lightness."""
    place = np.clip(values, 0, 1) * (len(COLORS) - 1)
    lower = np.minimum(place.astype(int), len(COLORS) - 2)
    mixed = COLORS[lower] + (place - lower)[..., None] * (COLORS[lower + 1] - COLORS[lower])
    return np.rint(mixed).astype(np.uint8)


def heat_map(values: Float[np.ndarray, "rows columns"], rows: Sequence[str], columns: Sequence[str]) -> Pixels:
    """Matrix of values in [0, 1] as colored cells that show the values, with row labels on the left and column labels above."""
    height, width = values.shape
    sheet = Image.new("RGB", (MARGIN + width * CELL, MARGIN // 2 + height * CELL), "white")
    sheet.paste(Image.fromarray(colored(values).repeat(CELL, axis=0).repeat(CELL, axis=1)), (MARGIN, MARGIN // 2))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=TEXT)
    for column, name in enumerate(columns):
        pen.text((MARGIN + (column + 0.5) * CELL, MARGIN // 4), name, fill="black", font=font, anchor="mm")
    for row, name in enumerate(rows):
        middle = MARGIN // 2 + (row + 0.5) * CELL
        pen.text((MARGIN // 2, middle), name, fill="black", font=font, anchor="mm")
        for column in range(width):
            value = values[row, column]
            ink = "black" if value > 0.6 else "white"
            pen.text((MARGIN + (column + 0.5) * CELL, middle), f"{value:.2f}", fill=ink, font=font, anchor="mm")
    return np.asarray(sheet)
