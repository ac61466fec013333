"""Conversion of integer networks to float networks, for further training of models that were stored only for coding."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from latens.codes.integer import IntegerNetwork
from latens.codes.quantize import float_parameters, quantize_network

STACKS = {
    "plain": lambda: nn.Sequential(
        nn.Conv2d(6, 12, 3, padding=1),
        nn.LeakyReLU(0.01),
        nn.Conv2d(12, 9, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(9, 8, 1),
    ),
    "transposed": lambda: nn.Sequential(
        nn.ConvTranspose2d(6, 12, 5, stride=2, padding=2, output_padding=1),
        nn.LeakyReLU(0.1),
        nn.ConvTranspose2d(12, 10, 3, stride=2, padding=1, output_padding=1),
        nn.LeakyReLU(0.01),
        nn.Conv2d(10, 8, 3, padding=1),
    ),
    "one layer": lambda: nn.Sequential(nn.ConvTranspose2d(6, 8, 4, stride=2, padding=1)),
}


def frozen(kind: str, weight_bits: int) -> tuple[nn.Sequential, IntegerNetwork, torch.Tensor]:
    """A float stack with channels of very different scales, its integer network, and inputs in range."""
    torch.manual_seed(0)
    stack = STACKS[kind]()
    with torch.no_grad():
        for layer in stack:
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                assert layer.bias is not None
                layer.bias.normal_(0, 0.3)
                transposed = isinstance(layer, nn.ConvTranspose2d)
                sizes = torch.logspace(-0.5, 0.5, layer.out_channels)[:, None, None]
                layer.weight.mul_(1.5 * (sizes if transposed else sizes[:, None]))
    inputs = 3 * torch.randn(4, 6, 8, 8).round()
    net = quantize_network(
        stack, inputs, input_bound=64 << 8, activation_bits=11, weight_bits=weight_bits, float32=True
    )  # as `coding.freeze`
    return stack, net, inputs


@pytest.mark.parametrize(("weight_bits", "tolerance"), [(16, 0.004), (8, 0.03)])
@pytest.mark.parametrize("kind", STACKS)
def test_the_float_network_has_the_outputs_of_the_integers(kind: str, weight_bits: int, tolerance: float) -> None:
    stack, net, inputs = frozen(kind, weight_bits)
    twin = copy.deepcopy(stack)
    layers = [layer for layer in twin if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    with torch.no_grad():
        for layer, (weight, bias, _) in zip(layers, float_parameters(net), strict=True):
            assert weight.dtype == bias.dtype == torch.float32
            layer.weight.copy_(weight)  # of torch's layout, or this raises
            assert layer.bias is not None
            layer.bias.copy_(bias)
        exact = net((inputs * 256).long()).double() / 1024
        size = float(stack(inputs).square().mean().sqrt())
        # It differs from the integers by the rounding of hidden activations, from the first network also by that of weights.
        assert float((twin(inputs) - exact).square().mean().sqrt()) < 0.004 * size
        assert float((twin(inputs) - stack(inputs)).square().mean().sqrt()) < tolerance * size


def test_hidden_channels_have_weights_of_norm_one() -> None:
    _, net, _ = frozen("transposed", 8)
    (first, *_), (second, *_), (last, *_) = float_parameters(net)
    for weight in (first, second):
        torch.testing.assert_close(weight.square().sum((0, 2, 3)), torch.ones(weight.shape[1]), rtol=1e-5, atol=0)
    assert last.shape == (8, 10, 3, 3)
