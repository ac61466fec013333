from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from latens.codes.integer import IntegerLayer, IntegerNetwork, LayerShape, _convolve_by_matmul, probe
from latens.codes.quantize import activation_peaks, quantize_network, split_stages
from latens.errors import DeviceMismatch, ModelError

INPUT_BOUND = 40 << 8


def hyper_synthesis(seed: int = 0, n: int = 6, m: int = 8) -> nn.Sequential:
    """The shape of a hyperprior's: N -> M -> 3/2 M -> 2 M, two transposed 5x5 convolutions and one 3x3."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.ConvTranspose2d(n, m, 5, stride=2, padding=2, output_padding=1),
        nn.LeakyReLU(0.01),
        nn.ConvTranspose2d(m, m * 3 // 2, 5, stride=2, padding=2, output_padding=1),
        nn.ReLU(),
        nn.Conv2d(m * 3 // 2, m * 2, 3, padding=1),
    )


def inputs(seed: int = 1, batch: int = 4, n: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-20 << 8, 20 << 8, (batch, n, 5, 4), generator=generator)


def network(weight_bits: int = 16, activation_bits: int = 16, seed: int = 0) -> IntegerNetwork:
    return quantize_network(
        hyper_synthesis(seed),
        inputs(seed=9).double() / 256,
        input_bound=INPUT_BOUND,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
    )


def narrow_network() -> IntegerNetwork:
    """All layers fit float32: input integers of magnitude 40 and 8-bit weights and activations."""
    return quantize_network(
        hyper_synthesis(),
        inputs(seed=9).double() / 256,
        input_frac_bits=0,
        input_bound=40,
        weight_bits=8,
        activation_bits=8,
    )


def oracle(net: IntegerNetwork, z: Tensor) -> np.ndarray:
    """The network of the docstring with loops over taps and Python integers; no convolution routine."""
    x = np.clip(z.numpy(), -net.input_bound, net.input_bound).astype(object)
    for layer in net.layers:
        assert isinstance(layer, IntegerLayer)
        x = oracle_layer(layer, x)
    return x.astype(np.int64)


def oracle_layer(layer: IntegerLayer, x: np.ndarray) -> np.ndarray:
    shape, weight = layer.shape, layer.weight.numpy().astype(object)
    (sy, sx), (py, px), (ky, kx), (oy, ox) = shape.stride, shape.padding, shape.kernel, shape.output_padding
    batch, _, height, width = x.shape
    if shape.transposed:
        high, wide = (height - 1) * sy + ky + oy, (width - 1) * sx + kx + ox
        full = np.zeros((batch, shape.outputs, high, wide), dtype=object)
        for i in range(ky):
            for j in range(kx):
                part = np.einsum("bchw,co->bohw", x, weight[:, :, i, j])
                full[:, :, i : i + sy * height : sy, j : j + sx * width : sx] += part
        acc = full[:, :, py : high - py, px : wide - px]
    else:
        padded = np.pad(x, ((0, 0), (0, 0), (py, py), (px, px)))
        high, wide = (height + 2 * py - ky) // sy + 1, (width + 2 * px - kx) // sx + 1
        acc = np.zeros((batch, shape.outputs, high, wide), dtype=object)
        for i in range(ky):
            for j in range(kx):
                window = padded[:, :, i : i + sy * high : sy, j : j + sx * wide : sx]
                acc += np.einsum("bchw,oc->bohw", window, weight[:, :, i, j])

    def column(name: str) -> np.ndarray:
        return getattr(layer, name).numpy().astype(object)[:, None, None]

    acc = acc + column("bias")
    scaled = acc * np.where(acc < 0, column("negative"), column("positive"))
    assert np.abs(scaled).max() < 1 << 63
    half = np.array([1 << (int(s) - 1) for s in layer.shift], dtype=object)[:, None, None]
    return np.clip((scaled + half) >> column("shift"), -shape.clamp, shape.clamp)


@pytest.mark.parametrize("make", [network, narrow_network])
def test_an_independent_implementation_agrees(make) -> None:
    net, z = make(), inputs(batch=2)
    expected = oracle(net, z)
    assert np.array_equal(net(z).numpy(), expected)
    assert np.array_equal(net.reference(z).numpy(), expected)


@pytest.mark.parametrize("make", [network, narrow_network])
@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
def test_one_result_however_it_is_computed(make, onednn: bool, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    net, z = make(), inputs()
    expected = net.reference(z)
    before = torch.get_num_threads()
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", onednn)
    try:
        torch.set_num_threads(threads)
        for laid_out in (z, z.contiguous(memory_format=torch.channels_last), z.to(torch.int32)):
            assert torch.equal(net(laid_out), expected)
            assert torch.equal(torch.cat([net(part) for part in laid_out.split(1)]), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("make", [network, narrow_network])
def test_autocast_default_dtype_and_casts_of_the_module_change_nothing(make) -> None:
    net, z = make(), inputs()
    expected = net(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(net(z), expected)
    assert torch.equal(make().bfloat16()(z), expected)
    torch.set_default_dtype(torch.float16)
    try:
        assert torch.equal(net(z), expected)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("side", [(5, 4), (1, 1), (2, 7)])
def test_matrix_product_path_of_gpus_gives_the_same_sums(side: tuple[int, int]) -> None:
    for layer in network().layers:
        assert isinstance(layer, IntegerLayer)
        x = probe(layer.shape.inputs, 1000)[:, :, : side[0], : side[1]].double()
        direct = layer(x.long(), torch.float64)
        bias = layer.bias[:, None, None]
        sums = _convolve_by_matmul(layer.shape, x, layer.weight.double()).long() + bias
        multiplier = torch.where(sums < 0, layer.negative[:, None, None], layer.positive[:, None, None]).long()
        shift = layer.shift[:, None, None].long()
        again = (sums * multiplier + (torch.ones_like(shift) << (shift - 1))) >> shift
        assert torch.equal(again.clamp(-layer.shape.clamp, layer.shape.clamp), direct)


@pytest.mark.gpu
def test_cuda_agrees_with_the_reference() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    net, z = network(), inputs()
    expected, fingerprint = net.reference(z), net.fingerprint()
    net.cuda()
    assert torch.equal(net(z.cuda()).cpu(), expected)
    assert net.fingerprint() == fingerprint


@pytest.mark.parametrize("seed", range(3))
def test_error_is_within_the_sum_of_all_rounding_steps(seed: int) -> None:
    stack, z = hyper_synthesis(seed), inputs(batch=2)
    net = network(seed=seed)
    with torch.no_grad():
        exact = stack.double()(z.double() / 256)
    error = (net(z).double() / 1024 - exact).abs().max()
    assert error <= error_bound(stack, net, z.double() / 256)
    assert error <= 3 / 1024  # 16 bits suffice for the output step to dominate


def error_bound(stack: nn.Sequential, net: IntegerNetwork, x: Tensor) -> float:
    """Worst case over all channels: the input's error through |w|, half a step per weight, bias and output, and the
    multiplier's relative error. Integers are bounded by the real activations of the float network."""
    stages = split_stages(stack)
    peaks = activation_peaks(stages, inputs(seed=9).double() / 256)
    step = torch.full((x.shape[1],), 2.0**-net.input_frac_bits, dtype=torch.float64)
    error = torch.zeros_like(step)
    for stage, layer, peak in zip(stages, net.layers, peaks, strict=True):
        assert isinstance(layer, IntegerLayer)
        weight = stage.conv.weight.detach().abs()
        weight = (weight if layer.shape.transposed else weight.transpose(0, 1)).sum((2, 3))  # inputs x outputs
        taps = layer.shape.kernel[0] * layer.shape.kernel[1]
        # The largest single weight is at most the sum over its taps, which only loosens the bound.
        weight_step = (weight * step[:, None]).amax(0) / 32767
        integers = taps * ((x.abs().amax((0, 2, 3)) + error) / step).sum()
        with torch.no_grad():
            x = stage.conv(x)
        x = torch.where(x < 0, x * stage.slope, x)
        step = torch.full_like(peak, 2.0**-10) if layer is net.layers[-1] else 2 * peak / layer.shape.clamp
        relative = 1 / layer.positive.double()
        error = error @ weight + weight_step / 2 * (integers + 1) + step / 2 + relative * x.abs().amax((0, 2, 3))
    return float(error.max())


def test_bounds_are_reached_by_the_worst_input_and_decide_the_carrier() -> None:
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


def test_transposed_bound_counts_only_taps_that_meet() -> None:
    shape = LayerShape(
        transposed=True,
        inputs=1,
        outputs=1,
        kernel=(5, 5),
        stride=(2, 2),
        padding=(2, 2),
        output_padding=(1, 1),
        clamp=9,
    )
    one = torch.ones(1, dtype=torch.int32)
    tensors = {"positive": one, "negative": one, "shift": one, "bias": torch.zeros(1, dtype=torch.int64)}
    layer = IntegerLayer(shape, 10, {"weight": torch.ones(1, 1, 5, 5, dtype=torch.int16), **tensors})
    # At stride 2 an output sees at most 3 x 3 of the 5 x 5 taps.
    assert layer.bound.convolution == 9 * 10


def test_carriers() -> None:
    assert {bound.carrier for bound in narrow_network().bounds()} == {torch.float32}
    assert {bound.carrier for bound in network().bounds()} == {torch.float64}


def test_coarser_weights_bring_all_but_the_first_layer_to_float32() -> None:
    stack, z = hyper_synthesis(), inputs()
    fast = quantize_network(stack, z.double() / 256, input_bound=INPUT_BOUND, activation_bits=9, float32=True)
    assert [bound.carrier for bound in fast.bounds()] == [torch.float64, torch.float32, torch.float32]
    # The budget is used: a channel's weights are not coarser than they must be.
    assert all(bound.convolution > 0.98 * 2**24 for bound in fast.bounds()[1:])
    assert torch.equal(fast(z), fast.reference(z))
    with torch.no_grad():
        exact = stack.double()(z.double() / 256)
        # One rounding of 255 steps up to twice the largest activation, half a step, through |w| of the last layer; the
        # roundings of its weights and of the layers before are allowed as much each.
        step = 2 * float(stack[:4](z.double() / 256).abs().max()) / 255
        gain = float(stack[4].weight.abs().sum((1, 2, 3)).max())
    assert (fast(z).double() / 1024 - exact).abs().max() < 3 * gain * step / 2


def test_float32_is_not_used_where_torch_shortens_it(monkeypatch: pytest.MonkeyPatch) -> None:
    net, seen = narrow_network(), set()
    original = IntegerLayer.forward

    def spy(self: IntegerLayer, x: Tensor, carrier: torch.dtype) -> Tensor:
        seen.add(carrier)
        return original(self, x, carrier)

    monkeypatch.setattr(IntegerLayer, "forward", spy)
    before = torch.backends.mkldnn.conv.fp32_precision
    torch.backends.mkldnn.conv.fp32_precision = "bf16"
    try:
        net(inputs())
    finally:
        torch.backends.mkldnn.conv.fp32_precision = before
    assert seen == {torch.float64}


def test_sums_that_cannot_be_exact_are_refused() -> None:
    with pytest.raises(ValueError, match=r"layer 0 cannot be made exact: .* 2\^53"):
        quantize_network(hyper_synthesis(), torch.randn(1, 6, 4, 4), input_bound=1 << 36)
    with pytest.raises(ValueError, match="no room to rescale"):
        quantize_network(hyper_synthesis(), torch.randn(1, 6, 4, 4), input_bound=1 << 30)


def test_inputs_and_outputs_are_held_to_their_bounds() -> None:
    net = network()
    z = inputs()
    huge = torch.where(z > 0, 1 << 50, -(1 << 50))
    assert torch.equal(net(huge), net(huge.clamp(-INPUT_BOUND, INPUT_BOUND)))
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


def test_a_channel_that_calibration_did_not_wake_is_not_cut_off() -> None:
    convs = [nn.Conv2d(2, 2, 1, bias=False) for _ in range(2)]
    for conv in convs:
        nn.init.dirac_(conv.weight)
    calibration = torch.tensor([1.0, 0.0])[None, :, None, None]
    net = quantize_network(nn.Sequential(convs[0], nn.ReLU(), convs[1]), calibration, input_bound=1 << 10)
    # An eighth of the loudest channel's peak, times the margin of two, is 64 / 256.
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
def test_what_cannot_be_quantised_is_named(stack: nn.Sequential, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantize_network(stack, torch.randn(1, 2, 4, 4), input_bound=100)


def test_not_finite_is_refused() -> None:
    stack = hyper_synthesis()
    with torch.no_grad():
        stack[0].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        quantize_network(stack, torch.randn(1, 6, 4, 4), input_bound=100)


def test_float_input_is_refused() -> None:
    with pytest.raises(ValueError, match="integers"):
        network()(inputs().float())


def test_model_file_round_trip() -> None:
    net, z = network(), inputs()
    spec, tensors = json.loads(json.dumps(net.spec())), load(save(net.state_dict()))
    again = IntegerNetwork.from_spec(spec, tensors)
    assert torch.equal(again(z), net(z))
    assert again.fingerprint() == net.fingerprint()
    assert again.bounds() == net.bounds()
    assert again.spec() == net.spec()


def test_loading_other_weights_is_seen_at_once() -> None:
    net, other, z = network(seed=0), network(seed=1), inputs()
    first = net(z)
    net.load_state_dict(other.state_dict())
    assert not torch.equal(net(z), first)
    assert torch.equal(net(z), other(z))
    assert net.bounds() == other.bounds()


@pytest.mark.parametrize(
    "damage",
    [
        lambda spec, tensors: spec.pop("layers"),
        lambda spec, tensors: spec.update(layers=[]),
        lambda spec, tensors: spec.update(format=2),
        lambda spec, tensors: spec.update(input_bound=-1),
        lambda spec, tensors: spec.update(input_bound=1 << 39),
        lambda spec, tensors: spec["layers"][0].update(stride=[0, 2]),
        lambda spec, tensors: spec["layers"][0].update(output_padding=[2, 2]),
        lambda spec, tensors: spec["layers"][1].update(clamp="many"),
        lambda spec, tensors: spec["layers"].pop(1),
        lambda spec, tensors: tensors.pop("layers.1.bias"),
        lambda spec, tensors: tensors.update({"layers.0.weight": tensors["layers.0.weight"].float()}),
        lambda spec, tensors: tensors.update({"layers.0.weight": tensors["layers.0.weight"][:1]}),
        lambda spec, tensors: tensors["layers.2.shift"].fill_(63),
        lambda spec, tensors: tensors["layers.2.shift"].fill_(-1),
        lambda spec, tensors: tensors["layers.2.positive"].fill_(-1),
        lambda spec, tensors: tensors["layers.2.bias"].fill_(1 << 60),
        lambda spec, tensors: tensors["layers.1.bias"].fill_(1 << 52),
    ],
)
def test_damaged_model_files_are_refused(damage) -> None:
    net = network()
    spec = json.loads(json.dumps(net.spec()))
    tensors = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    damage(spec, tensors)
    with pytest.raises(ModelError):
        IntegerNetwork.from_spec(spec, tensors)


def test_self_test_falls_back_until_the_result_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    net, z = network(), inputs()
    expected, fingerprint = net(z), net.fingerprint()
    assert net.verified(fingerprint).mode == "fast"
    original = IntegerLayer.forward

    def broken(self: IntegerLayer, x: Tensor, carrier: torch.dtype) -> Tensor:
        return original(self, x, carrier) + (1 if carrier is torch.float64 else 0)

    monkeypatch.setattr(IntegerLayer, "forward", broken)
    assert net.verified(fingerprint).mode == "reference"
    assert torch.equal(net(z), expected)
    with pytest.raises(DeviceMismatch):
        net.verified("0" * 64)


def test_fingerprint_tells_networks_apart() -> None:
    net = network()
    before = net.fingerprint()
    layer = net.layers[2]
    assert isinstance(layer, IntegerLayer)
    tensors = net.state_dict()
    tensors["layers.2.bias"] = tensors["layers.2.bias"].clone()
    tensors["layers.2.bias"][3] += (1 << int(layer.shift[3])) // int(layer.positive[3])  # one output step
    assert IntegerNetwork.from_spec(net.spec(), tensors).fingerprint() != before
    assert network(seed=1).fingerprint() != before


PRINT_FINGERPRINTS = """
import json, sys, torch
from pathlib import Path
from safetensors.torch import load_file
from latens.codes.integer import IntegerNetwork
torch.set_num_threads(1)
for name in ("wide", "narrow"):
    spec = json.loads(Path(sys.argv[1], name + ".json").read_text())
    print(IntegerNetwork.from_spec(spec, load_file(Path(sys.argv[1], name + ".safetensors"))).fingerprint())
"""


@pytest.mark.parametrize(
    "machine",
    [
        {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
        pytest.param(
            {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["AVX2", "SSE4"],
)
def test_simulated_machines_agree(machine: dict[str, str], tmp_path: Path) -> None:
    """Another instruction set, in its own process, computes what this one computes."""
    nets = {"wide": network(), "narrow": narrow_network()}
    for name, net in nets.items():
        (tmp_path / f"{name}.safetensors").write_bytes(save(net.state_dict()))
        (tmp_path / f"{name}.json").write_text(json.dumps(net.spec()))
    expected = [net.fingerprint() for net in nets.values()]
    command = [sys.executable, "-c", PRINT_FINGERPRINTS, str(tmp_path)]
    path = os.pathsep.join(part for part in sys.path if part)
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | machine
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=250)
    assert result.stdout.split() == expected
