"""The lattice of a tray: a grid of rows x cols cell centers under a homography, fitted to blobs of leaves.

Pitch and angle come from the periodicity of the blobs' positions, the offset from the window of rows x cols lines that holds
most plants, and the homography from the blobs nearest to the cells, with bounded influence (Huber 1964). Missing plants,
specks and moss then cost support, not position.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from latens.shapes import Float

ANGLES = np.deg2rad(np.arange(-8.0, 8.01, 0.5))
MIN_BLOBS = 8  # fewer do not decide a lattice
STRAY = 0.34  # of a pitch: blobs farther from every node are strays
BAD_RESIDUAL = 0.20  # of a pitch, median distance of blobs from their nodes; blobs anywhere give 0.38
BAD_SUPPORT = 0.62  # share of blobs within STRAY; blobs anywhere give 0.36
ROUNDS = 12  # of reassignment
FULL = 24  # blobs from which perspective is estimated


class Lattice(NamedTuple):
    """Cell (row i, column j) lies at the image of (j, i) under `homography`, in pixels."""

    homography: Float[np.ndarray, "3 3"]
    rows: int
    cols: int
    residual: float  # median distance of blobs from their nodes, in pitches
    support: float  # share of the blobs near a node
    filled: int  # nodes with a blob
    estimate: tuple[int, int]  # rows and columns that the blobs themselves suggest; (0, 0): unknown
    notes: tuple[str, ...] = ()

    def centers(self) -> Float[np.ndarray, "rows cols 2"]:
        """Centers of the cells, x and y in pixels."""
        return project(self.homography, nodes(self.rows, self.cols))

    def corners(self) -> Float[np.ndarray, "4 2"]:
        """Outer corners of the grid, half a cell beyond the corner centers, clockwise from the top left."""
        right, low = self.cols - 0.5, self.rows - 0.5
        return project(self.homography, np.array([[-0.5, -0.5], [right, -0.5], [right, low], [-0.5, low]]))

    @property
    def pitch(self) -> float:
        """Mean distance of neighboring cells in pixels."""
        return pitch_of(self.homography, self.rows, self.cols)


class NoLattice(Exception):
    """The blobs do not form the grid; the message says why."""


class Staggered(NoLattice):
    """The rows are shifted against each other: no square grid is right, wherever it comes from."""


def nodes(rows: int, cols: int) -> Float[np.ndarray, "rows cols 2"]:
    """Column and row of every cell."""
    return np.stack(np.meshgrid(np.arange(cols), np.arange(rows)), axis=-1).astype(float)


def project(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (..., 2) under a homography."""
    mapped = np.concatenate([points, np.ones((*points.shape[:-1], 1))], axis=-1) @ homography.T
    found: np.ndarray = mapped[..., :2] / mapped[..., 2:]
    return found


def pitch_of(homography: np.ndarray, rows: int, cols: int) -> float:
    middle = np.array([(cols - 1) / 2, (rows - 1) / 2])
    around = project(homography, middle + np.array([[0, 0], [1, 0], [0, 1]]))
    return float(np.mean(np.linalg.norm(around[1:] - around[0], axis=1)))


def from_corners(corners: Float[np.ndarray, "4 2"], rows: int, cols: int) -> Lattice:
    """The lattice whose corner cells have these centers, clockwise from the top left. Raises NoLattice for a bad
    quadrilateral.
    """
    right, low = max(cols - 1, 1), max(rows - 1, 1)
    cells = np.array([[0, 0], [right, 0], [right, low], [0, low]], float)
    edges = np.roll(corners, -1, axis=0) - corners
    turns = edges[:, 0] * np.roll(edges[:, 1], -1) - edges[:, 1] * np.roll(edges[:, 0], -1)
    if not (turns > 0).all():
        raise NoLattice("the corners are not in clockwise order from the top left")
    return Lattice(homography_of(cells, corners), rows, cols, 0.0, 1.0, 0, (0, 0))


def fit_lattice(
    blobs: Float[np.ndarray, "n 2"], areas: Float[np.ndarray, "n"], rows: int, cols: int, shape: tuple[int, int]
) -> Lattice:
    """The rows x cols lattice that explains the blobs of an image of `shape` (height, width). Raises NoLattice."""
    if len(blobs) < MIN_BLOBS:
        raise NoLattice(f"{len(blobs)} plants were found, too few for a grid")
    weights = blob_weights(areas)
    best: Lattice | None = None
    reasons: list[str] = []
    for start in _starts(blobs, weights, rows, cols, shape):
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
    """Square roots of areas, capped (one large blob must not decide), the largest 1."""
    weights = np.sqrt(np.minimum(areas, 4 * np.median(areas)))
    found: np.ndarray = weights / weights.max()
    return found


def _quality(found: Lattice) -> float:
    return found.filled / (found.rows * found.cols) + found.support - 3 * found.residual


# ----------------------------------------------------------------------------------------------------- first estimate


def _starts(blobs: np.ndarray, weights: np.ndarray, rows: int, cols: int, shape: tuple[int, int]) -> list[np.ndarray]:
    """Homographies of the most periodic angles and pitches."""
    spans = np.array([np.subtract(*_quantiles(blobs[:, axis], weights)) for axis in (0, 1)])
    likely = spans / np.array([max(cols - 1, 1), max(rows - 1, 1)])
    largest = min(1.6 * likely.max(), 1.25 * min(shape[1] / max(cols - 1, 1), shape[0] / max(rows - 1, 1)))
    pitches = np.geomspace(max(min(0.55 * likely.min(), 0.35 * largest), 6.0), max(largest, 8.0), 100)
    scored = []
    for angle in ANGLES:
        cos, sin = np.cos(angle), np.sin(angle)
        along, down = blobs @ [cos, sin], blobs @ [-sin, cos]
        for points, axis in ((along, 0), (down, 1)):
            wave = np.abs((weights * np.exp(2j * np.pi * points / pitches[:, None])).sum(1)) / weights.sum()
            scored.append((angle, axis, wave))
    starts = []
    both = [(a[0], a[2], b[2]) for a, b in zip(scored[::2], scored[1::2], strict=True)]
    for angle, x_wave, y_wave in both:
        joint = _near_max(x_wave) + _near_max(y_wave)  # cells may be up to a sixth longer than wide
        for peak in _peaks(joint)[:3]:
            near = slice(max(peak - 13, 0), peak + 14)
            pitch = [float(pitches[near][np.argmax(wave[near])]) for wave in (x_wave, y_wave)]
            starts.append((float(joint[peak]), angle, pitch))
    starts.sort(key=lambda item: -item[0])
    return [_start(blobs, weights, angle, pitch) for _, angle, pitch in starts[:6]]


def _quantiles(values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """The weighted 97 % and 3 % points."""
    order = np.argsort(values)
    total = np.cumsum(weights[order]) / weights.sum()
    high, low = (float(values[order][min(int(np.searchsorted(total, q)), len(values) - 1)]) for q in (0.97, 0.03))
    return high, low


def _near_max(wave: np.ndarray, reach: int = 6) -> np.ndarray:
    padded = np.pad(wave, reach, mode="edge")
    found: np.ndarray = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1).max(axis=1)
    return found


def _peaks(values: np.ndarray) -> list[int]:
    """Indices of local maxima, highest first."""
    inner = (values[1:-1] >= values[:-2]) & (values[1:-1] >= values[2:])
    found = np.flatnonzero(inner) + 1
    return [int(index) for index in found[np.argsort(-values[found])]]


def _start(blobs: np.ndarray, weights: np.ndarray, angle: float, pitch: list[float]) -> np.ndarray:
    """A homography of this angle and pitch, with the phase that the blobs agree on."""
    cos, sin = np.cos(angle), np.sin(angle)
    axes = np.array([[cos, sin], [-sin, cos]])
    local = blobs @ axes.T
    phase = [np.angle((weights * np.exp(2j * np.pi * local[:, k] / pitch[k])).sum()) / (2 * np.pi) * pitch[k] for k in (0, 1)]
    made = np.eye(3)
    made[:2, :2] = axes.T * pitch
    made[:2, 2] = axes.T @ np.array(phase)
    return made


# ------------------------------------------------------------------------------------------------------- refinement


def _refine(
    homography: np.ndarray, blobs: np.ndarray, weights: np.ndarray, rows: int, cols: int, shape: tuple[int, int]
) -> Lattice:
    """Alternates between assigning blobs to nodes and fitting the nodes to them, from the middle of the tray outwards."""
    middle = np.median(blobs, axis=0)
    reach = np.linalg.norm(blobs - middle, axis=1)
    pitch = np.linalg.norm(homography[:2, 0])
    for turn in range(ROUNDS):
        near = reach <= max(3.2 * pitch, np.quantile(reach, min(1.0, 0.2 + turn / (ROUNDS - 4))))
        cells, distance = _assign(homography, blobs)
        used = near & (distance < STRAY)
        if used.sum() < MIN_BLOBS:
            raise NoLattice("the plants show no regular spacing")
        perspective = turn > ROUNDS // 2 and used.sum() >= FULL
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
    within = ((cells >= first - 1) & (cells <= first + size)).all(axis=1)  # blobs beside the tray say nothing
    residual = _median(distance[within], weights[within])
    support = float(weights[near & within].sum() / weights[within].sum())
    if inside.sum() >= FULL:
        homography = fit(cells[inside] - first, blobs[inside], weights[inside] * huber(distance[inside], 0.1), perspective=True)
    return Lattice(homography, rows, cols, residual, support, filled, estimate)


def _assign(homography: np.ndarray, blobs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest node of every blob, and its distance in pitches."""
    places = project(np.linalg.inv(homography), blobs)
    cells = np.rint(places)
    return cells, np.linalg.norm(places - cells, axis=1)


def huber(distance: np.ndarray, limit: float) -> np.ndarray:
    """Weights with bounded influence: 1 up to `limit`, limit / distance beyond."""
    found: np.ndarray = limit / np.maximum(distance, limit)
    return found


def _median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])


def fit(cells: np.ndarray, points: np.ndarray, weights: np.ndarray, *, perspective: bool) -> np.ndarray:
    """Least squares: a homography, or an affine map where perspective would follow the noise."""
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
    """The homography from cells to points in the weighted least-squares sense (normalized DLT, Hartley and Zisserman 4.4)."""
    weights = np.ones(len(cells)) if weights is None else weights
    from_cells, to_points = _normalizer(cells), _normalizer(points)
    x, y = project(from_cells, cells).T
    u, v = project(to_points, points).T
    one, zero = np.ones_like(x), np.zeros_like(x)
    root = np.sqrt(weights)
    upper = root * np.stack([x, y, one, zero, zero, zero, -u * x, -u * y, -u])
    lower = root * np.stack([zero, zero, zero, x, y, one, -v * x, -v * y, -v])
    system = np.concatenate([upper, lower, np.zeros((9, 1))], axis=1).T  # the zeros: four points give eight rows
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
    """Column and row of the first cell: the window with most weight; of equals, the one nearest to the image's middle."""
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
    """Rows and columns that hold plants: from the first to the last line with at least a quarter of the usual number."""
    counts = []
    for axis in (1, 0):
        lines, found = np.unique(cells[:, axis], return_counts=True)
        kept = lines[found >= max(2, 0.25 * np.median(found))] if len(lines) > 2 else lines
        counts.append(int(kept.max() - kept.min() + 1) if len(kept) else 0)
    return counts[0], counts[1]


def _check(found: Lattice, blobs: np.ndarray, weights: np.ndarray) -> None:
    """Raises NoLattice for a fit that a person would not accept."""
    if found.residual > BAD_RESIDUAL or found.support < BAD_SUPPORT:
        what = f"median distance of the plants from cell centers {found.residual:.2f} pitches, {found.support:.0%} of them near one"
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
        raise Staggered("neighboring rows are shifted against each other (staggered sowing); a square grid does not fit")


def _stagger(found: Lattice, blobs: np.ndarray) -> float:
    """Difference of the phases of even and odd rows (or columns) in pitches: 0.5 where they are staggered."""
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
