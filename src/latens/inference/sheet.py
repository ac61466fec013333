"""Sheets of images for figures: tiles under lines of text, in rows and columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from latens.data.images import Pixels
from latens.shapes import Float

TEXT = 13  # size of the font
LINE = 18  # height of a line of text, in pixels
GAP = 4  # pixels between tiles
BACKGROUND = 255  # gray level of the background


def resized(pixels: Pixels, height: int) -> Pixels:
    """The image at this height, in its proportions."""
    width = max(1, round(pixels.shape[1] * height / pixels.shape[0]))
    kind = Image.Resampling.NEAREST if pixels.shape[0] < height else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), kind))


def boxed(pixels: Pixels, width: int, height: int) -> Pixels:
    """The image, scaled to fit, at the center of a white tile."""
    scale = min(width / pixels.shape[1], height / pixels.shape[0])
    fitted = resized(pixels, max(1, min(height, round(pixels.shape[0] * scale))))[:, :width]
    left, top = (width - fitted.shape[1]) // 2, (height - fitted.shape[0]) // 2
    tile = np.full((height, width, 3), BACKGROUND, np.uint8)
    tile[top : top + fitted.shape[0], left : left + fitted.shape[1]] = fitted
    return tile


def label(text: str, width: int, height: int) -> Pixels:
    """Black text at the center of a white tile."""
    tile = Image.new("RGB", (width, height), (BACKGROUND,) * 3)
    font = ImageFont.load_default(TEXT)
    ImageDraw.Draw(tile).text((width / 2, height / 2), text, fill=0, anchor="mm", align="center", font=font)
    return np.asarray(tile)


def titled(pixels: Pixels, text: str, color: Float[np.ndarray, "3"] | None = None) -> Pixels:
    """The tile under a line of text, widened to the text; with a color, a stripe of that color lies between them."""
    width = max(pixels.shape[1], round(ImageFont.load_default(TEXT).getlength(text)) + 2)
    lines = [label(text, width, LINE)]
    if color is not None:
        lines.append(np.tile(np.rint(255 * color).astype(np.uint8), (GAP, width, 1)))
    filled = np.pad(pixels, ((0, 0), (0, width - pixels.shape[1]), (0, 0)), constant_values=BACKGROUND)
    return np.concatenate([*lines, filled])


def row_of(tiles: Sequence[Pixels]) -> Pixels:
    """Tiles side by side, padded at the bottom to equal height."""
    height = max(tile.shape[0] for tile in tiles)
    filled = [np.pad(t, ((0, height - t.shape[0]), (0, GAP), (0, 0)), constant_values=BACKGROUND) for t in tiles]
    return np.concatenate(filled, axis=1)


def column_of(rows: Sequence[Pixels]) -> Pixels:
    """Rows below each other, padded on the right to equal width."""
    width = max(row.shape[1] for row in rows)
    filled = [np.pad(r, ((0, GAP), (0, width - r.shape[1]), (0, 0)), constant_values=BACKGROUND) for r in rows]
    return np.concatenate(filled)
