"""Messages of rounding laws and of refinement settings, their limits, and the schedules by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from latens.codes.annealing import Refine, RoundingLaw
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
    """A cosine from lr to lr_end lr; a temperature that reaches tau_end at the last step unless a rate is given."""
    plain = Refine(steps=4, lr=2.0, lr_end=0.1, tau_end=0.25)
    assert [plain.learning_rate(step) for step in (0, 1, 2, 4)] == pytest.approx(
        [2.0, 2 * (0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2), 2 * 0.55, 0.2]
    )
    assert [plain.temperature(step) for step in (0, 2, 4)] == pytest.approx([1, 0.5, 0.25])
    assert Refine(tau_rate=0.1).temperature(3) == pytest.approx(math.exp(-0.3))
    assert Refine().learning_rate(0) == 0.04
    assert Refine(method="ste").learning_rate(0) == 1e-4
    thesis = Refine.thesis("ste", steps=7, seed=3)
    assert (thesis.steps, thesis.lr, thesis.lr_end, thesis.hyper_lr, thesis.tau_max, thesis.tau_rate, thesis.seed) == (
        7, 1e-4, 1.0, 1.0, 1.0, 1e-3, 3,
    )  # fmt: skip
    assert (Refine.thesis("linear", 3).method, Refine.thesis("linear", 3).classes) == ("linear", 3)


def test_laws_of_the_thesis() -> None:
    """Section 5.4.6 and Table 5.4.3."""
    assert Refine().rounding() == RoundingLaw(method="ssl", a=2.0)
    assert Refine(method="cosine").rounding() == RoundingLaw(method="cosine")
    assert RoundingLaw.thesis("ssl") == RoundingLaw(a=4 / 3)
    assert RoundingLaw.thesis("ssl", 3) == RoundingLaw(classes=3, a=1.4, r=0.93, n=1.5)
    assert RoundingLaw.thesis("linear", 3) == RoundingLaw(method="linear", classes=3, a=1.4, r=0.98, n=1.5)
    assert RoundingLaw.thesis("cosine", 3) == RoundingLaw(method="cosine", classes=3, a=1.4, r=0.98, n=2.0)
