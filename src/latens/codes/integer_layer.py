"""One layer of an integer network, with the proof that its arithmetic is exact (Balle et al. 2019).

acc = bias + sum weight * x, then y = clamp((acc * m + 2^(s-1)) >> s, -c, c) with one multiplier m for acc >= 0 and another for
acc < 0, which implements the (leaky) ReLU. The sum runs as a floating-point convolution over integers. While every partial sum
is below 2^24 (float32) or 2^53 (float64) in magnitude, no operation rounds, so the result does not depend on the order of
summation, and hence not on the kernel, the thread count or the machine. The bound is proved per layer from the weights, when a
network is quantized and whenever one is loaded.

If |acc| * m + 2^(s-1) is below 2^53 too, y is floor(acc * (m / 2^s) + 1/2) in float64: every intermediate number is an integer
below 2^53 times 2^-s, so no operation rounds. Other layers rescale in int64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.shapes import Shaped

FLOAT32_EXACT = 1 << 24
FLOAT64_EXACT = 1 << 53
INT64_EXACT = 1 << 63


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
    """Proved bounds of one layer over all its channels and all inputs."""

    convolution: int  # largest sum of |weight| * |x|, an upper bound of all partial sums
    accumulator: int  # the same plus |bias|, which is added in int64
    product: int  # largest |acc| * m + 2^(s-1), below 2^63
    carrier: torch.dtype  # float32 if convolution < 2^24, else float64
    float_product: bool  # product < 2^53: float64 rescales the sums exactly


class _Operands(NamedTuple):
    """A layer's buffers in the data types of the arithmetic, on one device.

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
    shift int32 (O,), 1..62. `input_bound` is the largest magnitude of an input. Raises ValueError if the proof fails.
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
        for name, (dtypes, size) in expected_tensors(shape).items():
            tensor = tensors[name]
            if tensor.dtype not in dtypes or tuple(tensor.shape) != size:
                raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not {dtypes[0]} {size}")
            self.register_buffer(name, tensor.detach().clone().contiguous())
        self.bound = prove(self)
        self.linear = torch.equal(self.positive, self.negative)
        self._operands: dict[tuple[torch.device, torch.dtype], _Operands] = {}

    def forward(self, x: Shaped[Tensor, "B C h w"], carrier: torch.dtype) -> Shaped[Tensor, "B O H W"]:
        """Integer outputs, as float64 where that is exact and as int64 otherwise.

        `carrier` is the data type of the sums (float32, float64 or int64); with int64, all arithmetic is int64.
        """
        acc = _convolve(self.shape, x.to(carrier), self._prepared(x.device, carrier).weight)
        kind = torch.float64 if self.bound.float_product and carrier is not torch.int64 else torch.int64
        _, bias, negative, excess, half, shift = self._prepared(x.device, kind)
        acc = acc.to(kind)
        if self.linear:
            torch.addcmul(half + bias * negative, acc, negative, out=acc)
        else:
            acc.add_(bias)
            above = acc.clamp_min(0)  # acc * negative where acc < 0, acc * positive elsewhere; torch.where is slower
            acc.mul_(negative).addcmul_(above, excess).add_(half)
        acc = acc.floor_() if kind is torch.float64 else acc.bitwise_right_shift_(shift)
        return acc.clamp_(-self.shape.clamp, self.shape.clamp)

    @property
    def pointwise(self) -> bool:
        """True if an output depends only on the inputs at its own position."""
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


def prove(layer: IntegerLayer) -> LayerBound:
    """Bounds of a layer's sums and products, in exact integers. Raises ValueError if one is too large for its carrier."""
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


def _convolve(shape: LayerShape, x: Tensor, weight: Tensor) -> Tensor:
    if x.device.type == "cuda":
        # cuDNN may choose Winograd or FFT kernels, whose intermediate values are not integers.
        return _convolve_by_matmul(shape, x, weight)
    if shape.transposed:
        return F.conv_transpose2d(x, weight, stride=shape.stride, padding=shape.padding, output_padding=shape.output_padding)
    return F.conv2d(x, weight, stride=shape.stride, padding=shape.padding)


def _convolve_by_matmul(shape: LayerShape, x: Tensor, weight: Tensor) -> Tensor:
    """The same convolution as one matrix product, with `fold` or `unfold` for the patches."""
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
    """Per output channel, the largest sum of |weight| over the taps of one output."""
    magnitude = weight.abs()
    if not shape.transposed:
        return magnitude.sum((1, 2, 3))
    # An output of a transposed convolution uses only taps of one residue modulo the stride.
    rows, columns = shape.stride
    phases = [magnitude[:, :, i::rows, j::columns].sum((0, 2, 3)) for i in range(rows) for j in range(columns)]
    return torch.stack(phases).amax(0)


def expected_tensors(shape: LayerShape) -> dict[str, tuple[tuple[torch.dtype, ...], tuple[int, ...]]]:
    channels = (shape.inputs, shape.outputs) if shape.transposed else (shape.outputs, shape.inputs)
    per_channel = (shape.outputs,)
    return {
        "weight": ((torch.int16, torch.int8), (*channels, *shape.kernel)),
        "bias": ((torch.int64,), per_channel),
        "positive": ((torch.int32,), per_channel),
        "negative": ((torch.int32,), per_channel),
        "shift": ((torch.int32,), per_channel),
    }
