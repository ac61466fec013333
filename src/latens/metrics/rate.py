"""Bits per pixel, rate-quality curves, and the Bjontegaard delta rate between two curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, stdev
from typing import NamedTuple

from latens.errors import InputError

MIN_POINTS = 2  # points of a curve
MIN_IMAGES = 2  # images of a confidence interval


class Point(NamedTuple):
    """Rate (bits per pixel) and image quality (such as PSNR in dB) of a codec at `setting`, the quality number it was given."""

    setting: float
    rate: float
    quality: float


class Curve(NamedTuple):
    """Rate against a quality metric (such as PSNR in dB) over the settings of one codec."""

    name: str
    points: tuple[Point, ...]

    @property
    def rates(self) -> list[float]:
        return [point.rate for point in self.points]

    @property
    def qualities(self) -> list[float]:
        return [point.quality for point in self.points]


class BdRate(NamedTuple):
    """Mean rate difference at equal quality; negative if the tested codec needs fewer bits."""

    anchor: str
    tested: str
    percent: float
    lowest: float  # ends of the quality range that the two curves share, in the unit of the curves
    highest: float


class MeanRate(NamedTuple):
    """Mean of the BD-rates of single images, with half the width of its 95 % confidence interval by Student's t."""

    percent: float
    margin: float
    images: int


def mean_rate(percents: Sequence[float]) -> MeanRate | None:
    """Mean BD-rate over images and its margin; None for fewer than two images, which have no interval."""
    count = len(percents)
    if count < MIN_IMAGES:
        return None
    from scipy.special import stdtrit

    margin = stdtrit(count - 1, 0.975) * stdev(percents) / math.sqrt(count)
    return MeanRate(mean(percents), float(margin), count)


def bits_per_pixel(size: int, width: int, height: int) -> float:
    """Rate of a file of `size` bytes for an image of width x height pixels."""
    return 8 * size / (width * height)


def bd_rate(
    rate_anchor: Sequence[float],
    quality_anchor: Sequence[float],
    rate_tested: Sequence[float],
    quality_tested: Sequence[float],
) -> float:
    """Bjontegaard delta rate in percent: mean difference of log rate over the shared range of quality.

    -20 means that the tested codec needs 20 % fewer bits than the anchor at equal quality. Log rate is interpolated over
    quality by PCHIP, which later replaced the cubic fit of Bjontegaard 2001. Raises InputError for fewer than two points of
    different quality, rates that are not positive, and curves without a shared range of quality.
    """
    anchor, tested = _ascending(rate_anchor, quality_anchor), _ascending(rate_tested, quality_tested)
    if shared_range(quality_anchor, quality_tested) is None:
        raise InputError(
            "the curves have no common range of quality, so their rates cannot be compared",
            hint=f"anchor: {_span(quality_anchor)}; tested: {_span(quality_tested)}",
        )
    import bjontegaard

    # min_overlap only suppresses a warning; every report states the overlap.
    return float(bjontegaard.bd_rate(*anchor, *tested, method="pchip", require_matching_points=False, min_overlap=0))


def compare(anchor: Curve, tested: Curve) -> BdRate:
    """BD-rate of one curve against another, with its quality range. Raises InputError like `bd_rate`."""
    percent = bd_rate(anchor.rates, anchor.qualities, tested.rates, tested.qualities)
    shared = shared_range(anchor.qualities, tested.qualities)
    assert shared is not None
    return BdRate(anchor.name, tested.name, percent, *shared)


def rate_at(curve: Curve, quality: float) -> float | None:
    """Rate of the curve at a quality, interpolated as in `bd_rate`; None outside its range."""
    if len(set(curve.qualities)) < MIN_POINTS or not min(curve.qualities) <= quality <= max(curve.qualities):
        return None
    return _rates_at(curve, [quality])[0]


def trace(curve: Curve, steps: int = 200) -> list[tuple[float, float]]:
    """(rate, quality) along the curve, interpolated as in `bd_rate`, by increasing quality; its points if these are equal."""
    low, high = min(curve.qualities), max(curve.qualities)
    if low == high:
        return [(point.rate, point.quality) for point in curve.points]
    qualities = [low + (high - low) * step / steps for step in range(steps)] + [high]
    return list(zip(_rates_at(curve, qualities), qualities, strict=True))


def _rates_at(curve: Curve, wanted: Sequence[float]) -> list[float]:
    from scipy.interpolate import PchipInterpolator

    rates, qualities = _ascending(curve.rates, curve.qualities)
    logs = PchipInterpolator(qualities, [math.log(rate) for rate in rates])(wanted)
    return [math.exp(value) for value in logs]


def shared_range(a: Sequence[float], b: Sequence[float]) -> tuple[float, float] | None:
    """Lowest and highest quality within the ranges of both curves; None without a common range."""
    low, high = max(min(a), min(b)), min(max(a), max(b))
    return (low, high) if low < high else None


def _ascending(rates: Sequence[float], qualities: Sequence[float]) -> tuple[list[float], list[float]]:
    """Points by increasing quality; of points with equal quality, only the one with the lowest rate."""
    if len(rates) != len(qualities):
        raise InputError(f"a curve needs as many rates as qualities, not {len(rates)} and {len(qualities)}")
    if not all(math.isfinite(value) for value in (*rates, *qualities)) or not all(rate > 0 for rate in rates):
        raise InputError("rates must be positive and qualities finite")
    cheapest: dict[float, float] = {}
    for rate, quality in zip(rates, qualities, strict=True):
        cheapest[quality] = min(rate, cheapest.get(quality, math.inf))
    if len(cheapest) < MIN_POINTS:
        raise InputError("a curve needs at least two points of different quality")
    ordered = sorted(cheapest)
    return [cheapest[quality] for quality in ordered], ordered


def _span(qualities: Sequence[float]) -> str:
    return f"{min(qualities):.2f} to {max(qualities):.2f}"
