"""Activations: Lipschitz constants, derivatives, and the stacked form against autograd."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import pytest
import torch
from torch.autograd.functional import jacobian, jvp, vjp

from latens.nn.lipswish import Activation, ActivationName

NAMES: tuple[ActivationName, ...] = get_args(ActivationName)


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", NAMES)
def test_activations_are_one_lipschitz(name: ActivationName) -> None:
    x = torch.linspace(-30, 30, 200_001)[:, None]
    y = Activation(name)(x).detach()
    slopes = (y[1:] - y[:-1]).norm(dim=1) / (x[1:] - x[:-1])[:, 0]
    assert float(slopes.max()) <= 1 + 1e-9


def test_the_bound_of_clipswish_is_tight() -> None:
    """The Jacobian norm before the division by 1.004 is at most 1.00397, at x = +-2.463 for softplus(0.5), and .643 at 0."""
    phi = Activation("clipswish")
    x = torch.tensor([[2.463], [-2.463], [0.0]])
    norms = [float(jacobian(lambda v: phi(v[None])[0], row).detach().norm()) * 1.004 for row in x]
    assert norms == pytest.approx([1.00397, 1.00397, 0.643], abs=2e-4)


@pytest.mark.parametrize("name", NAMES)
def test_stacked_values_tangents_and_gradients_equal_those_of_autograd(name: ActivationName) -> None:
    torch.manual_seed(0)
    phi, turns, count = Activation(name), 2, 3
    stacked = torch.randn((1 + turns) * count, 4, 2, 2, requires_grad=True)
    bias = torch.randn(4, requires_grad=True)

    def plain() -> torch.Tensor:
        x = stacked[:count] + bias[:, None, None]
        tangents = stacked[count:].view(turns, count, 4, 2, 2)
        products = [jvp(phi.raw, x, t, create_graph=True)[1] for t in tangents]
        return torch.cat([phi.raw(x), *products])

    out, slope = phi.stacked(stacked, bias, count)
    expected = plain()
    torch.testing.assert_close(out, expected)
    weights = torch.randn_like(out)
    parameters = [stacked, bias, *phi.parameters()]
    found = torch.autograd.grad((weights * out).sum(), parameters)
    wanted = torch.autograd.grad((weights * expected).sum(), parameters)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
    cotangent = torch.randn_like(out[:count])
    x = (stacked[:count] + bias[:, None, None]).detach()
    torch.testing.assert_close(phi.pull_back(cotangent, slope), vjp(phi.raw, x, cotangent)[1])
