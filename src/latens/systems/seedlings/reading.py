"""Reads a tray photograph into single plants: grid, crops and leaf areas."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from latens.data.images import ImageLike, LoadedImage, Pixels, read_image
from latens.errors import InputError
from latens.shapes import Float, UInt8
from latens.systems.seedlings.foreground import Foreground, find_leaves
from latens.systems.seedlings.lattice import Lattice, NoLattice, Staggered, fit_lattice, from_corners, pitch_of, project
from latens.systems.seedlings.overlay import Drawn, draw_trays
from latens.systems.seedlings.reference import Reference, place_reference
from latens.systems.seedlings.thesis_grid import thesis_lattice
from latens.systems.seedlings.trays import MIN_PLANTS, describe, find_trays, gap_within, plants_outside

logger = logging.getLogger(__name__)

Method = Literal["lattice", "thesis"]
ROWS, COLS, SIZE = 10, 15, 64
CORNERS_HINT = (
    "check --rows and --cols (of one tray; give --trays N for several), or give the centers of the four corner cells with"
    " --corners x,y,x,y,x,y,x,y"
)
OTHERS_HINT = "; or grade it together with photographs of other days or of other trays, which can place its grid"


class TrayReading(NamedTuple):
    """A tray read from a photograph. Arrays have one value per cell, row by row from the top left."""

    lattice: Lattice
    crops: UInt8[np.ndarray, "n S S C"]  # C is 1 for gray and 3 for color images
    areas: Float[np.ndarray, "n"]  # leaf area of each cell in pixels of the photograph
    foreground: Foreground
    image: LoadedImage
    notes: tuple[str, ...]


def read_trays(
    source: ImageLike,
    *,
    rows: int = ROWS,
    cols: int = COLS,
    trays: int = 1,
    tray: int = 0,
    method: Method = "lattice",
    day: float | None = None,
    corners: Sequence[float] | None = None,
    reference: Reference | None = None,
    size: int = SIZE,
) -> list[TrayReading]:
    """Reads a photograph of `trays` trays, in reading order, each into rows x cols crops of `size` pixels.

    `tray` selects a single tray by its number (from 1, of all trays found). `corners` are the centers of the corner cells of
    one tray (x, y clockwise from the top left, in pixels) and replace the fit. `reference` is a grid or rim of other
    photographs, for a photograph with too few plants. `day` affects only the method "thesis". Raises InputError if no grid fits
    or a different number of trays is found, and the exceptions of `read_image`.
    """
    image = read_image(source)
    where = str(source) if isinstance(source, str | Path) else None
    foreground = find_leaves(image)
    notes = list(image.notes_without_alpha())
    try:
        if corners is not None:
            lattices = [from_corners(np.asarray(corners, float).reshape(4, 2), rows, cols)]
        elif method == "thesis":
            lattices = [thesis_lattice(foreground.mask, rows, cols, day)]
        elif trays > 1 or tray:
            lattices = _several(foreground, rows, cols, trays, tray, where)
        else:
            lattices = [_single(foreground, rows, cols, reference, notes, where)]
    except NoLattice as reason:
        alone = reference is None and method == "lattice" and not isinstance(reason, Staggered)
        raise InputError(str(reason), where=where, hint=CORNERS_HINT + OTHERS_HINT * alone) from None
    return [_read(image, foreground, lattice, size, tuple(notes), where) for lattice in lattices]


def read_tray(
    source: ImageLike,
    *,
    rows: int = ROWS,
    cols: int = COLS,
    method: Method = "lattice",
    day: float | None = None,
    corners: Sequence[float] | None = None,
    reference: Reference | None = None,
    size: int = SIZE,
) -> TrayReading:
    """Reads a photograph of one tray; see `read_trays`."""
    return read_trays(
        source, rows=rows, cols=cols, method=method, day=day, corners=corners, reference=reference, size=size
    )[0]  # fmt: skip


def _read(
    image: LoadedImage, foreground: Foreground, lattice: Lattice, size: int, notes: tuple[str, ...], where: str | None
) -> TrayReading:
    height, width = foreground.gray.shape
    if not (((lattice.centers() >= 0) & (lattice.centers() <= [width, height])).all()):
        raise InputError("the grid extends beyond the image", where=where, hint=CORNERS_HINT)
    crops, areas = cut(image, foreground, lattice, size)
    return TrayReading(lattice, crops, areas, foreground, image, (*notes, *lattice.notes))


def _several(foreground: Foreground, rows: int, cols: int, trays: int, tray: int, where: str | None) -> list[Lattice]:
    """All trays, or the one of number `tray`. Raises InputError if the number of trays differs from the request."""
    found = find_trays(foreground.blobs, foreground.areas, rows, cols, foreground.gray.shape)
    if tray > len(found):
        raise InputError(f"tray {tray} was requested, but {_counted(found)}", where=where, hint=CORNERS_HINT)
    if tray:
        return [found[tray - 1]]
    if len(found) != trays:
        raise _other_number(found, trays, where)
    return found


def _counted(found: Sequence[Lattice]) -> str:
    return f"{len(found)} {'tray was' if len(found) == 1 else 'trays were'} found: {describe(found)}"


def _other_number(found: Sequence[Lattice], trays: int, where: str | None) -> InputError:
    asked = f"{trays} {'tray was' if trays == 1 else 'trays were'} requested"
    if len(found) > trays:
        hint = f"give --trays {len(found)} to grade all, --tray K to grade one, or place the grid with --corners"
    else:
        hint = (
            f"check --rows and --cols; give --trays {len(found)} to grade those found, or place the grid of one with --corners"
        )
    return InputError(f"{_counted(found)}; {asked}", where=where, hint=hint)


def _single(
    foreground: Foreground, rows: int, cols: int, reference: Reference | None, notes: list[str], where: str | None
) -> Lattice:
    """Lattice of a photograph of one tray. Raises NoLattice, and InputError if several trays are found."""
    blobs, areas, shape = foreground.blobs, foreground.areas, foreground.gray.shape
    try:
        found = fit_lattice(blobs, areas, rows, cols, shape)
    except Staggered:
        raise
    except NoLattice as reason:
        if len(blobs) >= 2 * MIN_PLANTS:
            _refuse_several(foreground, rows, cols, where)
        if reference is None:
            raise
        return place_reference(reference, foreground, rows, cols, str(reason), notes)
    split = gap_within(found, blobs, areas)
    outside = plants_outside(found, blobs, areas).sum() >= MIN_PLANTS
    if split is not None or outside:
        _refuse_several(foreground, rows, cols, where)
    if split is not None and (split.splits_evenly or outside):
        raise NoLattice(f"the photograph seems to show more than one tray: {split}")
    if split is not None:
        notes.append(f"{split}; its parts of {split.before} and {split.after} {split.name} are taken for blocks of one tray")
    if found.estimate[0] > rows or found.estimate[1] > cols:
        text = f"{found.estimate[0]} x {found.estimate[1]} rows x columns have plants, more than the requested {rows} x {cols}"
        notes.append(f"{text}; check --rows and --cols")
    elif found.estimate[0] < rows - 1 or found.estimate[1] < cols - 1:
        notes.append(f"only {found.estimate[0]} x {found.estimate[1]} of the {rows} x {cols} rows and columns have plants")
    return found


def _refuse_several(foreground: Foreground, rows: int, cols: int, where: str | None) -> None:
    """Raises InputError if more than one tray is found."""
    try:
        found = find_trays(foreground.blobs, foreground.areas, rows, cols, foreground.gray.shape)
    except NoLattice:
        return
    if len(found) > 1:
        raise _other_number(found, 1, where)


def cut(image: LoadedImage, foreground: Foreground, lattice: Lattice, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rectified crops of all cells, and their leaf areas in pixels of the photograph."""
    import cv2

    pixels = foreground.gray[..., None] if image.gray else image.pixels
    scale = min(1.0, 1.6 * size / pitch_of(lattice.homography, lattice.rows, lattice.cols))
    if scale < 1:  # downscaled first, because the warp does not average pixels
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
    """Area of every cell in pixels of the photograph (shoelace formula)."""
    cells = np.stack(np.meshgrid(np.arange(lattice.cols + 1), np.arange(lattice.rows + 1)), axis=-1) - 0.5
    p = project(lattice.homography, cells)
    first, second = p[1:, 1:] - p[:-1, :-1], p[1:, :-1] - p[:-1, 1:]
    found: np.ndarray = 0.5 * np.abs(first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]).ravel()
    return found


def draw_overlay(reading: TrayReading, values: np.ndarray | None = None, seen: np.ndarray | None = None) -> Pixels:
    """Photograph with its grid (see `overlay.draw_trays`)."""
    return draw_trays(reading.image.pixels, reading.foreground.mask, [Drawn(reading.lattice, values, seen)])
