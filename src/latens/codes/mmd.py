"""Losses that match Gaussian codes to their prior: maximum mean discrepancy (Li et al. 2019, section 3.1.1) and KL divergence.

Letters: B batch, C code dimension, h w positions of a spatial code, each of which is a sample of dimension C.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from latens.nn.ranks import all_rows, processes
from latens.shapes import Float


def gaussian_kernel(x: Float[Tensor, "M D"], y: Float[Tensor, "N D"], bandwidths: Sequence[float]) -> Float[Tensor, "M N"]:
    """exp(-|x - y|^2 / (2 sigma^2)), averaged over the bandwidths sigma (in units of x); values in (0, 1]."""
    squared = squared_distances(x, y)
    kernels = [torch.exp(squared / (-2 * sigma * sigma)) for sigma in bandwidths]
    return torch.stack(kernels).mean(0)


def squared_distances(x: Float[Tensor, "M D"], y: Float[Tensor, "N D"]) -> Float[Tensor, "M N"]:
    """|x_i - y_j|^2, in float32 or wider, never negative."""
    x, y = (v if v.dtype == torch.float64 else v.float() for v in (x, y))
    with torch.autocast(x.device.type, enabled=False):
        return (x.square().sum(1)[:, None] + y.square().sum(1)[None] - 2 * x @ y.T).clamp_min(0)


def mmd(x: Float[Tensor, "M D"], y: Float[Tensor, "N D"], bandwidths: Sequence[float]) -> Float[Tensor, ""]:
    """Unbiased squared maximum mean discrepancy under a mean of Gaussian kernels (Li et al. 2019, Eq. 8).

    The second sum of Eq. 8 should run to n, as here. Raises ValueError unless M, N >= 2. At most 2; may be slightly negative.
    """
    m, n = len(x), len(y)
    if m < 2 or n < 2:
        raise ValueError(f"the unbiased estimate needs two samples on each side, got {m} and {n}")
    within_x = _off_diagonal_sum(gaussian_kernel(x, x, bandwidths)) / (m * (m - 1))
    within_y = _off_diagonal_sum(gaussian_kernel(y, y, bandwidths)) / (n * (n - 1))
    return within_x + within_y - 2 * gaussian_kernel(x, y, bandwidths).mean()


def _off_diagonal_sum(kernel: Tensor) -> Tensor:
    return kernel.sum() - kernel.diagonal().sum()


def default_bandwidth(dimension: int) -> float:
    """Sigma with sigma^2 = C: the mean squared distance of two samples of the prior is 2 C, so their kernel is about 1/e.

    Li et al. 2019 give no bandwidth. Zhao et al. 2019 use sigma^2 = C^2 / 2, for which the kernel is nearly 1 at C = 256.
    """
    return math.sqrt(dimension)


def code_mmd(code: Float[Tensor, "B C h w"], *, positions: int, bandwidths: Sequence[float] = ()) -> Float[Tensor, ""]:
    """`mmd`, a squared distance, between the positions of codes and as many samples of N(0, 1) (for Eqs. 9 to 12).

    At most `positions` random positions of the B h w are used, because the cost is quadratic in their number; B are the codes
    of all processes of a training. Bandwidths default to `default_bandwidth`.
    """
    samples = code.movedim(1, -1).flatten(0, -2)
    own = max(positions // processes(), 2)
    if len(samples) > own:
        samples = samples[torch.randperm(len(samples), device=code.device)[:own]]
    prior = torch.randn_like(samples, dtype=torch.float32)
    return mmd(all_rows(samples), all_rows(prior), bandwidths or (default_bandwidth(samples.shape[1]),))


def code_kl(mean: Float[Tensor, "B C h w"]) -> Float[Tensor, ""]:
    """Mean of mu^2: twice the KL divergence of N(mu, 1) from N(0, 1) per dimension, as in UNIT (Liu et al. 2017)."""
    return mean.float().square().mean()


def signal_to_noise(mean: Float[Tensor, "B C h w"]) -> Float[Tensor, ""]:
    """Variance of the code's mean over positions relative to the unit sampling noise, in dB, averaged over dimensions.

    Far above 0 dB the noise, and hence the prior, has little effect on the code.
    """
    variance = mean.detach().float().movedim(1, 0).flatten(1).var(1).mean()
    return 10 * variance.clamp_min(1e-12).log10()
