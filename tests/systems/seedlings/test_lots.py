"""Germination indices against worked numbers of germinationmetrics, SeedCalc's manual and binomial tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from latens.systems.seedlings.lots import (
    Counts,
    Interval,
    Rates,
    between_trays,
    corrected_share,
    indices,
    tolerance,
    verdict,
    wilson,
)


def cumulative(days: Sequence[int], counts: Sequence[int], sown: int) -> Counts:
    return Counts(tuple(map(float, days)), tuple(int(n) for n in np.diff([0, *counts])), sown)


def test_the_example_of_germinationmetrics() -> None:
    found = indices(Counts(tuple(range(1, 15)), (0, 0, 0, 0, 4, 17, 10, 7, 1, 0, 1, 0, 0, 0), 50))
    expected = {
        "percentage": 80, "t50_coolbear": 5.970588, "t50_farooq": 5.941176, "mgt": 6.7, "mgt_variance": 1.446154,
        "mgt_error": 0.1901416, "cv": 0.1794868, "uniformity": 0.7092199, "mean_daily": 5.714286, "synchrony": 0.2666667,
        "uncertainty": 2.062987, "peak_value": 9.5,
    }  # fmt: skip
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, abs=1e-6), name
    assert found.undefined == ()


def test_the_second_example_of_germinationmetrics() -> None:
    """Peak value, mean daily germination and germination value of the manual of GermValue (the numbers of its test file are
    others, with a tolerance of 1e12).
    """
    new = (0, 0, 34, 40, 21, 10, 4, 5, 3, 5, 8, 7, 7, 6, 6, 4, 0, 2, 0, 2)
    found = indices(Counts(tuple(range(1, 21)), new, 200))
    assert found.percentage == pytest.approx(82)
    assert (found.peak_value, found.mean_daily, found.germination_value) == pytest.approx((9.5, 4.1, 38.95))


@pytest.mark.parametrize(
    ("new", "t50", "rest"),
    [
        ((0, 60, 60, 21), (5.1833, 5.175, 5.25), (94, 5.7234, 0.1237, 2.0082, 13.4286, 13.4286)),
        ((45, 75, 15, 0), (4.3067, 4.3, 4.4), (90, 4.7778, 0.1320, 2.5313, 16, 12.8571)),
    ],
)
def test_four_counts_of_a_tray(new: tuple[int, ...], t50: tuple[float, ...], rest: tuple[float, ...]) -> None:
    found = indices(Counts((4, 5, 6, 7), new, 150))
    assert (found.t50_coolbear, found.t50_farooq, found.t50_sown) == pytest.approx(t50, abs=6e-5)
    names = ("percentage", "mgt", "cv", "uniformity", "peak_value", "mean_daily")
    assert [getattr(found, name) for name in names] == pytest.approx(rest, abs=6e-5)


def test_repeated_and_equal_counts() -> None:
    for days, counts in ((range(6), (0, 0, 0, 39, 41, 41)), (range(1, 6), (0, 0, 39, 41, 41))):
        found = indices(cumulative(days, counts, 50))
        assert (found.t50_coolbear, found.t50_farooq) == pytest.approx((2.538462, 2.525641), abs=1e-6)
    found = indices(cumulative(range(1, 11), (0, 2, 4, 15, 25, 38, 45, 50, 50, 50), 50))
    assert (found.t50_farooq, found.t50_coolbear) == pytest.approx((5.0, 5.038462), abs=1e-6)


def test_undefined_indices_have_reasons() -> None:
    none = indices(Counts((4, 5), (0, 0), 20))
    assert none.percentage == 0
    assert none.mgt is None
    assert "no seed" in none.undefined[0]
    one = indices(Counts((4, 5), (0, 1), 20))
    assert one.mgt == 5
    assert one.mgt_variance is None
    assert one.undefined
    same = indices(Counts((4, 5, 6), (0, 9, 0), 20))
    assert same.uniformity is None
    assert any("one day" in text for text in same.undefined)
    left = indices(Counts((4, 5), (15, 2), 20))
    assert left.t50_farooq is None
    assert any("first count" in text for text in left.undefined)
    for bad in (Counts((5, 4), (1, 1), 9), Counts((4, 5), (5, 6), 9), Counts((4,), (1, 1), 9)):
        with pytest.raises(ValueError, match=r"days|seeds|day"):
            indices(bad)


def test_the_censored_estimate_finds_the_distribution() -> None:
    """Counts of a normal emergence at mean 5.3: the estimate is the mean, the count-day formula is late by half an interval."""
    days = (4.0, 5.0, 6.0, 7.0)
    below = stats.norm.cdf(days, 5.3, 0.8) / stats.norm.cdf(7.0, 5.3, 0.8)
    new = tuple(round(n) for n in 10_000 * np.diff(below, prepend=0.0))
    found = indices(Counts(days, new, sum(new)))
    assert found.t50_censored == pytest.approx(5.3, abs=0.02)
    assert found.mgt is not None
    assert found.mgt > 5.6


@pytest.mark.parametrize(
    ("count", "total", "interval"),
    [
        (40, 50, (0.6696, 0.8876)),
        (135, 150, (0.8416, 0.9385)),
        (150, 150, (0.9750, 1)),
        (544, 600, (0.8807, 0.9274)),
    ],
)
def test_intervals(count: int, total: int, interval: tuple[float, float]) -> None:
    assert wilson(count, total) == pytest.approx(interval, abs=6e-5)


def test_a_lower_limit_of_90_percent() -> None:
    for needed, total in ((143, 150), (281, 300), (555, 600)):
        assert wilson(needed, total).low >= 0.9 > wilson(needed - 1, total).low


def test_a_censored_first_photograph() -> None:
    """Half of the plants were up on the first photograph: no T50 by count days, and with more none from the intervals."""
    found = indices(Counts((4, 5, 6, 7), (70, 40, 20, 10), 150))
    assert found.left_censored == pytest.approx(0.5)
    assert found.t50_farooq == 4.0  # exactly half: the day of the count itself
    assert found.t50_coolbear == pytest.approx(4.0125)
    more = indices(Counts((4, 5, 6, 7), (80, 40, 20, 10), 150))
    assert more.t50_farooq is None
    assert any("53%" in text and "left-censored" in text for text in more.undefined)
    assert more.t50_censored is None
    assert found.t50_censored is not None
    assert 3.5 < found.t50_censored < 4.2


def test_tolerance_of_replicates() -> None:
    """Binomial theory for trays of 150 at 90 %: 7.8, 9.8 and 11.3 points."""
    for trays, allowed in ((2, 7.8), (4, 9.8), (8, 11.3)):
        found = tolerance([0.9] * trays, [150] * trays)
        assert found is not None
        assert found.allowed == pytest.approx(allowed, abs=0.1)
    far = tolerance([0.8, 0.95], [150, 150])
    assert far is not None
    assert not far.agrees


def test_the_share_is_corrected_for_errors() -> None:
    """At sensitivity .93 and specificity .65 true shares of 70, 90 and 95 % appear as 75.6, 87.2 and 90.1 %."""
    rates = Rates(9300, 10_000, 6500, 10_000)
    for true, apparent in ((0.70, 0.7565), (0.90, 0.872), (0.95, 0.901)):
        share = corrected_share(round(10_000 * apparent), 10_000, rates)
        assert share.value == pytest.approx(true, abs=0.002)
        assert share.interval.low < true < share.interval.high
    with pytest.raises(ValueError, match="chance"):
        corrected_share(80, 150, Rates(50, 100, 50, 100))


def test_corrected_intervals_cover() -> None:
    """A classifier whose rates were estimated on 300 and 60 plants: 95 % intervals cover in at least 93 of 100 lots."""
    rng = np.random.default_rng(0)
    for true in (0.7, 0.9, 0.95):
        hits = 0
        for _ in range(400):
            rates = Rates(int(rng.binomial(300, 0.95)), 300, int(rng.binomial(60, 0.7)), 60)
            good = rng.binomial(150, true)
            called = rng.binomial(good, 0.95) + rng.binomial(150 - good, 0.3)
            interval = corrected_share(int(called), 150, rates).interval
            hits += interval.low <= true <= interval.high
        assert hits >= 0.93 * 400, true


def test_trays_as_replicates_and_verdicts() -> None:
    assert between_trays([0.9], [150]) is None
    found = between_trays([0.90, 0.94, 0.92], [150, 150, 150])
    assert found is not None
    assert found.low == pytest.approx(0.92 - stats.t.ppf(0.975, 2) * 0.02 / np.sqrt(3), abs=1e-6)
    assert verdict(Interval(0.91, 0.97), 0.9) == "accept"
    assert verdict(Interval(0.80, 0.89), 0.9) == "reject"
    assert verdict(Interval(0.85, 0.93), 0.9) == "undecided"
