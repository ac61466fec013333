"""Calibration of logits: prior correction (Saerens et al. 2002) and temperature scaling (Guo et al. 2017)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from latens.shapes import Float, Int

BINS = 10  # number of bins of the expected calibration error


class Calibration(NamedTuple):
    """Logits become (logits + shift) / temperature before the softmax."""

    shift: tuple[float, ...]  # log(natural prior / training prior) of each class
    temperature: float


def prior_shift(natural: Float[np.ndarray, "K"], trained: Float[np.ndarray, "K"]) -> tuple[float, ...]:
    """Shift of logits from the training priors to the natural priors; 0 for classes that are missing in one of them."""
    known = (natural > 0) & (trained > 0)
    moved = np.where(known, np.log(np.where(known, natural, 1) / np.where(known, trained, 1)), 0.0)
    return tuple(float(value) for value in moved - moved.max())


def probabilities(logits: Float[np.ndarray, "n K"], calibration: Calibration | None = None) -> Float[np.ndarray, "n K"]:
    """Softmax of the calibrated logits; of the raw logits without a calibration."""
    moved = np.asarray(logits, np.float64)
    if calibration is not None:
        moved = (moved + np.asarray(calibration.shift)) / calibration.temperature
    moved = moved - moved.max(axis=1, keepdims=True)
    raised = np.exp(moved)
    found: np.ndarray = raised / raised.sum(axis=1, keepdims=True)
    return found


def cross_entropy(chances: Float[np.ndarray, "n K"], labels: Int[np.ndarray, "n"]) -> float:
    """Mean negative log-probability of the labels in nats."""
    return float(-np.log(np.maximum(chances[np.arange(len(labels)), labels], 1e-12)).mean())


def fit_temperature(logits: Float[np.ndarray, "n K"], labels: Int[np.ndarray, "n"], shift: tuple[float, ...]) -> Calibration:
    """Calibration with the temperature in [0.3, 10] of the smallest cross-entropy (golden-section search on its logarithm)."""
    low, high = np.log(0.3), np.log(10.0)
    ratio = (np.sqrt(5) - 1) / 2

    def loss(value: float) -> float:
        return cross_entropy(probabilities(logits, Calibration(shift, float(np.exp(value)))), labels)

    for _ in range(40):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return Calibration(shift, float(np.exp((low + high) / 2)))


def calibration_error(chances: Float[np.ndarray, "n"], labels: Int[np.ndarray, "n"]) -> float:
    """Expected calibration error with bins of equal count (Naeini et al. 2015)."""
    order = np.argsort(chances, kind="stable")
    parts = np.array_split(order, min(BINS, len(order)))
    return float(sum(len(part) * abs(chances[part].mean() - labels[part].mean()) for part in parts if len(part)) / len(order))
