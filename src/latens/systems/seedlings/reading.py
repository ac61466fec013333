"""A tray photograph as single plants: grid, crops, areas, and an overlay that shows them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from latens.data.images import ImageLike, Picture, Pixels, read_picture
from latens.errors import InputError
from latens.shapes import Float, UInt8
from latens.systems.seedlings.foreground import Foreground, find_leaves
from latens.systems.seedlings.lattice import Lattice, NoLattice, fit_lattice, from_corners, pitch_of, project
from latens.systems.seedlings.thesis_grid import thesis_lattice

logger = logging.getLogger(__name__)

Method = Literal["lattice", "thesis"]
ROWS, COLS, SIZE = 10, 15, 64
CORNERS_HINT = "check --rows and --cols, or give the centers of the four corner cells with --corners x,y,x,y,x,y,x,y"
REFERENCE_BLOBS = 6  # plants that place the grid of another day


class Reading(NamedTuple):
    """One photograph. Arrays of plants run through the rows from the top left."""

    lattice: Lattice
    crops: UInt8[np.ndarray, "n S S C"]  # C is 1 for gray images and 3 for color
    areas: Float[np.ndarray, "n"]  # of the leaves in a cell, pixels of the photograph
    foreground: Foreground
    picture: Picture
    notes: tuple[str, ...]


def read_tray(
    source: ImageLike,
    *,
    rows: int = ROWS,
    cols: int = COLS,
    method: Method = "lattice",
    day: float | None = None,
    corners: Sequence[float] | None = None,
    reference: Lattice | None = None,
    size: int = SIZE,
) -> Reading:
    """Reads a photograph into rows x cols crops of `size` pixels.

    `corners` are the centers of the corner cells (x, y clockwise from the top left, in pixels) and skip the fit. `reference`
    is the lattice of another day of the same tray, for a photograph with too few plants. `day` matters for method "thesis"
    alone. Raises InputError where no grid fits, and what `read_picture` raises.
    """
    picture = read_picture(source)
    where = str(source) if isinstance(source, str | Path) else None
    foreground = find_leaves(picture)
    notes = list(picture.notes)
    try:
        lattice = _lattice(foreground, rows, cols, method, day, corners, reference, notes)
    except NoLattice as reason:
        raise InputError(str(reason), where=where, hint=CORNERS_HINT) from None
    height, width = foreground.gray.shape
    if not (((lattice.centers() >= 0) & (lattice.centers() <= [width, height])).all()):
        raise InputError("the grid reaches beyond the image", where=where, hint=CORNERS_HINT)
    crops, areas = cut(picture, foreground, lattice, size)
    return Reading(lattice, crops, areas, foreground, picture, tuple(notes))


def _lattice(
    foreground: Foreground,
    rows: int,
    cols: int,
    method: Method,
    day: float | None,
    corners: Sequence[float] | None,
    reference: Lattice | None,
    notes: list[str],
) -> Lattice:
    if corners is not None:
        return from_corners(np.asarray(corners, float).reshape(4, 2), rows, cols)
    if method == "thesis":
        return thesis_lattice(foreground.mask, rows, cols, day)
    try:
        found = fit_lattice(foreground.blobs, foreground.areas, rows, cols, foreground.gray.shape)
    except NoLattice:
        if reference is None or (reference.rows, reference.cols) != (rows, cols):
            raise
        placed = register(reference, foreground)
        notes.append(
            "grid taken from another day of this tray"
            + ("" if placed is not reference else ", its position not verified: too few plants")
        )
        return placed
    if found.estimate[0] > rows or found.estimate[1] > cols:
        text = f"{found.estimate[0]} x {found.estimate[1]} lines hold plants, more than the {rows} x {cols} asked for"
        notes.append(f"{text}; check --rows and --cols")
    elif found.estimate[0] < rows - 1 or found.estimate[1] < cols - 1:
        notes.append(f"plants in {found.estimate[0]} x {found.estimate[1]} lines of the {rows} x {cols} asked for")
    split = two_trays(found, foreground)
    if split:
        raise NoLattice(split)
    return found


def two_trays(lattice: Lattice, foreground: Foreground) -> str:
    """A sentence where one gap between lines is unlike the others, as between two trays; "" otherwise."""
    cells, places = plants_of(lattice, foreground)
    for axis, count, name in ((1, lattice.rows, "rows"), (0, lattice.cols, "columns")):
        lines = [places[cells[:, axis] == line, axis] for line in range(count)]
        if count < 3 or min(map(len, lines)) < 3:
            continue
        middles = np.array([line.mean() for line in lines])
        errors = np.array([max(line.std(ddof=1), 0.05) / np.sqrt(len(line)) for line in lines])
        gaps, spread = np.diff(middles), np.hypot(errors[1:], errors[:-1])
        for k, gap in enumerate(gaps):
            others = np.delete(gaps, k)
            if gap - others.max() > 0.10 and gap - others.mean() > 2.5 * spread[k]:
                return (
                    f"more than one tray where one was asked for: the gap between {name} {k + 1} and {k + 2} is"
                    f" {gap / others.mean():.2f} times the others"
                )
    return ""


def plants_of(lattice: Lattice, foreground: Foreground) -> tuple[np.ndarray, np.ndarray]:
    """Cells (column, row) that hold leaves, and the centroid of these in cell units."""
    places = project(np.linalg.inv(lattice.homography), foreground.blobs)
    nearest = np.rint(places)
    inside = ((nearest >= 0) & (nearest < [lattice.cols, lattice.rows])).all(axis=1)
    if not inside.any():
        return np.zeros((0, 2)), np.zeros((0, 2))
    cells, which = np.unique(nearest[inside], axis=0, return_inverse=True)
    which, weights = which.ravel(), foreground.areas[inside]
    totals = np.bincount(which, weights)
    middles = [np.bincount(which, weights * places[inside, axis]) / totals for axis in (0, 1)]
    return cells, np.stack(middles, axis=1)


def register(reference: Lattice, foreground: Foreground) -> Lattice:
    """The reference moved so that its nodes meet the few plants of this photograph; the very reference where there are too few.

    Searches shifts within half a pitch and turns within 5 degrees around the middle.
    """
    if len(foreground.blobs) < REFERENCE_BLOBS:
        return reference
    middle = reference.centers().reshape(-1, 2).mean(axis=0)
    best, chosen = -1.0, reference
    inverse = np.linalg.inv(reference.homography)
    steps = np.linspace(-0.5, 0.5, 21) * reference.pitch
    for angle in np.deg2rad(np.linspace(-5, 5, 21)):
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.array([[cos, -sin], [sin, cos]])
        turned = (foreground.blobs - middle) @ turn.T + middle
        for dx in steps:
            for dy in steps:
                places = project(inverse, turned + np.array([dx, dy]))
                off = np.linalg.norm(places - np.rint(places), axis=1)
                score = float(np.exp(-((off / 0.12) ** 2)).sum())
                if score > best + 1e-9:
                    back = np.eye(3)
                    back[:2, :2] = turn.T
                    back[:2, 2] = middle - turn.T @ (middle + np.array([dx, dy]))
                    best, chosen = score, reference._replace(homography=back @ reference.homography)
    return chosen


def cut(picture: Picture, foreground: Foreground, lattice: Lattice, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Crops of all cells, rectified, and the area of the leaves in each in pixels of the photograph."""
    import cv2

    pixels = foreground.gray[..., None] if picture.grey else picture.pixels
    scale = min(1.0, 1.6 * size / pitch_of(lattice.homography, lattice.rows, lattice.cols))
    if scale < 1:  # a plain warp would skip pixels
        pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    canvas = (lattice.cols * size, lattice.rows * size)
    to_cells = np.array([[1 / size, 0, -0.5 + 0.5 / size], [0, 1 / size, -0.5 + 0.5 / size], [0, 0, 1]])
    shrink = np.array([[scale, 0, (scale - 1) / 2], [0, scale, (scale - 1) / 2], [0, 0, 1]])
    inverse = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    flat = cv2.warpPerspective(
        pixels, shrink @ lattice.homography @ to_cells, canvas, flags=inverse, borderMode=cv2.BORDER_REPLICATE
    )
    mask = cv2.warpPerspective(
        foreground.mask.astype(np.uint8), lattice.homography @ to_cells, canvas, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    )
    shares = _tiles(mask[..., None], lattice, size).reshape(lattice.rows * lattice.cols, -1).mean(axis=1)
    return _tiles(flat.reshape(*flat.shape[:2], -1), lattice, size), shares * _cell_areas(lattice)


def _tiles(flat: np.ndarray, lattice: Lattice, size: int) -> np.ndarray:
    tiles = flat.reshape(lattice.rows, size, lattice.cols, size, -1).swapaxes(1, 2)
    return np.ascontiguousarray(tiles.reshape(lattice.rows * lattice.cols, size, size, -1))


def _cell_areas(lattice: Lattice) -> np.ndarray:
    """Pixels of the photograph in every cell (shoelace formula)."""
    cells = np.stack(np.meshgrid(np.arange(lattice.cols + 1), np.arange(lattice.rows + 1)), axis=-1) - 0.5
    p = project(lattice.homography, cells)
    first, second = p[1:, 1:] - p[:-1, :-1], p[1:, :-1] - p[:-1, 1:]
    found: np.ndarray = 0.5 * np.abs(first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]).ravel()
    return found


# ----------------------------------------------------------------------------------------------------------- overlay


def draw_overlay(reading: Reading, values: np.ndarray | None = None, seen: np.ndarray | None = None) -> Pixels:
    """The photograph with the cells, the row and column numbers and, where given, the probability of success by color.

    Cells are orange (0) to blue (1); a cell without a visible plant is marked by a cross. Leaf pixels are outlined.
    """
    import cv2

    lattice = reading.lattice
    factor = max(1.0, 1100 / max(reading.picture.pixels.shape[:2]))
    image = np.ascontiguousarray(cv2.resize(reading.picture.pixels, None, fx=factor, fy=factor))
    mask = cv2.resize(reading.foreground.mask.astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(image, outlines, -1, (250, 220, 60), 1)
    corner = np.array([[-0.44, -0.44], [0.44, -0.44], [0.44, 0.44], [-0.44, 0.44]])
    thick = max(1, round(lattice.pitch * factor / 45))
    for index in range(lattice.rows * lattice.cols):
        row, col = divmod(index, lattice.cols)
        frame = np.rint(factor * project(lattice.homography, corner + np.array([col, row]))).astype(np.int32)
        color = (90, 200, 120) if values is None else _shade(float(values[index]))
        cv2.polylines(image, [frame], True, color, thick, cv2.LINE_AA)
        if seen is not None and not seen[index]:
            middle = factor * project(lattice.homography, np.array([float(col), float(row)]))
            x, y, r = int(middle[0]), int(middle[1]), int(0.10 * lattice.pitch * factor)
            cv2.line(image, (x - r, y - r), (x + r, y + r), (235, 90, 90), thick, cv2.LINE_AA)
            cv2.line(image, (x - r, y + r), (x + r, y - r), (235, 90, 90), thick, cv2.LINE_AA)
    _number_lines(image, lattice, factor)
    drawn: Pixels = image.astype(np.uint8, copy=False)
    return drawn


def _shade(value: float) -> tuple[int, int, int]:
    low, high = np.array([230, 120, 20]), np.array([70, 150, 255])
    mixed = low + (high - low) * float(np.clip(value, 0, 1))
    return int(mixed[0]), int(mixed[1]), int(mixed[2])


def _number_lines(image: np.ndarray, lattice: Lattice, factor: float) -> None:
    import cv2

    size = max(0.4, lattice.pitch * factor / 130)
    places = [(np.array([col, -0.75]), col + 1) for col in range(lattice.cols)]
    places += [(np.array([-0.8, row]), row + 1) for row in range(lattice.rows)]
    for place, number in places:
        x, y = factor * project(lattice.homography, place.astype(float))
        x, y = np.clip(x, 4, image.shape[1] - 30), np.clip(y, 16, image.shape[0] - 6)
        cv2.putText(
            image, str(number), (int(x) - 6, int(y) + 5), cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), 1, cv2.LINE_AA
        )
