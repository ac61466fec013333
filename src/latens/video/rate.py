"""Search for the rate factor that gives a file of the requested size."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import NamedTuple

from latens.errors import UsageError
from latens.video.codecs import Codec

logger = logging.getLogger(__name__)

WINDOW = 0.97  # smallest accepted size relative to the requested size; larger files than requested are never accepted
TARGET = 0.987  # size that the search aims for, relative to the requested size
MAX_TRIALS = 12


class SearchResult(NamedTuple):
    """The accepted trial, the number of encodings, and a note if the requested size was not reached."""

    rate_factor: float
    trials: int
    note: str | None = None


def search(
    encode: Callable[[float], int], codec: Codec, wanted: float, start: float, keep: Callable[[], object]
) -> SearchResult:
    """Vary the rate factor until `encode` returns a size in bytes of 97 to 100 % of `wanted`.

    `keep` is called after each trial that is the best so far. If the steps of the encoder are too coarse, or the file is
    smaller at its finest setting, the largest file below `wanted` is accepted. Raises UsageError if the file is larger than
    `wanted` even at the coarsest setting.
    """
    finest, coarsest = codec.limits
    sizes: dict[float, int] = {}
    factor = codec.rounded(min(max(start, finest), coarsest))
    best: float | None = None
    while len(sizes) < MAX_TRIALS and factor not in sizes:
        size = sizes[factor] = encode(factor)
        logger.info(f"rate factor {factor:g}: {size:,} bytes of {wanted:,.0f}")
        if size <= wanted and (best is None or size > sizes[best]):
            best = factor
            keep()
        if WINDOW * wanted <= size <= wanted:
            return SearchResult(factor, len(sizes))
        factor = _next(sizes, codec, wanted)
    if best is None:
        size = min(sizes.values())
        what = f"at the coarsest setting the file has {size:,} bytes, which is more than {wanted:,.0f}"
        raise UsageError(
            what, hint="request a larger file, raise --strength if there is a region, or make the clip smaller or shorter"
        )
    reason = "no finer setting exists" if best <= finest else "the steps of the encoder are coarser"
    return SearchResult(best, len(sizes), f"{sizes[best]:,} of {wanted:,.0f} bytes reached: {reason}")


def _next(sizes: dict[float, int], codec: Codec, wanted: float) -> float:
    """The next rate factor: interpolated between the two nearest trials, or extrapolated with the usual slope."""
    finest, coarsest = codec.limits
    above = [factor for factor, size in sizes.items() if size > wanted]
    below = [factor for factor, size in sizes.items() if size <= wanted]
    goal = math.log2(TARGET * wanted)
    if above and below:
        low, high = max(above), min(below)  # rate factors; the size falls from low to high
        rise = math.log2(sizes[low]) - math.log2(sizes[high])
        share = (math.log2(sizes[low]) - goal) / rise if rise > 0 else 0.5
        factor = codec.rounded(low + min(max(share, 0.05), 0.95) * (high - low))
        if factor in sizes:  # rounding returned a known end: take the next step inwards, if there is one
            factor = codec.rounded(low + codec.step)
        return factor
    near = max(above) if above else min(below)
    return codec.rounded(min(max(near + codec.halving * (math.log2(sizes[near]) - goal), finest), coarsest))


def guess(codec: Codec, bits_per_pixel: float) -> float:
    """Rate factor of the first trial for a target in bits per pixel: quality 5 is taken to need 0.1, as camera footage does."""
    middle = codec.rate_factor(5)
    return middle - codec.halving * math.log2(bits_per_pixel / 0.1)
