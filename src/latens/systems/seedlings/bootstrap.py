"""Paired differences of two classifiers on the same plants, with bootstrap intervals over trays.

Plants of one tray share light, water and a photograph. The independent units are trays, which are resampled with replacement.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from latens.shapes import Float, Int

RESAMPLES = 1000
Measure: TypeAlias = Callable[[np.ndarray], float]  # weights of the plants -> value of the measure; NaN if undefined


class Difference(NamedTuple):
    """Paired difference with its 95 % interval over trays."""

    value: float
    low: float
    high: float

    def text(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def paired_difference(first: Measure, second: Measure, tray: np.ndarray, seed: int = 0) -> Difference:
    """first - second, with 2.5 % and 97.5 % quantiles over resampled trays (the same for both); bounds are NaN if undefined."""
    rng = np.random.default_rng(seed)
    _, member = np.unique(tray, return_inverse=True)
    count = int(member.max()) + 1
    drawn = []
    for _ in range(RESAMPLES):
        weights = np.bincount(rng.integers(count, size=count), minlength=count)[member.ravel()].astype(float)
        drawn.append(first(weights) - second(weights))
    finite = np.array(drawn)[np.isfinite(drawn)]
    low, high = np.quantile(finite, [0.025, 0.975]) if len(finite) else (float("nan"), float("nan"))
    even = np.ones(len(member))
    return Difference(first(even) - second(even), float(low), float(high))


def accuracy_of(chances: Float[np.ndarray, "n"], label: Int[np.ndarray, "n"]) -> Measure:
    """Accuracy at a threshold of 0.5."""
    right = ((chances >= 0.5) == label).astype(float)
    return lambda weights: float(weights @ right / weights.sum())


def majority_of(label: Int[np.ndarray, "n"]) -> Measure:
    """Accuracy of predicting the most frequent class (of the original sample) for every plant."""
    return accuracy_of(np.full(len(label), float(label.mean() >= 0.5)), label)


def auc_of(values: Float[np.ndarray, "n"], label: Int[np.ndarray, "n"]) -> Measure:
    """Area under the ROC curve; NaN if a class has no weight."""
    order = np.argsort(values, kind="stable")
    ordered, positive = np.asarray(values)[order], np.asarray(label)[order]
    starts = np.flatnonzero(np.concatenate([[True], np.diff(ordered) > 0]))  # ties count half

    def measure(weights: np.ndarray) -> float:
        good = np.add.reduceat(weights[order] * positive, starts)
        bad = np.add.reduceat(weights[order] * (1 - positive), starts)
        pairs = good.sum() * bad.sum()
        return float(good @ (np.cumsum(bad) - bad / 2) / pairs) if pairs else float("nan")

    return measure
