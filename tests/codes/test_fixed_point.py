"""Solution of y = x + g(x)."""

from __future__ import annotations

import pytest
import torch

from latens.codes.fixed_point import solve


def contraction(factor: float, dims: int) -> torch.Tensor:
    torch.manual_seed(0)
    matrix = torch.randn(dims, dims, dtype=torch.float64)
    scaled: torch.Tensor = matrix * (factor / torch.linalg.matrix_norm(matrix, 2))
    return scaled


@pytest.mark.parametrize("memory", [0, 5])
def test_the_solution_is_found_and_samples_stop_separately(memory: int) -> None:
    matrix = contraction(0.8, 6)
    y = torch.randn(5, 6, dtype=torch.float64) * torch.logspace(-12, 2, 5, dtype=torch.float64)[:, None]
    solved = solve(lambda x: torch.tanh(x @ matrix), y, tolerance=1e-10, memory=memory)
    back = solved.x + torch.tanh(solved.x @ matrix)
    assert bool(solved.converged.all())
    assert float((back - y).norm(dim=1).max()) <= float(solved.residual.max()) + 1e-12
    assert int(solved.evaluations[0]) < int(solved.evaluations[-1])


def test_anderson_needs_fewer_evaluations() -> None:
    matrix = contraction(0.9, 8)
    y = torch.randn(20, 8, dtype=torch.float64)
    plain, anderson = (solve(lambda x: torch.tanh(x @ matrix), y, tolerance=1e-9, memory=m) for m in (0, 5))
    assert int(anderson.evaluations.max()) < 0.6 * int(plain.evaluations.max())
    torch.testing.assert_close(plain.x, anderson.x, atol=1e-7, rtol=0)


def test_the_error_is_within_the_bound_of_the_residual() -> None:
    matrix = contraction(0.7, 4)
    truth = torch.randn(30, 4, dtype=torch.float64)
    y = truth + truth @ matrix
    solved = solve(lambda x: x @ matrix, y, tolerance=1e-3)
    error = (solved.x - truth).norm(dim=1)
    assert float(error.max()) > 0
    assert bool((error <= solved.residual / (1 - 0.7)).all())


def test_missing_convergence_is_reported() -> None:
    solved = solve(lambda x: -3 * x + 1, torch.ones(2, 3), limit=4, memory=0)
    assert not bool(solved.converged.any())
    assert solved.evaluations.tolist() == [4, 4]
    assert bool(solved.x.isfinite().all())


def test_constant_maps_and_equal_steps() -> None:
    y = torch.randn(3, 4)
    solved = solve(lambda x: torch.zeros_like(x), y)
    torch.testing.assert_close(solved.x, y)
    assert solved.evaluations.tolist() == [1, 1, 1]


def test_the_step_after_the_last_evaluation_is_taken() -> None:
    """x + x / 2 = 1 from two evaluations: their secant is exact, though the residual of the second point is 0.25."""
    solved = solve(lambda x: 0.5 * x, torch.ones(1, 1, dtype=torch.float64), tolerance=0.3)
    assert solved.evaluations.tolist() == [2]
    assert float(solved.x) == pytest.approx(2 / 3, abs=1e-9)
    assert bool(solved.converged.all())


def test_tolerance_is_limited_by_rounding() -> None:
    matrix = contraction(0.5, 8).float()
    y = 1000 * torch.randn(4, 8)
    solved = solve(lambda x: torch.tanh(x @ matrix), y, tolerance=0.0)
    assert bool(solved.converged.all())
    assert int(solved.evaluations.max()) < 30
