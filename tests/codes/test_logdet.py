"""Log-determinants: roulette weights, exact expectations over probes and stopping times, bounds of truncated series."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch

from latens.codes.bijector import ResidualMap
from latens.codes.logdet import Roulette, Series, estimated, exact_log_det, tail_bound, weights_of
from latens.nn.branch import dense_branch
from latens.nn.lipschitz import Spectral, power_iterations

ROULETTES = [Roulette("poisson", 2.0, 2), Roulette("geometric", 0.5, 1)]


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("roulette", ROULETTES)
def test_every_term_has_weight_one_on_average(roulette: Roulette) -> None:
    """Expectation over the stopping time without sampling, exact up to rounding."""
    for k in range(1, 13):
        mean = math.fsum(roulette.probability(n) * roulette.weights(n)[k - 1] for n in range(max(k - roulette.exact, 0), 90))
        assert mean == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("roulette", ROULETTES)
def test_probabilities_add_up(roulette: Roulette) -> None:
    assert math.fsum(roulette.probability(n) for n in range(200)) == pytest.approx(1.0, abs=1e-12)
    for n in (0, 1, 3, 10, 30):
        assert roulette.reached(n) == pytest.approx(math.fsum(roulette.probability(i) for i in range(n, 300)), rel=1e-9)


@pytest.mark.parametrize("roulette", ROULETTES)
def test_stopping_times_follow_their_distribution(roulette: Roulette) -> None:
    stops = torch.tensor([roulette.stop() for _ in range(4000)])
    for n in range(4):
        p = roulette.probability(n)
        assert float((stops == n).double().mean()) == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / 4000) + 1e-12)
    assert len(weights_of(roulette)) >= roulette.exact


def small_branch() -> ResidualMap:
    branch = dense_branch(3, growth=8, depth=2, activation="clipswish", learned=True, coefficient=0.9, mixing=0.98, size=None)
    layers = [part for part in branch.modules() if isinstance(part, Spectral)]
    for layer in layers:
        layer.weight.data.mul_(5)
    power_iterations(layers, 100)
    return ResidualMap(branch)


def all_signs(dims: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=dims)))


def mean_estimate(mapped: ResidualMap, x: torch.Tensor, weights: list[float]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Value and gradients of the estimate at one point, averaged over all sign vectors."""
    folded = mapped.branch.folded()
    signs = all_signs(x.shape[1])
    rows = x.expand(len(signs), -1)
    _, products, slopes = mapped.branch.linearized(rows, signs[None], folded)
    found = estimated(products[0], signs, weights, lambda w: mapped.branch.pull_back(w, slopes, folded))
    value = found.value.mean()
    return value.detach(), list(torch.autograd.grad(value, list(mapped.parameters()), allow_unused=True))


@pytest.mark.parametrize("roulette", ROULETTES)
def test_roulette_is_unbiased_in_value_and_gradient(roulette: Roulette) -> None:
    """All sign vectors are enumerated and stopping times summed with their probabilities, up to 60 terms.

    The value is that of the series with 60 terms to 1e-12; its gradient is that of the exact log-determinant.
    """
    mapped, x = small_branch(), torch.randn(1, 3)
    most = 60
    # linear in the weights: the mean over stopping times needs the mean weight of each term only
    mean_weights = [
        math.fsum(roulette.probability(n) * roulette.weights(n)[k - 1] for n in range(max(k - roulette.exact, 0), 150))
        for k in range(1, most + 1)
    ]
    value, gradients = mean_estimate(mapped, x, mean_weights)
    columns = mapped.branch.linearized(x, torch.eye(3)[:, None], mapped.branch.folded()).products
    exact = exact_log_det(columns.flatten(2)).sum()
    wanted = torch.autograd.grad(exact, list(mapped.parameters()), allow_unused=True)
    assert float(value.detach()) == pytest.approx(float(exact.detach()), abs=1e-12)
    for one, other in zip(gradients, wanted, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-9)


def test_a_single_stopping_time_is_not_enough() -> None:
    """The test above can fail: a truncated series is biased."""
    mapped, x = small_branch(), torch.randn(1, 3)
    columns = mapped.branch.linearized(x, torch.eye(3)[:, None], mapped.branch.folded()).products
    cut, exact = mean_estimate(mapped, x, [1.0, 1.0])[0], exact_log_det(columns.flatten(2))
    assert abs(float(cut.detach()) - float(exact.detach())) > 1e-6


@pytest.mark.parametrize("terms", [1, 2, 3, 5, 8])
def test_the_error_of_a_series_is_within_its_bound(terms: int) -> None:
    for _ in range(5):
        mapped, x = small_branch(), torch.randn(1, 3)
        bound = mapped.branch.lipschitz()
        columns = mapped.branch.linearized(x, torch.eye(3)[:, None], mapped.branch.folded()).products.flatten(2).detach()
        frobenius = columns.square().sum((0, 2))
        value = mean_estimate(mapped, x, weights_of(Series(terms)))[0]
        error = abs(float(value) - float(exact_log_det(columns)))
        assert error <= float(tail_bound(terms, bound, frobenius))
        assert float(tail_bound(terms, bound, frobenius)) <= float(tail_bound(terms, bound, torch.tensor(3 * bound**2)))


@pytest.mark.parametrize(("terms", "lipschitz"), [(0, 0.5), (3, 1.0)])
def test_no_bound_without_contraction(terms: int, lipschitz: float) -> None:
    with pytest.raises(ValueError, match=rf"^no bound for {terms} terms and L = {lipschitz}$"):
        tail_bound(terms, lipschitz, torch.ones(1))


def test_the_bound_is_tight_if_all_eigenvalues_are_at_their_limit() -> None:
    """J = -L I in 4 dimensions omits 4 sum_{j > k} L^j / j; at rank one, the measured norm keeps the bound as tight."""
    lipschitz, terms = 0.5, 8
    left_out = -math.log1p(-lipschitz) - sum(lipschitz**j / j for j in range(1, terms + 1))
    for rank in (4, 1):
        bound = float(tail_bound(terms, lipschitz, torch.tensor(rank * lipschitz**2, dtype=torch.float64)))
        assert rank * left_out <= bound <= 1.15 * rank * left_out
    coarse = float(tail_bound(terms, lipschitz, torch.tensor(4 * lipschitz**2, dtype=torch.float64)))
    assert coarse > 4 * left_out  # from the dimensions alone: four times the error of rank one


def test_the_bound_of_a_block_at_its_limit_is_known() -> None:
    """0.162 bits per dimension for L = .98^4, twenty terms and no measured norm, whatever the dimensions."""
    lipschitz, dims = 0.98**4, 3072
    bound = float(tail_bound(20, lipschitz, torch.tensor(dims * lipschitz**2, dtype=torch.float64)))
    assert bound / (dims * math.log(2)) == pytest.approx(0.162, abs=0.001)
