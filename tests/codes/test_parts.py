"""The part code against float64 oracles, closed forms and Monte Carlo estimates."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Normal, RelaxedBernoulli, kl_divergence

from latens.codes.gaussian import gaussian_kl, sample_gaussian
from latens.codes.parts import (
    bernoulli_kl,
    categorical_kl,
    place_parts,
    pool_appearance,
    relaxed_bernoulli,
    relaxed_categorical,
    temperature_at,
)

SAMPLES = 200_000


def test_gaussian_kl_equals_torch_and_monte_carlo() -> None:
    mean = torch.tensor([0.0, 1.3, -2.0], dtype=torch.float64)
    variance = torch.tensor([1.0, 0.2, 3.0], dtype=torch.float64)
    found = gaussian_kl(mean, variance)
    exact = kl_divergence(Normal(mean, variance.sqrt()), Normal(torch.zeros(3), torch.ones(3)))
    torch.testing.assert_close(found, exact.double())
    assert found[0] == 0
    torch.manual_seed(0)
    z = sample_gaussian(mean.expand(SAMPLES, 3), variance.expand(SAMPLES, 3))
    ratio = Normal(mean, variance.sqrt()).log_prob(z) - Normal(0.0, 1.0).log_prob(z)
    torch.testing.assert_close(ratio.mean(0), found, atol=4 * float(ratio.std(0).max()) / SAMPLES**0.5, rtol=0)


@pytest.mark.parametrize("prior", [1 / 16, 0.5, 0.9])
def test_bernoulli_kl_equals_torch_and_monte_carlo(prior: float) -> None:
    logits = torch.linspace(-9, 9, 37, dtype=torch.float64)
    found = bernoulli_kl(logits, prior)
    q, p = Bernoulli(logits=logits), Bernoulli(torch.tensor(prior, dtype=torch.float64))
    torch.testing.assert_close(found, kl_divergence(q, p))
    torch.manual_seed(0)
    middle = Bernoulli(logits=logits[15:22])
    drawn = middle.sample((SAMPLES,))
    ratio = middle.log_prob(drawn) - p.log_prob(drawn)
    torch.testing.assert_close(ratio.mean(0), found[15:22], atol=0.02, rtol=0)


def test_bernoulli_kl_is_zero_at_the_prior_and_finite_far_out() -> None:
    assert bernoulli_kl(torch.tensor(1 / 16, dtype=torch.float64).logit(), 1 / 16).abs() < 1e-12
    far = torch.tensor([-1e4, 1e4], requires_grad=True)
    kl = bernoulli_kl(far, 1 / 16)
    assert kl.tolist() == pytest.approx([-math.log(15 / 16), math.log(16)], rel=1e-5)
    kl.sum().backward()
    assert far.grad is not None
    assert far.grad.isfinite().all()
    for prior in (0.0, 1.0):
        with pytest.raises(ValueError, match=f"^a prior probability must be strictly between 0 and 1, not {prior:g}$"):
            bernoulli_kl(far, prior)


def test_categorical_kl_equals_torch() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 3, 4, dtype=torch.float64) * 3
    q = Categorical(logits=logits.permute(0, 2, 3, 1))
    uniform = Categorical(logits=torch.zeros(5, dtype=torch.float64).expand(2, 3, 4, 5))
    torch.testing.assert_close(categorical_kl(logits).sum(1), kl_divergence(q, uniform))


def test_relaxed_bernoulli_has_the_distribution_of_torch() -> None:
    """Quantiles of samples against the distribution function of torch's relaxed Bernoulli."""
    torch.manual_seed(0)
    logit, temperature = torch.tensor(-0.7), 0.5
    drawn = relaxed_bernoulli(logit.expand(SAMPLES), temperature)
    oracle = RelaxedBernoulli(torch.tensor(temperature), logits=logit).sample((SAMPLES,))
    points = torch.linspace(0.05, 0.95, 19)
    torch.testing.assert_close(torch.quantile(drawn, points), torch.quantile(oracle, points), atol=0.01, rtol=0)
    for heat in (0.1, 1.0):
        above = (relaxed_bernoulli(logit.expand(SAMPLES), heat) > 0.5).float().mean()
        assert float(above) == pytest.approx(float(logit.sigmoid()), abs=0.005)


def test_hard_samples_are_bits_and_pass_gradients() -> None:
    torch.manual_seed(0)
    logits = torch.zeros(4, 3, 5, 5, requires_grad=True)
    for sample in (relaxed_bernoulli(logits, 0.5, hard=True), relaxed_categorical(logits, 0.5, hard=True)):
        assert set(sample.detach().round(decimals=5).unique().tolist()) == {0.0, 1.0}
        (sample * torch.randn_like(sample)).sum().backward()
        assert logits.grad is not None
        assert logits.grad.abs().max() > 0
        logits.grad = None
    assert torch.equal(relaxed_categorical(logits, 0.5, hard=True).sum(1).round(), torch.ones(4, 5, 5))


def test_relaxed_categorical_chooses_with_the_right_shares() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([0.0, 1.0, -1.0])[None, :, None, None].expand(1, 3, 300, 300)
    chosen = relaxed_categorical(logits, 0.7).argmax(1).flatten().bincount(minlength=3) / 300**2
    torch.testing.assert_close(chosen, torch.tensor([0.0, 1.0, -1.0]).softmax(0), atol=0.01, rtol=0)
    assert torch.allclose(relaxed_categorical(logits, 0.7).sum(1), torch.ones(1, 300, 300))


def test_temperature_of_the_authors_code_and_of_the_paper() -> None:
    schedule = {"start": 1.0, "floor": 0.1, "rate": 3e-5}
    compound = [temperature_at(step, **schedule, compound=True) for step in (0, 999, 1000, 2000, 11_999, 12_000)]
    by_hand = [1, 1, math.exp(-0.03), math.exp(-0.03) * math.exp(-0.06)]
    assert compound[:4] == pytest.approx(by_hand)
    assert compound[4] > 0.1
    assert compound[5] == 0.1
    assert temperature_at(35_100, **schedule, compound=False) == pytest.approx(0.349, abs=1e-3)
    assert temperature_at(10**9, **schedule, compound=False) == 0.1


def test_pooling_is_a_weighted_mean() -> None:
    torch.manual_seed(0)
    mean, logvar = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64), torch.randn(2, 3, 4, 5, 6, dtype=torch.float64)
    weight = torch.rand(2, 3, 5, 6, dtype=torch.float64)
    found = pool_appearance(mean, logvar, weight)
    for b, n, d in ((0, 0, 0), (1, 2, 3)):
        total = sum(float(weight[b, n, i, j]) for i in range(5) for j in range(6))
        by_hand = sum(float(weight[b, n, i, j] * mean[b, n, d, i, j]) for i in range(5) for j in range(6)) / total
        spread = sum(float(weight[b, n, i, j] * logvar[b, n, d, i, j].exp()) for i in range(5) for j in range(6)) / total
        assert float(found.mean[b, n, d]) == pytest.approx(by_hand, rel=1e-6)
        assert float(found.variance[b, n, d]) == pytest.approx(spread, rel=1e-6)


def test_an_absent_part_falls_back_to_the_prior() -> None:
    found = pool_appearance(torch.full((1, 1, 2, 3, 3), 5.0), torch.full((1, 1, 2, 3, 3), 99.0), torch.zeros(1, 1, 3, 3))
    assert found.mean.abs().max() == 0
    assert torch.equal(found.variance, torch.ones(1, 1, 2))
    extreme = pool_appearance(torch.zeros(1, 1, 1, 1, 2), torch.tensor([[[[[-900.0, 900.0]]]]]), torch.ones(1, 1, 1, 2))
    assert extreme.variance.isfinite().all()
    assert gaussian_kl(*extreme).isfinite().all()


def test_parts_are_concatenated_along_channels() -> None:
    appearance = torch.arange(1.0, 7.0).reshape(1, 2, 3)
    occurrence = torch.zeros(1, 2, 2, 2)
    occurrence[0, 0, 0, 1] = 1
    occurrence[0, 1, 1, 0] = 0.5
    code = place_parts(appearance, occurrence)
    assert code.shape == (1, 6, 2, 2)
    assert code[0, :, 0, 1].tolist() == [1, 2, 3, 0, 0, 0]
    assert code[0, :, 1, 0].tolist() == [0, 0, 0, 2, 2.5, 3]
    assert code[0, :, 0, 0].abs().max() == 0
