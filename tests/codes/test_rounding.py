from __future__ import annotations

import itertools
import math

import pytest
import torch

from latens.codes.annealing import METHODS, THREE_CLASS_METHODS, Method, RoundingLaw
from latens.codes.rounding import add_noise, log_odds, log_weights, probabilities, relax, round_straight_through
from latens.errors import UsageError

V = torch.tensor([-3.999, -2.5, -0.75, 0.01, 0.2, 0.5, 0.8, 4.25], dtype=torch.float64)
GUMBEL = ("ssl", "linear", "cosine", "atanh")


def at(law: RoundingLaw, v: float) -> list[float]:
    return probabilities(torch.tensor([v], dtype=torch.float64), law)[:, 0].tolist()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --------------------------------------------------------------------------------------- probability curves (Fig. 5.3.1)


@pytest.mark.parametrize("method", GUMBEL)
def test_two_classes_sum_to_one_fall_and_mirror(method: Method) -> None:
    law = RoundingLaw(method=method)
    v = torch.linspace(0.001, 0.999, 333, dtype=torch.float64)
    floor, ceiling = probabilities(v, law)
    torch.testing.assert_close(floor + ceiling, torch.ones_like(v))
    assert bool((floor.diff() < 0).all())
    torch.testing.assert_close(floor, ceiling.flip(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(probabilities(v - 7, law)[0], floor)


def test_linear_and_cosine_are_equations_5_3_2_and_5_3_3() -> None:
    assert at(RoundingLaw(method="linear"), 2.3) == pytest.approx([0.7, 0.3])
    # cos^2(pi/6) = 3/4
    assert at(RoundingLaw(method="cosine"), -0.6666666666666667) == pytest.approx([0.75, 0.25], abs=1e-6)


def test_ssl_is_equation_5_3_4() -> None:
    # sigma(-a logit(l)) with l = 0.8: logit = ln 4, so 1 / (1 + 4^a)
    for a in (0.5, 1.0, 4 / 3, 2.0):
        assert at(RoundingLaw(a=a), 0.8)[0] == pytest.approx(1 / (1 + 4**a))


def test_atanh_is_equation_5_2_3_and_not_normalized() -> None:
    law = RoundingLaw(method="atanh")
    # exp(-atanh(l)) = sqrt((1 - l) / (1 + l)): sqrt(1/3) each at one half, so the sum exceeds one.
    weights = log_weights(torch.tensor([0.5, 0.8], dtype=torch.float64), law).exp()
    assert weights[0].tolist() == pytest.approx([math.sqrt(1 / 3), math.sqrt(0.2 / 1.8)])
    assert weights[1].tolist() == pytest.approx([math.sqrt(1 / 3), math.sqrt(0.8 / 1.2)])
    assert at(law, 0.5) == pytest.approx([0.5, 0.5])


def test_ssl_comes_close_to_the_other_laws() -> None:
    """Section 5.3.1: exactly linear at a = 1, roughly cosine at 1.6 and atanh at 0.65, a step for large a."""
    v = torch.linspace(0.02, 0.98, 97, dtype=torch.float64)

    def distance(a: float, method: Method) -> float:
        return float((probabilities(v, RoundingLaw(a=a)) - probabilities(v, RoundingLaw(method=method))).abs().max())

    assert distance(1.0, "linear") < 1e-12
    assert distance(1.6, "cosine") < 0.02 < distance(1.0, "cosine")
    assert distance(0.65, "atanh") < 0.04 < distance(1.0, "atanh")
    assert at(RoundingLaw(a=50.0), 0.45)[0] > 0.9999


@pytest.mark.parametrize("method", GUMBEL)
def test_log_odds_are_the_difference_of_the_weights(method: Method) -> None:
    law = RoundingLaw(method=method)
    floor, ceiling = log_weights(V, law)
    torch.testing.assert_close(log_odds(V, law), ceiling - floor, rtol=1e-6, atol=1e-6)


# ------------------------------------------------------------------------------------------ three classes (Fig. 5.3.2)


def test_three_classes_with_r_one_are_two_classes() -> None:
    """r = 1 with n = 1 (n = 2 for the cosine): section 5.3.2."""
    cases: tuple[tuple[Method, float], ...] = (("linear", 1.0), ("cosine", 2.0), ("ssl", 1.0))
    for method, n in cases:
        two = probabilities(V, RoundingLaw(method=method))
        three = probabilities(V, RoundingLaw(method=method, classes=3, n=n))
        for i, v in enumerate(V.tolist()):
            found = {math.floor(v) + k: float(two[k, i]) for k in (0, 1)}
            # Python and torch both round halves to even.
            for k in (-1, 0, 1):
                assert float(three[k + 1, i]) == pytest.approx(found.get(round(v) + k, 0.0), abs=5e-4)


def test_three_classes_of_the_figures_example() -> None:
    """v = -0.95, r = 0.9, n = 1: weights 1 - r d of -2, -1, 0 are 0.055, 0.955 and 0.145 (their sum is 1.155)."""
    law = RoundingLaw(method="linear", classes=3, r=0.9)
    assert at(law, -0.95) == pytest.approx([0.055 / 1.155, 0.955 / 1.155, 0.145 / 1.155])
    peaked = RoundingLaw(method="linear", classes=3, r=0.9, n=3.0)
    cubes = [0.055**3, 0.955**3, 0.145**3]
    assert at(peaked, -0.95) == pytest.approx([c / sum(cubes) for c in cubes])


@pytest.mark.parametrize("method", THREE_CLASS_METHODS)
def test_three_classes_are_symmetric_about_an_integer(method: Method) -> None:
    law = RoundingLaw.thesis(method, 3)
    down, stay, up = probabilities(torch.tensor([4.3, 3.7], dtype=torch.float64), law).tolist()
    assert [down[0], stay[0], up[0]] == pytest.approx([up[1], stay[1], down[1]])
    assert stay[0] > up[0] > down[0] > 0


# ----------------------------------------------------------------------------------------------------------- samples


@pytest.mark.parametrize("law", [*(RoundingLaw(method=m) for m in METHODS), RoundingLaw.thesis("ssl", 3)], ids=str)
def test_samples_are_near_and_differentiable(law: RoundingLaw) -> None:
    v = (torch.randn(2, 5, 4, 3, generator=seeded(1)) * 2).requires_grad_()
    relaxed = relax(v, law, 0.7, seeded())
    assert bool(((relaxed - v).abs() <= (1.5 if law.classes == 3 else 1.0)).all())
    relaxed.sum().backward()
    assert v.grad is not None
    assert bool(torch.isfinite(v.grad).all())
    assert bool((v.grad >= 0).all()) or law.classes == 3
    assert float(v.grad.abs().sum()) > 0


@pytest.mark.parametrize("method", GUMBEL)
def test_cold_samples_are_integers_drawn_with_sharpened_probabilities(method: Method) -> None:
    """As the temperature falls, a sample becomes floor or ceiling, with odds raised to 1/tau (Eq. 5.2.3)."""
    law = RoundingLaw(method=method)
    tau = 0.5
    v = torch.full((1, 1, 200, 200), 5.4)
    sample = relax(v, law, tau, seeded())
    share = float((sample > 5.5).double().mean())
    odds = math.exp(float(log_odds(torch.tensor([0.4]), law)) / tau)
    assert share == pytest.approx(odds / (1 + odds), abs=4 * 0.5 / 200)
    cold = relax(v, law, 0.02, seeded())
    assert float((cold - cold.round()).abs().max()) < 1e-3


def test_the_difference_of_gumbels_is_what_two_class_samples_use() -> None:
    """Mean and spread of the soft sample against an explicit Gumbel-softmax, with tau for log pi and again for the sample."""
    law, tau = RoundingLaw(), 0.6
    v = torch.full((1, 1, 300, 300), -1.7)
    gumbel = -(-torch.rand(2, 90_000, generator=seeded(3), dtype=torch.float64).log()).log()
    logits = (log_weights(torch.tensor([-1.7], dtype=torch.float64), law) / tau + gumbel) / tau
    expected = -2 + logits.softmax(0)[1]
    found = relax(v, law, tau, seeded(4)).flatten().double()
    assert float(found.mean()) == pytest.approx(float(expected.mean()), abs=0.01)
    assert float(found.std()) == pytest.approx(float(expected.std()), abs=0.01)


def test_three_class_samples_have_the_laws_mean_when_soft() -> None:
    """At tau = 1 the argmax of the logits has the probabilities of the law; the soft sample has the same direction."""
    law = RoundingLaw(method="linear", classes=3, r=0.9)
    v = torch.full((1, 1, 300, 300), 3.05)
    sample = relax(v, law, 1.0, seeded())
    far = float((sample < 2.5).double().mean())
    near = float((sample > 3.5).double().mean())
    assert near > far > 0
    # The mirror of the figure's example: -1 has 0.055, 0 has 0.955, +1 has 0.145.
    assert float(((sample > 2.5) & (sample < 3.5)).double().mean()) > 0.955 / 1.155


def test_deterministic_annealing_has_no_noise_and_hardens() -> None:
    law = RoundingLaw(method="deterministic")
    v = torch.tensor([[0.3, 0.7, 2.45]])
    warm, again, cold = (relax(v, law, tau, seeded(seed)) for tau, seed in ((1.0, 1), (1.0, 2), (0.01, 3)))
    assert torch.equal(warm, again)
    assert cold.tolist()[0] == pytest.approx([0.0, 1.0, 2.0], abs=1e-3)


def test_noise_and_straight_through() -> None:
    v = torch.full((1, 1, 100, 100), 0.3)
    noisy = relax(v, RoundingLaw(method="uniform"), 1.0, seeded()) - v
    assert float(noisy.min()) >= -0.5
    assert float(noisy.max()) < 0.5
    assert float(noisy.var()) == pytest.approx(1 / 12, rel=0.05)
    assert bool(((add_noise(v) - v).abs() <= 0.5).all())
    x = torch.tensor([0.4, 1.6], requires_grad=True)
    rounded = round_straight_through(x)
    rounded.backward(torch.ones(2))
    assert rounded.tolist() == [0.0, 2.0]
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("law", [RoundingLaw(), RoundingLaw(method="uniform"), RoundingLaw.thesis("cosine", 3)], ids=str)
def test_noise_depends_on_the_seed_alone(law: RoundingLaw) -> None:
    v = torch.randn(3, 4, 5, 6, generator=seeded(9)).contiguous(memory_format=torch.channels_last)
    one, same, other = (relax(v, law, 0.8, seeded(seed)) for seed in (5, 5, 6))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    torch.testing.assert_close(relax(v[1:2], law, 0.8, seeded(5)), one[1:2])


# ---------------------------------------------------------------------------------------------------------- settings


def test_the_thesis_constants() -> None:
    assert RoundingLaw.thesis("ssl").a == pytest.approx(4 / 3)
    three = {m: RoundingLaw.thesis(m, 3) for m in THREE_CLASS_METHODS}
    assert [(law.r, law.n) for law in three.values()] == [(0.93, 1.5), (0.98, 1.5), (0.98, 2.0)]
    assert three["ssl"].a == 1.4


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"method": "nearest"}, marks=pytest.mark.wrong_types),
        {"classes": 4},
        {"a": 0.0},
        {"r": 1.2},
        {"n": -1.0},
        *({"method": m, "classes": 3} for m in METHODS if m not in THREE_CLASS_METHODS),
    ],
    ids=str,
)
def test_invalid_laws_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        RoundingLaw(**wrong)  # type: ignore[arg-type]


def test_every_law_keeps_its_integers_in_order() -> None:
    v = torch.tensor([1.3])
    for method, classes in itertools.product(THREE_CLASS_METHODS, (2, 3)):
        assert int(probabilities(v, RoundingLaw.thesis(method, classes)).argmax()) == (0 if classes == 2 else 1)
