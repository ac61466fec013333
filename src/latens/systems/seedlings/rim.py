"""Rim of a tray: four straight edges that transfer the grid of one photograph to another.

It places the grid of trays without plants. The position of the cells inside the rim is known from another photograph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from latens.shapes import Bool, Float, UInt8
from latens.systems.seedlings.foreground import Foreground
from latens.systems.seedlings.lattice import Lattice, homography_of, project

WIDTH = 640  # width of the reduced image in pixels
MEDIAN_SIZE = 41  # size of the median filter that paints over leaves, in pixels of the reduced image
SLOPES = np.tan(np.deg2rad(np.arange(-8.0, 8.01, 0.5)))
MIN_STEP = 4.0  # minimum mean step across an edge in gray values
MIN_AREA = 0.2  # minimum share of the image inside the rim
MAX_ASPECT_CHANGE = 0.10  # maximum relative difference of the aspect ratio of cells between two photographs


class Rim(NamedTuple):
    """Rim of a tray in cell units, and the aspect ratio (height / width) of its cells."""

    corners: Float[np.ndarray, "4 2"]
    aspect: float
    rows: int
    cols: int


def find_rim(gray: UInt8[np.ndarray, "H W"], leaves: Bool[np.ndarray, "H W"]) -> Float[np.ndarray, "4 2"] | None:
    """Corners of the rim (x, y) in pixels, clockwise from the top left; None if no four edges enclose a tray.

    A side is the straight line within 8 degrees of an image axis with the largest mean step of brightness. All four steps
    must have the same sign. Leaves are painted over first.
    """
    import cv2

    scale = min(1.0, WIDTH / gray.shape[1])
    small = cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    if min(small.shape) < 2 * MEDIAN_SIZE:
        return None
    green = cv2.resize(leaves.astype(np.uint8), small.shape[::-1], interpolation=cv2.INTER_NEAREST)
    hidden = cv2.dilate(green, np.ones((5, 5), np.uint8)) > 0
    bare = np.where(hidden, cv2.medianBlur(small, MEDIAN_SIZE), small)
    smooth = cv2.GaussianBlur(bare, (0, 0), 1.0).astype(np.float32)
    sides = []
    for image, upright in ((smooth, True), (smooth.T, False)):
        step = np.zeros_like(image)
        step[:, 2:-2] = image[:, 4:] - image[:, :-4]
        for low, high, sign in ((0.0, 0.4, 1), (0.6, 1.0, -1)):
            strength, line = _edge(step, round(low * image.shape[1]), round(high * image.shape[1]))
            sides.append((sign * strength, line, upright))
    (left, right), (top, low_side) = sides[:2], sides[2:]
    steps = np.array([side[0] for side in (left, right, top, low_side)])
    if np.abs(steps).min() < MIN_STEP or len(set(np.sign(steps))) > 1:
        return None
    around = [_cross(left[1], top[1]), _cross(right[1], top[1]), _cross(right[1], low_side[1]), _cross(left[1], low_side[1])]
    corners = (np.array(around) + 0.5) / scale - 0.5
    return corners if _plausible(corners, gray.shape) else None


def _edge(step: np.ndarray, first: int, last: int) -> tuple[float, tuple[float, float]]:
    """(step, (a, b)) of the line x = a + b y with the largest mean step that crosses mid-height between two columns."""
    height, width = step.shape
    y = np.arange(round(0.15 * height), round(0.85 * height), 2)
    best, chosen = 0.0, (0.0, 0.0)
    offsets = np.arange(max(first, 2), min(last, width - 2))
    for slope in SLOPES:
        shift = np.rint(slope * (y - height / 2)).astype(int)
        x = offsets[:, None] + shift
        valid = ((x >= 0) & (x < width)).all(axis=1)
        if not valid.any():
            continue
        means = step[y, x[valid]].mean(axis=1)
        k = int(np.argmax(np.abs(means)))
        if abs(means[k]) > abs(best):
            best, chosen = float(means[k]), (float(offsets[valid][k]) - slope * height / 2, float(slope))
    return best, chosen


def _cross(upright: tuple[float, float], level: tuple[float, float]) -> tuple[float, float]:
    """Intersection of x = a + b y and y = c + d x."""
    (a, b), (c, d) = upright, level
    x = (a + b * c) / (1 - b * d)
    return x, c + d * x


def _plausible(corners: np.ndarray, shape: tuple[int, ...]) -> bool:
    sides = np.linalg.norm(np.roll(corners, -1, axis=0) - corners, axis=1)
    x, y = corners.T
    area = 0.5 * abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum())
    even = max(sides[0] / sides[2], sides[2] / sides[0], sides[1] / sides[3], sides[3] / sides[1]) < 1.15
    return bool(even and area > MIN_AREA * shape[0] * shape[1])


def rim_of(lattice: Lattice, foreground: Foreground) -> Rim | None:
    """Rim around a tray with a known grid; None if none is found."""
    found = find_rim(foreground.gray, foreground.mask)
    if found is None:
        return None
    corners = project(np.linalg.inv(lattice.homography), found)
    low, high = np.array([-0.4, -0.4]), np.array([lattice.cols - 0.6, lattice.rows - 0.6])
    outside = (corners - low) * np.array([[-1, -1], [0, -1], [0, 0], [-1, 0]]) + (corners - high) * np.array(
        [[0, 0], [1, 0], [1, 1], [0, 1]]
    )
    if (outside < 0).any() or (outside > 2.5).any():  # the edges cross the cells or are far from them
        return None
    return Rim(corners, _aspect(lattice.homography, lattice), lattice.rows, lattice.cols)


def common_rim(rims: Sequence[Rim]) -> Rim | None:
    """Median of the rims of several trays; None if they differ by more than a sixth of a cell."""
    if not rims:
        return None
    corners = np.stack([rim.corners for rim in rims])
    middle = np.median(corners, axis=0)
    if np.median(np.abs(corners - middle).max(axis=(1, 2))) > 1 / 6:
        return None
    return rims[0]._replace(corners=middle, aspect=float(np.median([rim.aspect for rim in rims])))


def lattice_in(rim: Rim, corners: Float[np.ndarray, "4 2"]) -> Lattice | None:
    """Grid inside a rim with these corners in pixels; None if the aspect ratio of its cells differs."""
    homography = homography_of(rim.corners, corners)
    made = Lattice(homography, rim.rows, rim.cols, float("nan"), float("nan"), 0, (0, 0))
    return made if abs(_aspect(homography, made) / rim.aspect - 1) <= MAX_ASPECT_CHANGE else None


def _aspect(homography: np.ndarray, lattice: Lattice) -> float:
    middle = np.array([(lattice.cols - 1) / 2, (lattice.rows - 1) / 2])
    at = project(homography, middle + np.array([[0.0, 0], [1, 0], [0, 1]]))
    return float(np.linalg.norm(at[2] - at[0]) / np.linalg.norm(at[1] - at[0]))
