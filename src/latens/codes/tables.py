"""Frozen integer probability tables of the entropy coder, one per level.

A level is a scale index of the conditional Gaussian or a channel of the factorized prior. Its table covers the integers
low..high and, last, one escape symbol for all other values. Counts are integers that sum to 2^24.

Encoder and decoder need identical tables: a single difference makes the rest of a file undecodable. Therefore the tables are
computed only once, in float64, when a model is exported, and stored as integers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from latens.errors import ModelError

PRECISION = 24  # bits of a probability; the precision of constriction's coders in Python
TOTAL = 1 << PRECISION
MAGNITUDE = 1 << 20  # coded values v satisfy |v| < MAGNITUDE
MAX_LEVELS = 1 << 16
MAX_WIDTH = 1 << 16  # largest number of symbols of one table
TAIL_MASS = 2.0**-16


@dataclass(frozen=True, eq=False)
class SymbolTables:
    """Concatenated counts of L tables. Raises ModelError if a rule below is violated.

    counts: int32, every count at least 1; the counts of a level sum to 2^24, and the last one is the escape symbol.
    lows: int32 (L,), the value of the first symbol of each level.
    sizes: int32 (L,), number of counts per level including the escape, at least 2.
    """

    counts: np.ndarray
    lows: np.ndarray
    sizes: np.ndarray

    def __post_init__(self) -> None:
        for name in ("counts", "lows", "sizes"):
            object.__setattr__(self, name, _frozen_int32(getattr(self, name), name))
        self._check()

    def _check(self) -> None:
        levels = len(self.sizes)
        _require(0 < levels <= MAX_LEVELS, f"{levels} levels")
        _require(len(self.lows) == levels, f"{levels} sizes but {len(self.lows)} lows")
        _require(2 <= int(self.sizes.min()) and int(self.sizes.max()) <= MAX_WIDTH, "a level's size is out of range")
        _require(int(self.sizes.sum(dtype=np.int64)) == len(self.counts), "sizes do not add up to the counts")
        _require(int(self.counts.min()) >= 1, "a count is below 1")
        sums = np.add.reduceat(self.counts.astype(np.int64), self.starts)
        _require(bool((sums == TOTAL).all()), f"the counts of a level do not sum to {TOTAL}")
        _require(int(self.lows.min()) > -MAGNITUDE, "a low is out of range")
        _require(int(self.highs.max()) < MAGNITUDE, "a high is out of range")

    @property
    def levels(self) -> int:
        """L, the number of tables."""
        return len(self.sizes)

    @cached_property
    def starts(self) -> np.ndarray:
        """int64 (L,): start of each level in `counts`."""
        starts: np.ndarray = np.cumsum(self.sizes, dtype=np.int64) - self.sizes
        return starts

    @cached_property
    def highs(self) -> np.ndarray:
        """int64 (L,): largest value of each level without an escape."""
        highs: np.ndarray = self.lows.astype(np.int64) + self.sizes - 2
        return highs

    @cached_property
    def models(self) -> list[Any]:
        """One constriction model per level, with exactly these counts."""
        return [exact_model(part) for part in np.split(self.counts, self.starts[1:])]

    def arrays(self) -> dict[str, np.ndarray]:
        """The three int32 arrays by name; `SymbolTables(**arrays)` is the inverse."""
        return {"counts": self.counts.copy(), "lows": self.lows.copy(), "sizes": self.sizes.copy()}

    def __reduce__(self) -> tuple[type[SymbolTables], tuple[np.ndarray, np.ndarray, np.ndarray]]:
        # constriction models cannot be copied or pickled, so the cache is omitted.
        return SymbolTables, (self.counts, self.lows, self.sizes)


def exact_model(counts: np.ndarray) -> Any:
    """A constriction model whose probabilities are exactly counts / 2^24. Counts must be >= 1 and sum to 2^24.

    constriction quantizes its weights w: the left edge of symbol k of n is floor(scale * (w_0 + ... + w_(k-1))) + k with
    scale = (2^24 - n) / sum(w). For w = count - 1 the scale is exactly one and every partial sum is an integer below 2^24, so
    no operation rounds, in any order of summation and any rounding mode. The left edge is the exact sum of the counts before k.
    """
    import constriction  # imported here: training works without it

    weights = counts.astype(np.float64) - 1.0
    return constriction.stream.model.Categorical(weights, lazy=False, perfect=False)


def gaussian_tables(scales: np.ndarray, *, tail_mass: float = TAIL_MASS) -> SymbolTables:
    """One table per standard deviation of a zero-mean Gaussian integrated over unit bins.

    `scales` is float64 (L,), in quantization steps, 0 < scale <= 4096 (ValueError otherwise). The support is -k..k with
    the smallest k >= 1 that leaves at most the probability `tail_mass` outside; the escape has at least that probability.
    """
    scales = np.asarray(scales, dtype=np.float64)
    if scales.ndim != 1 or len(scales) == 0 or not bool(((scales > 0) & (scales <= 4096)).all()):
        raise ValueError("scales must be a vector of numbers above 0 and at most 4096")
    pmfs = [_gaussian_pmf(float(scale), tail_mass) for scale in scales]
    return tables_from_pmfs(pmfs, [-(len(pmf) // 2) for pmf in pmfs], tail_mass=tail_mass)


def tables_from_pmfs(pmfs: Sequence[np.ndarray], lows: Sequence[int], *, tail_mass: float = TAIL_MASS) -> SymbolTables:
    """One table per probability mass function over lows[i], lows[i] + 1, and so on.

    The escape gets the probability that is missing from 1, but at least `tail_mass`. Raises ValueError for a negative,
    infinite, NaN or all-zero mass function.
    """
    if len(pmfs) != len(lows) or len(pmfs) == 0:
        raise ValueError(f"{len(pmfs)} mass functions but {len(lows)} lows")
    if not 0 < tail_mass < 0.5:
        raise ValueError("tail_mass must lie between 0 and 1/2")
    counts = [_counts(np.asarray(pmf, dtype=np.float64), tail_mass) for pmf in pmfs]
    sizes = np.array([len(part) for part in counts])
    return SymbolTables(np.concatenate(counts), np.asarray(lows), sizes)


def learned_tables(counts: np.ndarray, scales: np.ndarray, *, prior_weight: float) -> SymbolTables:
    """One table per level from counted symbols: int (L, 2 K + 1), of the values -K..K.

    The counts are mirrored, and the Gaussian of the level, as in `gaussian_tables`, is added `prior_weight` times. The support
    is that of the Gaussian. Raises ValueError if counts and scales do not fit.
    """
    if counts.ndim != 2 or len(counts) != len(scales) or counts.shape[1] % 2 == 0 or int(counts.min()) < 0:
        raise ValueError(f"need counts >= 0 of shape ({len(scales)}, odd), got {counts.shape}")
    middle = counts.shape[1] // 2
    pmfs, lows = [], []
    for own, scale in zip(counts.astype(np.float64), scales, strict=True):
        pmf = _gaussian_pmf(float(scale), TAIL_MASS)
        half = len(pmf) // 2
        mirrored = (own + own[::-1]) / 2
        inside = mirrored[max(middle - half, 0) : middle + half + 1]
        wide = np.zeros_like(pmf)
        wide[half - len(inside) // 2 : half + len(inside) // 2 + 1] = inside
        pmfs.append((wide + prior_weight * pmf) / (mirrored.sum() + prior_weight))
        lows.append(-half)
    return tables_from_pmfs(pmfs, lows)


def _gaussian_pmf(scale: float, tail_mass: float) -> np.ndarray:
    def above(edge: float) -> float:
        return 0.5 * math.erfc(edge / (scale * math.sqrt(2.0)))

    half_width = 1
    while 2 * above(half_width + 0.5) > tail_mass:
        half_width += 1
    edges = np.array([above(k + 0.5) for k in range(half_width + 1)])
    half = edges[:-1] - edges[1:]
    return np.concatenate([half[::-1], [math.erf(0.5 / (scale * math.sqrt(2.0)))], half])


def _counts(pmf: np.ndarray, tail_mass: float) -> np.ndarray:
    """Counts of the symbols and the escape: one each, and the rest by the largest remainder method."""
    if pmf.ndim != 1 or not np.isfinite(pmf).all() or not (pmf >= 0).all() or not pmf.sum() > 0:
        raise ValueError("a probability mass function must be a vector of finite numbers >= 0, not all zero")
    if len(pmf) >= MAX_WIDTH:
        raise ValueError(f"a table of {len(pmf)} symbols is too wide")
    mass = np.append(pmf, max(1.0 - float(pmf.sum()), tail_mass))
    shares = mass / mass.sum() * (TOTAL - len(mass))
    counts: np.ndarray = np.floor(shares).astype(np.int64)
    remainders = shares - counts
    missing = TOTAL - len(mass) - int(counts.sum())
    counts[np.argsort(-remainders, kind="stable")[:missing]] += 1
    counts += 1
    return counts


def _frozen_int32(array: np.ndarray, name: str) -> np.ndarray:
    array = np.asarray(array)
    _require(array.ndim == 1 and len(array) > 0 and array.dtype.kind in "iu", f"{name} is not a vector of integers")
    _require(-(2**31) <= int(array.min()) and int(array.max()) < 2**31, f"{name} does not fit 32 bits")
    frozen = array.astype(np.int32)
    frozen.flags.writeable = False
    return frozen


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ModelError(f"the probability tables are invalid: {what}", hint="download or export the model again")
