"""Search for the quality of a rate target, and the controller of lambda during a refinement."""

from __future__ import annotations

import math

import pytest
import torch

from latens.codes.annealing import Refine
from latens.codes.goals import PEAK, Measurement
from latens.codes.rate_control import LAMBDA_RANGE, RateControl
from latens.codes.rate_target import MAX_TRIALS, RateTarget, search
from latens.errors import UsageError

PIXELS = 1000


def measured(bits: float, mse: float) -> Measurement:
    empty = torch.zeros(1, 0, dtype=torch.int64)
    return Measurement(empty, empty, torch.tensor([bits]), torch.tensor([0.0]), torch.tensor([mse]))


def control(target: RateTarget, *, overhead: float = 0.0) -> RateControl:
    return RateControl(target, 0.01, PIXELS, overhead, Refine(steps=1000), torch.device("cpu"))


@pytest.mark.parametrize("power", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("share", [0.01, 0.4, 0.99])
def test_search_finds_the_nearest_setting_in_few_trials(power: float, share: float) -> None:
    calls: list[int] = []

    def rate(steps: int) -> float:
        calls.append(steps)
        return float((steps / 256) ** power)

    wanted = rate(256) + share * (rate(2048) - rate(256))
    calls.clear()
    found = search(RateTarget("bpp", wanted), rate, 256, 2048)
    assert rate(found) == pytest.approx(wanted, rel=0.01)
    assert len(calls) <= MAX_TRIALS + 3


def test_targets_slightly_outside_the_range_are_met_by_its_ends() -> None:
    assert search(RateTarget("bpp", 0.99), lambda steps: float(steps), 1, 8) == 1
    assert search(RateTarget("bpp", 8.1), lambda steps: float(steps), 1, 8) == 8
    with pytest.raises(UsageError, match="bits per pixel is out of reach: this model gives 1 to 8"):
        search(RateTarget("bpp", 9.0), lambda steps: float(steps), 1, 8)
    with pytest.raises(UsageError, match="dB"):
        search(RateTarget("psnr", 0.5), lambda steps: float(steps), 1, 8)


@pytest.mark.parametrize("share", [0.01, 0.4, 0.99])
def test_a_size_is_reached_from_below(share: float) -> None:
    def size(steps: int) -> float:
        return float(1000 * (steps / 256) ** 1.7)

    wanted = size(256) + share * (size(2048) - size(256))
    assert 0.97 * wanted <= size(search(RateTarget("size", wanted), size, 256, 2048)) <= wanted
    assert search(RateTarget("size", 999.0), size, 256, 2048, nearest=True) == 256
    with pytest.raises(UsageError, match="999 bytes is out of reach: this model gives 1,000 to"):
        search(RateTarget("size", 999.0), size, 256, 2048)


def test_the_tolerance_of_a_psnr_is_in_db() -> None:
    def quality(steps: int) -> float:
        return 30 + steps / 256

    assert search(RateTarget("psnr", 29.96), quality, 0, 2048) == 0
    for missed in (29.9, 38.1):  # 0.3 % of their value
        with pytest.raises(UsageError, match="out of reach"):
            search(RateTarget("psnr", missed), quality, 0, 2048)
    for target in (30.7, 33.3, 37.999):
        assert quality(search(RateTarget("psnr", target), quality, 0, 2048)) == pytest.approx(target, abs=0.01)


def test_the_nearest_end_replaces_a_target_out_of_reach_on_request() -> None:
    calls: list[int] = []

    def rate(steps: int) -> float:
        calls.append(steps)
        return float(steps)

    assert search(RateTarget("bpp", 20.0), rate, 1, 8, nearest=True) == 8
    assert search(RateTarget("psnr", 0.1), rate, 1, 8, nearest=True) == 1
    assert len(calls) == 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((9.0, None, None), "out of range"),
        ((1.0, 0.5, None), "quality and bpp exclude"),
        ((None, 0.0, None), "positive"),
        ((None, None, math.inf), "positive"),
    ],
)
def test_invalid_targets_are_refused(given: tuple[float | None, float | None, float | None], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RateTarget.of(*given, default=4.0, highest=8.0)


def test_the_default_target_is_the_default_quality() -> None:
    assert RateTarget.of(None, None, None, default=4.0, highest=8.0) == RateTarget("quality", 4.0)


@pytest.mark.parametrize(("kind", "value"), [("bpp", 0.5), ("psnr", 32.0)])
def test_the_controller_settles_on_the_target(kind: str, value: float) -> None:
    """A codec whose ln(bpp) and dB follow ln(lambda) with a delay, with other slopes than the controller assumes."""
    goal = control(RateTarget(kind, value))  # type: ignore[arg-type]
    first = math.log(0.01)
    followed = first  # ln(lambda) to which the latents have adapted
    for step in range(0, 1000, 20):
        followed += 0.4 * (math.log(float(goal.weight())) - followed)
        bpp, decibels = 0.4 * math.exp(0.45 * (followed - first)), 31.0 + 1.8 * (followed - first)
        found = measured(bpp * PIXELS, 10 ** (-decibels / 10))
        goal.observe(found, step)
    assert float(goal.value(found)) == pytest.approx(value, rel=1e-3)


def test_lambda_is_clamped_and_initially_constant() -> None:
    goal = control(RateTarget("bpp", 5.0))
    goal.observe(measured(1.0, 0.01), 99)
    assert float(goal.weight()) == pytest.approx(0.01)
    for step in range(100, 1000, 20):
        goal.observe(measured(1.0, 0.01), step)
    assert float(goal.weight()) == pytest.approx(0.01 * LAMBDA_RANGE, rel=1e-5)


def test_scores_prefer_measurements_within_the_tolerance() -> None:
    goal = control(RateTarget("bpp", 0.5), overhead=100.0)
    exact, near, cheap = measured(400, 0.002), measured(404, 0.002), measured(200, 0.0001)
    assert float(goal.value(exact)) == pytest.approx(0.5)
    assert float(goal.score(exact)) == pytest.approx(0.4 + 0.01 * PEAK * 0.002)
    assert float(goal.score(exact)) < float(goal.score(near)) < float(goal.score(cheap))
