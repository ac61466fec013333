"""Spectral norms: power iterations, rigorous bounds, concatenations, branches."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.functional import jacobian

from latens.nn.branch import Branch, dense_branch, plain_branch
from latens.nn.lipschitz import Concatenation, Spectral, certified_norm, power_iterations


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def operator_norm(weight: Tensor, size: tuple[int, int]) -> float:
    """Norm of the zero-padded convolution, from its full matrix."""
    inputs = torch.eye(weight.shape[1] * size[0] * size[1]).view(-1, weight.shape[1], *size)
    matrix = F.conv2d(inputs, weight, padding=weight.shape[-1] // 2).flatten(1)
    return float(torch.linalg.matrix_norm(matrix, 2))


def test_power_iterations_find_the_norm_of_the_padded_convolution() -> None:
    layers = [Spectral(3, 4, coefficient=0.9, kernel=3, size=(5, 6)) for _ in range(3)]
    layers.append(Spectral(7, 4, coefficient=0.9))
    power_iterations(layers, 400)
    for layer in layers:
        sigma = float((layer.direction * layer.weight).sum().detach())
        weight = layer.weight.detach()
        exact = operator_norm(weight, layer.size) if layer.size else float(torch.linalg.matrix_norm(weight, 2))
        assert sigma == pytest.approx(exact, rel=1e-4)
        layer.weight.data.mul_(10)
        norm = certified_norm(layer.normalized(), layer.size)
        assert 0.9 <= norm * (1 + 1e-4) <= 0.9 * 1.2  # the certificate is slightly above the norm


def test_small_weights_are_unchanged() -> None:
    layer = Spectral(3, 3, coefficient=0.9)
    layer.weight.data.mul_(0.01)
    power_iterations([layer], 50)
    torch.testing.assert_close(layer.normalized(), layer.weight)


@pytest.mark.parametrize("size", [(4, 4), (6, 3), (1, 5)])
def test_the_fourier_bound_holds_for_its_size_and_smaller_ones(size: tuple[int, int]) -> None:
    for _ in range(20):
        weight = torch.randn(2, 3, 3, 3)
        bound = certified_norm(weight, size)
        assert operator_norm(weight, size) <= bound
        assert operator_norm(weight, (max(size[0] - 1, 1), size[1])) <= bound


def test_certified_weights_are_bounded_without_convergence() -> None:
    layer = Spectral(4, 4, coefficient=0.98, kernel=3, size=(6, 6))
    layer.weight.data.mul_(5)
    power_iterations([layer], 1)
    assert operator_norm(layer.normalized().detach(), (6, 6)) > 0.98  # above the coefficient
    assert operator_norm(layer.certified_weight(), (6, 6)) <= 0.98


def test_concatenation_weights_are_on_the_circle_and_reset() -> None:
    mix = Concatenation(0.98, learned=True)
    assert mix().tolist() == pytest.approx([0.98 * 0.5**0.5] * 2)
    mix.eta.data.copy_(torch.tensor([-50.0, 3.0]))
    first, second = mix().tolist()
    assert first**2 + second**2 == pytest.approx(0.98**2)
    assert 0 < first < 0.05  # the floor of 0.1 keeps it from zero
    mix.reset()
    assert mix().tolist() == pytest.approx([0.98 * 0.5**0.5] * 2)


def made(name: str) -> tuple[Branch, tuple[int, ...]]:
    """A branch in float64 and the shape of its inputs."""

    def dense(channels: int, size: tuple[int, int] | None, *, entry: int = 0, budget: float = 0.0) -> Branch:
        return dense_branch(
            channels, growth=4, depth=2, activation="clipswish", learned=True, coefficient=0.9, mixing=0.98, size=size,
            entry=entry, budget=budget,
        )  # fmt: skip

    def plain(size: tuple[int, int] | None, kernels: list[int]) -> Branch:
        return plain_branch(
            2, [6, 6], kernels, activation="clipswish", coefficient=0.9, size=size, activation_first=True
        )  # fmt: skip

    found: dict[str, tuple[Branch, tuple[int, ...]]] = {
        "dense image": (dense(2, (3, 3)), (2, 3, 3)),
        "plain image": (plain((3, 3), [3, 1, 3]), (2, 3, 3)),
        "dense": (dense(2, None), (2,)),
        "plain": (plain(None, [1, 1, 1]), (2,)),
        "tail": (dense(5, None, entry=3), (5,)),
        "budget": (dense(2, None, budget=0.98), (2,)),
    }
    return found[name]


@pytest.mark.parametrize("name", ["dense image", "plain image", "dense", "plain", "tail", "budget"])
def test_branches_are_bounded_and_their_products_are_those_of_the_jacobian(name: str) -> None:
    branch, shape = made(name)
    layers = [part for part in branch.modules() if isinstance(part, Spectral)]
    for layer in layers:
        layer.weight.data.mul_(4)
    power_iterations(layers, 200)
    x, tangents, folded = torch.randn(3, *shape), torch.randn(2, 3, *shape), branch.folded()
    value, products, slopes = branch.linearized(x, tangents, folded)
    torch.testing.assert_close(value, branch(x))
    cotangent = torch.randn_like(x)
    pulled = branch.pull_back(cotangent, slopes, folded)
    for i in range(3):
        matrix = jacobian(lambda v: branch(v[None])[0], x[i]).reshape(x[i].numel(), -1)
        assert float(torch.linalg.matrix_norm(matrix, 2)) <= branch.lipschitz()
        for t in range(2):
            torch.testing.assert_close(products[t, i].flatten(), matrix @ tangents[t, i].flatten())
        torch.testing.assert_close(pulled[i].flatten(), matrix.T @ cotangent[i].flatten())
    if name == "budget":
        assert branch.lipschitz() == pytest.approx(0.98, rel=1e-6)
