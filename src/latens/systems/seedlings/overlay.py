"""Overlay of a photograph: grids, predictions and leaf outlines, for visual inspection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from latens.data.images import Pixels
from latens.shapes import Bool
from latens.systems.seedlings.lattice import Lattice, project

MIN_SIDE = 1100  # minimum longer side of an overlay in pixels
FAILURE, SUCCESS = (230, 120, 20), (70, 150, 255)  # colors of the probabilities 0 and 1
PLAIN, MISSING, OUTLINE, LEAF = (90, 200, 120), (235, 90, 90), (255, 255, 255), (250, 220, 60)


class Drawn(NamedTuple):
    """A tray to draw."""

    lattice: Lattice
    values: np.ndarray | None = None  # probability of success of each cell; None: not predicted
    seen: np.ndarray | None = None  # cells with a visible plant; the others are crossed out
    name: str = ""


def draw_trays(pixels: Pixels, leaves: Bool[np.ndarray, "H W"], trays: Sequence[Drawn]) -> Pixels:
    """Photograph with leaf outlines and, for each tray, its outline, cells, and row and column numbers.

    Frames of cells are orange (probability 0) to blue (1), or green without values.
    """
    import cv2

    factor = max(1.0, MIN_SIDE / max(pixels.shape[:2]))
    image = np.ascontiguousarray(cv2.resize(pixels, None, fx=factor, fy=factor))
    mask = cv2.resize(leaves.astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(image, outlines, -1, LEAF, 1)
    for tray in trays:
        _draw_tray(image, tray, factor)
    drawn: Pixels = image.astype(np.uint8, copy=False)
    return drawn


def _draw_tray(image: np.ndarray, tray: Drawn, factor: float) -> None:
    import cv2

    lattice = tray.lattice
    corner = np.array([[-0.44, -0.44], [0.44, -0.44], [0.44, 0.44], [-0.44, 0.44]])
    thick = max(1, round(lattice.pitch * factor / 45))
    for index in range(lattice.rows * lattice.cols):
        row, col = divmod(index, lattice.cols)
        frame = np.rint(factor * project(lattice.homography, corner + np.array([col, row]))).astype(np.int32)
        color = PLAIN if tray.values is None else _shade(float(tray.values[index]))
        cv2.polylines(image, [frame], True, color, thick, cv2.LINE_AA)
        if tray.seen is not None and not tray.seen[index]:
            middle = factor * project(lattice.homography, np.array([float(col), float(row)]))
            x, y, r = int(middle[0]), int(middle[1]), int(0.10 * lattice.pitch * factor)
            cv2.line(image, (x - r, y - r), (x + r, y + r), MISSING, thick, cv2.LINE_AA)
            cv2.line(image, (x - r, y + r), (x + r, y - r), MISSING, thick, cv2.LINE_AA)
    edge = np.rint(factor * lattice.corners()).astype(np.int32)
    cv2.polylines(image, [edge], True, OUTLINE, thick, cv2.LINE_AA)
    _number_lines(image, tray, factor)


def _shade(value: float) -> tuple[int, int, int]:
    mixed = np.array(FAILURE) + (np.array(SUCCESS) - np.array(FAILURE)) * float(np.clip(value, 0, 1))
    return int(mixed[0]), int(mixed[1]), int(mixed[2])


def _number_lines(image: np.ndarray, tray: Drawn, factor: float) -> None:
    """Writes column numbers above the tray, row numbers on its left, and its name at the top left corner."""
    lattice = tray.lattice
    size = float(np.clip(lattice.pitch * factor / 130, 0.4, 1.2))
    places = [(np.array([col, -0.68]), str(col + 1)) for col in range(lattice.cols)]
    places += [(np.array([-0.72, row]), str(row + 1)) for row in range(lattice.rows)]
    places += [(np.array([-0.72, -0.68]), tray.name)] if tray.name else []
    for place, text in places:
        x, y = factor * project(lattice.homography, place.astype(float))
        x, y = np.clip(x, 12, image.shape[1] - 30), np.clip(y, 20, image.shape[0] - 10)
        _write(image, text, int(x), int(y), size)


def _write(image: np.ndarray, text: str, x: int, y: int, size: float) -> None:
    import cv2

    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    at = (x - width // 2, y + height // 2)
    for color, thick in (((0, 0, 0), 4), ((255, 255, 255), 1)):  # light on dark outline, for contrast on any background
        cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, color, thick, cv2.LINE_AA)
