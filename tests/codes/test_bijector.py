"""Every map against a brute-force Jacobian and its inverse, in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from latens.codes.bijector import (
    ActNorm,
    Affine,
    Bijector,
    Coupling,
    Flatten,
    Logit,
    Mixing,
    ResidualMap,
    Squeeze,
    Whitening,
    bits_per_dim,
    dequantized,
)
from latens.codes.logdet import Exact, Roulette, Series
from latens.nn.branch import dense_branch, plain_branch
from latens.nn.lipschitz import Spectral, power_iterations


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def maps() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Every map with random weights in float64, and the shape of its inputs."""
    torch.manual_seed(1)
    image = {"coefficient": 0.9, "activation": "clipswish", "size": (4, 4)}
    flat = {"coefficient": 0.9, "activation": "lipswish", "size": None}
    found: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
        "actnorm": (ActNorm(2), (2, 4, 4)),
        "actnorm flat": (ActNorm(6), (6,)),
        "whitening": (Whitening(4), (4, 3, 3)),
        "squeeze": (Squeeze(), (2, 4, 4)),
        "flatten": (Flatten((2, 3, 3)), (2, 3, 3)),
        "logit": (Logit(0.05), (2, 3, 3)),
        "affine": (Affine(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 3.0])), (2, 3, 3)),
        "mixing": (Mixing(3), (3, 2, 2)),
        "checkerboard": (Coupling(2, 5, checkerboard=True, swapped=False), (2, 4, 4)),
        "channels": (Coupling(3, 5, checkerboard=False, swapped=True), (3, 4, 4)),
        "flat coupling": (Coupling(7, 5, checkerboard=False, swapped=False, flat=True), (7,)),
        "dense": (ResidualMap(dense_branch(2, growth=6, depth=2, learned=True, mixing=0.98, **image)), (2, 4, 4)),  # type: ignore[arg-type]
        "dense flat": (ResidualMap(dense_branch(2, growth=6, depth=3, learned=True, mixing=0.98, **flat)), (2,)),  # type: ignore[arg-type]
        "plain": (ResidualMap(plain_branch(2, [8, 8], [3, 1, 3], activation_first=True, **image)), (2, 4, 4)),  # type: ignore[arg-type]
    }
    for module, _ in found.values():
        for layer in [part for part in module.modules() if isinstance(part, Spectral)]:
            layer.weight.data.mul_(4)
        power_iterations([part for part in module.modules() if isinstance(part, Spectral)], 100)
        if isinstance(module, ActNorm | Whitening | Coupling):
            for parameter in module.parameters():
                parameter.data.add_(0.2 * torch.randn_like(parameter))
    return found


NAMES = (
    "actnorm", "actnorm flat", "whitening", "squeeze", "flatten", "logit", "affine", "mixing", "checkerboard", "channels",
    "flat coupling", "dense", "dense flat", "plain",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_log_determinants_and_inverses(name: str) -> None:
    step, shape = maps()[name]
    step.eval()
    x = torch.rand(2, *shape) if name == "logit" else torch.randn(2, *shape)
    mapped = step(x, Exact())
    for i in range(2):
        matrix = jacobian(lambda v: step(v[None], Exact()).value[0].flatten(), x[i]).reshape(x[i].numel(), -1)
        assert float(mapped.log_det[i].detach()) == pytest.approx(float(torch.linalg.slogdet(matrix).logabsdet), abs=1e-8)
    if isinstance(step, ResidualMap):
        back = step.inverse(mapped.value.detach(), tolerance=1e-12)
    else:
        back = cast(Bijector, step).inverse(mapped.value)
    torch.testing.assert_close(back.detach(), x, atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", ["actnorm", "whitening"])
def test_only_the_first_batch_sets_the_normalization(name: str) -> None:
    step, shape = maps()[name]
    step.train()
    for parameter in step.parameters():
        parameter.data.zero_()
    x = 3 * torch.randn(50, *shape) + 5
    first = step(x, Exact()).value
    assert first.mean((0, 2, 3)).abs().max() < 1e-9
    assert float(first.var(correction=0).detach()) == pytest.approx(1, abs=0.05)
    before = {key: value.clone() for key, value in step.state_dict().items()}
    step(100 * x, Exact())
    assert all(torch.equal(value, before[key]) for key, value in step.state_dict().items())


def test_recomputed_blocks_have_the_same_gradients() -> None:
    branch = dense_branch(2, growth=6, depth=2, activation="clipswish", learned=True, coefficient=0.9, mixing=0.98, size=(4, 4))
    power_iterations([part for part in branch.modules() if isinstance(part, Spectral)], 5)
    x = torch.randn(3, 2, 4, 4)
    found = []
    for recompute in (False, True):
        torch.manual_seed(7)
        mapped = ResidualMap(branch, recompute=recompute)(x, Roulette())
        loss = mapped.value.square().sum() + mapped.log_det.sum()
        found.append(torch.autograd.grad(loss, list(branch.parameters())))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_several_probes_are_averaged() -> None:
    step, shape = maps()["dense"]
    x = torch.randn(2, *shape)
    signs = torch.randint(0, 2, (3, 2, *shape)).double() * 2 - 1

    def log_det(chosen: Tensor) -> Tensor:
        mapped: Tensor = step(x, Series(6, probes=len(chosen), draw=lambda like, count: chosen)).log_det
        return mapped

    torch.testing.assert_close(log_det(signs), sum(log_det(one[None]) for one in signs) / 3)


def test_dequantized_values_stay_in_their_cells_and_uniform_noise_costs_eight_bits() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    x = dequantized(pixels)
    assert torch.equal((x * 256).floor().to(torch.uint8), pixels)
    assert float(bits_per_dim(torch.zeros(1), 256)) == pytest.approx(8)
    assert float(bits_per_dim(torch.tensor([256 * math.log(2)]), 256)) == pytest.approx(7)
