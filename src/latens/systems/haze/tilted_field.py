"""The field of view of a photograph that was rotated by some degrees: four corners of one color around a tilted rectangle.

A night photograph has dark corners too, and a bright sky white ones, but they end in no straight lines. Corners are cut only if
all four are black or all four are white, if a straight line ends each, and if neighboring lines are perpendicular.

Letters: H W image size, h w without the lines around it that have the color of the corners.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from latens.data.images import Pixels
from latens.data.masks import window_of
from latens.shapes import Bool
from latens.systems.haze.borders import BLUR, BRIGHTEST, DARKEST
from latens.systems.haze.round_field import DARK_RIM, PURE

SHORTEST, LONGEST = 4, 40  # pixels; a corner has legs of at least the one, and one leg of at least the other
ON_LINE, OFF_LINE = 0.95, (1.5, 0.004)  # share of ends on the line; within pixels, or this share of the leg
ANGLE = 1.5  # degrees between opposite lines, and of neighboring lines from a right angle
RIM = 8  # width in pixels of the content next to a line, which has to differ from the corner


class Line(NamedTuple):
    """The line that ends the top left corner: points with across * column + down * row = end; (across, down) has length 1."""

    across: float
    down: float
    end: float

    @property
    def angle(self) -> float:
        """Degrees between the line and the rows."""
        return float(np.degrees(np.arctan2(self.across, self.down)))


def tilted_field(pixels: Pixels) -> Bool[np.ndarray, "H W"] | None:
    """True inside of the rotated photograph, without its blurred edge; None for an image without corners of one color."""
    first = pixels[0, 0]
    if first.max() <= DARKEST:
        return _field(pixels.max(2))
    return _field(255 - pixels.min(2)) if first.min() >= BRIGHTEST else None


def _field(levels: np.ndarray) -> Bool[np.ndarray, "H W"] | None:
    """The field of levels (H, W) that are near 0 in the corners."""
    if not (levels > DARKEST).any():
        return None
    rows, columns = window_of(levels > DARKEST)  # a rotation into a larger image leaves a dark line around it
    found = _tilted(levels[rows, columns])
    if found is None:
        return None
    field = np.zeros(levels.shape, bool)
    field[rows, columns] = found
    return field


def _tilted(levels: np.ndarray) -> Bool[np.ndarray, "h w"] | None:
    """The field of levels (h, w) whose first and last rows and columns have content."""
    dark = levels <= DARKEST
    if min(dark.shape) < LONGEST or not (dark[0, 0] and dark[0, -1] and dark[-1, 0] and dark[-1, -1]):
        return None
    turns = ((1, 1), (1, -1), (-1, -1), (-1, 1))  # the corners, clockwise from the top left one
    lines = [line for down, across in turns if (line := _line(dark[::down, ::across])) is not None]
    if len(lines) < len(turns):
        return None
    a, b, c, d = (line.angle for line in lines)
    if max(abs(a - c), abs(b - d), abs(a + b - 90), abs(c + d - 90)) > ANGLE:
        return None
    inside = np.ones(dark.shape, bool)
    for (down, across), line in zip(turns, lines, strict=True):
        distance = _distance(line, dark.shape)
        turned = levels[::down, ::across]
        outside, rim = turned[distance < -BLUR], turned[(distance > BLUR) & (distance <= BLUR + RIM)]
        low, middle, high = np.percentile(outside, (10, 50, 90)) if len(outside) else (0, 255, 255)
        if middle > PURE or high - low > PURE or (rim <= DARKEST).mean() > DARK_RIM:
            return None
        inside[::down, ::across] &= distance > BLUR
    return inside


def _distance(line: Line, shape: tuple[int, ...]) -> np.ndarray:
    """Distance (H, W) of every pixel from the line, negative in its corner."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.asarray(line.across * columns + line.down * rows - line.end, dtype=np.float32)


def _line(dark: Bool[np.ndarray, "H W"]) -> Line | None:
    """The line that ends the dark top left corner; None without a corner or a straight line."""
    down, across = int(np.argmin(dark[:, 0])), int(np.argmin(dark[0]))  # lengths of the legs; 0 if all of the edge is dark
    if min(down, across) < SHORTEST or max(down, across) < LONGEST:
        return None
    flat = across >= down
    corner = dark[:, :across].T if flat else dark[:down]
    ends = np.argmin(corner, 1).astype(np.float64)  # 0 for a line that is dark throughout
    places = np.arange(len(ends), dtype=np.float64)
    slope, start = np.polyfit(places, ends, 1)
    off = np.abs(places * slope + start - ends)
    if slope >= 0 or np.quantile(off, ON_LINE) > max(OFF_LINE[0], OFF_LINE[1] * len(ends)):
        return None
    length = float(np.hypot(slope, 1))  # ends - slope * places = start on the line
    along, end = -slope / length, start / length
    return Line(along, 1 / length, end) if flat else Line(1 / length, along, end)
