"""Convolutional networks in exact integer arithmetic, for parameters that an entropy decoder must reproduce bit by bit.

`latens.codes.integer_layer` describes the arithmetic and its proof; `latens.codes.quantize.quantize_network` converts a float
network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from latens.codes.integer_layer import IntegerLayer, LayerBound, LayerShape, expected_tensors
from latens.errors import DeviceMismatch, ModelError
from latens.shapes import Int, Shaped

FORMAT = 1
CACHED_PIXELS = 4096  # pixels per call of a network of 1 x 1 kernels, small enough for the cache

Mode = Literal["fast", "cpu", "reference"]
MODES: tuple[Mode, ...] = ("fast", "cpu", "reference")

Rows = tuple[int, int]  # first row and end (exclusive)


class Window(NamedTuple):
    """The part of an input that some output rows need, and the place of these rows in the output of that part."""

    inputs: slice
    outputs: slice


class IntegerNetwork(nn.Module):
    """A stack of integer layers that maps fixed-point integers to fixed-point integers, identically on every machine.

    Inputs have `input_frac_bits` fractional bits and are clamped to +-input_bound; outputs have `output_frac_bits` fractional
    bits. `mode` selects the arithmetic, not the result: "fast" on the input's device, "cpu" in float64 on the CPU, "reference"
    in int64 on the CPU (slow).
    """

    def __init__(self, layers: list[IntegerLayer], *, input_frac_bits: int, input_bound: int, output_frac_bits: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.input_frac_bits = input_frac_bits
        self.input_bound = input_bound
        self.output_frac_bits = output_frac_bits
        self.mode: Mode = "fast"

    def forward(self, z: Int[Tensor, "B C h w"], *, dtype: torch.dtype = torch.int64) -> Int[Tensor, "B O H W"]:
        """Outputs on the device of `z`, as `dtype`, which must hold the last clamp. Raises ValueError without integers."""
        return self._with_hidden(z, dtype)[-1]

    def with_hidden(
        self, z: Int[Tensor, "B C h w"], *, dtype: torch.dtype = torch.int64
    ) -> tuple[Int[Tensor, "B D h2 w2"], Int[Tensor, "B O H W"]]:
        """Outputs of the last hidden layer and of the network, as `dtype`, which must hold the clamps of both layers.

        Raises ValueError for a network of 1 x 1 kernels.
        """
        found = self._with_hidden(z, dtype)
        if len(found) < 2:
            raise ValueError("networks of 1 x 1 kernels keep no hidden layer")
        return found[0].to(dtype), found[1]

    def window(self, rows: Rows, height: int) -> Window:
        """The input rows, of `height`, on which output rows depend. Raises ValueError for layers that reduce the resolution."""
        low, high, scale = *rows, 1
        for layer in reversed(self.stack()):
            shape = layer.shape
            kernel, stride, padding = shape.kernel[0], shape.stride[0], shape.padding[0]
            if shape.transposed:  # output o depends on the inputs i with 0 <= o - i * stride + padding < kernel
                low, high = -((kernel - 1 - padding - low) // stride), (high - 1 + padding) // stride + 1
                scale *= stride
            elif stride == 1:
                low, high = low - padding, high - padding + kernel - 1
            else:
                raise ValueError("a layer reduces the resolution")
        low, high = max(low, 0), min(high, height)
        return Window(slice(low, high), slice(rows[0] - low * scale, rows[1] - low * scale))

    def _with_hidden(self, z: Tensor, dtype: torch.dtype = torch.int64) -> list[Tensor]:
        if self.mode == "reference":
            return self._run(z, torch.device("cpu"), lambda _: torch.int64, dtype)
        # MPS has no float64, and its float32 kernels are not proved to be exact.
        device = z.device if self.mode == "fast" and z.device.type in ("cpu", "cuda") else torch.device("cpu")
        float32 = self.mode == "fast" and device.type == "cpu" and _full_float32()
        return self._run(z, device, lambda layer: layer.bound.carrier if float32 else torch.float64, dtype)

    def reference(self, z: Int[Tensor, "B C h w"]) -> Int[Tensor, "B O H W"]:
        """The same outputs by int64 convolutions on the CPU (slow)."""
        return self._run(z, torch.device("cpu"), lambda _: torch.int64)[-1]

    @torch.no_grad()
    def _run(
        self,
        z: Tensor,
        device: torch.device,
        carrier: Callable[[IntegerLayer], torch.dtype],
        dtype: torch.dtype = torch.int64,
    ) -> list[Tensor]:
        if z.is_floating_point() or z.is_complex() or z.dtype is torch.bool:
            raise ValueError(f"an integer network needs integers, not {z.dtype}")
        x = z.to(device) if z.dtype is torch.int32 and self.input_bound < 1 << 31 else z.to(device, torch.int64)
        x = x.clamp(-self.input_bound, self.input_bound)
        layers = self.stack()
        with torch.autocast(device.type, enabled=False):
            if all(layer.pointwise for layer in layers) and device.type == "cpu" and z.numel():
                found = [_by_pixels(x, lambda part: _through(layers, part, carrier, dtype)[-1])]
            else:
                found = _through(layers, x, carrier, dtype)
        return [part.to(z.device) for part in found]

    def bounds(self) -> tuple[LayerBound, ...]:
        """Proved bounds of the layers, in order."""
        return tuple(layer.bound for layer in self.stack())

    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of the outputs for a fixed pseudo-random input, computed on the device of the buffers."""
        layer = self.stack()[0]
        z = probe(layer.shape.inputs, self.input_bound).to(layer.weight.device)
        outputs = self(z).cpu().contiguous().numpy()
        return hashlib.sha256(outputs.astype("<i8").tobytes()).hexdigest()

    def verified(self, expected: str) -> IntegerNetwork:
        """This network in the first mode that gives the expected fingerprint. Raises DeviceMismatch if no mode does."""
        for mode in MODES:
            self.mode = mode
            if self.fingerprint() == expected:
                return self
        raise DeviceMismatch(
            "the self-test of the entropy parameters fails on this machine",
            hint="files cannot be exchanged with other machines; please report the processor and the torch version",
        )

    def spec(self) -> dict[str, Any]:
        """Description for JSON; the tensors are in `state_dict`."""
        return {
            "format": FORMAT,
            "input_frac_bits": self.input_frac_bits,
            "input_bound": self.input_bound,
            "output_frac_bits": self.output_frac_bits,
            "layers": [asdict(layer.shape) for layer in self.stack()],
        }

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> IntegerNetwork:
        """The network of `spec()` and `state_dict()`; proves every bound again. Raises ModelError if they are invalid."""
        try:
            if spec["format"] != FORMAT:
                raise ModelError(f"the integer network has format {spec['format']}, this latens reads {FORMAT}")
            shapes = [_shape(entry) for entry in spec["layers"]]
            numbers = {name: _count(spec[name]) for name in ("input_frac_bits", "input_bound", "output_frac_bits")}
            return cls(_build(shapes, numbers["input_bound"], tensors), **numbers)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"the integer network of the model is not valid: {error}") from error

    def stack(self) -> list[IntegerLayer]:
        """The modules of `layers`, in order, with their type."""
        return [layer for layer in self.layers if isinstance(layer, IntegerLayer)]


def probe(channels: int, bound: int) -> Int[Tensor, "2 C 4 6"]:
    """Integers within +-bound from a linear congruential generator; the second image is 64 times smaller."""
    count = 2 * channels * 24
    state = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
    values = ((state >> np.uint64(33)) % np.uint64(2 * bound + 1)).astype(np.int64) - bound
    values = values.reshape(2, channels, 4, 6)
    values[1] //= 64
    return torch.from_numpy(values)


def _through(
    layers: list[IntegerLayer], x: Tensor, carrier: Callable[[IntegerLayer], torch.dtype], dtype: torch.dtype
) -> list[Shaped[Tensor, "B _ _ _"]]:
    """Outputs of the last two layers; those of the last as `dtype`."""
    found: list[Tensor] = []
    for layer in layers:
        x = layer(x, carrier(layer))
        found = [*found[-1:], x]
    return [*found[:-1], found[-1].to(dtype)]


def _by_pixels(x: Int[Tensor, "B C h w"], network: Callable[[Tensor], Tensor]) -> Int[Tensor, "B O h w"]:
    """Apply a network of 1 x 1 kernels to the pixels of all images as one row, in parts that fit the cache."""
    row = x.transpose(0, 1).reshape(1, x.shape[1], 1, -1)
    parts = row.split(CACHED_PIXELS, dim=3)  # type: ignore[no-untyped-call]
    found = torch.cat([network(part) for part in parts], dim=3)
    return found.reshape(-1, len(x), *x.shape[2:]).transpose(0, 1)


def _build(shapes: list[LayerShape], input_bound: int, tensors: Mapping[str, Tensor]) -> list[IntegerLayer]:
    layers: list[IntegerLayer] = []
    for index, shape in enumerate(shapes):
        if layers and layers[-1].shape.outputs != shape.inputs:
            raise ValueError(f"layer {index} takes {shape.inputs} channels, not {layers[-1].shape.outputs}")
        own = {name: tensors[f"layers.{index}.{name}"] for name in expected_tensors(shape)}
        layers.append(IntegerLayer(shape, layers[-1].shape.clamp if layers else input_bound, own))
    if not layers:
        raise ValueError("there are no layers")
    return layers


def _shape(entry: Mapping[str, Any]) -> LayerShape:
    def pair(name: str, minimum: int) -> tuple[int, int]:
        first, second = entry[name]
        return _count(first, minimum), _count(second, minimum)

    shape = LayerShape(
        transposed=bool(entry["transposed"]),
        inputs=_count(entry["inputs"], 1),
        outputs=_count(entry["outputs"], 1),
        kernel=pair("kernel", 1),
        stride=pair("stride", 1),
        padding=pair("padding", 0),
        output_padding=pair("output_padding", 0),
        clamp=_count(entry["clamp"], 1),
    )
    if any(extra >= stride for extra, stride in zip(shape.output_padding, shape.stride, strict=True)):
        raise ValueError("an output padding is not below its stride")
    return shape


def _count(value: object, minimum: int = 0) -> int:
    if not isinstance(value, int) or not minimum <= value < 1 << 40:
        raise ValueError(f"{value!r} is not an integer from {minimum} on")
    return value


def _full_float32() -> bool:
    """True if float32 convolutions on the CPU have the full precision of 24 bits; torch has settings that reduce it."""
    settings = (torch.backends.fp32_precision, torch.backends.mkldnn.fp32_precision)  # type: ignore[attr-defined]
    conv = torch.backends.mkldnn.conv.fp32_precision  # type: ignore[attr-defined]
    return all(value in ("none", "ieee") for value in (*settings, conv))
