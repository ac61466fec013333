"""Windows of rows x cols cells on a lattice: containment, overlap, and visibility in the image."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from latens.systems.seedlings.lattice import project

GAP = 0.10  # in pitches: excess spacing of two lines that separates trays, and tolerated overlap of windows
MARGIN = 0.3  # half side, in cells, of the square around the center that must be visible


class Window(NamedTuple):
    """Position of a tray on the lattice of the first tray, in cell units; `first` may be fractional."""

    first: np.ndarray  # (2,) column and row
    size: np.ndarray  # (2,) columns and rows


def within(places: np.ndarray, window: Window) -> np.ndarray:
    """Mask of the places (n, 2), in cell units, inside the outline of a window."""
    off = places - window.first
    found: np.ndarray = ((off >= -0.5) & (off < window.size - 0.5)).all(axis=1)
    return found


def overlap(one: Window, other: Window) -> bool:
    """True if two windows overlap by more than GAP in both directions."""
    return bool((np.minimum(one.first + one.size, other.first + other.size) - np.maximum(one.first, other.first) > GAP).all())


def cells_in_view(homography: np.ndarray, size: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Mask (rows, cols) of the cells whose central square lies in the image."""
    nodes = np.stack(np.meshgrid(np.arange(size[0]), np.arange(size[1])), axis=-1).astype(float)
    seen = np.ones(nodes.shape[:2], bool)
    for corner in ((-MARGIN, -MARGIN), (MARGIN, MARGIN), (-MARGIN, MARGIN), (MARGIN, -MARGIN)):
        at = project(homography, nodes + np.array(corner))
        seen &= ((at >= 0) & (at < [shape[1], shape[0]])).all(axis=-1)
    return seen


def shifted(homography: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Homography with its origin moved to the cell `first`."""
    shift = np.eye(3)
    shift[:2, 2] = first
    moved: np.ndarray = homography @ shift
    return moved / moved[2, 2]


def cells_out_of_view(window: Window, homography: np.ndarray, shape: tuple[int, int]) -> int:
    """Number of cells of a window that are not visible."""
    return int((~cells_in_view(shifted(homography, window.first), window.size, shape)).sum())
