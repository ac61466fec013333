"""Comparison of two codecs on the same clips: BD-rates, and differences in PSNR at equal rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from latens.errors import InputError
from latens.metrics.rate import bd_rate
from latens.systems.video_codec.measure import ClipRow

Measure: TypeAlias = Callable[[ClipRow], float | None]  # dB
PLACES = 50  # number of rates at which two curves are compared


class Delta(NamedTuple):
    """One codec relative to another: means over the clips whose curves overlap."""

    tested: str
    anchor: str
    roi: float | None  # BD-rate in the region, %
    rest: float | None  # PSNR difference of the background at equal rate, dB
    whole: float | None  # BD-rate of the whole frame, %
    clips: int  # number of clips in the mean of the region

    def cells(self) -> list[str]:
        """The three numbers as cells of a table."""
        return [signed(value) for value in (self.roi, self.rest, self.whole)]


def signed(value: float | None) -> str:
    """A difference as a cell of a table; "-" for None."""
    return "-" if value is None else f"{value:+.2f}"


def delta(tested: Sequence[ClipRow], anchor: Sequence[ClipRow], name: str, anchor_name: str) -> Delta:
    """Means over clips of BD-rates, and of PSNR differences of the background at equal rate."""
    roi = by_clip(tested, anchor, lambda own, other: curves_bd(own, other, in_roi))
    rest = by_clip(tested, anchor, lambda own, other: at_equal_rate(own, other, in_rest))
    whole = by_clip(tested, anchor, lambda own, other: curves_bd(own, other, in_all))
    return Delta(name, anchor_name, _mean(roi), _mean(rest), _mean(whole), len(roi))


def by_clip(
    tested: Sequence[ClipRow],
    anchor: Sequence[ClipRow],
    compare: Callable[[Sequence[ClipRow], Sequence[ClipRow]], float | None],
) -> dict[str, float]:
    """The result of `compare` by clip, without the clips for which it is None."""
    found = {}
    for clip in dict.fromkeys(row.clip for row in tested):
        value = compare(*([row for row in rows if row.clip == clip] for rows in (tested, anchor)))
        if value is not None:
            found[clip] = value
    return found


def in_roi(row: ClipRow) -> float | None:
    return row.roi


def in_rest(row: ClipRow) -> float | None:
    return row.rest


def in_all(row: ClipRow) -> float | None:
    return row.psnr


def curves_bd(tested: Sequence[ClipRow], anchor: Sequence[ClipRow], of: Measure) -> float | None:
    """BD-rate in percent; None if the curves have no PSNR range in common."""
    try:
        return bd_rate(*_curve(anchor, of), *_curve(tested, of))
    except InputError:
        return None


def at_equal_rate(
    tested: Sequence[ClipRow], anchor: Sequence[ClipRow], of: Measure, *, within: tuple[float, float] = (0.0, np.inf)
) -> float | None:
    """Mean difference in dB over the rates that both curves cover and that lie `within` (bits per pixel).

    PSNR is interpolated linearly in the logarithm of the rate. None if a curve has one point or there are no common rates.
    """
    return difference_at_equal_rate(_curve(tested, of), _curve(anchor, of), within=within)


def difference_at_equal_rate(
    tested: tuple[Sequence[float], Sequence[float]],
    anchor: tuple[Sequence[float], Sequence[float]],
    *,
    within: tuple[float, float] = (0.0, np.inf),
) -> float | None:
    """`at_equal_rate` for curves given as (rates, values)."""
    curves = []
    for rates, values in (tested, anchor):
        order = np.argsort(rates)
        curves.append((np.log(np.array(rates)[order]), np.array(values)[order]))
    if min(len(rates) for rates, _ in curves) < 2:
        return None
    ends = [np.log(max(end, 1e-12)) for end in within]
    low, high = max(ends[0], *(rates[0] for rates, _ in curves)), min(ends[1], *(rates[-1] for rates, _ in curves))
    if low >= high:
        return None
    places = np.linspace(low, high, PLACES)
    first, second = (np.interp(places, *curve) for curve in curves)
    return float((first - second).mean())


def _curve(rows: Sequence[ClipRow], of: Measure) -> tuple[list[float], list[float]]:
    points = [(row.bpp, value) for row in rows if (value := of(row)) is not None]
    return [rate for rate, _ in points], [value for _, value in points]


def _mean(values: Mapping[str, float]) -> float | None:
    return float(np.mean(list(values.values()))) if values else None
