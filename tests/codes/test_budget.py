"""The number of steps that a time gives, with a clock of the test."""

from __future__ import annotations

import pytest

from latens.codes.annealing import HELD
from latens.codes.budget import Budget, OneDescent, Plan, most_steps
from latens.codes.rate_control import TargetPlan, pilot_steps


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(
    seconds: float, plan: Plan, *steps: float, measurement: float = 0.0, before: float = 0.0
) -> tuple[Budget, int | None, int]:
    """A budget after steps of these seconds: itself, the steps of the first descent, and how many steps were timed."""
    clock = Clock()
    budget = Budget(seconds, plan, clock)
    clock.now += before
    budget.measurement = measurement
    for count, step in enumerate(steps, 1):
        budget.begin_step()
        clock.now += step
        found = budget.after(count)
        if found is not None:
            return budget, found, count
    return budget, None, len(steps)


def test_the_first_step_is_slow_and_the_others_are_the_rule() -> None:
    """20 s: 1 s before, 5 s of the first step, then 14 steps of 1 s."""
    budget, steps, timed = run(20, OneDescent(100), 5, 1, 1, before=1)
    assert (budget.steps, steps, timed) == (15, 15, HELD)
    assert budget.spent() == 8


def test_measurements_count() -> None:
    """10 s for n steps of 1 s and ceil(n / 2) measurements of 1 s: 6 and 3, not 7 and 4."""
    assert run(10, OneDescent(2), 1, 1, 1, measurement=1)[1] == 6
    assert run(11, OneDescent(2), 1, 1, 1, measurement=1)[1] == 7


@pytest.mark.parametrize(("seconds", "steps"), [(0.5, 1), (1.0, 1), (1.9, 1), (2.0, 2), (2.9, 2), (3.0, 3), (3.9, 3), (4.0, 4)])
def test_few_steps_are_fixed_before_they_are_exceeded(seconds: float, steps: int) -> None:
    budget, found, timed = run(seconds, OneDescent(20), 1, 1, 1)
    assert (budget.steps, found, timed) == (steps, steps, min(steps, HELD))


def test_a_budget_without_time_for_a_step() -> None:
    """A step takes at least as long as a measurement, and a measurement follows it."""
    for before, allowed in ((8.0, True), (8.5, False), (20.0, False)):
        assert run(10, OneDescent(20), measurement=1, before=before)[0].allows_a_step() == allowed


@pytest.mark.parametrize("seconds", [1, 7, 20, 100, 1000])
def test_the_pilot_of_a_target_is_part_of_the_time(seconds: float) -> None:
    """The descents and the search fit, and one step more does not; too short a time takes the smallest number."""
    plan = TargetPlan(20, 2.0)
    budget, first, timed = run(seconds, plan, 1, 1, 1, measurement=0.5)
    assert budget.steps is not None
    assert first == pilot_steps(budget.steps) >= timed
    if seconds > 1:
        assert plan.seconds(budget.steps, 1, 0.5) <= seconds < plan.seconds(budget.steps + 1, 1, 0.5)
    else:
        assert budget.steps == 1


@pytest.mark.parametrize("left", [0.0, 0.3, 1.0, 6.49, 6.5, 7.0, 99.0, 1e9])
def test_most_steps_of_a_line(left: float) -> None:
    """n steps take 0.5 + 2 n: n is the largest that fits, and at least 1."""
    steps = most_steps(left, lambda count: 0.5 + 2.0 * count)
    assert steps == max(int((left - 0.5) // 2), 1)


def test_a_clock_that_stands_still_ends() -> None:
    assert run(5, OneDescent(20), 0, 0, 0)[1] == pytest.approx(5e9, rel=0.01)


def test_a_measurement_is_timed() -> None:
    clock = Clock()
    budget = Budget(10, OneDescent(20), clock)

    def measure() -> str:
        clock.now += 3
        return "found"

    assert budget.timed(measure) == "found"
    assert budget.measurement == 3
