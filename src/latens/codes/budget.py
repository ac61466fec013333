"""Refinement for a given time: the first steps are timed, then the number of steps is fixed.

The first HELD steps have the same learning rate and temperature for every number of steps (`annealing`). Therefore a refinement
in a budget equals, bit for bit, one with its number of steps, and no timed step is lost.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

from latens.codes.annealing import HELD

logger = logging.getLogger(__name__)
T = TypeVar("T")
Clock = Callable[[], float]  # seconds
SHORTEST = 1e-9  # seconds of a step, for clocks that do not resolve it


@runtime_checkable
class Plan(Protocol):
    """How a refinement of a number of steps proceeds."""

    def first(self, steps: int, /) -> int:
        """The steps of the first descent, in which steps are timed. Does not decrease with `steps`, and is at least 1."""

    def seconds(self, steps: int, step: float, measurement: float, /) -> float:
        """The time of all, for the seconds of a step and of a measurement."""


class OneDescent:
    """A `Plan`: all steps in one descent, which is measured every `every` steps and at the end."""

    def __init__(self, every: int) -> None:
        self.every = every

    def first(self, steps: int) -> int:
        return steps

    def seconds(self, steps: int, step: float, measurement: float) -> float:
        return steps * step + -(-steps // self.every) * measurement


class Budget:
    """Seconds for a refinement, from now on. `steps` is the number of steps that they give, None until it is fixed.

    `measurement` is the time of one measurement. The first step is slower than the others, whose mean
    is the time of a step. The number of steps stays fixed: if the machine slows down later, the refinement takes longer.
    """

    def __init__(self, seconds: float, plan: Plan, clock: Clock = time.perf_counter) -> None:
        self.seconds, self.plan, self.clock = seconds, plan, clock
        self.measurement = 0.0
        self.steps: int | None = None
        self._began = clock()
        self._end = self._began + seconds
        self._times: list[float] = []
        self._step_began = self._began

    def spent(self) -> float:
        return self.clock() - self._began

    def allows_a_step(self) -> bool:
        """True if there is time for the shortest refinement. A step takes at least as long as a measurement."""
        return self.clock() + self.plan.seconds(1, self.measurement, self.measurement) <= self._end

    def timed(self, measure: Callable[[], T]) -> T:
        """The result of a measurement, whose time is taken."""
        began = self.clock()
        found = measure()
        self.measurement = self.clock() - began
        return found

    def begin_step(self) -> None:
        self._step_began = self.clock()

    def after(self, step: int) -> int | None:
        """The steps of the first descent, when `step` of them are done; None to time another one."""
        self._times.append(self.clock() - self._step_began)
        others = self._times[1:] or self._times
        mean = max(sum(others) / len(others), SHORTEST)
        left = self._end - self.clock() + step * mean  # as if the steps were still to come
        steps = most_steps(left, lambda count: self.plan.seconds(count, mean, self.measurement))
        if step < HELD and self.plan.first(steps) > step:
            return None
        while self.plan.first(steps) < step:
            steps += 1
        self.steps = steps
        logger.info("refinement of %.4g s: %d steps of %.3g s", self.seconds, steps, mean)
        return self.plan.first(steps)


def most_steps(left: float, seconds: Callable[[int], float]) -> int:
    """About the largest number of steps, at least 1, that take at most `left`. `seconds` is about linear in it."""
    steps = 1
    while seconds(2 * steps) <= left:
        steps *= 2
    steps *= 2
    while steps > 1 and (needed := seconds(steps)) > left:
        steps = max(min(steps - 1, int(steps * left / needed)), 1)
    return steps
