"""Convolutional networks in exact integer arithmetic, for parameters that an entropy decoder must reproduce bit by bit.

One layer: acc = bias + sum weight * x, then y = clamp((acc * m + 2^(s-1)) >> s, -c, c) with a multiplier m for acc >= 0
and another for acc < 0, which makes the (leaky) rectifier. The sum runs as a floating-point convolution over integers:
while every partial sum is below 2^24 (float32) or 2^53 (float64) in magnitude nothing is rounded, so the order of
summation, and with it the kernel, the thread count and the machine, cannot matter. The bound is proved per layer from
the weights, when a network is quantized and again whenever one is loaded. (Balle, Johnston, Minnen 2019.)
Where |acc| * m + 2^(s-1) is below 2^53 too, y is floor(acc * (m / 2^s) + 1/2) in float64: every number on the way is an integer
below 2^53 times 2^-s, so nothing is rounded there either. Other layers do this part in int64.

`latens.codes.quantize.quantize_network` makes such a network from a float one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.errors import DeviceMismatch, ModelError
from latens.shapes import Int, Shaped

FLOAT32_EXACT = 1 << 24
FLOAT64_EXACT = 1 << 53
INT64_EXACT = 1 << 63
FORMAT = 1
CACHED_PIXELS = 4096  # that a network of 1 x 1 kernels computes at once

Mode = Literal["fast", "cpu", "reference"]
MODES: tuple[Mode, ...] = ("fast", "cpu", "reference")


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """Geometry of one convolution; `clamp` is c, the largest output magnitude."""

    transposed: bool
    inputs: int
    outputs: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    output_padding: tuple[int, int]
    clamp: int


class LayerBound(NamedTuple):
    """Proved bounds of one layer, over all its channels and all inputs."""

    convolution: int  # largest sum |weight| * |x|, which no partial sum exceeds
    accumulator: int  # the same with |bias|, which is added in int64
    product: int  # largest |acc| * m + 2^(s-1), below 2^63
    carrier: torch.dtype  # float32 if convolution < 2^24, else float64
    float_product: bool  # product < 2^53: float64 rescales the sums exactly


class _Operands(NamedTuple):
    """A layer's buffers in the types of the arithmetic, on one device.

    In float64 the multipliers are divided by 2^shift, and `half` is 1/2.
    """

    weight: Tensor
    bias: Tensor
    negative: Tensor
    excess: Tensor  # positive - negative
    half: Tensor
    shift: Tensor


class IntegerLayer(nn.Module):
    """Convolution, rectifier and requantization of integers.

    Buffers: weight int16 (or int8) in torch's layout, bias int64 (O,), positive and negative int32 (O,) multipliers,
    shift int32 (O,), 1..62. `input_bound` is the largest magnitude of an input. ValueError if the proof fails.
    """

    weight: Tensor
    bias: Tensor
    positive: Tensor
    negative: Tensor
    shift: Tensor

    def __init__(self, shape: LayerShape, input_bound: int, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.shape = shape
        self.input_bound = input_bound
        for name, (dtypes, size) in _expected(shape).items():
            tensor = tensors[name]
            if tensor.dtype not in dtypes or tuple(tensor.shape) != size:
                raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not {dtypes[0]} {size}")
            self.register_buffer(name, tensor.detach().clone().contiguous())
        self.bound = prove(self)
        self.linear = torch.equal(self.positive, self.negative)
        self._operands: dict[tuple[torch.device, torch.dtype], _Operands] = {}

    def forward(self, x: Shaped[Tensor, "B C h w"], carrier: torch.dtype) -> Shaped[Tensor, "B O H W"]:
        """Integers to integers, held as float64 where that is exact and as int64 otherwise.

        The sum is carried in `carrier` (float32, float64 or int64); with int64 everything is.
        """
        acc = _convolve(self.shape, x.to(carrier), self._prepared(x.device, carrier).weight)
        kind = torch.float64 if self.bound.float_product and carrier is not torch.int64 else torch.int64
        _, bias, negative, excess, half, shift = self._prepared(x.device, kind)
        acc = acc.to(kind)
        if self.linear:
            torch.addcmul(half + bias * negative, acc, negative, out=acc)
        else:
            acc.add_(bias)
            above = acc.clamp_min(0)  # acc * negative where acc < 0, acc * positive elsewhere; torch.where takes longer
            acc.mul_(negative).addcmul_(above, excess).add_(half)
        acc = acc.floor_() if kind is torch.float64 else acc.bitwise_right_shift_(shift)
        return acc.clamp_(-self.shape.clamp, self.shape.clamp)

    @property
    def pointwise(self) -> bool:
        """Whether an output depends on the inputs at its own place alone."""
        shape = self.shape
        return not shape.transposed and (shape.kernel, shape.stride, shape.padding) == ((1, 1), (1, 1), (0, 0))

    def _prepared(self, device: torch.device, kind: torch.dtype) -> _Operands:
        key = (device, kind)
        if key not in self._operands:
            bias, positive, negative, shift = (
                getattr(self, name).to(device, torch.int64)[:, None, None] for name in ("bias", "positive", "negative", "shift")
            )
            weight, excess, half = self.weight.to(device, kind), positive - negative, torch.ones_like(shift) << (shift - 1)
            if kind is not torch.int64:
                unit = torch.ones_like(shift, dtype=kind) / (torch.ones_like(shift) << shift).to(kind)  # exact: powers of 2
                bias, negative, excess, half = (number.to(kind) for number in (bias, negative, excess, half))
                negative, excess, half = negative * unit, excess * unit, half * unit
            self._operands[key] = _Operands(weight, bias, negative, excess, half, shift)
        return self._operands[key]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._operands.clear()
        self.bound = prove(self)
        self.linear = torch.equal(self.positive, self.negative)


class IntegerNetwork(nn.Module):
    """A stack of integer layers: fixed-point integers in, fixed-point integers out, the same everywhere.

    An input integer stands for its value times 2^-input_frac_bits and is held to +-input_bound; an output integer
    stands for its value times 2^-output_frac_bits. `mode` selects how sums are computed and never what they are: "fast"
    on the input's device, "cpu" in float64 on the CPU, "reference" in int64 on the CPU (slow).
    """

    def __init__(self, layers: list[IntegerLayer], *, input_frac_bits: int, input_bound: int, output_frac_bits: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.input_frac_bits = input_frac_bits
        self.input_bound = input_bound
        self.output_frac_bits = output_frac_bits
        self.mode: Mode = "fast"

    def forward(self, z: Int[Tensor, "B C h w"]) -> Int[Tensor, "B O H W"]:
        """Outputs, int64, on the device of `z`. ValueError if `z` is not of integers."""
        if self.mode == "reference":
            return self.reference(z)
        # MPS has no float64, and its float32 kernels are not proved to be exact.
        device = z.device if self.mode == "fast" and z.device.type in ("cpu", "cuda") else torch.device("cpu")
        float32 = self.mode == "fast" and device.type == "cpu" and _float32_is_whole()
        return self._run(z, device, lambda layer: layer.bound.carrier if float32 else torch.float64)

    def reference(self, z: Int[Tensor, "B C h w"]) -> Int[Tensor, "B O H W"]:
        """The same outputs through int64 convolutions on the CPU; slow."""
        return self._run(z, torch.device("cpu"), lambda _: torch.int64)

    @torch.no_grad()
    def _run(self, z: Tensor, device: torch.device, carrier: Callable[[IntegerLayer], torch.dtype]) -> Tensor:
        if z.is_floating_point() or z.is_complex() or z.dtype is torch.bool:
            raise ValueError(f"an integer network needs integers, not {z.dtype}")
        x = z.to(device) if z.dtype is torch.int32 and self.input_bound < 1 << 31 else z.to(device, torch.int64)
        x = x.clamp(-self.input_bound, self.input_bound)
        layers = self.stack()
        with torch.autocast(device.type, enabled=False):
            if all(layer.pointwise for layer in layers) and device.type == "cpu" and z.numel():
                x = _by_pixels(x, lambda part: _through(layers, part, carrier))
            else:
                x = _through(layers, x, carrier)
        return x.to(z.device)

    def bounds(self) -> tuple[LayerBound, ...]:
        """The proof: per layer, in order."""
        return tuple(layer.bound for layer in self.stack())

    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of the outputs for a fixed pseudo-random input, on the device of the buffers."""
        layer = self.stack()[0]
        z = probe(layer.shape.inputs, self.input_bound).to(layer.weight.device)
        outputs = self(z).cpu().contiguous().numpy()
        return hashlib.sha256(outputs.astype("<i8").tobytes()).hexdigest()

    def verified(self, expected: str) -> IntegerNetwork:
        """This network, in the first mode whose fingerprint is the expected one; DeviceMismatch if none is."""
        for mode in MODES:
            self.mode = mode
            if self.fingerprint() == expected:
                return self
        raise DeviceMismatch(
            "the self-test of the entropy parameters fails on this machine",
            hint="files cannot be exchanged with other machines; please report the processor and the torch version",
        )

    def spec(self) -> dict[str, Any]:
        """Everything but the tensors (those are in `state_dict`), for JSON."""
        return {
            "format": FORMAT,
            "input_frac_bits": self.input_frac_bits,
            "input_bound": self.input_bound,
            "output_frac_bits": self.output_frac_bits,
            "layers": [asdict(layer.shape) for layer in self.stack()],
        }

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> IntegerNetwork:
        """The network of `spec()` and `state_dict()`; every bound is proved again. ModelError if anything is amiss."""
        try:
            if spec["format"] != FORMAT:
                raise ModelError(f"the integer network has format {spec['format']}, this latens reads {FORMAT}")
            shapes = [_shape(entry) for entry in spec["layers"]]
            numbers = {name: _count(spec[name]) for name in ("input_frac_bits", "input_bound", "output_frac_bits")}
            return cls(_build(shapes, numbers["input_bound"], tensors), **numbers)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"the integer network of the model is not valid: {error}") from error

    def stack(self) -> list[IntegerLayer]:
        """The layers, in order."""
        return [layer for layer in self.layers if isinstance(layer, IntegerLayer)]


def prove(layer: IntegerLayer) -> LayerBound:
    """Bounds of a layer's sums and products, in exact integers; ValueError if one is too large for its carrier."""
    sums = [total * layer.input_bound for total in absolute_sums(layer.shape, layer.weight.to(torch.int64)).tolist()]
    if max(sums) >= FLOAT64_EXACT:
        raise ValueError(f"sums can reach {max(sums):,}; exact arithmetic ends at 2^53: use fewer bits")
    accumulators = [total + abs(bias) for total, bias in zip(sums, layer.bias.tolist(), strict=True)]
    shifts, positive, negative = (getattr(layer, name).tolist() for name in ("shift", "positive", "negative"))
    if not all(1 <= shift <= 62 for shift in shifts):
        raise ValueError("a shift is not within 1..62")
    if min(positive) < 0 or min(negative) < 0:
        raise ValueError("a multiplier is negative")
    product = max(a * max(p, n) + (1 << (s - 1)) for a, p, n, s in zip(accumulators, positive, negative, shifts, strict=True))
    if product >= INT64_EXACT:
        raise ValueError(f"products can reach {product:,}; 64-bit integers end at 2^63")
    if layer.shape.clamp < 1:
        raise ValueError("the clamp is below 1")
    carrier = torch.float32 if max(sums) < FLOAT32_EXACT else torch.float64
    return LayerBound(max(sums), max(accumulators), product, carrier, product < FLOAT64_EXACT)


def probe(channels: int, bound: int) -> Int[Tensor, "2 C 4 6"]:
    """Integers within +-bound from a linear congruential generator; the second image is 64 times smaller."""
    count = 2 * channels * 24
    state = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
    values = ((state >> np.uint64(33)) % np.uint64(2 * bound + 1)).astype(np.int64) - bound
    values = values.reshape(2, channels, 4, 6)
    values[1] //= 64
    return torch.from_numpy(values)


def _through(layers: list[IntegerLayer], x: Tensor, carrier: Callable[[IntegerLayer], torch.dtype]) -> Int[Tensor, "B O H W"]:
    for layer in layers:
        x = layer(x, carrier(layer))
    return x.to(torch.int64)


def _by_pixels(x: Int[Tensor, "B C h w"], network: Callable[[Tensor], Tensor]) -> Int[Tensor, "B O h w"]:
    """A network of 1 x 1 kernels: the pixels of all images in one row, cut into parts that stay in the cache."""
    row = x.transpose(0, 1).reshape(1, x.shape[1], 1, -1)
    parts = row.split(CACHED_PIXELS, dim=3)  # type: ignore[no-untyped-call]
    found = torch.cat([network(part) for part in parts], dim=3)
    return found.reshape(-1, len(x), *x.shape[2:]).transpose(0, 1)


def _convolve(shape: LayerShape, x: Tensor, weight: Tensor) -> Tensor:
    if x.device.type == "cuda":
        # cuDNN may choose Winograd or FFT kernels, whose intermediate values are not integers.
        return _convolve_by_matmul(shape, x, weight)
    if shape.transposed:
        return F.conv_transpose2d(x, weight, stride=shape.stride, padding=shape.padding, output_padding=shape.output_padding)
    return F.conv2d(x, weight, stride=shape.stride, padding=shape.padding)


def _convolve_by_matmul(shape: LayerShape, x: Tensor, weight: Tensor) -> Tensor:
    """The same sums as one matrix product, with the patches laid out or added up around it."""
    batch, _, height, width = x.shape
    sides = zip((height, width), shape.kernel, shape.stride, shape.padding, shape.output_padding, strict=True)
    if shape.transposed:
        size = tuple((n - 1) * s - 2 * p + k + extra for n, k, s, p, extra in sides)
        patches = weight.flatten(1).t() @ x.flatten(2)
        return F.fold(patches, size, shape.kernel, padding=shape.padding, stride=shape.stride)
    size = tuple((n + 2 * p - k) // s + 1 for n, k, s, p, _ in sides)
    patches = F.unfold(x, shape.kernel, padding=shape.padding, stride=shape.stride)
    return (weight.flatten(1) @ patches).reshape(batch, shape.outputs, *size)


def absolute_sums(shape: LayerShape, weight: Tensor) -> Tensor:
    """Per output channel, the largest sum of |weight| that meets in one output."""
    magnitude = weight.abs()
    if not shape.transposed:
        return magnitude.sum((1, 2, 3))
    # Outputs of a transposed convolution meet only taps of one residue modulo the stride.
    rows, columns = shape.stride
    phases = [magnitude[:, :, i::rows, j::columns].sum((0, 2, 3)) for i in range(rows) for j in range(columns)]
    return torch.stack(phases).amax(0)


def _build(shapes: list[LayerShape], input_bound: int, tensors: Mapping[str, Tensor]) -> list[IntegerLayer]:
    layers: list[IntegerLayer] = []
    for index, shape in enumerate(shapes):
        if layers and layers[-1].shape.outputs != shape.inputs:
            raise ValueError(f"layer {index} takes {shape.inputs} channels, not {layers[-1].shape.outputs}")
        own = {name: tensors[f"layers.{index}.{name}"] for name in _expected(shape)}
        layers.append(IntegerLayer(shape, layers[-1].shape.clamp if layers else input_bound, own))
    if not layers:
        raise ValueError("there are no layers")
    return layers


def _expected(shape: LayerShape) -> dict[str, tuple[tuple[torch.dtype, ...], tuple[int, ...]]]:
    channels = (shape.inputs, shape.outputs) if shape.transposed else (shape.outputs, shape.inputs)
    per_channel = (shape.outputs,)
    return {
        "weight": ((torch.int16, torch.int8), (*channels, *shape.kernel)),
        "bias": ((torch.int64,), per_channel),
        "positive": ((torch.int32,), per_channel),
        "negative": ((torch.int32,), per_channel),
        "shift": ((torch.int32,), per_channel),
    }


def _shape(entry: Mapping[str, Any]) -> LayerShape:
    def pair(name: str, least: int) -> tuple[int, int]:
        first, second = entry[name]
        return _count(first, least), _count(second, least)

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


def _count(value: object, least: int = 0) -> int:
    if not isinstance(value, int) or not least <= value < 1 << 40:
        raise ValueError(f"{value!r} is not an integer from {least} on")
    return value


def _float32_is_whole() -> bool:
    """Whether float32 convolutions on the CPU really use 24 bits: torch can be told to use fewer."""
    settings = (torch.backends.fp32_precision, torch.backends.mkldnn.fp32_precision)  # type: ignore[attr-defined]
    conv = torch.backends.mkldnn.conv.fp32_precision  # type: ignore[attr-defined]
    return all(value in ("none", "ieee") for value in (*settings, conv))
