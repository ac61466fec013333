"""Algorithm 1 (Perugachi-Diaz 2024, appendix A): equal division between the first and last lines with over phi leaf pixels.

Errors of the printed algorithm are corrected as its description says: `r_start` is `start`, the last line is a row, not a
column, and a line is tested once, after all of its pixels are counted.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from latens.shapes import Bool
from latens.systems.seedlings.lattice import Lattice, NoLattice, homography_of

PHI = 20  # leaf pixels of a line; the thesis gives no value
MARGINS = (17.0, 20.0)  # widening of the area on each side on days 4 and 5, in pixels: rows, columns
EARLY_DAYS = (4, 5)


class Bounds(NamedTuple):
    """First and last lines with leaves, inclusive, from 0."""

    top: int
    bottom: int
    left: int
    right: int


def starting_coordinates(mask: Bool[np.ndarray, "H W"], phi: int = PHI) -> Bounds:
    """Outermost rows and columns with more than `phi` leaf pixels. Raises NoLattice if there are fewer than two."""
    rows = np.flatnonzero(mask.sum(axis=1) > phi)
    cols = np.flatnonzero(mask.sum(axis=0) > phi)
    if len(rows) < 2 or len(cols) < 2:
        raise NoLattice(f"no two lines have more than {phi} leaf pixels")
    return Bounds(int(rows[0]), int(rows[-1]), int(cols[0]), int(cols[-1]))


def thesis_lattice(mask: Bool[np.ndarray, "H W"], rows: int, cols: int, day: float | None, phi: int = PHI) -> Lattice:
    """Grid of equal cells between the starting coordinates, widened on both sides on days 4 and 5.

    The algorithm has no measure of fit, so bad fits are not detected. Raises NoLattice for an image without leaves.
    """
    bounds = starting_coordinates(mask, phi)
    wide = MARGINS if day is not None and round(day) in EARLY_DAYS else (0.0, 0.0)
    top, bottom = bounds.top - wide[0], bounds.bottom + 1 + wide[0]
    left, right = bounds.left - wide[1], bounds.right + 1 + wide[1]
    edges = np.array([[-0.5, -0.5], [cols - 0.5, -0.5], [cols - 0.5, rows - 0.5], [-0.5, rows - 0.5]])
    homography = homography_of(edges, np.array([[left, top], [right, top], [right, bottom], [left, bottom]]))
    return Lattice(homography, rows, cols, float("nan"), float("nan"), 0, (0, 0))
