"""One-pass rate control: the quality of every unit of frames, so that a file meets a target size.

A rate model from sampled frames (`size_plan`) predicts the bytes of a unit at a quality. Two ratios of actual to predicted
bytes correct it during encoding: one over all units so far, with the sample as prior evidence, and one over the latest units,
whose weight decays with the distance. Before every unit the controller selects the quality at which the remaining units are
expected to take the remaining bytes. The last unit is coded again until the file is within the window. If that fails, a second
pass uses the sizes of the units of the first.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from latens.codes.clip_stream import ENTRY_BYTES, HEAD_BYTES
from latens.systems.video_codec.exact import QUALITY_STEPS

WINDOW = 0.97  # smallest accepted file relative to the target size; larger files than the target are never accepted
TARGET_SHARE = 0.988  # size that the controller aims for, relative to the target size
SLOPE = 0.3 / QUALITY_STEPS  # of ln(bytes) over the quality in 1/256, for a curve with a single trial
DECAY_UNITS = {"first": 1.0, "next": 12.0}  # decay length in units of the ratio of the latest units
UPDATE = 0.3  # weight of a new unit in the ratio of the latest units
EVIDENCE = 4.0  # number of units that have the weight of one sampled group
MAX_TRIALS = 8  # maximum number of codings of the last unit
GROUP_BYTES = 9  # expected bytes of times, map length and number of qualities of a group
QUALITY_BYTES = 2  # maximum bytes of the number of qualities of a group, and of each quality


class Shape(NamedTuple):
    """Number of frames of a clip, and their division by the coder."""

    frames: int
    group: int  # maximum frames of a group
    unit: int  # frames per latent

    def units(self, start: int) -> dict[str, int]:
        """Number of units from frame `start` on, the first of a group: "first" and "next" units of groups."""
        whole, rest = divmod(max(self.frames - start, 0), self.group)
        firsts = whole + (rest > 0)
        return {"first": firsts, "next": whole * -(-self.group // self.unit) + -(-rest // self.unit) - firsts}


class Curve:
    """Bytes of a unit over the quality in 1/256: log-linear interpolation between trials, extrapolated beyond them."""

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
    """The highest quality in [low, high] whose expected size is at most `wanted`; `low` if there is none."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if size(middle) <= wanted else (low, middle - 1)
    return low


class RateModel:
    """Curves of the first unit of a group and of its other units, from `samples` groups."""

    def __init__(self, samples: int = 1) -> None:
        self.samples = samples
        self.curves = {"first": Curve(), "next": Curve()}
        self.map_bytes = 0.0  # bytes of the maps of a group

    def add(self, quality: int, first: float, later: float | None) -> None:
        """Add the mean bytes of a trial; without later units, `first` is used for them."""
        self.curves["first"].add(quality, first)
        self.curves["next"].add(quality, first if later is None else later)

    def overhead(self, shape: Shape, start: int = 0) -> float:
        """Bytes of the groups from frame `start` on in addition to the units; one byte for the quality of each unit."""
        units = shape.units(start)
        own = HEAD_BYTES + ENTRY_BYTES + GROUP_BYTES + self.map_bytes
        return units["first"] * own + units["first"] + units["next"]

    def total(self, quality: float, shape: Shape) -> float:
        """Expected bytes of all groups."""
        units = shape.units(0)
        return self.overhead(shape) + sum(count * self.curves[kind].at(quality) for kind, count in units.items())


class Ratio:
    """Ratio of actual to predicted bytes of units: mean over all so far, and moving average of the latest."""

    def __init__(self, evidence: float, decay_units: float) -> None:
        self._sum = self._count = evidence
        self.latest, self._decay = 1.0, math.exp(-1 / decay_units)

    def add(self, ratio: float) -> None:
        self._sum, self._count = self._sum + ratio, self._count + 1
        self.latest += UPDATE * (ratio - self.latest)

    def expected(self, units: int) -> float:
        """Expected sum of the ratios of the next `units` units."""
        overall = self._sum / self._count
        return units * overall + (self.latest - overall) * (1 - self._decay**units) / (1 - self._decay)


class RateController:
    """A `groups.RateControl` that selects qualities so that a file has about, and at most, `wanted` bytes.

    `earlier` is the controller of a first pass over the same clip, which has recorded the sizes of all units.
    """

    def __init__(
        self, wanted: float, shape: Shape, model: RateModel, lowest: int, highest: int, earlier: RateController | None = None
    ) -> None:
        self.wanted, self.shape, self.model, self.lowest, self.highest = wanted, shape, model, lowest, highest
        self.known = earlier.seen if earlier else {kind: [] for kind in DECAY_UNITS}
        self.seen: dict[str, list[float]] = {kind: [] for kind in DECAY_UNITS}  # actual over predicted bytes of units
        evidence = EVIDENCE * model.samples
        self.ratios = {kind: Ratio(evidence, decay_units) for kind, decay_units in DECAY_UNITS.items()}
        self._next_group = 0  # first frame of the group after the current one
        self._units = self._left = self._written = 0  # of the current group: units, remaining units, bytes so far
        self._base = 0.0  # bytes of the file without the units of the current group
        self._tries: dict[int, float] = {}  # bytes of the current unit by quality
        self._again: int | None = None  # quality at which the current unit is coded again
        self._settled = False

    def open_group(self, spent: int, times: int, frames: int) -> None:
        """Start a group of `frames` with `times` bytes of times; closed before this group, the file has `spent` bytes."""
        self._units = self._left = -(-frames // self.shape.unit)
        self._next_group += frames
        self._base = spent + HEAD_BYTES + ENTRY_BYTES + times + QUALITY_BYTES * (1 + self._left)
        self._written = 0

    @property
    def _kind(self) -> str:
        return "first" if self._left == self._units else "next"

    def _to_come(self, quality: float, *, present: bool) -> float:
        """Expected bytes of the remaining units, with or without the current unit."""
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
        budget = TARGET_SHARE * self.wanted - self._base - self._written
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
        """A better quality for the current unit, with which the file has `total` bytes; None to keep it."""
        last = self._left == 1 and self._next_group >= self.shape.frames
        if not last:
            ends_above = total + self._to_come(self.lowest, present=False) > self.wanted
            return max(quality - QUALITY_STEPS, self.lowest) if ends_above and quality > self.lowest else None
        if WINDOW * self.wanted <= total <= self.wanted:
            return None
        own = self._tries[quality]
        goal = own + TARGET_SHARE * self.wanted - total
        tried = self._guess(goal)
        if tried in self._tries or len(self._tries) >= MAX_TRIALS:
            self._settled = True
            room = own + self.wanted - total
            fits = [each for each, size in self._tries.items() if size <= room]
            tried = max(fits, key=lambda each: self._tries[each]) if fits else min(self._tries)
        return None if tried == quality else tried

    def _guess(self, goal: float) -> int:
        """The quality at which the current unit is expected to take `goal` bytes, from its trials."""
        curve = Curve()
        for quality, size in self._tries.items():
            curve.add(quality, size)
        return highest_within(curve.at, goal, self.lowest, self.highest)
