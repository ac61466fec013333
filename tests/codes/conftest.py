"""Integer networks with the shape of a hyper-synthesis. Each fixture is a function that makes them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from latens.codes.integer import IntegerNetwork
from latens.codes.quantize import quantize_network

INPUT_BOUND = 40 << 8


@pytest.fixture
def hyper_synthesis() -> Callable[..., nn.Sequential]:
    return make_stack


@pytest.fixture
def inputs() -> Callable[..., Tensor]:
    return make_inputs


@pytest.fixture
def network() -> Callable[..., IntegerNetwork]:
    return make_network


@pytest.fixture
def narrow_network() -> Callable[[], IntegerNetwork]:
    return make_narrow


@pytest.fixture(params=["network", "narrow_network"])
def make(request: pytest.FixtureRequest) -> Callable[[], IntegerNetwork]:
    """Both networks, one after the other."""
    found: Callable[[], IntegerNetwork] = request.getfixturevalue(request.param)
    return found


def make_stack(seed: int = 0, n: int = 6, m: int = 8) -> nn.Sequential:
    """A hyper-synthesis: N -> M -> 3/2 M -> 2 M, two transposed 5x5 convolutions and one 3x3."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.ConvTranspose2d(n, m, 5, stride=2, padding=2, output_padding=1),
        nn.LeakyReLU(0.01),
        nn.ConvTranspose2d(m, m * 3 // 2, 5, stride=2, padding=2, output_padding=1),
        nn.ReLU(),
        nn.Conv2d(m * 3 // 2, m * 2, 3, padding=1),
    )


def make_inputs(seed: int = 1, batch: int = 4, n: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-20 << 8, 20 << 8, (batch, n, 5, 4), generator=generator)


def make_network(weight_bits: int = 16, activation_bits: int = 16, seed: int = 0) -> IntegerNetwork:
    return quantize_network(
        make_stack(seed),
        make_inputs(seed=9).double() / 256,
        input_bound=INPUT_BOUND,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
    )


def make_narrow() -> IntegerNetwork:
    """All layers fit float32: input integers of magnitude 40 and 8-bit weights and activations."""
    return quantize_network(
        make_stack(),
        make_inputs(seed=9).double() / 256,
        input_frac_bits=0,
        input_bound=40,
        weight_bits=8,
        activation_bits=8,
    )
