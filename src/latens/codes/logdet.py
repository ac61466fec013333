"""log det(I + J) of a residual map: exact, by a truncated power series, or by a Russian-roulette estimate.

    log det(I + J) = sum_k (-1)^(k+1) / k tr J^k     for |J| < 1 (Behrmann et al. 2019; Perugachi-Diaz 2024, Eq. 4.2.3)

An estimate is a list of weights of the first terms: 1 for a truncated series, 1 / P(N >= k - exact) for roulette (Chen et al.
2019). Traces are estimated with Rademacher vectors. The gradient is that of the weighted series in its Neumann form,
sum_k (-1)^(k-1) c_k e^T J^(k-1) dJ e, which needs one backward pass and no graph of the series.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from latens.shapes import Float

Distribution: TypeAlias = Literal["poisson", "geometric"]


def rademacher(like: Tensor, count: int) -> Float[Tensor, "count ..."]:
    """Random signs; their trace estimates have a lower variance than those of Gaussian vectors."""
    return torch.randint(0, 2, (count, *like.shape), device=like.device).to(like.dtype).mul_(2).sub_(1)


class Exact(NamedTuple):
    """The determinant of the full Jacobian; the cost grows with the dimension."""


class Series(NamedTuple):
    """The first `terms` of the series."""

    terms: int
    probes: int = 1  # number of random vectors
    draw: Callable[[Tensor, int], Tensor] = rademacher  # samples them, (probes, B, ...)


def _poisson(rate: float, n: int) -> float:
    return math.exp(-rate + n * math.log(rate) - math.lgamma(n + 1))


@functools.cache
def _poisson_reached(rate: float, n: int) -> float:
    """P(N >= n), as the sum of the tail, because 1 - P(N < n) loses all digits for large n."""
    terms = [_poisson(rate, n)]
    while terms[-1] > 1e-18 * max(terms):
        terms.append(_poisson(rate, n + len(terms)))
    return math.fsum(terms)


class Roulette(NamedTuple):
    """`exact` terms with weight 1 and N further terms, each divided by the probability that it is evaluated."""

    distribution: Distribution = "poisson"
    rate: float = 2.0  # mean of Poisson, success probability of geometric (N = 1, 2, ...)
    exact: int = 2
    probes: int = 1  # number of random vectors
    draw: Callable[[Tensor, int], Tensor] = rademacher  # samples them, (probes, B, ...)

    def probability(self, n: int) -> float:
        """P(N = n)."""
        if self.distribution == "poisson":
            return _poisson(self.rate, n)
        return self.rate * (1 - self.rate) ** (n - 1) if n >= 1 else 0.0

    def reached(self, n: int) -> float:
        """P(N >= n)."""
        if n <= 0:
            return 1.0
        if self.distribution == "geometric":
            return float((1 - self.rate) ** (n - 1))
        return _poisson_reached(self.rate, n)

    def weights(self, drawn: int) -> list[float]:
        """Weights of the terms for N = `drawn`."""
        return [1 / self.reached(k - self.exact) for k in range(1, self.exact + drawn + 1)]

    def stop(self) -> int:
        """A random N, from torch's global generator."""
        if self.distribution == "poisson":
            return int(torch.poisson(torch.tensor(self.rate)))
        uniform = float(torch.rand(()))
        return 1 + int(math.log1p(-uniform) / math.log1p(-self.rate))


Estimate: TypeAlias = Exact | Series | Roulette


class LogDet(NamedTuple):
    """`value` (B,) is the estimate in nats, differentiable. `moments` (B,) is |J e|^2, an estimate of |J|_F^2."""

    value: Tensor
    moments: Tensor


def weights_of(estimate: Series | Roulette) -> list[float]:
    """The weights of the terms; roulette draws N."""
    if isinstance(estimate, Series):
        return [1.0] * estimate.terms
    return estimate.weights(estimate.stop())


def estimated(
    products: Tensor,
    probes: Tensor,
    weights: Sequence[float],
    pull_back: Callable[[Tensor], Tensor],
) -> LogDet:
    """The weighted series from one probe e (B, ...), its differentiable product J e, and the map w -> J^T w.

    The value is that of the power series and the gradient that of the Neumann series.
    """
    dims = tuple(range(1, probes.ndim))
    fixed = products.detach()
    w, total = probes, probes.new_zeros(len(probes))
    adjoint = weights[0] * probes
    for k, weight in enumerate(weights, start=1):
        if k > 1:
            w = pull_back(w)
            adjoint = adjoint.add(w, alpha=weight if k % 2 else -weight)
        total = total.add((w * fixed).sum(dims), alpha=(1 if k % 2 else -1) * weight / k)
    moments = fixed.square().sum(dims)
    if not products.requires_grad:
        return LogDet(total, moments)
    slope = (adjoint * products).sum(dims)
    return LogDet(slope + (total - slope.detach()), moments)


def exact_log_det(columns: Float[Tensor, "D B D"]) -> Float[Tensor, "B"]:
    """log det(I + J) from the columns of J, J e_i = columns[i]; differentiable."""
    size = len(columns)
    if size == 1:
        return (1 + columns[0, :, 0]).log()
    if size == 2:
        (a, c), (b, d) = columns[0].unbind(1), columns[1].unbind(1)
        return ((1 + a) * (1 + d) - b * c).log()
    jacobian = columns.permute(1, 2, 0)
    identity = torch.eye(size, dtype=columns.dtype, device=columns.device)
    log_det: Tensor = torch.linalg.slogdet(jacobian + identity).logabsdet
    return log_det


def tail_bound(terms: int, lipschitz: float, frobenius: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """Upper bound on the error of a series with `terms` terms: the sum of |tr J^j| <= |J|_F^2 L^(j-2) over the omitted terms.

    `frobenius` is |J|_F^2 or an upper bound of it, such as D L^2. Raises ValueError for `terms` below 1 or L outside [0, 1).
    """
    if terms < 1 or not 0 <= lipschitz < 1:
        raise ValueError(f"no bound for {terms} terms and L = {lipschitz}")
    return frobenius * lipschitz ** (terms - 1) / ((terms + 1) * (1 - lipschitz))
