"""Several trays in one photograph, each with a lattice of its own.

Trays are taken to be of one kind (same rows, columns and pitch) and nearly parallel. The best-supported tray is fitted first.
Plants outside it are matched to the same lattice at any shift; a shift that explains them is the next tray.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from latens.systems.seedlings.lattice import (
    BAD_RESIDUAL,
    BAD_SUPPORT,
    FULL,
    MIN_BLOBS,
    STRAY,
    Lattice,
    NoLattice,
    blob_weights,
    fit,
    fit_lattice,
    huber,
    project,
)

MAX = 12  # trays in one photograph
GAP = 0.10  # of a pitch beyond the regular spacing, from which the space between two lines separates trays
MIN_PLANTS = 4  # in view, that make another tray
MIN_FILLED = 0.3  # of the cells in view
SPECK = 0.3  # of the median area of the first tray's plants; smaller blobs make no tray
SMALL = 0.1  # of the leaf area of a plant of the first tray: what a blob of another tray has at least, in the mean
PHASES = np.arange(0, 1, 0.05)  # shifts that are tried, in pitches
MARGIN = 0.3  # of a cell that must be in view around its center
PARALLEL = 16  # plants from which a tray may be turned against the first


class Window(NamedTuple):
    """Place of a tray on the first tray's lattice, in cell units; `first` may be fractional."""

    first: np.ndarray  # (2,) column and row
    size: np.ndarray  # (2,) columns and rows


def find_trays(blobs: np.ndarray, areas: np.ndarray, rows: int, cols: int, shape: tuple[int, int]) -> list[Lattice]:
    """The lattices of all trays of rows x cols cells, from the top left in reading order.

    A tray that the image cuts off has the rows and columns in view only; its `notes` say so. Raises NoLattice where there is
    no tray.
    """
    if len(blobs) < MIN_BLOBS:
        raise NoLattice(f"{len(blobs)} plants were found, too few for a grid")
    main = _first(blobs, areas, rows, cols, shape)
    places, weights = project(np.linalg.inv(main.homography), blobs), blob_weights(areas)
    free = plants_outside(main, blobs, areas)
    cells = np.rint(places)[_within(places, Window(np.zeros(2), np.array([cols, rows])))]
    inside = areas[_within(places, Window(np.zeros(2), np.array([cols, rows])))]
    plant = float(np.median(np.bincount(np.unique(cells, axis=0, return_inverse=True)[1].ravel(), inside)))
    taken = [Window(np.zeros(2), np.array([cols, rows]))]
    found = [_in_view(main, shape)]
    while free.sum() >= MIN_PLANTS and len(found) < MAX:
        window = _next(places[free], weights[free], taken, main.homography, shape)
        if window is None:
            break
        own = free & _within(places, window)
        if areas[own].mean() < SMALL * plant:
            break
        taken.append(window)
        found.append(_in_view(_placed(main, window, blobs[own], places[own], weights[own]), shape))
        free &= ~own
    return _reading_order(found)


def plants_outside(lattice: Lattice, blobs: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Which blobs lie outside the tray and are as large as its plants."""
    places = project(np.linalg.inv(lattice.homography), blobs)
    inside = _within(places, Window(np.zeros(2), np.array([lattice.cols, lattice.rows])))
    found: np.ndarray = ~inside & (areas >= SPECK * np.median(areas[inside]))
    return found


def _first(blobs: np.ndarray, areas: np.ndarray, rows: int, cols: int, shape: tuple[int, int]) -> Lattice:
    """The tray with most support: of the lattices fitted to all plants, to halves and to thirds of the image."""
    best: Lattice | None = None
    torn: tuple[float, str] = (-np.inf, "")  # the best lattice that a gap runs through
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
        if split:
            torn = max(torn, (_quality(made), split))
        elif best is None or _quality(made) > _quality(best):
            best = made
    if torn[1] and (best is None or torn[0] > _quality(best)):
        raise NoLattice(f"more than one tray, and none with {rows} x {cols} cells: {torn[1]}")
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
    """The lattice fitted again to the plants inside its own outline. Raises NoLattice."""
    places = project(np.linalg.inv(start.homography), blobs)
    own = _within(places, Window(np.zeros(2), np.array([start.cols, start.rows])))
    cells = np.rint(places[own])
    distance = np.linalg.norm(places[own] - cells, axis=1)
    near = distance < STRAY
    if near.sum() < MIN_BLOBS:
        raise NoLattice("too few plants lie on one grid")
    weights = blob_weights(areas)[own]
    made = fit(cells[near], blobs[own][near], weights[near] * huber(distance[near], 0.1), perspective=near.sum() >= FULL)
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


def gap_within(lattice: Lattice, blobs: np.ndarray, areas: np.ndarray) -> str:
    """A sentence where one gap between lines is unlike the others, as between two trays; "" otherwise."""
    cells, places = plants_of(lattice, blobs, areas)
    for axis, count, name in ((1, lattice.rows, "rows"), (0, lattice.cols, "columns")):
        lines = [places[cells[:, axis] == line, axis] for line in range(count)]
        filled = [line for line in range(count) if len(lines[line]) >= 3]
        after = [line for line in filled if line - 1 in filled]  # each with the gap before it
        if len(after) < 2:
            continue
        middle = {line: lines[line].mean() for line in filled}
        error = {line: max(lines[line].std(ddof=1), 0.05) / np.sqrt(len(lines[line])) for line in filled}
        gaps = np.array([middle[line] - middle[line - 1] for line in after])
        for k, line in enumerate(after):
            others = np.delete(gaps, k)
            extra = gaps[k] - others.mean()
            if gaps[k] - others.max() > GAP and extra > 2.5 * np.hypot(error[line], error[line - 1]):
                return f"the gap between {name} {line} and {line + 1} is {gaps[k] / others.mean():.2f} times the others"
    return ""


def plants_of(lattice: Lattice, blobs: np.ndarray, areas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cells (column, row) that hold leaves, and the centroid of these in cell units."""
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
    """The window, clear of the taken ones, whose nodes explain most of these plants; None where no tray is left."""
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
                if any(_overlap(window, other) for other in taken):
                    continue
                own = _within(places, window)
                if len(np.unique(cells[own & (distance < STRAY)], axis=0)) < MIN_PLANTS:
                    continue
                score = float(gain[own].sum()) - 0.02 * weights.max() * _out_of_view(window, homography, shape)
                if score > best:
                    best, chosen = score, window
    if chosen is None:
        return None
    own = _within(places, chosen)
    off = places[own] - chosen.first
    distance = np.linalg.norm(off - np.rint(off), axis=1)
    near = distance < STRAY
    in_view = chosen.size.prod() - _out_of_view(chosen, homography, shape)
    good = weights[own][near].sum() >= BAD_SUPPORT * weights[own].sum() and np.median(distance[near]) <= BAD_RESIDUAL
    enough = len(np.unique(np.rint(off[near]), axis=0)) >= MIN_FILLED * in_view
    return chosen if good and enough and not _continues(chosen, taken) else None


def _phases(places: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
    """The shifts, modulo one pitch, on which these plants agree best, as (column, row)."""
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
    """Whether the window carries on the lines of a taken one with no gap: then --rows or --cols is too small instead.

    Exact neighbors of full size are trays: twice the lines asked for are two trays, one line more is not.
    """
    for other in taken:
        step = window.first - other.first
        for axis in (0, 1):
            beside = abs(abs(step[axis]) - window.size[axis]) < GAP
            aligned = abs(step[1 - axis] - np.rint(step[1 - axis])) < GAP and abs(step[1 - axis]) < window.size[1 - axis] / 2
            if beside and aligned and window.size[axis] > 1:
                return True
    return False


def _within(places: np.ndarray, window: Window) -> np.ndarray:
    off = places - window.first
    found: np.ndarray = ((off >= -0.5) & (off < window.size - 0.5)).all(axis=1)
    return found


def _overlap(one: Window, other: Window) -> bool:
    """Whether two trays share more than a tenth of a cell."""
    return bool((np.minimum(one.first + one.size, other.first + other.size) - np.maximum(one.first, other.first) > GAP).all())


def _cells_in_view(homography: np.ndarray, size: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(rows, cols) bool: the middle of the cell lies in the image."""
    nodes = np.stack(np.meshgrid(np.arange(size[0]), np.arange(size[1])), axis=-1).astype(float)
    seen = np.ones(nodes.shape[:2], bool)
    for corner in ((-MARGIN, -MARGIN), (MARGIN, MARGIN), (-MARGIN, MARGIN), (MARGIN, -MARGIN)):
        at = project(homography, nodes + np.array(corner))
        seen &= ((at >= 0) & (at < [shape[1], shape[0]])).all(axis=-1)
    return seen


def _shifted(homography: np.ndarray, first: np.ndarray) -> np.ndarray:
    shift = np.eye(3)
    shift[:2, 2] = first
    moved: np.ndarray = homography @ shift
    return moved / moved[2, 2]


def _out_of_view(window: Window, homography: np.ndarray, shape: tuple[int, int]) -> int:
    return int((~_cells_in_view(_shifted(homography, window.first), window.size, shape)).sum())


def _placed(main: Lattice, window: Window, blobs: np.ndarray, places: np.ndarray, weights: np.ndarray) -> Lattice:
    """The lattice of another tray: that of the first, moved; fitted on its own where it has enough plants."""
    off = places - window.first
    cells = np.rint(off)
    distance = np.linalg.norm(off - cells, axis=1)
    near = distance < STRAY
    pull = weights[near] * huber(distance[near], 0.1)
    shift = (pull[:, None] * (off - cells)[near]).sum(axis=0) / pull.sum()
    homography = _shifted(main.homography, window.first + shift)
    if near.sum() >= PARALLEL and min(np.ptp(cells[near], axis=0)) >= 2:
        homography = fit(cells[near], blobs[near], pull, perspective=near.sum() >= FULL)
    residual, support = float(np.median(distance[near])), float(weights[near].sum() / weights.sum())
    return main._replace(
        homography=homography, residual=residual, support=support, filled=len(np.unique(cells[near], axis=0)), estimate=(0, 0)
    )


def _in_view(lattice: Lattice, shape: tuple[int, int]) -> Lattice:
    """The lattice without the lines of cells that the image cuts off."""
    seen = _cells_in_view(lattice.homography, np.array([lattice.cols, lattice.rows]), shape)
    rows, cols = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if len(rows) in (0, lattice.rows) and len(cols) in (0, lattice.cols):
        return lattice
    text = (
        f"{len(rows)} of {lattice.rows} rows and {len(cols)} of {lattice.cols} columns are in view; both are counted from there"
    )
    first = np.array([cols[0], rows[0]], float)
    return lattice._replace(
        homography=_shifted(lattice.homography, first), rows=len(rows), cols=len(cols), notes=(*lattice.notes, text)
    )


def _reading_order(found: list[Lattice]) -> list[Lattice]:
    """Trays whose middles lie at one height form a line of trays; lines from the top, trays from the left."""
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
    """A description of the trays: number, visible rows and columns, position."""
    parts = []
    for number, lattice in enumerate(found, 1):
        x, y = lattice.centers().reshape(-1, 2).mean(axis=0)
        parts.append(f"#{number} of {lattice.rows} x {lattice.cols} cells around ({x:.0f}, {y:.0f})")
    return ", ".join(parts)
