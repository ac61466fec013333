"""First estimates of a lattice: angle, pitches and phase from the periodicity of the positions of plants."""

from __future__ import annotations

import numpy as np

ANGLES = np.deg2rad(np.arange(-8.0, 8.01, 0.5))  # radians, rotations that are tried


def starting_homographies(
    blobs: np.ndarray, weights: np.ndarray, rows: int, cols: int, shape: tuple[int, int]
) -> list[np.ndarray]:
    """Homographies of the six most periodic combinations of angle and pitches."""
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
    """Weighted 97 % and 3 % quantiles."""
    order = np.argsort(values)
    total = np.cumsum(weights[order]) / weights.sum()
    high, low = (float(values[order][min(int(np.searchsorted(total, q)), len(values) - 1)]) for q in (0.97, 0.03))
    return high, low


def _near_max(wave: np.ndarray, radius: int = 6) -> np.ndarray:
    """Running maximum over 2 radius + 1 values."""
    padded = np.pad(wave, radius, mode="edge")
    found: np.ndarray = np.lib.stride_tricks.sliding_window_view(padded, 2 * radius + 1).max(axis=1)
    return found


def _peaks(values: np.ndarray) -> list[int]:
    """Indices of local maxima, highest first."""
    inner = (values[1:-1] >= values[:-2]) & (values[1:-1] >= values[2:])
    found = np.flatnonzero(inner) + 1
    return [int(index) for index in found[np.argsort(-values[found])]]


def _start(blobs: np.ndarray, weights: np.ndarray, angle: float, pitch: list[float]) -> np.ndarray:
    """Homography of an angle and pitches, with the phase of the blobs."""
    cos, sin = np.cos(angle), np.sin(angle)
    axes = np.array([[cos, sin], [-sin, cos]])
    local = blobs @ axes.T
    phase = [np.angle((weights * np.exp(2j * np.pi * local[:, k] / pitch[k])).sum()) / (2 * np.pi) * pitch[k] for k in (0, 1)]
    made = np.eye(3)
    made[:2, :2] = axes.T * pitch
    made[:2, 2] = axes.T @ np.array(phase)
    return made
