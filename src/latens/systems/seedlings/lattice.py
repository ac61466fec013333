"""Lattice of a tray: rows x cols cell centers under a homography, fitted robustly to blobs of leaves.

Pitch and angle follow from the periodicity of the blob positions (see `periodicity`), the offset from the window of rows x cols
lines that holds most plants, and the homography from a least-squares fit with bounded influence (Huber 1964). Missing plants,
specks and moss reduce the support of the fit but hardly move it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from latens.shapes import Float
from latens.systems.seedlings.periodicity import starting_homographies

MIN_BLOBS = 8  # minimum number of blobs for a fit
STRAY = 0.34  # in pitches: blobs farther from every node are outliers
BAD_RESIDUAL = 0.20  # maximum median distance of blobs from their nodes, in pitches; random blobs give 0.38
BAD_SUPPORT = 0.62  # minimum share of blobs within STRAY; random blobs give 0.36
ROUNDS = 12  # iterations of assignment and fit
MIN_PERSPECTIVE = 24  # minimum number of blobs for a fit with perspective


class Lattice(NamedTuple):
    """Grid of cells. `homography` maps (column, row) of a cell to the pixel position (x, y) of its center."""

    homography: Float[np.ndarray, "3 3"]
    rows: int
    cols: int
    residual: float  # median distance of blobs from their nodes, in pitches
    support: float  # share of the blobs near a node
    filled: int  # number of cells with a blob
    estimate: tuple[int, int]  # numbers of rows and columns with plants; (0, 0): unknown
    notes: tuple[str, ...] = ()

    def centers(self) -> Float[np.ndarray, "rows cols 2"]:
        """Centers of the cells (x, y) in pixels."""
        return project(self.homography, nodes(self.rows, self.cols))

    def corners(self) -> Float[np.ndarray, "4 2"]:
        """Outer corners of the grid, half a cell beyond the corner centers, clockwise from the top left."""
        right, low = self.cols - 0.5, self.rows - 0.5
        return project(self.homography, np.array([[-0.5, -0.5], [right, -0.5], [right, low], [-0.5, low]]))

    @property
    def pitch(self) -> float:
        """Mean distance of neighboring cells near the middle of the tray, in pixels."""
        return pitch_of(self.homography, self.rows, self.cols)


class NoLattice(Exception):
    """The blobs do not form the grid; the message gives the reason."""


class Staggered(NoLattice):
    """Rows or columns are staggered, so no rectangular grid fits."""


def nodes(rows: int, cols: int) -> Float[np.ndarray, "rows cols 2"]:
    """(column, row) of every cell."""
    return np.stack(np.meshgrid(np.arange(cols), np.arange(rows)), axis=-1).astype(float)


def project(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Maps points (..., 2) by a homography."""
    mapped = np.concatenate([points, np.ones((*points.shape[:-1], 1))], axis=-1) @ homography.T
    found: np.ndarray = mapped[..., :2] / mapped[..., 2:]
    return found


def pitch_of(homography: np.ndarray, rows: int, cols: int) -> float:
    """Mean distance of neighboring cells near the middle of the tray, in pixels."""
    middle = np.array([(cols - 1) / 2, (rows - 1) / 2])
    around = project(homography, middle + np.array([[0, 0], [1, 0], [0, 1]]))
    return float(np.mean(np.linalg.norm(around[1:] - around[0], axis=1)))


def from_corners(corners: Float[np.ndarray, "4 2"], rows: int, cols: int) -> Lattice:
    """Lattice from the centers of its corner cells, clockwise from the top left.

    Raises NoLattice unless they form a convex quadrilateral in this order.
    """
    right, low = max(cols - 1, 1), max(rows - 1, 1)
    cells = np.array([[0, 0], [right, 0], [right, low], [0, low]], float)
    edges = np.roll(corners, -1, axis=0) - corners
    turns = edges[:, 0] * np.roll(edges[:, 1], -1) - edges[:, 1] * np.roll(edges[:, 0], -1)
    if not (turns > 0).all():
        raise NoLattice("the corners do not form a convex quadrilateral in clockwise order from the top left")
    return Lattice(homography_of(cells, corners), rows, cols, 0.0, 1.0, 0, (0, 0))


def fit_lattice(
    blobs: Float[np.ndarray, "n 2"], areas: Float[np.ndarray, "n"], rows: int, cols: int, shape: tuple[int, int]
) -> Lattice:
    """Fits a lattice to blob centers and areas in an image of `shape` (height, width). Raises NoLattice."""
    if len(blobs) < MIN_BLOBS:
        raise NoLattice(f"{len(blobs)} plants were found, too few for a grid")
    weights = blob_weights(areas)
    best: Lattice | None = None
    reasons: list[str] = []
    for start in starting_homographies(blobs, weights, rows, cols, shape):
        try:
            found = _refine(start, blobs, weights, rows, cols, shape)
        except NoLattice as reason:
            reasons.append(str(reason))
            continue
        if best is None or _quality(found) > _quality(best):
            best = found
    if best is None:
        raise NoLattice(reasons[0] if reasons else "the plants show no regular spacing")
    _check(best, blobs, weights)
    return best


def blob_weights(areas: np.ndarray) -> np.ndarray:
    """Square roots of areas, normalized to a maximum of 1; areas are capped to limit the influence of single blobs."""
    weights = np.sqrt(np.minimum(areas, 4 * np.median(areas)))
    found: np.ndarray = weights / weights.max()
    return found


def _quality(found: Lattice) -> float:
    return found.filled / (found.rows * found.cols) + found.support - 3 * found.residual


# ------------------------------------------------------------------------------------------------------- refinement


def _refine(
    homography: np.ndarray, blobs: np.ndarray, weights: np.ndarray, rows: int, cols: int, shape: tuple[int, int]
) -> Lattice:
    """Alternates between assignment of blobs to nodes and fit of the homography, from the middle of the tray outward."""
    middle = np.median(blobs, axis=0)
    from_middle = np.linalg.norm(blobs - middle, axis=1)
    pitch = np.linalg.norm(homography[:2, 0])
    for turn in range(ROUNDS):
        near = from_middle <= max(3.2 * pitch, np.quantile(from_middle, min(1.0, 0.2 + turn / (ROUNDS - 4))))
        cells, distance = _assign(homography, blobs)
        used = near & (distance < STRAY)
        if used.sum() < MIN_BLOBS:
            raise NoLattice("the plants show no regular spacing")
        perspective = turn > ROUNDS // 2 and used.sum() >= MIN_PERSPECTIVE
        homography = fit(cells[used], blobs[used], weights[used] * huber(distance[used], 0.12), perspective=perspective)
    cells, distance = _assign(homography, blobs)
    near = distance < STRAY
    first = _window(cells[near], weights[near] * (1 - distance[near]), rows, cols, homography, shape)
    shift = np.eye(3)
    shift[:2, 2] = first
    estimate = _extent(cells[near])
    homography = homography @ shift
    size = np.array([cols, rows])
    inside = near & ((cells >= first) & (cells < first + size)).all(axis=1)
    if inside.sum() < MIN_BLOBS:
        raise NoLattice("too few plants lie on one grid")
    filled = len(np.unique(cells[inside], axis=0))
    within = ((cells >= first - 1) & (cells <= first + size)).all(axis=1)  # blobs outside the tray are ignored
    residual = _median(distance[within], weights[within])
    support = float(weights[near & within].sum() / weights[within].sum())
    if inside.sum() >= MIN_PERSPECTIVE:
        homography = fit(cells[inside] - first, blobs[inside], weights[inside] * huber(distance[inside], 0.1), perspective=True)
    return Lattice(homography, rows, cols, residual, support, filled, estimate)


def _assign(homography: np.ndarray, blobs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest node of every blob, and its distance in pitches."""
    places = project(np.linalg.inv(homography), blobs)
    cells = np.rint(places)
    return cells, np.linalg.norm(places - cells, axis=1)


def huber(distance: np.ndarray, limit: float) -> np.ndarray:
    """Huber weights: 1 up to `limit`, limit / distance beyond."""
    found: np.ndarray = limit / np.maximum(distance, limit)
    return found


def _median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])


def fit(cells: np.ndarray, points: np.ndarray, weights: np.ndarray, *, perspective: bool) -> np.ndarray:
    """Weighted least-squares fit of a homography, or of an affine map without `perspective`. Raises NoLattice."""
    if perspective:
        return homography_of(cells, points, weights)
    root = np.sqrt(weights)[:, None]
    design = np.column_stack([cells, np.ones(len(cells))])
    solved, _, rank, _ = np.linalg.lstsq(root * design, root * points, rcond=None)
    if rank < 3:
        raise NoLattice("the plants lie on one line")
    made = np.eye(3)
    made[:2] = solved.T
    return made


def homography_of(cells: np.ndarray, points: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Weighted least-squares homography from cells to points (normalized DLT, Hartley and Zisserman 2004, section 4.4)."""
    weights = np.ones(len(cells)) if weights is None else weights
    from_cells, to_points = _normalizer(cells), _normalizer(points)
    x, y = project(from_cells, cells).T
    u, v = project(to_points, points).T
    one, zero = np.ones_like(x), np.zeros_like(x)
    root = np.sqrt(weights)
    upper = root * np.stack([x, y, one, zero, zero, zero, -u * x, -u * y, -u])
    lower = root * np.stack([zero, zero, zero, x, y, one, -v * x, -v * y, -v])
    system = np.concatenate([upper, lower, np.zeros((9, 1))], axis=1).T  # the zero row makes four points a square system
    _, _, rotated = np.linalg.svd(system, full_matrices=False)
    made = np.linalg.inv(to_points) @ rotated[-1].reshape(3, 3) @ from_cells
    found: np.ndarray = made / made[2, 2]
    return found


def _normalizer(points: np.ndarray) -> np.ndarray:
    middle, scale = points.mean(axis=0), np.sqrt(2) / max(points.std(), 1e-9)
    return np.array([[scale, 0, -scale * middle[0]], [0, scale, -scale * middle[1]], [0, 0, 1]])


def _window(
    cells: np.ndarray, weights: np.ndarray, rows: int, cols: int, homography: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """(column, row) of the first cell: the window with most weight; ties go to the window nearest to the image center."""
    best, chosen = -np.inf, np.zeros(2)
    low, high = cells.min(axis=0), cells.max(axis=0)
    size = np.array([cols, rows])
    image = np.array([shape[1], shape[0]])
    for column in range(int(min(low[0], high[0] - cols + 1)), int(max(low[0], high[0] - cols + 1)) + 1):
        for row in range(int(min(low[1], high[1] - rows + 1)), int(max(low[1], high[1] - rows + 1)) + 1):
            first = np.array([column, row], float)
            inside = ((cells >= first) & (cells < first + size)).all(axis=1)
            middle = project(homography, first + (size - 1) / 2)
            ends = project(homography, np.stack([first - 0.3, first + size - 0.7]))
            outside = ((ends < 0) | (ends > image)).any()
            away = np.linalg.norm((middle - image / 2) / image)
            score = weights[inside].sum() - 1e-3 * away - 0.5 * outside
            if score > best:
                best, chosen = score, first
    return chosen


def _extent(cells: np.ndarray) -> tuple[int, int]:
    """Numbers of rows and columns from the first to the last line with at least a quarter of the median plant count."""
    counts = []
    for axis in (1, 0):
        lines, found = np.unique(cells[:, axis], return_counts=True)
        kept = lines[found >= max(2, 0.25 * np.median(found))] if len(lines) > 2 else lines
        counts.append(int(kept.max() - kept.min() + 1) if len(kept) else 0)
    return counts[0], counts[1]


def _check(found: Lattice, blobs: np.ndarray, weights: np.ndarray) -> None:
    """Raises NoLattice for an implausible fit, Staggered for staggered rows."""
    if found.residual > BAD_RESIDUAL or found.support < BAD_SUPPORT:
        what = f"the plants lie {found.residual:.2f} pitches (median) from cell centers, {found.support:.0%} of them near one"
        raise NoLattice(f"no {found.rows} x {found.cols} grid fits: {what}")
    scale = np.linalg.norm(
        project(found.homography, np.array([[1.0, 0], [0, 1.0]])) - project(found.homography, np.zeros(2)), axis=1
    )
    if scale.max() > 1.6 * scale.min():
        raise NoLattice(
            f"no {found.rows} x {found.cols} grid fits: cells would be {scale.max() / scale.min():.1f} times as long as wide"
        )
    if found.filled < 0.08 * found.rows * found.cols:
        raise NoLattice(f"{found.filled} of {found.rows * found.cols} cells hold plants, too few to place the grid")
    staggered = _stagger(found, blobs)
    if staggered > 0.2:
        raise Staggered("neighboring rows or columns are staggered; a rectangular grid does not fit")


def _stagger(found: Lattice, blobs: np.ndarray) -> float:
    """Phase difference of even and odd rows or columns in pitches; 0.5 for staggered sowing."""
    places = project(np.linalg.inv(found.homography), blobs)
    cells = np.rint(places)
    inside = ((cells >= 0) & (cells < [found.cols, found.rows])).all(axis=1)
    worst = 0.0
    for axis in (0, 1):
        odd = cells[:, 1 - axis] % 2 == 1
        phases = [
            np.exp(2j * np.pi * places[inside & side, axis]).mean() if (inside & side).sum() > 4 else 1.0
            for side in (odd, ~odd)
        ]
        worst = max(worst, abs(np.angle(phases[0] * np.conj(phases[1]))) / (2 * np.pi))
    return float(worst)
