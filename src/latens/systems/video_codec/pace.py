"""Rate control of a file in one pass: the quality of every unit of frames, so that the file gets a size.

A model of rates from sampled frames (`sized`) gives the bytes of a unit at a quality. Two ratios correct it while the clip is
written: one of all units so far, with the sample as prior evidence, and one of the latest units, whose weight falls with the
distance. Before every unit the quality is the one at which the rest of the clip is expected to take the rest of the bytes. The
last unit is written again until the file is within the window. Where that fails, a second pass knows the units from the first.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from latens.codes.clip_stream import ENTRY_BYTES, HEAD_BYTES
from latens.systems.video_codec.exact import QUALITY_STEPS

WINDOW = 0.97  # smallest file relative to the wanted size; larger files than wanted are never accepted
AIM = 0.988  # size that is aimed at, relative to the wanted one
SLOPE = 0.3 / QUALITY_STEPS  # of ln(bytes) over the quality in 1/256, where one trial alone is known
REACH = {"first": 1.0, "next": 12.0}  # units after which the ratio of the latest units has lost its weight
UPDATE = 0.3  # weight of a unit in the ratio of the latest
EVIDENCE = 4.0  # units written in order that count as much as a sampled one
MAX_TRIALS = 8  # of the last unit
GROUP_BYTES = 9  # times, map and number of qualities of a group, before one was written
QUALITY_BYTES = 2  # most bytes of the number of qualities of a group, and of each quality


class Shape(NamedTuple):
    """Frames of a clip, and how the coder divides them."""

    frames: int
    group: int  # most frames of a group
    unit: int  # frames of a latent

    def units(self, start: int) -> dict[str, int]:
        """Units of the groups from frame `start` on, a first frame of a group, by kind."""
        whole, rest = divmod(max(self.frames - start, 0), self.group)
        firsts = whole + (rest > 0)
        return {"first": firsts, "next": whole * -(-self.group // self.unit) + -(-rest // self.unit) - firsts}


class Curve:
    """Bytes of a unit over the quality in 1/256, linear in the logarithm between trials and continued beyond them."""

    def __init__(self) -> None:
        self._trials: list[tuple[int, float]] = []  # (quality, ln bytes), in order

    def add(self, quality: int, size: float) -> None:
        self._trials = sorted({**dict(self._trials), quality: math.log(max(size, 1.0))}.items())

    def at(self, quality: float) -> float:
        if len(self._trials) == 1:
            place, value = self._trials[0]
            return math.exp(value + SLOPE * (quality - place))
        index = min(max(bisect_left(self._trials, (quality, 0.0)), 1), len(self._trials) - 1)
        (low, below), (high, above) = self._trials[index - 1 : index + 1]
        return math.exp(below + max((above - below) / (high - low), SLOPE / 10) * (quality - low))


def highest_within(size: Callable[[int], float], wanted: float, low: int, high: int) -> int:
    """The highest quality in [low, high] whose expected size is at most `wanted`; the lowest where there is none."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if size(middle) <= wanted else (low, middle - 1)
    return low


class RateModel:
    """Curves of the first unit of a group and of the units after it, from `samples` groups."""

    def __init__(self, samples: int = 1) -> None:
        self.samples = samples
        self.curves = {"first": Curve(), "next": Curve()}
        self.map_bytes = 0.0  # of a group

    def add(self, quality: int, first: float, later: float | None) -> None:
        """Mean bytes of a trial; without later units the first unit stands in for them."""
        self.curves["first"].add(quality, first)
        self.curves["next"].add(quality, first if later is None else later)

    def overhead(self, shape: Shape, start: int = 0) -> float:
        """Bytes of the groups from frame `start` on without their units, but with a byte for the quality of each unit."""
        units = shape.units(start)
        own = HEAD_BYTES + ENTRY_BYTES + GROUP_BYTES + self.map_bytes
        return units["first"] * own + units["first"] + units["next"]

    def total(self, quality: float, shape: Shape) -> float:
        """Expected bytes of all groups."""
        units = shape.units(0)
        return self.overhead(shape) + sum(count * self.curves[kind].at(quality) for kind, count in units.items())


class Ratio:
    """Bytes that units took over those of the model: of all so far, and of the latest."""

    def __init__(self, evidence: float, reach: float) -> None:
        self._sum = self._count = evidence
        self.latest, self._fall = 1.0, math.exp(-1 / reach)

    def add(self, ratio: float) -> None:
        self._sum, self._count = self._sum + ratio, self._count + 1
        self.latest += UPDATE * (ratio - self.latest)

    def expected(self, units: int) -> float:
        """Sum over the next units."""
        overall = self._sum / self._count
        return units * overall + (self.latest - overall) * (1 - self._fall**units) / (1 - self._fall)


class Pacer:
    """Chooses qualities so that a file gets `wanted` bytes; see `groups.Pace`.

    `earlier` is the pacer of a first pass over the same clip, from which the sizes of all units are known.
    """

    def __init__(
        self, wanted: float, shape: Shape, model: RateModel, lowest: int, highest: int, earlier: Pacer | None = None
    ) -> None:
        self.wanted, self.shape, self.model, self.lowest, self.highest = wanted, shape, model, lowest, highest
        self.known = earlier.seen if earlier else {kind: [] for kind in REACH}
        self.seen: dict[str, list[float]] = {kind: [] for kind in REACH}  # bytes of units over those of the model
        evidence = EVIDENCE * model.samples
        self.ratios = {kind: Ratio(evidence, reach) for kind, reach in REACH.items()}
        self._next_group = 0  # first frame of the group after the present one
        self._units = self._left = self._written = 0  # of the present group: all, those to come, bytes so far
        self._base = 0.0  # bytes of the file without the units of the present group
        self._tries: dict[int, float] = {}  # bytes of the present unit by quality
        self._again: int | None = None  # quality at which the present unit is written again
        self._settled = False

    def open_group(self, spent: int, times: int, frames: int) -> None:
        """Starts a group of `frames` with `times` bytes of times; closed before it, the file would have `spent` bytes."""
        self._units = self._left = -(-frames // self.shape.unit)
        self._next_group += frames
        self._base = spent + HEAD_BYTES + ENTRY_BYTES + times + QUALITY_BYTES * (1 + self._left)
        self._written = 0

    @property
    def _kind(self) -> str:
        return "first" if self._left == self._units else "next"

    def _to_come(self, quality: float, *, present: bool) -> float:
        """Expected bytes of the units to come, with or without the present one."""
        units = self.shape.units(self._next_group)
        units["next"] += self._left - 1
        units[self._kind] += present
        found = self.model.overhead(self.shape, self._next_group)
        for kind, count in units.items():
            start = len(self.seen[kind]) + (kind == self._kind and not present)
            known = self.known[kind][start : start + count]
            mean = sum(known) / len(known) if known else 1.0
            found += mean * self.ratios[kind].expected(count) * self.model.curves[kind].at(quality)
        return found

    def quality(self) -> int:
        if self._again is not None:
            return self._again
        budget = AIM * self.wanted - self._base - self._written
        return highest_within(partial(self._to_come, present=True), budget, self.lowest, self.highest)

    def accept(self, size: int) -> bool:
        quality, own = self.quality(), size - self._written
        self._tries[quality] = own
        self._again = None if self._settled else self._other(quality, self._base + size)
        if self._again is not None:
            return False
        kind = self._kind
        ratio, known = own / self.model.curves[kind].at(quality), self.known[kind][len(self.seen[kind]) :]
        self.ratios[kind].add(ratio / known[0] if known else ratio)
        self.seen[kind].append(ratio)
        self._written, self._left = size, self._left - 1
        self._tries, self._settled = {}, False
        return True

    def _other(self, quality: int, total: float) -> int | None:
        """A better quality for the present unit, after which the file would have `total` bytes; None: it stays."""
        last = self._left == 1 and self._next_group >= self.shape.frames
        if not last:
            ends_above = total + self._to_come(self.lowest, present=False) > self.wanted
            return max(quality - QUALITY_STEPS, self.lowest) if ends_above and quality > self.lowest else None
        if WINDOW * self.wanted <= total <= self.wanted:
            return None
        own = self._tries[quality]
        goal = own + AIM * self.wanted - total
        tried = self._guess(goal)
        if tried in self._tries or len(self._tries) >= MAX_TRIALS:
            self._settled = True
            room = own + self.wanted - total
            fits = [each for each, size in self._tries.items() if size <= room]
            tried = max(fits, key=lambda each: self._tries[each]) if fits else min(self._tries)
        return None if tried == quality else tried

    def _guess(self, goal: float) -> int:
        """The quality at which the present unit is expected to take `goal` bytes, from its trials."""
        curve = Curve()
        for quality, size in self._tries.items():
            curve.add(quality, size)
        return highest_within(curve.at, goal, self.lowest, self.highest)
