"""Messages of rounding laws and of refinement settings, their limits, and the schedules by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from latens.codes.annealing import HELD, Refine, RoundingLaw
from latens.errors import UsageError

ALL = "ssl, linear, cosine, atanh, ste, uniform, deterministic"

REFUSED: list[tuple[type[Any], dict[str, Any], str, str | None]] = [
    (RoundingLaw, {"method": "nearest"}, "unknown rounding method 'nearest'", f"choose one of {ALL}"),
    (RoundingLaw, {"classes": 4}, "rounding to 4 classes is not defined", "choose 2 or 3"),
    (RoundingLaw, {"classes": 1}, "rounding to 1 classes is not defined", "choose 2 or 3"),
    (RoundingLaw, {"method": "atanh", "classes": 3}, "the method atanh has two classes, not three",
     "three classes are defined for ssl, linear, cosine"),
    (RoundingLaw, {"a": 0.0}, "a rounding law needs a > 0, 0 < r <= 1 and n > 0, not 0.0, 1.0, 1.0", None),
    (RoundingLaw, {"r": 0.0}, "a rounding law needs a > 0, 0 < r <= 1 and n > 0, not 1.3333333333333333, 0.0, 1.0", None),
    (RoundingLaw, {"r": 1.1}, "a rounding law needs a > 0, 0 < r <= 1 and n > 0, not 1.3333333333333333, 1.1, 1.0", None),
    (RoundingLaw, {"n": 0.0}, "a rounding law needs a > 0, 0 < r <= 1 and n > 0, not 1.3333333333333333, 1.0, 0.0", None),
    (Refine, {"steps": 0}, "steps 0 is out of range", "steps is at least 1"),
    *((Refine, {"seconds": value}, f"seconds {value} is out of range", "seconds is above 0 and at most 1e9")
      for value in (0.0, -1.0, math.inf, math.nan, 1.1e9)),
    (Refine, {"measure_every": 0}, "measure_every 0 is out of range", "measure_every is at least 1"),
    (Refine, {"patience": 0}, "patience 0 is out of range", "patience is at least 1"),
    (Refine, {"lr_end": -0.1}, "lr_end -0.1 is out of range", "lr_end is a share of lr, 0 to 1"),
    (Refine, {"lr_end": 1.1}, "lr_end 1.1 is out of range", "lr_end is a share of lr, 0 to 1"),
    (Refine, {"tau_end": 0.0}, "tau_end 0.0 is out of range", "tau_end is above 0 and at most 1"),
    (Refine, {"tau_end": 1.1}, "tau_end 1.1 is out of range", "tau_end is above 0 and at most 1"),
    *((Refine, {name: value}, f"{name} {value} is out of range", f"{name} is above 0")
      for name in ("lr", "hyper_lr", "tau_max", "tau_rate", "rate_weight") for value in (0.0, math.inf)),
    (Refine, {"method": "ste", "classes": 3}, "the method ste has two classes, not three",
     "three classes are defined for ssl, linear, cosine"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "wrong", "what", "hint"), REFUSED, ids=lambda value: str(value)[:40])
@pytest.mark.wrong_types
def test_messages(kind: type[Any], wrong: dict[str, Any], what: str, hint: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        kind(**wrong)
    assert (caught.value.what, caught.value.hint) == (what, hint)


def test_the_limits_themselves_are_accepted() -> None:
    RoundingLaw(a=1e-3, r=1.0, n=0.5)
    for classes in (2, 3):
        RoundingLaw(classes=classes)
    one = Refine(steps=1, measure_every=1, patience=1, lr_end=0.0, tau_end=1.0, lr=0.5, hyper_lr=0.5, tau_max=0.5)
    assert Refine(lr_end=1.0, tau_rate=0.5, rate_weight=0.5).patience is None
    assert one.temperature(0) == 0.5


def test_schedules_by_hand() -> None:
    """After two steps a cosine from lr to lr_end lr, and a temperature that reaches tau_end at the last step."""
    plain = Refine(steps=6, lr=2.0, lr_end=0.1, tau_end=0.25)
    assert [plain.learning_rate(step) for step in (0, 1, 2, 3, 4, 6)] == pytest.approx(
        [2.0, 2.0, 2.0, 2 * (0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2), 2 * 0.55, 0.2]
    )
    assert [plain.temperature(step) for step in (0, 1, 2, 4, 6)] == pytest.approx([1, 1, 1, 0.5, 0.25])
    assert Refine(tau_rate=0.1).temperature(3) == pytest.approx(math.exp(-0.3))
    assert Refine().learning_rate(0) == 0.04
    assert Refine(method="ste").learning_rate(0) == 1e-4
    thesis = Refine.thesis("ste", steps=7, seed=3)
    assert (thesis.steps, thesis.lr, thesis.lr_end, thesis.hyper_lr, thesis.tau_max, thesis.tau_rate, thesis.seed) == (
        7, 1e-4, 1.0, 1.0, 1.0, 1e-3, 3,
    )  # fmt: skip
    assert (Refine.thesis("linear", 3).method, Refine.thesis("linear", 3).classes) == ("linear", 3)


@pytest.mark.parametrize("make", [Refine, Refine.thesis])
def test_the_held_steps_do_not_depend_on_their_number(make: Callable[..., Refine]) -> None:
    """These steps are timed before the number is known. The thesis' constants hold no step: the temperature has a rate."""
    schedules = [
        [(plan.learning_rate(step), plan.temperature(step)) for step in range(min(steps, HELD))]
        for steps in (1, 2, 3, 4, 200)
        for plan in (make(steps=steps),)
    ]
    assert all(schedule == schedules[-1][: len(schedule)] for schedule in schedules)


@pytest.mark.parametrize(
    ("value", "steps", "seconds"),
    [
        (7, 7, None), ("200", 200, None), (" 012 ", 12, None), ("20s", 500, 20), ("1.5s", 500, 1.5), ("2m", 500, 120),
        ("1h30m", 500, 5400), (" 3s ", 500, 3),
    ],
)  # fmt: skip
def test_steps_and_times_in_words(value: object, steps: int, seconds: float | None) -> None:
    assert Refine.of(value) == Refine(steps=steps, seconds=seconds)
    assert Refine.of(Refine(seed=3)) == Refine(seed=3)


@pytest.mark.parametrize(
    "value",
    ["20x", "0s", "-3s", "nan s", "nans", "infs", "20 s", "s", "", "0", "-5", "1.5", "1e3", "1e3s", "9" * 400 + "s", "9" * 5000,
     2.5, True, None],
    ids=lambda value: repr(value)[:12],
)  # fmt: skip
def test_other_words_are_refused_with_what_to_write(value: object) -> None:
    with pytest.raises(UsageError) as caught:
        Refine.of(value)
    assert caught.value.what == f"refine is {value!r}, which is neither a number of steps nor a time"
    assert caught.value.hint == "write steps such as 200, or a time above 0 such as 20s, 1.5s or 2m"


def test_laws_of_the_thesis() -> None:
    """Section 5.4.6 and Table 5.4.3."""
    assert Refine().rounding() == RoundingLaw(method="ssl", a=2.0)
    assert Refine(method="cosine").rounding() == RoundingLaw(method="cosine")
    assert RoundingLaw.thesis("ssl") == RoundingLaw(a=4 / 3)
    assert RoundingLaw.thesis("ssl", 3) == RoundingLaw(classes=3, a=1.4, r=0.93, n=1.5)
    assert RoundingLaw.thesis("linear", 3) == RoundingLaw(method="linear", classes=3, a=1.4, r=0.98, n=1.5)
    assert RoundingLaw.thesis("cosine", 3) == RoundingLaw(method="cosine", classes=3, a=1.4, r=0.98, n=2.0)
