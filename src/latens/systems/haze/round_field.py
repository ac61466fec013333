"""The round field of view of a fisheye lens, a microscope or an endoscope: black corners around a disk.

A night photograph has dark corners too, but no circle between them and a brighter scene. Corners are cut only if all four are
uniformly black, and if the points where they end lie on one circle with a sharp edge.

Letters: H W image size.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from latens.data.images import Pixels
from latens.shapes import Bool
from latens.systems.haze.borders import BLUR, DARKEST

PURE = 8  # gray levels; the median of black corners is at most this, their spread (90 % - 10 %) at most twice this
ON_CIRCLE, DEVIATION = 0.8, 0.015  # share of the ends of the corners on the circle, within this share of its radius
MIN_POINTS = 40  # ends of corners; a circle through fewer means nothing
MIN_SHARE = 0.01  # of the image in the corners
DARK_RIM = 0.5  # at most this share of the rim just inside of the circle is as dark as the corners
RIM = 0.03  # width of the rim in radii
LARGEST_RADIUS = 1.0  # of the circle, in diagonals of the image


class Circle(NamedTuple):
    """Center and radius in pixels."""

    row: float
    column: float
    radius: float

    def distances(self, height: int, width: int) -> np.ndarray:
        """Distance (H, W) of every pixel from the center, in radii."""
        rows, columns = np.ogrid[:height, :width]
        squares = (rows - self.row) ** 2 + (columns - self.column) ** 2
        return np.asarray(np.sqrt(squares) / self.radius, dtype=np.float32)


def round_field(pixels: Pixels) -> Bool[np.ndarray, "H W"] | None:
    """True inside of the round field of view; None for an image without one."""
    height, width = pixels.shape[:2]
    dark = pixels.max(2) <= DARKEST
    if not (dark[0, 0] and dark[0, -1] and dark[-1, 0] and dark[-1, -1]) or min(height, width) < MIN_POINTS:
        return None
    circle = _fitted(_ends_of_corners(dark))
    if circle is None or circle.radius > LARGEST_RADIUS * float(np.hypot(height, width)):
        return None
    return _checked(circle, pixels, dark)


def _ends_of_corners(dark: Bool[np.ndarray, "H W"]) -> np.ndarray:
    """Points (n, 2), row and column, where the dark runs that begin at the left and right edges of the image end."""
    width = dark.shape[1]
    left, right = np.argmin(dark, 1), width - 1 - np.argmin(dark[:, ::-1], 1)
    ends = []
    for columns in (left, right):
        rows = np.flatnonzero((columns > 0) & (columns < width - 1))
        ends.append(np.stack([rows, columns[rows]], 1))
    return np.concatenate(ends).astype(np.float64)


def _fitted(points: np.ndarray) -> Circle | None:
    """The circle through most of the points, by least squares without outliers; None if they lie on none."""
    kept = points
    for _ in range(4):
        if len(kept) < max(MIN_POINTS, ON_CIRCLE * len(points)):
            return None
        middle = kept.mean(0)
        moved = kept - middle
        equations = np.concatenate([2 * moved, np.ones((len(moved), 1))], 1)
        (row, column, rest), _, rank, _ = np.linalg.lstsq(equations, (moved**2).sum(1), rcond=None)
        square = rest + row**2 + column**2
        if rank < 3 or square <= 0:
            return None
        circle = Circle(middle[0] + row, middle[1] + column, float(np.sqrt(square)))
        off = np.abs(np.hypot(points[:, 0] - circle.row, points[:, 1] - circle.column) - circle.radius)
        near = off <= max(2.0, DEVIATION * circle.radius)
        if near.mean() >= ON_CIRCLE:
            return circle
        kept = points[off <= np.quantile(off, ON_CIRCLE)]
    return None


def _checked(circle: Circle, pixels: Pixels, dark: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"] | None:
    """True inside of the circle, without its blurred edge; None if the outside is not black, or the edge not sharp."""
    distance = circle.distances(*dark.shape)
    edge = BLUR / circle.radius
    outside = pixels[distance > 1 + edge].max(-1)
    if len(outside) < MIN_SHARE * dark.size:
        return None
    low, middle, high = np.percentile(outside, (10, 50, 90))
    rim = dark[(distance < 1 - edge) & (distance > 1 - edge - max(RIM, edge))]
    if middle > PURE or high - low > 2 * PURE or not len(rim) or rim.mean() > DARK_RIM:
        return None
    inside: np.ndarray = distance < 1 - edge
    return inside
