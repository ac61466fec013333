"""Export of a trained context model: exact integers, and tables of counted symbols.

The integers of the hyper-synthesis are frozen first, by `latens.codes.coding.freeze`. Every layer is proved exact when it is
made; see `latens.codes.integer_layer` and `latens.codes.integer_context` for the bounds.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from latens.codes.coding import LEVELS, OUTPUT_BITS, FrozenCoding, scales
from latens.codes.context import LEVEL_STEP, PhaseContext
from latens.codes.context_coding import ContextCoding, flat
from latens.codes.entropy import SCALE_MIN
from latens.codes.integer import IntegerNetwork
from latens.codes.integer_context import (
    FEATURE_MAX,
    FINE_LEVELS,
    GATE_BITS,
    INNOVATION_BITS,
    LEVEL_BITS,
    MAGNITUDE,
    RECIPROCAL_BITS,
    IntegerContext,
)
from latens.codes.quantize import quantize_network
from latens.codes.tables import SymbolTables, learned_tables
from latens.shapes import Float, Int

COUNTED = 255  # larger symbols are not counted for the tables
PRIOR_WEIGHT = 20.0  # of the Gaussian among the counted symbols of a level
FEATURE_MARGIN = 1.25  # features are clamped at this multiple of their largest calibrated value
SLICE_BITS = 16  # of the hidden layer of the slices, whose inputs are rarely as large as the bounds


@torch.no_grad()
def freeze_context(
    base: FrozenCoding,
    hyper_synthesis: nn.Sequential,
    features: nn.Conv2d,
    context: PhaseContext,
    hyper_latents: Float[Tensor, "n N h w"],
    *,
    logarithmic: bool,
) -> ContextCoding:
    """Freeze a trained context model on top of a frozen hyper-synthesis, with Gaussian tables.

    `features` is the 1 x 1 layer from the last hidden layer of `hyper_synthesis` to the features. `logarithmic`: the second
    half of the outputs of `base` are levels, not scales. `hyper_latents` of real images calibrate the integers. Raises
    ValueError if a layer cannot be made exact.
    """
    symbols = base.z_symbols(hyper_latents)
    whole, _ = base.network.with_hidden(base._fixed_point(symbols))
    real: Tensor = hyper_synthesis[:-1](base.z_hat(symbols))
    whole, real = whole.double(), real.double()
    # The integers are the real activations divided by a step per channel, which least squares recovers.
    step = (whole * real).sum((0, 2, 3)) / whole.square().sum((0, 2, 3)).clamp_min(1)
    layer = scaled(features, inputs=step)
    peak = layer(whole).abs().amax((0, 2, 3)).clamp_min(1e-6)
    unit = peak * FEATURE_MARGIN / FEATURE_MAX
    bound = base.network.stack()[-2].shape.clamp
    network = integers(nn.Sequential(scaled(layer, outputs=1 / unit)), whole, bound=bound, weight_bits=16)
    known = network(whole.to(torch.int64)).clamp(-FEATURE_MAX, FEATURE_MAX).double()
    gates = [
        integers(nn.Sequential(scaled(gate, inputs=unit)), known, bound=FEATURE_MAX, fraction=GATE_BITS, weight_bits=8)
        for gate in conv_layers(context.gates)
    ]
    hints = torch.cat([typical_hints(len(known), len(context.strong), known.shape[2:]), known], dim=1)
    units = torch.cat([torch.full((len(context.strong),), 2.0**-INNOVATION_BITS, dtype=torch.float64), unit])
    slices = []
    for stack in context.slices:
        assert isinstance(stack, nn.Sequential)
        entry, *rest = stack
        assert isinstance(entry, nn.Conv2d)
        layers = nn.Sequential(scaled(entry, inputs=units), *(copy.deepcopy(part).double() for part in rest))
        slices.append(
            integers(layers, hints, bound=FEATURE_MAX, fraction=LEVEL_BITS, weight_bits=8, activation_bits=SLICE_BITS)
        )
    thresholds = torch.empty(0, dtype=torch.int32) if logarithmic else fine_thresholds()
    integer = IntegerContext(context_buffers(context), gates, slices)
    return ContextCoding(base, features=network, context=integer, thresholds=thresholds, feature_unit=unit.float())


def context_buffers(context: PhaseContext) -> dict[str, Tensor]:
    """The filters, level shifts and tables of an integer context."""
    buffers: dict[str, Tensor] = {"strong": context.strong.to(torch.int16)}
    for kind, filters, lowest in (("mean", context.mean_filters, 0), ("level", context.level_filters, 1)):
        for k, weight in enumerate(filters):
            largest = weight.detach().double().abs().amax((1, 2, 3)).clamp_min(1e-9)
            exponents = (FEATURE_MAX / largest).log2().floor().clamp(lowest, 14)
            rounded = (
                (weight.detach().double() * exponents.exp2()[:, None, None, None]).round().clamp(-FEATURE_MAX, FEATURE_MAX)
            )
            buffers[f"{kind}_filters.{k}"] = rounded.to(torch.int8)
            buffers[f"{kind}_exponents.{k}"] = exponents.to(torch.int8)
    rates = context.rate_levels
    levels = torch.zeros(1, len(context.back)) if rates is None else rates.detach()
    buffers["rate_levels"] = (levels * (1 << LEVEL_BITS)).round().clamp(-127, 127).to(torch.int8)
    sigma = SCALE_MIN * np.exp(LEVEL_STEP * np.arange(FINE_LEVELS) / (1 << LEVEL_BITS))
    buffers["sigma"] = torch.from_numpy(np.round(sigma * (1 << OUTPUT_BITS)).astype(np.int32))
    reciprocal = (1 << (INNOVATION_BITS + RECIPROCAL_BITS - OUTPUT_BITS)) / sigma
    buffers["reciprocal"] = torch.from_numpy(np.round(reciprocal).astype(np.int32))
    return buffers


def fine_thresholds() -> Int[Tensor, "_"]:
    """Scales in 1/1024 at which the level in 1/16 rises to 1, 2, 3, ..."""
    steps = np.arange(1, FINE_LEVELS) - 0.5
    edges = SCALE_MIN * np.exp(LEVEL_STEP * steps / (1 << LEVEL_BITS))
    return torch.from_numpy(np.round(edges * (1 << OUTPUT_BITS)).astype(np.int32))


def typical_hints(count: int, strong: int, size: Sequence[int]) -> Float[Tensor, "n S h w"]:
    """Magnitudes of innovations up to the bounds, which real ones rarely reach, for the range of the slices."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(-MAGNITUDE, FEATURE_MAX - MAGNITUDE + 1, (count, strong, *size), generator=generator)
    return drawn.double()


def integers(
    stack: nn.Sequential, inputs: Tensor, *, bound: int, fraction: int = 0, weight_bits: int, activation_bits: int = 16
) -> IntegerNetwork:
    """A stack of layers between integers, calibrated by typical integers."""
    return quantize_network(
        stack,
        inputs,
        input_frac_bits=0,
        input_bound=bound,
        output_frac_bits=fraction,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
    )


def scaled(layer: nn.Conv2d, *, inputs: Tensor | None = None, outputs: Tensor | None = None) -> nn.Conv2d:
    """The same 1 x 1 layer in float64 for inputs in other units, or with outputs multiplied by a factor per channel."""
    made = copy.deepcopy(layer).double()
    assert made.bias is not None
    if inputs is not None:
        made.weight.data *= inputs[:, None, None]
    if outputs is not None:
        made.weight.data *= outputs[:, None, None, None]
        made.bias.data *= outputs
    return made


def conv_layers(layers: Iterable[nn.Module]) -> list[nn.Conv2d]:
    found = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    return found


class SymbolCounts:
    """Counts of symbols per level, for `learned_tables`."""

    def __init__(self) -> None:
        self.counts = np.zeros((LEVELS, 2 * COUNTED + 1), dtype=np.int64)

    def add(self, symbols: Int[Tensor, "..."], levels: Int[Tensor, "..."]) -> None:
        values, own = flat(symbols), flat(levels)
        inside = np.abs(values) <= COUNTED
        places = own[inside] * self.counts.shape[1] + values[inside] + COUNTED
        self.counts += np.bincount(places, minlength=self.counts.size).reshape(self.counts.shape)

    def tables(self) -> SymbolTables:
        return learned_tables(self.counts, scales(), prior_weight=PRIOR_WEIGHT)
