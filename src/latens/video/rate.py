"""Search for the rate factor that gives a file of a wanted size."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import NamedTuple

from latens.errors import UsageError
from latens.video.codecs import Codec

logger = logging.getLogger(__name__)

WINDOW = 0.97  # of the wanted size: a file from there to the whole is accepted; larger ones never are
AIM = 0.987
MOST_TRIALS = 12


class Found(NamedTuple):
    """The accepted trial, the number of encodings it took, and a note where the wanted size was not reached."""

    rate_factor: float
    trials: int
    note: str | None = None


def search(encode: Callable[[float], int], codec: Codec, wanted: float, start: float, keep: Callable[[], object]) -> Found:
    """Varies the rate factor until `encode`, which returns a size in bytes, ends within 3 % below `wanted`.

    `keep` is called right after each trial that is the best so far. Where steps are too coarse or the finest
    setting is smaller, the largest file below `wanted` is taken. Raises UsageError where even the coarsest is larger.
    """
    finest, coarsest = codec.limits
    sizes: dict[float, int] = {}
    factor = codec.rounded(min(max(start, finest), coarsest))
    best: float | None = None
    while len(sizes) < MOST_TRIALS and factor not in sizes:
        size = sizes[factor] = encode(factor)
        logger.info(f"rate factor {factor:g}: {size:,} bytes of {wanted:,.0f}")
        if size <= wanted and (best is None or size > sizes[best]):
            best = factor
            keep()
        if WINDOW * wanted <= size <= wanted:
            return Found(factor, len(sizes))
        factor = _next(sizes, codec, wanted)
    if best is None:
        size = min(sizes.values())
        what = f"at the coarsest the file has {size:,} bytes, which is more than {wanted:,.0f}"
        raise UsageError(what, hint="ask for a larger file, raise --strength, or make the clip smaller or shorter")
    reason = "no finer setting exists" if best <= finest else "the steps of the encoder are coarser"
    return Found(best, len(sizes), f"{sizes[best]:,} of {wanted:,.0f} bytes reached: {reason}")


def _next(sizes: dict[float, int], codec: Codec, wanted: float) -> float:
    """Where the size is expected to be met: between the two nearest trials, else along the usual slope."""
    finest, coarsest = codec.limits
    above = [factor for factor, size in sizes.items() if size > wanted]
    below = [factor for factor, size in sizes.items() if size <= wanted]
    goal = math.log2(AIM * wanted)
    if above and below:
        low, high = max(above), min(below)  # rate factors; the size falls from low to high
        rise = math.log2(sizes[low]) - math.log2(sizes[high])
        share = (math.log2(sizes[low]) - goal) / rise if rise > 0 else 0.5
        factor = codec.rounded(low + min(max(share, 0.05), 0.95) * (high - low))
        if factor in sizes:  # rounding met an end: take the next step inwards, if there is one
            factor = codec.rounded(low + codec.step)
        return factor
    near = max(above) if above else min(below)
    return codec.rounded(min(max(near + codec.halving * (math.log2(sizes[near]) - goal), finest), coarsest))


def guess(codec: Codec, bits_per_pixel: float) -> float:
    """A first rate factor for a rate, from the middle of what photographs of motion need."""
    middle = codec.rate_factor(5)
    return middle - codec.halving * math.log2(bits_per_pixel / 0.1)
