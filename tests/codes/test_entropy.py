"""Rates against direct integration in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from latens.codes.entropy import FactorizedPrior, gaussian_bits, round_everywhere, round_for_rate


@pytest.mark.parametrize("scale", [0.11, 0.5, 1.0, 3.7, 40.0])
def test_gaussian_bits_are_the_integral_over_a_unit_bin(scale: float) -> None:
    values = torch.tensor([0.0, 0.3, -1.0, 2.0, 5.0])
    normal = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), scale)
    mass = normal.cdf(-values.double().abs() + 0.5) - normal.cdf(-values.double().abs() - 0.5)
    expected = -torch.log2(mass.clamp_min(1e-9))
    torch.testing.assert_close(gaussian_bits(values, torch.tensor(scale)).double(), expected, atol=2e-3, rtol=1e-4)


def test_gaussian_bits_sum_to_a_distribution() -> None:
    offsets = torch.arange(-60, 61).float()
    assert float(torch.exp2(-gaussian_bits(offsets + 0.37, torch.tensor(4.0))).sum()) == pytest.approx(1, abs=1e-5)


def test_a_scale_below_the_bound_still_learns() -> None:
    scale = torch.tensor([0.01], requires_grad=True)
    gaussian_bits(torch.tensor([0.6]), scale).sum().backward()
    assert scale.grad is not None
    assert scale.grad.item() < 0  # a wider Gaussian would cost fewer bits


def trained_prior() -> FactorizedPrior:
    torch.manual_seed(3)
    prior = FactorizedPrior(2)
    target = torch.stack([torch.randn(4000) * 2 + 1.3, torch.randn(4000) * 0.5 - 4])[None, :, :, None]
    optimizer = torch.optim.Adam(prior.parameters(), 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        noisy = target[:, :, torch.randint(4000, (256,))]
        prior.bits(noisy + torch.rand_like(noisy) - 0.5).mean().backward()
        optimizer.step()
    return prior


def test_the_factorized_prior_learns_a_density() -> None:
    prior = trained_prior()
    medians = prior.medians()
    assert medians.tolist() == pytest.approx([1.3, -4.0], abs=0.35)
    masses, lows = prior.probabilities(medians, tail=2.0**-16)
    for channel, (mass, low, spread) in enumerate(zip(masses, lows, (2.0, 0.5), strict=True)):
        assert mass.sum() == pytest.approx(1, abs=2e-4)
        offsets = low + np.arange(len(mass))
        grid = torch.from_numpy(offsets).float() + medians[channel]
        direct = prior.likelihood(torch.stack([grid, grid])[None, :, :, None])[0, channel, :, 0]
        assert np.allclose(direct.detach().numpy(), mass, atol=1e-5)
        # The entropy of a Gaussian in bits, once a unit bin is added to its variance.
        entropy = -(mass[mass > 0] * np.log2(mass[mass > 0])).sum()
        assert entropy == pytest.approx(0.5 * math.log2(2 * math.pi * math.e * (spread**2 + 1 / 12)), abs=0.25)


def test_rate_aware_rounding_is_the_best_of_its_two_candidates() -> None:
    torch.manual_seed(4)
    residual, scale = torch.randn(2000) * 3, torch.rand(2000) * 4 + 0.1
    weight = 15.0

    def cost(symbols: torch.Tensor) -> torch.Tensor:
        return gaussian_bits(symbols, scale) + weight * (residual - symbols).square()

    chosen = round_for_rate(residual, scale, weight)
    nearest = residual.round()
    assert torch.equal(cost(chosen), torch.minimum(cost(nearest), cost(nearest - nearest.sign())))
    assert (chosen.abs() <= nearest.abs()).all()
    assert (chosen != nearest).any()
    assert torch.equal(round_for_rate(residual, scale, 1e6), nearest)
    assert torch.equal(round_everywhere(residual, scale, weight), chosen)  # the path of accelerators


def test_rate_aware_rounding_of_many_dimensions_one_scale_and_unknown_entries() -> None:
    residual = torch.tensor([[[0.4, -0.6, 2.9], [float("nan"), -7.2, 0.0]]])
    expected = torch.tensor([[[0.0, -1.0, 3.0], [float("nan"), -7.0, 0.0]]])
    for scale in (torch.tensor(2.0), torch.full((1, 2, 1), 2.0)):
        found = round_for_rate(residual, scale, 1e6)
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    assert round_for_rate(residual[:, :0], torch.tensor(2.0), 20.0).shape == (1, 0, 3)


def test_the_initial_density_of_the_prior() -> None:
    """Slope 1 / spread of the logit for any depth and width, offsets in [-1/2, 1/2], no gates (Balle et al. 2018)."""
    torch.manual_seed(0)
    for prior, spread in ((FactorizedPrior(50), 10.0), (FactorizedPrior(50, width=2, depth=2, spread=4.0), 4.0)):
        depth, width = len(prior.gates), prior.gates[0].shape[1]
        assert prior.weights[0].shape == (50, width, 1)
        assert prior.weights[depth].shape == (50, 1, width)
        assert len(prior.weights) == depth + 1 == len(prior.biases)
        ends = prior.logits(torch.tensor([[[-1.0, 2.0]]]).expand(50, 1, 2))
        torch.testing.assert_close(ends[..., 1] - ends[..., 0], torch.full((50, 1), 3 / spread), rtol=1e-4, atol=1e-5)
        biases = torch.cat([bias.flatten() for bias in prior.biases]).detach()
        assert -0.5 <= float(biases.min()) < -0.4
        assert 0.4 < float(biases.max()) <= 0.5
        assert not any(gate.any() for gate in prior.gates)
        assert prior.channels == 50


@torch.no_grad()
def test_tables_of_the_prior_by_hand() -> None:
    """Medians by their definition; a table ends where less than the tail remains; both ends are kept to `max_offset`."""
    torch.manual_seed(1)
    prior = FactorizedPrior(3, spread=2.0)
    for gate in prior.gates:
        gate.normal_()
    medians = prior.medians()
    logits = prior.double().logits(medians.double()[:, None, None])
    assert float(logits.abs().max()) < 1e-5
    prior.float()
    tables, lows = prior.probabilities(medians, tail=1e-3, max_offset=40)
    for channel, (table, low) in enumerate(zip(tables, lows, strict=True)):
        places = torch.arange(-41, 42).float() + medians[channel] - 0.5
        edges = prior.logits(places.expand(3, 1, -1))[channel, 0].double().sigmoid().numpy()  # cumulative, at lower edges
        below, above = edges[1:-1], 1 - edges[2:]
        kept = [
            k for k in range(len(below)) if (k == 40) or (k < 40 and below[k + 1] > 1e-3) or (k > 40 and above[k - 1] > 1e-3)
        ]
        assert low == kept[0] - 40
        assert len(table) == len(kept)
        np.testing.assert_allclose(table, np.diff(edges)[1:][kept[0] : kept[-1] + 1], atol=1e-5)
    short, first = prior.probabilities(medians, tail=1e-12, max_offset=2)
    assert {len(table) for table in short} == {5}
    assert set(first) == {-2}


def test_likelihoods_keep_their_shape_and_their_tails() -> None:
    """The mass of every bin by the difference of the sigmoids; far out it stays above zero."""
    torch.manual_seed(2)
    prior = FactorizedPrior(2, spread=1.0)
    z = torch.randn(3, 2, 4, 5) * 3
    found = prior.likelihood(z)
    for channel in range(2):
        flat = z[:, channel].reshape(1, 1, -1).expand(2, 1, -1).double()
        wide = prior.double()
        expected = (wide.logits(flat + 0.5).sigmoid() - wide.logits(flat - 0.5).sigmoid())[channel].view(3, 4, 5)
        prior.float()
        torch.testing.assert_close(found[:, channel].double(), expected, rtol=1e-4, atol=1e-7)
    far = prior.likelihood(torch.tensor([40.0, -40.0]).view(1, 2, 1, 1)).detach()
    assert 0 < float(far.min()) < float(far.max()) < 1e-8
    assert float(prior.bits(torch.full((1, 2, 1, 1), 1e4)).detach().max()) == pytest.approx(-math.log2(1e-9), rel=1e-5)
