"""Solving y = x + g(x) for x, |g(a) - g(b)| <= L |a - b| with L < 1: plain and Anderson iterations with a proven error.

For the residual r = y - g(x) - x the distance to the solution is at most |r| / (1 - L). Each sample stops by itself and then
costs nothing more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from latens.shapes import Float, Int

RIDGE = 1e-10  # of the least-squares problem, as a share of its largest diagonal entry
GROWTH = 2.0  # an Anderson step whose residual grows by more is followed by a plain step


class Solved(NamedTuple):
    x: Tensor  # (B, ...)
    evaluations: Int[Tensor, "B"]  # of g
    residual: Float[Tensor, "B"]  # |y - g(x) - x|, Euclidean, of the returned x
    converged: Tensor  # (B,) bool: the largest component of the residual is within the tolerance


def solve(
    function: Callable[[Tensor], Tensor],
    y: Tensor,
    *,
    tolerance: float = 5e-7,
    limit: int = 200,
    memory: int = 8,
) -> Solved:
    """The x with x + function(x) = y for every sample of the batch y.

    A sample has converged when every component of its residual is at most `tolerance` (1 + its largest |y|). `memory` is the
    number of earlier steps of Anderson's method; 0 gives plain fixed-point iterations. At most `limit` evaluations.
    """
    shape, flat = y.shape, y.flatten(1)
    target = tolerance * (1 + flat.abs().amax(1))
    best, residual = flat.clone(), torch.full((len(flat),), torch.inf, dtype=y.dtype, device=y.device)
    smallest = residual.clone()  # largest component of the residual of `best`
    evaluations = torch.zeros(len(flat), dtype=torch.int64, device=y.device)
    active = torch.arange(len(flat), device=y.device)
    x = flat
    history = _History(memory)
    for _ in range(limit):
        step = flat[active] - function(x.view(-1, *shape[1:])).flatten(1)  # the plain next x
        r = step - x
        evaluations[active] += 1
        size = r.abs().amax(1)
        better = size < smallest[active]
        chosen = active[better]
        best[chosen], smallest[chosen], residual[chosen] = x[better], size[better], r[better].norm(dim=1)
        going = size > target[active]
        if not bool(going.any()):
            break
        if not bool(going.all()):
            active, x, r, step, size = active[going], x[going], r[going], step[going], size[going]
            history.keep(going)
        x = history.next(x, r, step, size > GROWTH * smallest[active])
    return Solved(best.view(shape), evaluations, residual, smallest <= target)


class _History:
    """Differences of the last steps, for Anderson's method of type II (Walker and Ni 2011)."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.before: tuple[Tensor, Tensor] | None = None
        self.residuals: list[Tensor] = []
        self.steps: list[Tensor] = []

    def keep(self, going: Tensor) -> None:
        """Leaves out the samples that have stopped."""
        if self.before is not None:
            self.before = (self.before[0][going], self.before[1][going])
        self.residuals = [one[going] for one in self.residuals]
        self.steps = [one[going] for one in self.steps]

    def next(self, x: Tensor, r: Tensor, step: Tensor, restart: Tensor) -> Tensor:
        """The next x; the plain `step` where `restart` is set or the least-squares problem has no finite solution."""
        if not self.memory:
            return step
        if self.before is not None:
            self.residuals = [*self.residuals, r - self.before[0]][-self.memory :]
            self.steps = [*self.steps, step - self.before[1]][-self.memory :]
        self.before = (r, step)
        if not self.residuals:
            return step
        differences = torch.stack(self.residuals, dim=1).double()  # (B, m, D)
        gram = differences @ differences.mT
        ridge = RIDGE * gram.diagonal(dim1=1, dim2=2).amax(1).clamp(min=1e-300)
        gram.diagonal(dim1=1, dim2=2).add_(ridge[:, None])
        solution, info = torch.linalg.solve_ex(gram, differences @ r.double()[:, :, None])
        mixed = step - (solution.mT.to(step.dtype) @ torch.stack(self.steps, dim=1))[:, 0]
        plain = restart | (info != 0) | ~mixed.isfinite().all(1)
        return torch.where(plain[:, None], step, mixed)
