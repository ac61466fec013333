"""Layers with bounded spectral norm: soft normalization W / max(1, sigma / c) with sigma from power iterations.

Sigma is the norm of the actual operator: for a convolution, the zero-padded operator at its spatial size, not the reshaped
kernel. Power iterations run outside the forward pass, batched over layers of equal shape. `certified_norm` is a rigorous upper
bound of the same norm; trained networks are normalized with it before use.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from latens.shapes import Float

ROUNDING = 1 + 1e-9  # margin for rounding errors of eigenvalues in float64
ETA_FLOOR = 0.1  # added to the softplus of concatenation weights, as in the authors' code
CHUNK = 2**26  # bytes of frequency responses per eigenvalue decomposition


class Spectral(nn.Module):
    """A linear layer or convolution with spectral norm at most `coefficient` (Perugachi-Diaz 2024, Eq. 4.2.2).

    In training the bound holds up to the convergence of the power iterations.

    `size` is the input's (height, width) for a convolution with an odd kernel and size-preserving zero padding; None makes a
    linear layer. A `frozen` layer uses its weight unchanged; it was normalized before. For fixed singular vectors u, v the norm
    is linear in the weight: `direction` is its gradient u v^T, so sigma = <direction, weight> needs no convolution.
    """

    direction: Tensor
    probe: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        coefficient: float,
        kernel: int = 1,
        size: tuple[int, int] | None = None,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.coefficient, self.kernel, self.size, self.frozen = coefficient, kernel, size, frozen
        shape = (outputs, inputs) if size is None else (outputs, inputs, kernel, kernel)
        limit = 1 / math.sqrt(inputs * kernel**2)
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-limit, limit))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-limit, limit))
        if not frozen:
            probe = torch.randn(inputs * math.prod(size or ()))
            self.register_buffer("probe", probe / probe.norm())  # v, the flattened input
            self.register_buffer("direction", torch.zeros(shape))

    def normalized(self) -> Tensor:
        """The normalized weight, differentiable including sigma."""
        return normalized_weights([self])[0]

    def apply_to(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Apply the layer with another weight, such as one with folded constants."""
        if self.size is None:
            return F.linear(x, weight, bias)
        if self.kernel == 1:  # as a matrix product, because conv2d is slow for few output channels
            return F.linear(x.permute(0, 2, 3, 1), weight[:, :, 0, 0], bias).permute(0, 3, 1, 2)
        return F.conv2d(x, weight, bias, padding=self.kernel // 2)

    def pull_back(self, cotangent: Tensor, weight: Tensor) -> Tensor:
        """Apply the transposed operator, without bias."""
        if self.size is None:
            return cotangent @ weight
        if self.kernel == 1:
            return (cotangent.permute(0, 2, 3, 1) @ weight[:, :, 0, 0]).permute(0, 3, 1, 2)
        return F.conv_transpose2d(cotangent, weight, padding=self.kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.apply_to(x, self.normalized(), self.bias)

    @torch.no_grad()
    def certified_weight(self) -> Tensor:
        """The weight, scaled so that its spectral norm is provably at most `coefficient`."""
        weight = (
            self.weight if self.frozen else self.weight / max(1.0, certified_norm(self.weight, self.size) / self.coefficient)
        )
        return weight.detach().clone()


class Concatenation(nn.Module):
    """Weights (eta_1, eta_2) of the input and its transform, on the unit circle times `factor` (Perugachi-Diaz 2024, 4.3.3).

    If f is 1-Lipschitz, [eta_1 x, eta_2 f(x)] is `factor`-Lipschitz (Eq. 4.3.6). Without learning, both are sqrt(1/2).
    """

    eta: Tensor

    def __init__(self, factor: float, *, learned: bool) -> None:
        super().__init__()
        self.factor, self.learned = factor, learned
        if learned:
            self.eta = nn.Parameter(torch.ones(2))
        else:
            self.register_buffer("eta", torch.ones(2), persistent=False)

    def forward(self) -> Float[Tensor, "2"]:
        return concatenation_weights([self])[0]

    @torch.no_grad()
    def reset(self) -> None:
        """Set equal weights."""
        self.eta.fill_(1.0)


def normalized_weights(layers: Sequence[Spectral]) -> Float[Tensor, "L ..."]:
    """Normalized weights of layers with the same shape and coefficient."""
    weights = torch.stack([layer.weight for layer in layers])
    if layers[0].frozen:
        return weights
    directions = torch.stack([layer.direction for layer in layers])
    sigma = (directions * weights).flatten(1).sum(1)
    divisor = (sigma / layers[0].coefficient).clamp(min=1.0)
    normalized: Tensor = weights / divisor.view(-1, *(1,) * (weights.ndim - 1))
    return normalized


def concatenation_weights(mixes: Sequence[Concatenation]) -> Float[Tensor, "L 2"]:
    """Weights (eta_1, eta_2) of concatenations with the same factor."""
    raw = F.softplus(torch.stack([mix.eta for mix in mixes])) + ETA_FLOOR
    weights: Tensor = mixes[0].factor * F.normalize(raw, dim=1)
    return weights


# --------------------------------------------------------------------------------------------------- power iterations


@torch.no_grad()
def power_iterations(layers: Iterable[Spectral], count: int) -> None:
    """Update the singular vectors of all layers by `count` iterations; layers of equal shape are stacked."""
    groups: dict[object, list[Spectral]] = {}
    for layer in layers:
        if not layer.frozen:
            groups.setdefault((layer.weight.shape, layer.size), []).append(layer)
    for group in groups.values():
        if group[0].kernel > 1:
            for layer in group:
                _iterate_convolution(layer, count)
        else:
            _iterate(group, count)


def _iterate_convolution(layer: Spectral, count: int) -> None:
    assert layer.size is not None
    v = layer.probe.view(1, -1, *layer.size)
    for _ in range(count):
        v = F.normalize(layer.pull_back(layer.apply_to(v, layer.weight), layer.weight).flatten(), dim=0).view_as(v)
    u = layer.apply_to(v, layer.weight)
    u = u / u.norm().clamp(min=torch.finfo(u.dtype).tiny)
    layer.probe.copy_(v.flatten())
    shape = list(layer.weight.shape)
    layer.direction.copy_(conv2d_weight(v, shape, u, padding=layer.kernel // 2))  # type: ignore[no-untyped-call]


def _iterate(group: list[Spectral], count: int) -> None:
    first = group[0]
    weights = torch.stack([layer.weight.flatten(1) for layer in group])  # (L, out, in)
    places = 1 if first.size is None else first.size[0] * first.size[1]
    v = torch.stack([layer.probe for layer in group]).view(len(group), -1, places)
    for _ in range(count):
        v = _unit(weights.mT @ (weights @ v))
    u = _unit(weights @ v)
    directions = (u @ v.mT).view(len(group), *first.weight.shape)
    torch._foreach_copy_([layer.probe for layer in group], list(v.flatten(1)))
    torch._foreach_copy_([layer.direction for layer in group], list(directions))


def _unit(vectors: Tensor) -> Tensor:
    """Each layer's vector divided by its norm."""
    norms = vectors.flatten(1).norm(dim=1).clamp(min=torch.finfo(vectors.dtype).tiny)
    scaled: Tensor = vectors / norms.view(-1, *(1,) * (vectors.ndim - 1))
    return scaled


# ------------------------------------------------------------------------------------------------------- certificates


@torch.no_grad()
def certified_norm(weight: Tensor, size: tuple[int, int] | None) -> float:
    """Rigorous upper bound on the spectral norm: exact for a matrix, the Fourier bound for a convolution.

    A zero-padded convolution on H x W is a restriction of a circular convolution on H + (k - 1) / 2 by W + (k - 1) / 2, whose
    norm is the largest over its frequencies. The bound also holds for all smaller inputs, but not for larger ones.
    """
    if size is None:
        return _largest(weight.double()[None])
    radius = weight.shape[-1] // 2
    return _fourier(weight, size[0] + radius, size[1] + radius)


def _fourier(weight: Tensor, height: int, width: int) -> float:
    response = torch.fft.rfft2(weight.double(), s=(height, width))  # kernels are real: half of the frequencies suffice
    matrices = response.flatten(2).permute(2, 0, 1)
    step = max(1, CHUNK // (16 * matrices[0].numel()))
    return max(_largest(matrices[start : start + step]) for start in range(0, len(matrices), step))


def _largest(matrices: Tensor) -> float:
    """Largest singular value of a stack of matrices, from the Gram matrices of the shorter side."""
    gram = matrices @ matrices.mH if matrices.shape[1] <= matrices.shape[2] else matrices.mH @ matrices
    eigenvalues = torch.linalg.eigvalsh(gram.cpu())
    return float(cast(Tensor, eigenvalues.max()).clamp(min=0).sqrt()) * ROUNDING
