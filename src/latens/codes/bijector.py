"""Invertible maps with their log-determinants: the steps of a normalizing flow.

`forward` returns y and log |det dy/dx| in nats per sample; `inverse` returns x. Only the residual map uses the `estimate`
argument; the other maps have a closed-form log-determinant.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from latens.codes.fixed_point import Solved, solve
from latens.codes.logdet import Estimate, Exact, estimated, exact_log_det, weights_of
from latens.nn.branch import Branch, Folded
from latens.nn.ranks import all_rows
from latens.shapes import Float

VARIANCE_FLOOR = 0.2  # minimum variance of a channel in the initialization of ActNorm (Chen et al. 2019)
WHITENING_FLOOR = 1e-4  # minimum variance along a principal direction in the initialization of Whitening
LEVELS = 256


class Mapped(NamedTuple):
    """`moments` is |J e|^2 of a residual branch, averaged over probes e, which bounds truncation errors; else None."""

    value: Tensor
    log_det: Float[Tensor, "B"]
    moments: Float[Tensor, "B"] | None = None


@runtime_checkable
class Bijector(Protocol):
    """An invertible map on batches."""

    def forward(self, x: Tensor, estimate: Estimate) -> Mapped: ...

    def inverse(self, y: Tensor) -> Tensor: ...


class ResidualMap(nn.Module):
    """y = x + g(x) with Lip(g) < 1 (Behrmann et al. 2019).

    `recompute` enables gradient checkpointing: a second forward pass in training saves memory. `last` is the record of the
    last inverse, with its number of evaluations of g.
    """

    last: Solved | None = None

    def __init__(self, branch: Branch, *, recompute: bool = False) -> None:
        super().__init__()
        self.branch, self.recompute = branch, recompute

    def forward(self, x: Tensor, estimate: Estimate, folded: list[Folded] | None = None) -> Mapped:
        """`folded` are the branch's folded weights; None computes them."""
        folded = self.branch.folded() if folded is None else folded
        if isinstance(estimate, Exact):
            return Mapped(*self._exact(x, folded))
        probes, weights = estimate.draw(x, estimate.probes), weights_of(estimate)
        if self.recompute and torch.is_grad_enabled():
            return Mapped(*checkpoint(self._series, x, probes, weights, folded, use_reentrant=False))
        return Mapped(*self._series(x, probes, weights, folded))

    def _exact(self, x: Tensor, folded: list[Folded]) -> tuple[Tensor, Tensor]:
        size = x[0].numel()
        basis = torch.eye(size, dtype=x.dtype, device=x.device).view(size, 1, *x.shape[1:]).expand(size, *x.shape)
        value, products, _ = self.branch.linearized(x, basis, folded)
        return x + value, exact_log_det(products.flatten(2))

    def _series(self, x: Tensor, probes: Tensor, weights: list[float], folded: list[Folded]) -> tuple[Tensor, Tensor, Tensor]:
        """Probes run one after the other, so memory does not grow with their number."""
        total, moments = x.new_zeros(len(x)), x.new_zeros(len(x))
        for probe in probes:
            value, products, slopes = self.branch.linearized(x, probe[None], folded)
            found = estimated(products[0], probe, weights, lambda w, s=slopes: self.branch.pull_back(w, s, folded))  # type: ignore[misc]
            total, moments = total + found.value / len(probes), moments + found.moments / len(probes)
        return x + value, total, moments

    @torch.no_grad()
    def inverse(self, y: Tensor, *, tolerance: float = 5e-7, limit: int = 200, memory: int = 8) -> Tensor:
        folded = self.branch.folded()
        self.last = solve(lambda x: self.branch(x, folded), y, tolerance=tolerance, limit=limit, memory=memory)
        return self.last.x


class ActNorm(nn.Module):
    """y = (x + shift) exp(log_scale) per channel (Kingma and Dhariwal 2018).

    The first training batch initializes it to zero mean and unit variance; variances are clamped to VARIANCE_FLOOR. The
    buffer `seen` stores that this has happened.
    """

    seen: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.register_buffer("seen", torch.tensor(False))

    def forward(self, x: Tensor, estimate: Estimate) -> Mapped:
        if self.training and not bool(self.seen):
            self.initialize(all_rows(x))
        over = (-1, *(1,) * (x.ndim - 2))
        places = x[0, 0].numel()
        value = (x + self.shift.view(over)) * self.log_scale.exp().view(over)
        return Mapped(value, (places * self.log_scale.sum()).expand(len(x)))

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        dims = [0, *range(2, x.ndim)]
        self.shift.copy_(-x.mean(dims))
        self.log_scale.copy_(-0.5 * x.var(dims, correction=0).clamp(min=VARIANCE_FLOOR).log())
        self.seen.fill_(True)

    def inverse(self, y: Tensor) -> Tensor:
        over = (-1, *(1,) * (y.ndim - 2))
        return y * (-self.log_scale).exp().view(over) - self.shift.view(over)


class Whitening(nn.Module):
    """y = W (x + shift) over channels.

    The first training batch initializes it to zero mean and identity covariance. W starts symmetric (ZCA), so channels keep
    their meaning; variances are clamped to WHITENING_FLOOR.
    """

    seen: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))
        self.weight = nn.Parameter(torch.eye(channels))
        self.register_buffer("seen", torch.tensor(False))

    def forward(self, x: Tensor, estimate: Estimate) -> Mapped:
        if self.training and not bool(self.seen):
            self.initialize(all_rows(x))
        log_det = torch.linalg.slogdet(self.weight).logabsdet * x[0, 0].numel()
        return Mapped(F.conv2d(x, self.weight[:, :, None, None], self.weight @ self.shift), log_det.expand(len(x)))

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        rows = x.transpose(0, 1).flatten(1).double()  # (C, B H W)
        mean = rows.mean(1, keepdim=True)
        covariance = (rows - mean) @ (rows - mean).T / rows.shape[1]
        values, vectors = torch.linalg.eigh(covariance)
        self.shift.copy_(-mean[:, 0])
        self.weight.copy_(vectors * values.clamp(min=WHITENING_FLOOR).rsqrt() @ vectors.T)
        self.seen.fill_(True)

    def inverse(self, y: Tensor) -> Tensor:
        weight = torch.linalg.inv(self.weight.double()).to(y.dtype)
        return F.conv2d(y, weight[:, :, None, None]) - self.shift.view(-1, 1, 1)


class Squeeze(nn.Module):
    """(B, C, 2H, 2W) -> (B, 4C, H, W): space to depth."""

    def forward(self, x: Tensor, estimate: Estimate) -> Mapped:
        return Mapped(F.pixel_unshuffle(x, 2), x.new_zeros(len(x)))

    def inverse(self, y: Tensor) -> Tensor:
        return F.pixel_shuffle(y, 2)


class Flatten(nn.Module):
    """Flattens images (B, C, H, W) to vectors (B, C H W); `shape` is (C, H, W). The log-determinant is 0."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor, estimate: Estimate) -> Mapped:
        return Mapped(x.flatten(1), x.new_zeros(len(x)))

    def inverse(self, y: Tensor) -> Tensor:
        return y.view(-1, *self.shape)


class Logit(nn.Module):
    """y = logit(alpha + (1 - 2 alpha) x) for x in [0, 1] (Dinh et al. 2017)."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor, estimate: Estimate) -> Mapped:
        y = torch.logit(self.alpha + (1 - 2 * self.alpha) * x)
        slope = math.log(1 - 2 * self.alpha) - F.logsigmoid(y) - F.logsigmoid(-y)
        return Mapped(y, slope.flatten(1).sum(1))

    def inverse(self, y: Tensor) -> Tensor:
        return (torch.sigmoid(y) - self.alpha) / (1 - 2 * self.alpha)


class Affine(nn.Module):
    """y = (x - mean) / deviation with constants along dimension 1, computed in their precision (float64 for tables)."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Tensor, deviation: Tensor, *, out: torch.dtype | None = None) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.out = out

    def forward(self, x: Tensor, estimate: Estimate) -> Mapped:
        over = (-1, *(1,) * (x.ndim - 2))
        value = (x.to(self.mean.dtype) - self.mean.view(over)) / self.deviation.view(over)
        value = value if self.out is None else value.to(self.out)
        log_det = -self.deviation.log().sum() * x[0, 0].numel()
        return Mapped(value, log_det.to(value.dtype).expand(len(x)))

    def inverse(self, y: Tensor) -> Tensor:
        over = (-1, *(1,) * (y.ndim - 2))
        return y.to(self.mean.dtype) * self.deviation.view(over) + self.mean.view(over)


class Mixing(nn.Module):
    """Invertible 1 x 1 convolution, initialized as a random rotation (Kingma and Dhariwal 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linalg.qr(torch.randn(channels, channels))[0].contiguous())

    def forward(self, x: Tensor, estimate: Estimate) -> Mapped:
        log_det = torch.linalg.slogdet(self.weight).logabsdet * x[0, 0].numel()
        return Mapped(F.conv2d(x, self.weight[:, :, None, None]), log_det.expand(len(x)))

    def inverse(self, y: Tensor) -> Tensor:
        return F.conv2d(y, torch.linalg.inv(self.weight)[:, :, None, None])


class Coupling(nn.Module):
    """Affine coupling (Dinh et al. 2017): one half is shifted and scaled by sigmoid(s + 2), conditioned on the other half.

    The halves are the two colors of a checkerboard or the halves of the channels; `swapped` exchanges them. With `flat`,
    inputs are (B, C).
    """

    def __init__(self, channels: int, width: int, *, checkerboard: bool, swapped: bool, flat: bool = False) -> None:
        super().__init__()
        self.checkerboard, self.swapped = checkerboard, swapped
        given = channels if checkerboard else (channels - channels // 2 if swapped else channels // 2)
        changed = channels if checkerboard else channels - given

        def layer(inputs: int, outputs: int, kernel: int) -> nn.Module:
            return nn.Linear(inputs, outputs) if flat else nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)

        self.net = nn.Sequential(
            layer(given, width, 3), nn.ReLU(), layer(width, width, 1), nn.ReLU(), layer(width, 2 * changed, 3)
        )

    def forward(self, x: Tensor, estimate: Estimate) -> Mapped:
        given, log_scale, shift, mask = self._scale_and_shift(x)
        if mask is not None:
            value = x * mask + (1 - mask) * (x + shift) * log_scale.exp()
            return Mapped(value, ((1 - mask) * log_scale).flatten(1).sum(1))
        changed = (self._split(x)[1] + shift) * log_scale.exp()
        return Mapped(self._join(given, changed), log_scale.flatten(1).sum(1))

    def inverse(self, y: Tensor) -> Tensor:
        given, log_scale, shift, mask = self._scale_and_shift(y)
        if mask is not None:
            return y * mask + (1 - mask) * (y * (-log_scale).exp() - shift)
        return self._join(given, self._split(y)[1] * (-log_scale).exp() - shift)

    def _scale_and_shift(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        mask = None
        if self.checkerboard:
            rows, columns = (torch.arange(side, device=x.device) for side in x.shape[2:])
            mask = ((rows[:, None] + columns + int(self.swapped)) % 2).to(x.dtype)
        given = x * mask if mask is not None else self._split(x)[0]
        scale, shift = self.net(given).chunk(2, dim=1)
        return given, F.logsigmoid(scale + 2.0), shift, mask

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        half = x.shape[1] // 2
        return (x[:, half:], x[:, :half]) if self.swapped else (x[:, :half], x[:, half:])

    def _join(self, given: Tensor, changed: Tensor) -> Tensor:
        return torch.cat([changed, given] if self.swapped else [given, changed], dim=1)


def dequantized(pixels: Tensor, *, noise: Tensor | None = None) -> Tensor:
    """Uniform dequantization: (v + u) / 256 for gray levels v in 0..255 and noise u uniform in [0, 1)."""
    noise = torch.rand_like(pixels, dtype=torch.float32) if noise is None else noise
    return (pixels.float() + noise) / LEVELS


def bits_per_dim(log_prob: Tensor, dims: int) -> Tensor:
    """Bits per dimension of 8-bit values, from the log-density (nats) of the `dequantized` values."""
    return (dims * math.log(LEVELS) - log_prob) / (dims * math.log(2))
