"""Quantization of float networks: bounds of errors and sums, and networks that cannot be made exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from latens.codes.integer import IntegerNetwork
from latens.codes.integer_layer import IntegerLayer, LayerShape
from latens.codes.quantize import activation_peaks, quantize_network, split_stages

Make = Callable[..., Any]
DOUBLING = LayerShape(  # one channel, twice the size
    transposed=True,
    inputs=1,
    outputs=1,
    kernel=(5, 5),
    stride=(2, 2),
    padding=(2, 2),
    output_padding=(1, 1),
    clamp=9,
)


@pytest.mark.parametrize("seed", range(3))
def test_error_is_within_the_sum_of_all_rounding_steps(
    hyper_synthesis: Make,
    inputs: Make,
    network: Make,
    seed: int,
) -> None:
    stack, z = hyper_synthesis(seed), inputs(batch=2)
    net = network(seed=seed)
    with torch.no_grad():
        exact = stack.double()(z.double() / 256)
    error = (net(z).double() / 1024 - exact).abs().max()
    assert error <= error_bound(stack, net, z.double() / 256, inputs(seed=9).double() / 256)
    assert error <= 3 / 1024  # 16 bits suffice for the output step to dominate


def error_bound(stack: nn.Sequential, net: IntegerNetwork, x: Tensor, calibration: Tensor) -> float:
    """Worst case over all channels: the error of the input through |w|, half a step per weight, bias and output, and the
    relative error of the multiplier. The real activations of the float network bound the integers."""
    stages = split_stages(stack)
    peaks = activation_peaks(stages, calibration)
    step = torch.full((x.shape[1],), 2.0**-net.input_frac_bits, dtype=torch.float64)
    error = torch.zeros_like(step)
    for stage, layer, peak in zip(stages, net.layers, peaks, strict=True):
        assert isinstance(layer, IntegerLayer)
        weight = stage.conv.weight.detach().abs()
        weight = (weight if layer.shape.transposed else weight.transpose(0, 1)).sum((2, 3))  # inputs x outputs
        taps = layer.shape.kernel[0] * layer.shape.kernel[1]
        # The sum over the taps is at least the largest single weight, so it only loosens the bound.
        weight_step = (weight * step[:, None]).amax(0) / 32767
        integers = taps * ((x.abs().amax((0, 2, 3)) + error) / step).sum()
        with torch.no_grad():
            x = stage.conv(x)
        x = torch.where(x < 0, x * stage.slope, x)
        step = torch.full_like(peak, 2.0**-10) if layer is net.layers[-1] else 2 * peak / layer.shape.clamp
        relative = 1 / layer.positive.double()
        error = error @ weight + weight_step / 2 * (integers + 1) + step / 2 + relative * x.abs().amax((0, 2, 3))
    return float(error.max())


def test_the_worst_input_reaches_the_bounds() -> None:
    torch.manual_seed(3)
    conv = nn.Conv2d(3, 4, 3, padding=1)
    net = quantize_network(nn.Sequential(conv), torch.randn(2, 3, 6, 6), input_frac_bits=0, input_bound=100)
    (bound,) = net.bounds()
    layer = net.layers[0]
    assert isinstance(layer, IntegerLayer)
    weight = layer.weight.long()
    channel = int((weight.abs().sum((1, 2, 3)) * 100 + layer.bias.abs()).argmax())
    worst = weight[channel].sign() * 100 * (1 if layer.bias[channel] >= 0 else -1)
    assert abs(int((worst * weight[channel]).sum() + layer.bias[channel])) == bound.accumulator
    assert bound.convolution == int((weight.abs().sum((1, 2, 3)) * 100).max())
    assert bound.carrier is torch.float64  # 27 taps of about 2^14 times 100 do not fit 2^24
    assert bound.product < 2**63


def test_transposed_bound_counts_only_taps_of_one_output() -> None:
    one = torch.ones(1, dtype=torch.int32)
    tensors = {"positive": one, "negative": one, "shift": one, "bias": torch.zeros(1, dtype=torch.int64)}
    layer = IntegerLayer(DOUBLING, 10, {"weight": torch.ones(1, 1, 5, 5, dtype=torch.int16), **tensors})
    # At stride 2 an output uses at most 3 x 3 of the 5 x 5 taps.
    assert layer.bound.convolution == 9 * 10


def test_carriers(network: Make, narrow_network: Make) -> None:
    assert {bound.carrier for bound in narrow_network().bounds()} == {torch.float32}
    assert {bound.carrier for bound in network().bounds()} == {torch.float64}


def test_coarser_weights_allow_float32_in_all_but_the_first_layer(hyper_synthesis: Make, inputs: Make) -> None:
    stack, z = hyper_synthesis(), inputs()
    fast = quantize_network(stack, z.double() / 256, input_bound=40 << 8, activation_bits=9, float32=True)
    assert [bound.carrier for bound in fast.bounds()] == [torch.float64, torch.float32, torch.float32]
    # The budget is used: the weights of a channel are not coarser than necessary.
    assert all(bound.convolution > 0.98 * 2**24 for bound in fast.bounds()[1:])
    assert torch.equal(fast(z), fast.reference(z))
    with torch.no_grad():
        exact = stack.double()(z.double() / 256)
        # Rounding to 255 steps up to twice the largest activation, half a step, through |w| of the last layer. The rounding of
        # its weights and that of the layers before may each add as much.
        step = 2 * float(stack[:4](z.double() / 256).abs().max()) / 255
        gain = float(stack[4].weight.abs().sum((1, 2, 3)).max())
    assert (fast(z).double() / 1024 - exact).abs().max() < 3 * gain * step / 2


def test_float32_is_not_used_with_reduced_precision(
    inputs: Make, narrow_network: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, seen = narrow_network(), set()
    original = IntegerLayer.forward

    def spy(self: IntegerLayer, x: Tensor, carrier: torch.dtype) -> Tensor:
        seen.add(carrier)
        return original(self, x, carrier)

    monkeypatch.setattr(IntegerLayer, "forward", spy)
    backend: Any = torch.backends.mkldnn
    before = backend.conv.fp32_precision
    backend.conv.fp32_precision = "bf16"
    try:
        net(inputs())
    finally:
        backend.conv.fp32_precision = before
    assert seen == {torch.float64}


def test_sums_that_cannot_be_exact_are_refused(hyper_synthesis: Make) -> None:
    with pytest.raises(ValueError, match=r"layer 0 cannot be made exact: .* 2\^53"):
        quantize_network(hyper_synthesis(), torch.randn(1, 6, 4, 4), input_bound=1 << 36)
    with pytest.raises(ValueError, match="no room to rescale"):
        quantize_network(hyper_synthesis(), torch.randn(1, 6, 4, 4), input_bound=1 << 30)


def test_inputs_and_outputs_are_clamped(inputs: Make, network: Make) -> None:
    net = network()
    z = inputs()
    huge = torch.where(z > 0, 1 << 50, -(1 << 50))
    assert torch.equal(net(huge), net(huge.clamp(-net.input_bound, net.input_bound)))
    conv = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(conv.weight, 1e6)
    loud = quantize_network(nn.Sequential(conv), torch.ones(1, 1, 2, 2), input_bound=1 << 20)
    assert loud(torch.full((1, 1, 2, 2), -(1 << 20))).unique().tolist() == [-((1 << 23) - 1)]


def test_leaky_slope_and_rounding() -> None:
    conv = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(conv.weight, 1.0)
    stack = nn.Sequential(conv, nn.LeakyReLU(0.25))
    net = quantize_network(stack, torch.ones(1, 1, 1, 1), input_frac_bits=4, output_frac_bits=4, input_bound=1 << 10)
    z = torch.arange(-6, 7).reshape(1, 1, 1, 13)
    # floor(v / 4 + 1/2) for v < 0, identity above: halves round up.
    assert net(z).flatten().tolist() == [-1, -1, -1, -1, 0, 0, 0, 1, 2, 3, 4, 5, 6]


def test_dead_and_bias_only_channels() -> None:
    conv = nn.Conv2d(2, 3, 3, padding=1)
    assert conv.bias is not None
    with torch.no_grad():
        conv.weight[0].zero_()
        conv.bias[0] = 3.5
        conv.weight[1].zero_()
        conv.bias[1] = 0.0
        conv.weight[2] *= 1e-12
        conv.bias[2] = -0.75
    net = quantize_network(nn.Sequential(conv), torch.randn(2, 2, 4, 4), input_bound=1 << 12)
    outputs = net(torch.full((1, 2, 4, 4), 77)).double() / 1024
    assert outputs[0, 0].unique().tolist() == [3.5]
    assert outputs[0, 1].unique().tolist() == [0.0]
    assert outputs[0, 2].unique().tolist() == [-0.75]


def test_channels_that_are_quiet_in_calibration_have_headroom() -> None:
    convs = [nn.Conv2d(2, 2, 1, bias=False) for _ in range(2)]
    for conv in convs:
        nn.init.dirac_(conv.weight)
    calibration = torch.tensor([1.0, 0.0])[None, :, None, None]
    net = quantize_network(nn.Sequential(convs[0], nn.ReLU(), convs[1]), calibration, input_bound=1 << 10)
    # An eighth of the largest peak of the layer, times the margin of two, is 64 / 256.
    outputs = net(torch.tensor([64, 64])[None, :, None, None])
    assert outputs.flatten().tolist() == [256, 256]


@pytest.mark.parametrize(
    ("stack", "message"),
    [
        (nn.Sequential(nn.Conv2d(1, 1, 3), nn.Tanh()), "Tanh"),
        (nn.Sequential(nn.ReLU(), nn.Conv2d(1, 1, 3)), "ReLU"),
        (nn.Sequential(nn.Conv2d(1, 1, 3), nn.LeakyReLU(1.5)), "slope"),
        (nn.Sequential(nn.Conv2d(2, 2, 3, groups=2)), "groups"),
        (nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")), "padding"),
        (nn.Sequential(nn.Conv2d(1, 1, 3, padding="same")), "padding"),
        (nn.Sequential(), "no convolution"),
    ],
)
def test_unsupported_modules_are_named(stack: nn.Sequential, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantize_network(stack, torch.randn(1, 2, 4, 4), input_bound=100)


def test_non_finite_numbers_are_refused(hyper_synthesis: Make) -> None:
    stack = hyper_synthesis()
    with torch.no_grad():
        stack[0].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        quantize_network(stack, torch.randn(1, 6, 4, 4), input_bound=100)


@pytest.mark.parametrize(("multiplier", "in_float64"), [((1 << 18) - 32, True), (1 << 18, False), ((1 << 27) - 1, False)])
def test_rescaling_is_exact_up_to_the_bound_of_float64(multiplier: int, in_float64: bool) -> None:
    """|acc| * m + 2^(s-1) just below and above 2^53, for sums of both signs, at ties and at the ends of the range."""
    bound, shift = (1 << 35) + 5, 40
    shape = replace(
        DOUBLING, transposed=False, kernel=(1, 1), stride=(1, 1), padding=(0, 0), output_padding=(0, 0), clamp=1 << 30
    )
    numbers = {"positive": multiplier, "negative": multiplier // 8, "shift": shift}
    tensors = {name: torch.tensor([value], dtype=torch.int32) for name, value in numbers.items()}
    tensors |= {"weight": torch.ones(1, 1, 1, 1, dtype=torch.int16), "bias": torch.tensor([3])}
    layer = IntegerLayer(shape, bound, tensors)
    assert layer.bound.float_product == in_float64
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.integers(-bound, bound + 1, 5000), [bound, -bound, 0, -3, -4], (1 << np.arange(35)) - 3])
    x = torch.from_numpy(values).reshape(1, 1, 1, -1)
    acc = [int(value) + 3 for value in values]
    exact = [(a * (multiplier if a >= 0 else multiplier // 8) + (1 << (shift - 1))) >> shift for a in acc]
    for carrier in (torch.float64, torch.int64):
        assert layer(x, carrier).flatten().tolist() == exact
