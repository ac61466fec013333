"""Fixed-point and Anderson iterations that solve y = x + g(x) for x, where g has a Lipschitz constant L < 1.

With the residual r = y - g(x) - x, the distance to the solution is at most |r| / (1 - L). Each sample stops separately and is
not evaluated afterwards; the step that follows from its last evaluation is still taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from latens.shapes import Float, Int

RIDGE = 1e-10  # regularization of the least-squares problem, relative to its largest diagonal entry
GROWTH = 2.0  # a plain step follows an Anderson step whose residual grows by more than this factor
LONGEST = 10.0  # a last Anderson step longer than this many residuals is replaced by a plain step
ROUNDING = 1.0  # smallest required residual, in float epsilons of 1 + |y| (root mean square)


class Solved(NamedTuple):
    x: Tensor  # (B, ...)
    evaluations: Int[Tensor, "B"]  # of g
    residual: Float[Tensor, "B"]  # upper bound on |y - g(x) - x|, Euclidean, of the returned x
    converged: Tensor  # (B,) bool: the residual is within the tolerance


def solve(
    function: Callable[[Tensor], Tensor],
    y: Tensor,
    *,
    tolerance: float = 5e-7,
    limit: int = 200,
    memory: int = 8,
) -> Solved:
    """Solve x + function(x) = y for every sample of the batch y, with at most `limit` evaluations.

    A sample has converged when the root mean square of its residual is at most `tolerance`, in units of y, or at the level of
    rounding errors. `memory` is the number of earlier steps in Anderson's method; 0 gives plain fixed-point iterations.
    """
    shape, flat = y.shape, y.flatten(1)
    floor = ROUNDING * torch.finfo(y.dtype).eps * (1 + flat.square().mean(1).sqrt())
    target = floor.clamp(min=tolerance) * flat.shape[1] ** 0.5
    best, residual = flat.clone(), torch.full((len(flat),), torch.inf, dtype=y.dtype, device=y.device)
    evaluations = torch.zeros(len(flat), dtype=torch.int64, device=y.device)
    solved = torch.zeros(len(flat), dtype=torch.bool, device=y.device)
    active = torch.arange(len(flat), device=y.device)
    x = flat
    history = _History(memory)
    for _ in range(limit):
        step = flat[active] - function(x.view(-1, *shape[1:])).flatten(1)  # the plain next x
        r = step - x
        evaluations[active] += 1
        size = r.norm(dim=1)
        better = size < residual[active]
        best[active[better]], residual[active[better]] = x[better], size[better]
        following = history.next(x, r, step, size > GROWTH * residual[active])
        going = size > target[active]
        if not bool(going.all()):
            done = ~going
            solved[active[done]] = True
            best[active[done]], residual[active[done]] = _last(x[done], r[done], step[done], following[done])
            if not bool(going.any()):
                break
            active, following = active[going], following[going]
            history.keep(going)
        x = following
    return Solved(best.view(shape), evaluations, residual, solved)


def _last(x: Tensor, r: Tensor, step: Tensor, following: Tensor) -> tuple[Tensor, Tensor]:
    """The step from x after the last evaluation, and a bound on its residual: |r| + 2 |moved|, because Lip(g) < 1."""
    size, moved = r.norm(dim=1), (following - x).norm(dim=1)
    last = torch.where((moved <= LONGEST * size)[:, None], following, step)
    return last, size + 2 * (last - x).norm(dim=1)


class _History:
    """Differences of the last steps, for Anderson's method of type II (Walker and Ni 2011)."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.before: tuple[Tensor, Tensor] | None = None
        self.residuals: list[Tensor] = []
        self.steps: list[Tensor] = []

    def keep(self, going: Tensor) -> None:
        """Drop the samples that have stopped."""
        if self.before is not None:
            self.before = (self.before[0][going], self.before[1][going])
        self.residuals = [one[going] for one in self.residuals]
        self.steps = [one[going] for one in self.steps]

    def next(self, x: Tensor, r: Tensor, step: Tensor, restart: Tensor) -> Tensor:
        """The next x: the plain `step` if `restart` is set or the least-squares problem has no finite solution."""
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
