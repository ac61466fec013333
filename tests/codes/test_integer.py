"""Integer networks have the same result as loops over Python integers, in every mode, layout and environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from latens.codes.integer import IntegerNetwork, probe
from latens.codes.integer_layer import IntegerLayer, _convolve_by_matmul
from latens.errors import DeviceMismatch

Make = Callable[..., Any]


def oracle(net: IntegerNetwork, z: Tensor) -> np.ndarray:
    """The network of the docstring by loops over taps and Python integers, without a convolution routine."""
    x = np.clip(z.numpy(), -net.input_bound, net.input_bound).astype(object)
    for layer in net.layers:
        assert isinstance(layer, IntegerLayer)
        x = oracle_layer(layer, x)
    numbers: np.ndarray = x.astype(np.int64)
    return numbers


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
        values: np.ndarray = getattr(layer, name).numpy().astype(object)[:, None, None]
        return values

    acc = acc + column("bias")
    scaled = acc * np.where(acc < 0, column("negative"), column("positive"))
    assert np.abs(scaled).max() < 1 << 63
    half = np.array([1 << (int(s) - 1) for s in layer.shift], dtype=object)[:, None, None]
    rounded: np.ndarray = np.clip((scaled + half) >> column("shift"), -shape.clamp, shape.clamp)
    return rounded


def test_an_independent_implementation_agrees(inputs: Make, make: Make) -> None:
    net, z = make(), inputs(batch=2)
    expected = oracle(net, z)
    assert np.array_equal(net(z).numpy(), expected)
    assert np.array_equal(net.reference(z).numpy(), expected)


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_mode_and_layout_gives_the_same_result(
    inputs: Make, make: Make, onednn: bool, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_autocast_default_dtype_and_module_casts_have_no_effect(inputs: Make, make: Make) -> None:
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
def test_matrix_products_give_the_same_sums(network: Make, side: tuple[int, int]) -> None:
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
def test_cuda_agrees_with_the_reference(inputs: Make, network: Make) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    net, z = network(), inputs()
    expected, fingerprint = net.reference(z), net.fingerprint()
    net.cuda()
    assert torch.equal(net(z.cuda()).cpu(), expected)
    assert net.fingerprint() == fingerprint


def test_the_last_hidden_layer_is_the_oracles(inputs: Make, network: Make) -> None:
    net, z = network(), inputs()
    hidden, outputs = net.with_hidden(z)
    x = np.clip(z.numpy(), -net.input_bound, net.input_bound).astype(object)
    for layer in net.stack()[:-1]:
        x = oracle_layer(layer, x)
    assert hidden.dtype == outputs.dtype == torch.int64
    assert np.array_equal(hidden.numpy(), x.astype(np.int64))
    assert torch.equal(outputs, net(z))
    net.mode = "reference"
    assert torch.equal(net.with_hidden(z)[0], hidden)


@pytest.mark.wrong_types
def test_float_input_is_refused(inputs: Make, network: Make) -> None:
    with pytest.raises(ValueError, match="integers"):
        network()(inputs().float())


def test_self_test_falls_back_until_the_result_is_right(inputs: Make, network: Make, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_fingerprint_distinguishes_networks(network: Make) -> None:
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
def test_simulated_machines_agree(
    network: Make,
    narrow_network: Make,
    machine: dict[str, str],
    tmp_path: Path,
) -> None:
    """Another instruction set, in its own process, gives the same fingerprints."""
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
