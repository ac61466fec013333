"""Divisive normalization against its definition, and its gradients against finite differences."""

from __future__ import annotations

import torch

from latens.nn.bounds import lower_bound
from latens.nn.gdn import GDN


def test_definition_and_inverse_form() -> None:
    torch.manual_seed(1)
    layer, inverse = GDN(3).double(), GDN(3, inverse=True).double()
    with torch.no_grad():
        layer.gamma_root.uniform_(0.1, 1)
        inverse.gamma_root.copy_(layer.gamma_root)
    beta, gamma = (part.detach() for part in layer.coefficients())
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    norm = (beta[None, :, None, None] + torch.einsum("ij,bjhw->bihw", gamma, x.square())).sqrt()
    torch.testing.assert_close(layer(x), x / norm)
    torch.testing.assert_close(inverse(x), x * norm)


def test_gradients() -> None:
    torch.manual_seed(2)
    layer = GDN(2).double()
    with torch.no_grad():
        layer.gamma_root.uniform_(0.2, 1)
    x = torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


def test_lower_bound_passes_only_gradients_that_raise_values() -> None:
    x = torch.tensor([0.5, 0.5, 2.0], requires_grad=True)
    (lower_bound(x, 1.0) * torch.tensor([1.0, -1.0, 1.0])).sum().backward()
    # The first would fall further below the bound, the second rises, the third is above it.
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, -1.0, 1.0]
