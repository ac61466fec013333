"""Lattices of several trays in one photograph.

The trays are assumed to be of one kind (same rows, columns and pitch) and nearly parallel. The best-supported tray is fitted
first. Plants outside it are matched to its lattice at any shift; a shift with enough support is the next tray.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from latens.systems.seedlings.lattice import (
    BAD_RESIDUAL,
    BAD_SUPPORT,
    MIN_BLOBS,
    MIN_PERSPECTIVE,
    STRAY,
    Lattice,
    NoLattice,
    blob_weights,
    fit,
    fit_lattice,
    huber,
    project,
)
from latens.systems.seedlings.windows import GAP, Window, cells_in_view, cells_out_of_view, overlap, shifted, within

MAX_TRAYS = 12  # maximum number of trays in one photograph
MIN_PLANTS = 4  # minimum number of plants of a further tray
MIN_FILLED = 0.3  # minimum share of the visible cells with plants
SPECK = 0.3  # minimum area of plants outside the first tray, relative to its median plant area
SMALL = 0.1  # minimum mean blob area of a further tray, relative to the leaf area of a plant of the first tray
PHASES = np.arange(0, 1, 0.05)  # tested shifts in pitches
MIN_OWN_FIT = 16  # minimum number of plants for a separate fit of a further tray


class Gap(NamedTuple):
    """A gap between two lines of a lattice that is wider than the others."""

    name: str  # "rows" or "columns"
    before: int  # number of lines before the gap
    after: int  # number of lines after it
    ratio: float  # width relative to the mean of the others

    @property
    def splits_evenly(self) -> bool:
        """True if the parts may be two trays of one kind; parts of different sizes are blocks of one tray."""
        return self.before == self.after

    def __str__(self) -> str:
        return f"the gap between {self.name} {self.before} and {self.before + 1} is {self.ratio:.2f} times the others"


def find_trays(blobs: np.ndarray, areas: np.ndarray, rows: int, cols: int, shape: tuple[int, int]) -> list[Lattice]:
    """Lattices of all trays of rows x cols cells in reading order.

    A tray that is cut off by the image border has only its visible rows and columns, with a note. Raises NoLattice if no tray
    is found.
    """
    if len(blobs) < MIN_BLOBS:
        raise NoLattice(f"{len(blobs)} plants were found, too few for a grid")
    main = _first(blobs, areas, rows, cols, shape)
    places, weights = project(np.linalg.inv(main.homography), blobs), blob_weights(areas)
    free = plants_outside(main, blobs, areas)
    cells = np.rint(places)[within(places, Window(np.zeros(2), np.array([cols, rows])))]
    inside = areas[within(places, Window(np.zeros(2), np.array([cols, rows])))]
    plant = float(np.median(np.bincount(np.unique(cells, axis=0, return_inverse=True)[1].ravel(), inside)))
    taken = [Window(np.zeros(2), np.array([cols, rows]))]
    found = [_in_view(main, shape)]
    while free.sum() >= MIN_PLANTS and len(found) < MAX_TRAYS:
        window = _next(places[free], weights[free], taken, main.homography, shape)
        if window is None:
            break
        own = free & within(places, window)
        if areas[own].mean() < SMALL * plant:
            break
        taken.append(window)
        found.append(_in_view(_placed(main, window, blobs[own], places[own], weights[own]), shape))
        free &= ~own
    return _reading_order(found)


def plants_outside(lattice: Lattice, blobs: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Mask of the blobs outside the tray that are large enough to be plants."""
    places = project(np.linalg.inv(lattice.homography), blobs)
    inside = within(places, Window(np.zeros(2), np.array([lattice.cols, lattice.rows])))
    found: np.ndarray = ~inside & (areas >= SPECK * np.median(areas[inside]))
    return found


def _first(blobs: np.ndarray, areas: np.ndarray, rows: int, cols: int, shape: tuple[int, int]) -> Lattice:
    """Best-supported tray among lattices fitted to all plants, and to halves and thirds of the image. Raises NoLattice."""
    best: Lattice | None = None
    torn: tuple[float, str] = (-np.inf, "")  # quality and gap of the best lattice that spans two trays
    reason = NoLattice("no plants")
    for part in _parts(blobs):
        if part.sum() < MIN_BLOBS:
            continue
        try:
            start = fit_lattice(blobs[part], areas[part], rows, cols, shape)
            made = _settle(start, blobs, areas)
        except NoLattice as error:
            reason = error
            continue
        split = gap_within(made, blobs, areas)
        if split is not None:
            torn = max(torn, (_quality(made), str(split)))
        elif best is None or _quality(made) > _quality(best):
            best = made
    if torn[1] and (best is None or torn[0] > _quality(best)):
        raise NoLattice(f"there is more than one tray, and none has {rows} x {cols} cells: {torn[1]}")
    if best is None:
        raise reason
    return best


def _quality(found: Lattice) -> float:
    return found.filled * found.support / (found.rows * found.cols) - 3 * found.residual


def _parts(blobs: np.ndarray) -> Iterator[np.ndarray]:
    yield np.ones(len(blobs), bool)
    low, high = blobs.min(axis=0), blobs.max(axis=0)
    for count in (2, 3):
        for axis in (1, 0):
            cuts = np.linspace(low[axis], high[axis] + 1e-6, count + 1)
            for start, end in itertools.pairwise(cuts):
                yield (blobs[:, axis] >= start) & (blobs[:, axis] < end)


def _settle(start: Lattice, blobs: np.ndarray, areas: np.ndarray) -> Lattice:
    """Refits the lattice to the plants inside its outline. Raises NoLattice."""
    places = project(np.linalg.inv(start.homography), blobs)
    own = within(places, Window(np.zeros(2), np.array([start.cols, start.rows])))
    cells = np.rint(places[own])
    distance = np.linalg.norm(places[own] - cells, axis=1)
    near = distance < STRAY
    if near.sum() < MIN_BLOBS:
        raise NoLattice("too few plants lie on one grid")
    weights = blob_weights(areas)[own]
    made = fit(
        cells[near], blobs[own][near], weights[near] * huber(distance[near], 0.1), perspective=near.sum() >= MIN_PERSPECTIVE
    )
    settled = start._replace(
        homography=made,
        filled=len(np.unique(cells[near], axis=0)),
        support=float(weights[near].sum() / weights.sum()),
        residual=float(np.median(distance)),
    )
    if (
        settled.residual > BAD_RESIDUAL
        or settled.support < BAD_SUPPORT
        or settled.filled < MIN_FILLED * start.rows * start.cols
    ):
        raise NoLattice(f"no {start.rows} x {start.cols} grid fits all plants in its outline")
    return settled


def gap_within(lattice: Lattice, blobs: np.ndarray, areas: np.ndarray) -> Gap | None:
    """A gap between lines that is wider than the others, as between two trays; None if there is none."""
    cells, places = plants_of(lattice, blobs, areas)
    for axis, count, name in ((1, lattice.rows, "rows"), (0, lattice.cols, "columns")):
        lines = [places[cells[:, axis] == line, axis] for line in range(count)]
        filled = [line for line in range(count) if len(lines[line]) >= 3]
        after = [line for line in filled if line - 1 in filled]  # lines whose preceding line is filled too
        if len(after) < 2:
            continue
        middle = {line: lines[line].mean() for line in filled}
        error = {line: max(lines[line].std(ddof=1), 0.05) / np.sqrt(len(lines[line])) for line in filled}
        gaps = np.array([middle[line] - middle[line - 1] for line in after])
        for k, line in enumerate(after):
            others = np.delete(gaps, k)
            extra = gaps[k] - others.mean()
            if gaps[k] - others.max() > GAP and extra > 2.5 * np.hypot(error[line], error[line - 1]):
                return Gap(name, line, count - line, gaps[k] / others.mean())
    return None


def plants_of(lattice: Lattice, blobs: np.ndarray, areas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cells (column, row) with leaves, and the centroids of the leaves in cell units."""
    places = project(np.linalg.inv(lattice.homography), blobs)
    nearest = np.rint(places)
    inside = ((nearest >= 0) & (nearest < [lattice.cols, lattice.rows])).all(axis=1)
    if not inside.any():
        return np.zeros((0, 2)), np.zeros((0, 2))
    cells, which = np.unique(nearest[inside], axis=0, return_inverse=True)
    which, weights = which.ravel(), areas[inside]
    totals = np.bincount(which, weights)
    middles = [np.bincount(which, weights * places[inside, axis]) / totals for axis in (0, 1)]
    return cells, np.stack(middles, axis=1)


# ------------------------------------------------------------------------------------------------------- further trays


def _next(
    places: np.ndarray, weights: np.ndarray, taken: Sequence[Window], homography: np.ndarray, shape: tuple[int, int]
) -> Window | None:
    """Best-supported window that does not overlap those in `taken`; None if no tray is left."""
    size = taken[0].size
    best, chosen = 0.0, None
    for phase in _phases(places, weights):
        cells = np.rint(places - phase)
        distance = np.linalg.norm(places - phase - cells, axis=1)
        gain = weights * np.where(distance < STRAY, 1 - distance, -0.5)
        low, high = cells.min(axis=0), cells.max(axis=0)
        columns = np.arange(low[0] - size[0] + 1, high[0] + 1)
        for column in columns:
            for row in np.arange(low[1] - size[1] + 1, high[1] + 1):
                window = Window(np.array([column, row]) + phase, size)
                if any(overlap(window, other) for other in taken):
                    continue
                own = within(places, window)
                if len(np.unique(cells[own & (distance < STRAY)], axis=0)) < MIN_PLANTS:
                    continue
                score = float(gain[own].sum()) - 0.02 * weights.max() * cells_out_of_view(window, homography, shape)
                if score > best:
                    best, chosen = score, window
    if chosen is None:
        return None
    own = within(places, chosen)
    off = places[own] - chosen.first
    distance = np.linalg.norm(off - np.rint(off), axis=1)
    near = distance < STRAY
    in_view = chosen.size.prod() - cells_out_of_view(chosen, homography, shape)
    good = weights[own][near].sum() >= BAD_SUPPORT * weights[own].sum() and np.median(distance[near]) <= BAD_RESIDUAL
    enough = len(np.unique(np.rint(off[near]), axis=0)) >= MIN_FILLED * in_view
    return chosen if good and enough and not _continues(chosen, taken) else None


def _phases(places: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
    """The four best-supported shifts of these plants as (column, row), modulo one pitch."""
    grid = np.stack(np.meshgrid(PHASES, PHASES), axis=-1).reshape(-1, 2)
    off = places - grid[:, None]
    off -= np.rint(off)
    score = (weights * np.exp(-((off**2).sum(-1)) / (2 * 0.13**2))).sum(axis=1)
    chosen: list[np.ndarray] = []
    for index in np.argsort(-score):
        away = [grid[index] - other for other in chosen]
        if all(np.linalg.norm(step - np.rint(step)) > 0.2 for step in away):
            chosen.append(grid[index])
        if len(chosen) == 4:
            break
    return chosen


def _continues(window: Window, taken: Sequence[Window]) -> bool:
    """True if the window continues the lines of another window without a gap.

    Then the photograph shows one larger tray, and the requested rows or columns are too few.
    """
    for other in taken:
        step = window.first - other.first
        for axis in (0, 1):
            adjacent = abs(abs(step[axis]) - window.size[axis]) < GAP
            aligned = abs(step[1 - axis] - np.rint(step[1 - axis])) < GAP and abs(step[1 - axis]) < window.size[1 - axis] / 2
            if adjacent and aligned and window.size[axis] > 1:
                return True
    return False


def _placed(main: Lattice, window: Window, blobs: np.ndarray, places: np.ndarray, weights: np.ndarray) -> Lattice:
    """Lattice of a further tray: the shifted first lattice, or a separate fit if there are enough plants."""
    off = places - window.first
    cells = np.rint(off)
    distance = np.linalg.norm(off - cells, axis=1)
    near = distance < STRAY
    pull = weights[near] * huber(distance[near], 0.1)
    shift = (pull[:, None] * (off - cells)[near]).sum(axis=0) / pull.sum()
    homography = shifted(main.homography, window.first + shift)
    if near.sum() >= MIN_OWN_FIT and min(np.ptp(cells[near], axis=0)) >= 2:
        homography = fit(cells[near], blobs[near], pull, perspective=near.sum() >= MIN_PERSPECTIVE)
    residual, support = float(np.median(distance[near])), float(weights[near].sum() / weights.sum())
    return main._replace(
        homography=homography, residual=residual, support=support, filled=len(np.unique(cells[near], axis=0)), estimate=(0, 0)
    )


def _in_view(lattice: Lattice, shape: tuple[int, int]) -> Lattice:
    """Lattice without the lines of cells that are cut off by the image border."""
    seen = cells_in_view(lattice.homography, np.array([lattice.cols, lattice.rows]), shape)
    rows, cols = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if len(rows) in (0, lattice.rows) and len(cols) in (0, lattice.cols):
        return lattice
    visible = f"{len(rows)} of {lattice.rows} rows and {len(cols)} of {lattice.cols} columns are in view"
    text = f"{visible}; numbering starts at the first visible line"
    first = np.array([cols[0], rows[0]], float)
    return lattice._replace(
        homography=shifted(lattice.homography, first), rows=len(rows), cols=len(cols), notes=(*lattice.notes, text)
    )


def _reading_order(found: list[Lattice]) -> list[Lattice]:
    """Sorts trays into lines of similar height, from the top, and from left to right within a line."""
    middles = [lattice.centers().reshape(-1, 2).mean(axis=0) for lattice in found]
    height = max(lattice.corners()[:, 1].max() - lattice.corners()[:, 1].min() for lattice in found)
    order = sorted(range(len(found)), key=lambda k: middles[k][1])
    lines: list[list[int]] = []
    for k in order:
        if lines and middles[k][1] - middles[lines[-1][0]][1] < 0.5 * height:
            lines[-1].append(k)
        else:
            lines.append([k])
    return [found[k] for line in lines for k in sorted(line, key=lambda k: middles[k][0])]


def describe(found: Sequence[Lattice]) -> str:
    """Text with number, visible rows and columns, and position of each tray."""
    parts = []
    for number, lattice in enumerate(found, 1):
        x, y = lattice.centers().reshape(-1, 2).mean(axis=0)
        parts.append(f"#{number} of {lattice.rows} x {lattice.cols} cells around ({x:.0f}, {y:.0f})")
    return ", ".join(parts)
