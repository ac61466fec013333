"""Germination indices of a lot from counts by day, intervals of shares, and the verdict on a lot.

Names and formulas follow the R package germinationmetrics (Aravind et al. 2023) and the sources cited with each index. N_i is
the number of seeds first seen on day T_i, C_i the cumulative number, N the final number, S the number of seeds sown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
Z = 1.959963984540054  # normal quantile of (1 + CONFIDENCE) / 2


class Interval(NamedTuple):
    """Two-sided 95 % interval."""

    low: float
    high: float


class Counts(NamedTuple):
    """Number of seeds first seen on each count day, in ascending order. The first count includes all that emerged before it."""

    days: tuple[float, ...]
    new: tuple[int, ...]
    sown: int

    @property
    def cumulative(self) -> np.ndarray:
        return np.cumsum(self.new)

    @property
    def final(self) -> int:
        return int(sum(self.new))


class Indices(NamedTuple):
    """Indices of one lot. Undefined indices are None; `undefined` gives the reasons for the main ones."""

    percentage: float  # of the seeds sown
    interval: Interval  # of the percentage (Wilson 1927)
    t50_coolbear: float | None  # days
    t50_farooq: float | None
    t50_sown: float | None  # day on which half of the seeds sown were seen
    mgt: float | None  # mean germination time, days
    mgt_variance: float | None
    mgt_error: float | None  # standard error
    cv: float | None  # coefficient of variation of the time
    uniformity: float | None  # CUG (Bewley and Black 1994)
    synchrony: float | None  # Z (Primack 1985)
    uncertainty: float | None  # U, bits (Labouriau and Valadares 1976)
    peak_value: float | None  # PV (Czabator 1962), % per day
    mean_daily: float | None  # MDG (Czabator 1962), % per day
    germination_value: float | None  # GV = PV x MDG
    t50_censored: float | None  # interval-censored estimate of the median, days
    mgt_censored: float | None  # interval-censored estimate of the mean, days
    left_censored: float  # share of the seen seeds that had emerged at the first count
    undefined: tuple[str, ...]


def indices(counts: Counts) -> Indices:
    """Indices of a lot. Raises ValueError for inconsistent counts: days not ascending, more seeds seen than sown."""
    from scipy.stats import entropy

    check(counts)
    days, new = np.asarray(counts.days, float), np.asarray(counts.new, float)
    total, sown = counts.final, counts.sown
    missing: list[str] = []
    if total == 0:
        missing.append("no seed was seen: times are not defined")
    elif total == 1:
        missing.append("one seed was seen: variance and uniformity are not defined")
    mean = float(new @ days / total) if total else None
    squares = float(new @ (days - mean) ** 2) if mean is not None else 0.0
    variance = squares / (total - 1) if total > 1 else None
    if mean is not None and total > 1 and squares == 0:
        missing.append("all seeds were first seen on one day: MGT is that day, and uniformity is not defined")
    farooq, coolbear, of_sown = (median_time(counts, q) for q in (total / 2, (total + 1) / 2, sown / 2))
    if total and farooq is None:
        missing.append(
            f"{new[0] / total:.0%} of the seen seeds had emerged at the first count (left-censored): T50 is not defined"
        )
    elif total and of_sown is None and 2 * total < sown:
        missing.append("fewer than half of the seeds sown were seen: T50 of the seeds sown is not defined")
    censored = censored_times(counts)
    peak = float((100 * counts.cumulative / (sown * days)).max()) if total and days[0] > 0 else None
    daily = float(100 * total / (sown * days[-1])) if days[-1] > 0 else None
    return Indices(
        percentage=100 * total / sown,
        interval=_percent(wilson(total, sown)),
        t50_coolbear=coolbear,
        t50_farooq=farooq,
        t50_sown=of_sown,
        mgt=mean,
        mgt_variance=variance,
        mgt_error=None if variance is None else float(np.sqrt(variance / total)),
        cv=None if variance is None or not mean else float(np.sqrt(variance) / mean),
        uniformity=total / squares if squares > 0 else None,
        synchrony=float((new * (new - 1)).sum() / (total * (total - 1))) if total > 1 else None,
        uncertainty=float(entropy(new[new > 0], base=2)) if total else None,
        peak_value=peak,
        mean_daily=daily,
        germination_value=None if peak is None or daily is None else peak * daily,
        t50_censored=None if censored is None else censored[0],
        mgt_censored=None if censored is None else censored[1],
        left_censored=counts.new[0] / total if total else 0.0,
        undefined=tuple(missing),
    )


def check(counts: Counts) -> None:
    """Raises ValueError for inconsistent counts."""
    days, new = counts.days, counts.new
    if not days or len(days) != len(new):
        raise ValueError("every count needs its day")
    if min(np.diff(days), default=1) <= 0:
        raise ValueError("the days of the counts are not ascending")
    if min(new) < 0 or sum(new) > counts.sown or counts.sown < 1:
        raise ValueError(f"{sum(new)} seeds seen of {counts.sown} sown")


def median_time(counts: Counts, quota: float) -> float | None:
    """Day on which the cumulative count reaches q = `quota`: T_i + (q - C_i)(T_j - T_i)/(C_j - C_i) for C_i < q <= C_j.

    Coolbear et al. 1984 use q = (N + 1)/2, Farooq et al. 2005 use q = N/2. The day is undefined (None) if the quota is not
    reached, or if the first count exceeds it, because there is no earlier count to interpolate from.
    """
    total = counts.cumulative
    if counts.final == 0 or quota > counts.final:
        return None
    after = int(np.searchsorted(total, quota, side="left"))
    if after == 0:
        return float(counts.days[0]) if total[0] == quota else None
    before = after - 1
    share = (quota - total[before]) / (total[after] - total[before])
    return float(counts.days[before] + share * (counts.days[after] - counts.days[before]))


def censored_times(counts: Counts) -> tuple[float, float] | None:
    """Median and mean day of emergence by maximum likelihood from interval-censored data.

    A normal distribution, truncated at the last count, is fitted to the seen seeds; those of the first count are left-censored.
    None if the counts do not determine it: fewer than two intervals with seeds, fewer than eight seeds, more than half of the
    seeds in the first count, or an implausible optimum.
    """
    from scipy.optimize import minimize
    from scipy.stats import norm

    new = np.asarray(counts.new, float)
    if (new > 0).sum() < 2 or new.sum() < 8 or new[0] > new.sum() / 2:
        return None
    days = np.asarray(counts.days, float)

    def loss(parameters: np.ndarray) -> float:
        middle, spread = parameters[0], np.exp(parameters[1])
        below = norm.cdf((days - middle) / spread)
        chances = np.diff(below, prepend=0.0) / max(below[-1], 1e-12)
        return float(-(new * np.log(np.maximum(chances, 1e-12))).sum())

    mean = float(new @ days / new.sum()) - 0.5 * float(np.median(np.diff(days))) if len(days) > 1 else days[0]
    found = minimize(loss, [mean, np.log(0.6)], method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-6})
    middle, spread = float(found.x[0]), float(np.exp(found.x[1]))
    if not found.success or middle < days[0] - 2.5 * spread or middle > days[-1] or not 0.02 < spread < 20:
        return None
    return middle, middle


# --------------------------------------------------------------------------------------------------------- intervals


def wilson(count: float, total: int) -> Interval:
    """Score interval of a share (Wilson 1927); `count` may be fractional."""
    share, z2 = count / total, Z**2
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = Z / (1 + z2 / total) * np.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    return Interval(max(0.0, float(middle - half)), min(1.0, float(middle + half)))


def _percent(interval: Interval) -> Interval:
    return Interval(100 * interval.low, 100 * interval.high)


class Rates(NamedTuple):
    """Confusion counts of a classifier on held-out plants: kept successes and rejected failures."""

    kept: int
    successes: int
    rejected: int
    failures: int
    trays: int = 0  # number of trays of these plants; 0: unknown
    kept_spread: float = 0.0  # standard deviation of the sensitivity between trays, beyond binomial sampling
    rejected_spread: float = 0.0  # the same for the specificity


class Share(NamedTuple):
    """Estimated share in [0, 1] with its interval."""

    value: float
    interval: Interval
    apparent: float  # before the correction


def corrected_share(called: int, total: int, rates: Rates, trays: int = 1) -> Share:
    """Share of successes corrected for the error rates, when `called` of `total` are predicted (Rogan and Gladen 1978).

    The interval includes the error of the rates (Lang and Reiczigel 2014) and their spread between trays for a lot of `trays`
    trays. Value and bounds are clipped to [0, 1]. Raises ValueError for a classifier that is no better than chance.
    """
    apparent = called / total
    sensitivity, specificity = (rates.kept + 1) / (rates.successes + 2), (rates.rejected + 1) / (rates.failures + 2)
    youden = sensitivity + specificity - 1
    if youden <= 0.05:
        raise ValueError("the classifier separates successes from failures no better than chance")
    raw = rates.kept / rates.successes + rates.rejected / rates.failures - 1
    value = float(np.clip((apparent + rates.rejected / rates.failures - 1) / (raw if raw > 0.05 else youden), 0, 1))
    wide = total + Z**2
    smooth = (total * apparent + Z**2 / 2) / wide
    share = (smooth + specificity - 1) / youden
    of_sensitivity = sensitivity * (1 - sensitivity) / (rates.successes + 2)
    of_specificity = specificity * (1 - specificity) / (rates.failures + 2)
    between = 1 / max(trays, 1) + (1 / rates.trays if rates.trays else 0.0)
    of_sensitivity += rates.kept_spread**2 * between
    of_specificity += rates.rejected_spread**2 * between
    shift = 2 * Z**2 * (share * of_sensitivity - (1 - share) * of_specificity)
    error = np.sqrt(smooth * (1 - smooth) / wide + share**2 * of_sensitivity + (1 - share) ** 2 * of_specificity) / youden
    low, high = (float(np.clip(share + shift + side * Z * error, 0, 1)) for side in (-1, 1))
    return Share(value, Interval(min(low, value), max(high, value)), apparent)


def between_trays(shares: Sequence[float], sizes: Sequence[int]) -> Interval | None:
    """Interval of the pooled share with trays as replicates (ratio estimator, Student's t); None for a single tray."""
    from scipy.special import stdtrit

    if len(shares) < 2:
        return None
    weights = np.asarray(sizes, float) / np.mean(sizes)
    values = np.asarray(shares, float)
    pooled = float((weights * values).mean())
    error = np.sqrt((weights**2 * (values - pooled) ** 2).sum() / (len(values) * (len(values) - 1)))
    half = float(stdtrit(len(values) - 1, 0.5 + CONFIDENCE / 2) * error)
    return Interval(max(0.0, pooled - half), min(1.0, pooled + half))


class Tolerance(NamedTuple):
    """Agreement of replicates, in percentage points."""

    span: float  # maximum minus minimum share
    allowed: float  # 97.5 % quantile of the span under binomial sampling
    agrees: bool


def tolerance(shares: Sequence[float], sizes: Sequence[int]) -> Tolerance | None:
    """Tests whether the trays of a lot differ by more than chance (tolerances of ISTA and 7 CFR 201.55, binomial theory).

    The span of k normal shares with the pooled binomial variance is compared with its 97.5 % quantile (studentized range).
    None for a single tray.
    """
    from scipy.stats import studentized_range

    if len(shares) < 2:
        return None
    size = len(sizes) / sum(1 / size for size in sizes)  # harmonic mean
    pooled = float(np.average(shares, weights=sizes))
    spread = np.sqrt(max(pooled * (1 - pooled), 0.25 / size) / size)
    allowed = float(100 * spread * studentized_range.ppf(0.5 + CONFIDENCE / 2, len(shares), 10**5))
    span = float(100 * (max(shares) - min(shares)))
    return Tolerance(span, allowed, span <= allowed)


def verdict(interval: Interval, limit: float) -> str:
    """Returns accept if the whole interval (in [0, 1]) is at or above the limit, reject if it is below, else undecided."""
    if interval.low >= limit:
        return "accept"
    return "reject" if interval.high < limit else "undecided"
