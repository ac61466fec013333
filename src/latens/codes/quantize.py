"""Post-training quantization of a float convolutional stack to an exact integer network."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.codes.integer import IntegerNetwork
from latens.codes.integer_layer import FLOAT32_EXACT, IntegerLayer, LayerShape, absolute_sums
from latens.shapes import Float

OUTPUT_RANGE_BITS = 13  # outputs are clamped to +-2^13 = 8192, in real units
MARGIN = 2.0  # activations are clamped at this multiple of their largest calibrated value
PEAK_FLOOR = 1 / 8  # minimum of a channel's calibrated peak, relative to the largest peak of the layer
PRODUCT_BITS = 62  # |acc| * multiplier < 2^62, so adding the rounding term of at most 2^61 does not overflow
FLOAT_PRODUCT_BITS = 52  # the same for float64, which is faster
BIAS_BITS = 36  # a bias is rounded to at most this many bits, which affects only channels dominated by their bias
MULTIPLIER_BITS = 12  # smallest accepted resolution of a multiplier
FLOAT_MULTIPLIER_BITS = 16  # smallest resolution for which products are kept below 2^53


class Stage(NamedTuple):
    """A convolution and the negative slope of its activation: 1 for none, 0 for ReLU, in between for a leaky ReLU."""

    conv: nn.Conv2d | nn.ConvTranspose2d
    slope: float


def quantize_network(
    stack: nn.Sequential,
    calibration: Float[Tensor, "B C h w"],
    *,
    input_frac_bits: int = 8,
    input_bound: int,
    output_frac_bits: int = 10,
    weight_bits: int = 16,
    activation_bits: int = 16,
    float32: bool = False,
) -> IntegerNetwork:
    """Quantize Conv2d and ConvTranspose2d layers, each followed by ReLU, LeakyReLU or no activation.

    `calibration` are typical real-valued inputs; they set the activation scales, one per channel, with a margin of two. Weights
    have one scale per output channel. Inputs of the result are integers: real values times 2^input_frac_bits, clamped to
    +-input_bound. Outputs are real values times 2^output_frac_bits, clamped to +-8192. With `float32` the weights of all layers
    but the first are coarsened per channel until float32 sums are exact, which is about twice as fast; for a hyper-synthesis,
    11 activation bits divide the 24 bits best between weights and activations. Raises ValueError for other modules, for numbers
    that are not finite, and if exactness cannot be proved.
    """
    if not 2 <= weight_bits <= 16 or not 2 <= activation_bits <= 31:
        raise ValueError("weight_bits must be 2..16 and activation_bits 2..31")
    stages = split_stages(stack)
    peaks = activation_peaks(stages, calibration)
    layers: list[IntegerLayer] = []
    step = torch.full((stages[0].conv.in_channels,), 2.0**-input_frac_bits, dtype=torch.float64)
    bound = input_bound
    for index, (stage, peak) in enumerate(zip(stages, peaks, strict=True)):
        last = index == len(stages) - 1
        clamp = (1 << (output_frac_bits + OUTPUT_RANGE_BITS) if last else 1 << (activation_bits - 1)) - 1
        step_out = torch.full_like(peak, 2.0**-output_frac_bits) if last else peak * MARGIN / clamp
        # The caller sets the range of the first layer's inputs, usually too wide for float32; this layer is also the cheapest.
        budget = (FLOAT32_EXACT - 1) // bound if float32 and index > 0 else None
        try:
            layers.append(_quantize_stage(stage, step, bound, step_out, clamp, weight_bits, budget))
        except ValueError as error:
            raise ValueError(f"layer {index} cannot be made exact: {error}") from error
        step, bound = step_out, clamp
    return IntegerNetwork(layers, input_frac_bits=input_frac_bits, input_bound=input_bound, output_frac_bits=output_frac_bits)


class FloatLayer(NamedTuple):
    """Weight and bias of a layer in float32, and the real values of one unit of its integer outputs, in float64."""

    weight: Float[Tensor, "_ _ _ _"]
    bias: Float[Tensor, "_"]
    step: Float[Tensor, "_"]


def float_parameters(network: IntegerNetwork) -> list[FloatLayer]:
    """The layers of the float network with the outputs of an integer network.

    Inverse of `quantize_network` up to rounding and to the scale of hidden channels, which ReLUs leave free: the weights of
    each hidden channel get the norm 1. Transposed layers keep torch's layout (I, O, kh, kw).
    """
    found = []
    layers = network.stack()
    step = torch.full((layers[0].shape.inputs,), 2.0**-network.input_frac_bits, dtype=torch.float64)
    for index, layer in enumerate(layers):
        shape = layer.shape
        across, column = ((0, 2, 3), (None, slice(None))) if shape.transposed else ((1, 2, 3), (slice(None), None))
        weight = layer.weight.double() / (step[:, None, None, None] if shape.transposed else step[:, None, None])
        ratio = layer.positive.double() / 2.0 ** layer.shift.double()  # step of a sum over the step of the output
        if index == len(layers) - 1:
            step = torch.full_like(ratio, 2.0**-network.output_frac_bits)
        else:
            norm = weight.square().sum(across).sqrt() * ratio
            step = 1 / torch.where(norm > 0, norm, torch.ones_like(norm))
        scale = ratio * step
        found.append(FloatLayer((weight * scale[column][..., None, None]).float(), (layer.bias.double() * scale).float(), step))
    return found


def split_stages(stack: nn.Sequential) -> list[Stage]:
    """The convolutions of a stack, each with its activation."""
    stages: list[Stage] = []
    rectified = True
    for module in _flatten(stack):
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            _check_convolution(module)
            stages.append(Stage(module, 1.0))
            rectified = False
        elif isinstance(module, nn.ReLU | nn.LeakyReLU) and not rectified:
            slope = float(module.negative_slope) if isinstance(module, nn.LeakyReLU) else 0.0
            if not 0 <= slope <= 1:
                raise ValueError(f"the slope {slope} of a leaky ReLU is not within 0..1")
            stages[-1] = Stage(stages[-1].conv, slope)
            rectified = True
        else:
            raise ValueError(f"an integer network cannot have {type(module).__name__} here")
    if not stages:
        raise ValueError("there is no convolution to quantize")
    return stages


@torch.no_grad()
def activation_peaks(stages: list[Stage], calibration: Float[Tensor, "B C h w"]) -> list[Float[Tensor, "O"]]:
    """Largest output magnitude of every stage over the calibration inputs, per channel, computed in float64.

    Peaks are at least PEAK_FLOOR of the layer's largest, because other inputs may activate channels that are quiet here.
    """
    peaks = [torch.zeros(stage.conv.out_channels, dtype=torch.float64) for stage in stages]
    for part in calibration.detach().double().cpu().split(8):  # type: ignore[no-untyped-call]
        x = part
        for index, stage in enumerate(stages):
            x = _run_stage(stage, x)
            if not bool(x.isfinite().all()):
                raise ValueError("the network or its calibration inputs are not finite")
            peaks[index] = torch.maximum(peaks[index], x.abs().amax((0, 2, 3)))
    return [peak.clamp_min(float(peak.max()) * PEAK_FLOOR or 1.0) for peak in peaks]


def _quantize_stage(
    stage: Stage, step: Tensor, bound: int, step_out: Tensor, clamp: int, weight_bits: int, budget: int | None
) -> IntegerLayer:
    conv, slope = stage
    weight, bias = _parameters(conv)
    shape = _layer_shape(conv, clamp)
    weight = weight * (step[:, None, None, None] if shape.transposed else step[:, None, None])
    limit = (1 << (weight_bits - 1)) - 1
    across = (0, 2, 3) if shape.transposed else (1, 2, 3)
    scale = torch.maximum(weight.abs().amax(across) / limit, bias.abs() / 2.0**BIAS_BITS)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    rounded = _rounded(shape, weight, scale)
    while budget is not None and bool((excess := absolute_sums(shape, rounded) / budget).max() > 1):
        scale = scale * torch.where(excess > 1, excess * 1.001, 1.0)
        rounded = _rounded(shape, weight, scale)
    tensors = {
        "weight": rounded.to(torch.int16 if weight_bits > 8 else torch.int8),
        "bias": (bias / scale).round().to(torch.int64),
    }
    # The sums are bounded first, because the multipliers use the bits that the sums leave.
    unit = torch.ones(shape.outputs, dtype=torch.int32)
    sums = IntegerLayer(shape, bound, {**tensors, "positive": unit, "negative": unit, "shift": unit}).bound.accumulator
    return IntegerLayer(shape, bound, {**tensors, **_multipliers((scale / step_out).tolist(), slope, sums)})


def _rounded(shape: LayerShape, weight: Tensor, scale: Tensor) -> Tensor:
    return (weight / (scale[None, :, None, None] if shape.transposed else scale[:, None, None, None])).round()


def _multipliers(ratios: list[float], slope: float, accumulator: int) -> dict[str, Tensor]:
    """Integers m and shifts s with m / 2^s = ratio, as fine as int32 and the product bits (53, otherwise 63) allow."""
    bits = FLOAT_PRODUCT_BITS if accumulator <= 1 << (FLOAT_PRODUCT_BITS - FLOAT_MULTIPLIER_BITS) else PRODUCT_BITS
    largest = min((1 << 31) - 1, (1 << bits) // max(accumulator, 1))
    if largest < 1 << MULTIPLIER_BITS:
        raise ValueError(f"sums can reach {accumulator:,}, which leaves no room to rescale them: use fewer bits")
    positive, negative, shifts = [], [], []
    for ratio in ratios:
        shift = min(math.floor(math.log2(largest / ratio)), bits)
        if shift < 1:
            raise ValueError(f"its output steps are {ratio:.3g} times finer than its sums")
        positive.append(min(round(ratio * 2.0**shift), largest))
        negative.append(min(round(slope * ratio * 2.0**shift), largest))
        shifts.append(shift)
    return {
        name: torch.tensor(values, dtype=torch.int32)
        for name, values in (("positive", positive), ("negative", negative), ("shift", shifts))
    }


def _layer_shape(conv: nn.Conv2d | nn.ConvTranspose2d, clamp: int) -> LayerShape:
    def pair(value: object) -> tuple[int, int]:
        first, second = value if isinstance(value, tuple) else (value, value)
        return int(first), int(second)

    return LayerShape(
        transposed=isinstance(conv, nn.ConvTranspose2d),
        inputs=conv.in_channels,
        outputs=conv.out_channels,
        kernel=pair(conv.kernel_size),
        stride=pair(conv.stride),
        padding=pair(conv.padding),
        output_padding=pair(conv.output_padding),
        clamp=clamp,
    )


def _run_stage(stage: Stage, x: Tensor) -> Tensor:
    conv, slope = stage
    weight, bias = _parameters(conv)
    shape = _layer_shape(conv, clamp=1)
    with torch.autocast("cpu", enabled=False):
        if shape.transposed:
            y = F.conv_transpose2d(x, weight, bias, shape.stride, shape.padding, shape.output_padding)
        else:
            y = F.conv2d(x, weight, bias, shape.stride, shape.padding)
        return torch.where(y < 0, y * slope, y)


def _parameters(conv: nn.Conv2d | nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    weight = conv.weight.detach().double().cpu()
    bias = weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach().double().cpu()
    return weight, bias


def _check_convolution(conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
    plain = conv.groups == 1 and tuple(conv.dilation) == (1, 1) and conv.padding_mode == "zeros"
    if not plain or isinstance(conv.padding, str):
        raise ValueError("only convolutions with groups=1, dilation=1 and padding by zeros can be quantized")


def _flatten(stack: nn.Sequential) -> list[nn.Module]:
    modules: list[nn.Module] = []
    for module in stack:
        modules.extend(_flatten(module) if isinstance(module, nn.Sequential) else [module])
    return modules
