"""Frozen integer coding with a context model: `latens.codes.coding` with `latens.codes.integer_context`.

A band is 2 bytes of checksum of the levels of its first part, which depend on z alone, 2 bytes of checksum of all its levels,
and the coded symbols: eight groups, the strong and then the weak channels of every phase. The context ends at the border of a
band, so bands are decoded independently, and a damaged one costs its own rows only.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from latens.codes import coder
from latens.codes.coding import (
    LEVELS,
    OUTPUT_BITS,
    Bands,
    FrozenCoding,
    LatentParameters,
    other_machine,
    scales,
)
from latens.codes.context import LEVEL_STEP, PHASES, PhaseContext, split_phases
from latens.codes.entropy import SCALE_MIN
from latens.codes.integer import IntegerNetwork, Mode
from latens.codes.integer_context import (
    FEATURE_MAX,
    FINE_LEVELS,
    GATE_BITS,
    INNOVATION_BITS,
    LEVEL_BITS,
    MAGNITUDE,
    RECIPROCAL_BITS,
    IntegerCoded,
    IntegerContext,
    IntegerModel,
    Part,
    table_index,
)
from latens.codes.quantize import float_parameters, quantize_network
from latens.codes.tables import SymbolTables, learned_tables
from latens.errors import Corrupt, ModelError
from latens.shapes import Float, Int

CHECK = 2  # bytes of each checksum
COUNTED = 255  # larger symbols are not counted for the tables
PRIOR_WEIGHT = 20.0  # of the Gaussian among the counted symbols of a level
FEATURE_MARGIN = 1.25  # features are clamped at this multiple of their largest calibrated value
SLICE_BITS = 16  # of the hidden layer of the slices, whose inputs are rarely as large as the bounds


class ContextCoding(FrozenCoding):
    """Entropy coding with a context model.

    The tensors are those of `FrozenCoding`, features.*, context.*, thresholds, and `feature_unit` (F,), the real value of one
    step of every feature, which only refinement uses. `thresholds` int32 are the lower ends of all levels in 1/16 but the
    lowest, in 1/1024 of the scale that the network gives; empty if the network gives levels in 1/1024 directly.
    """

    def __init__(
        self,
        network: IntegerNetwork,
        medians: Int[Tensor, "N"],
        y: SymbolTables,
        z: SymbolTables,
        *,
        features: IntegerNetwork,
        context: IntegerContext,
        thresholds: Int[Tensor, "_"],
        feature_unit: Float[Tensor, "F"],
    ) -> None:
        super().__init__(network, medians, y, z)
        self.features = features
        self.context = context
        self.thresholds = thresholds
        self.feature_unit = feature_unit
        self._fine = fine_levels(thresholds) if len(thresholds) else None

    def with_tables(self, y: SymbolTables) -> ContextCoding:
        """The same coding with other tables of y."""
        return ContextCoding(
            self.network,
            self.medians,
            y,
            self.z_tables,
            features=self.features,
            context=self.context,
            thresholds=self.thresholds,
            feature_unit=self.feature_unit,
        )

    def parameters(self, symbols: Int[Tensor, "B N h w"]) -> LatentParameters:
        """The prediction of the hyper-synthesis alone, at the first rate."""
        return self.unknown(self.predict(symbols, 256))

    def predict(self, z: Int[Tensor, "B N hz wz"], quality: int) -> IntegerModel:
        hidden, outputs = self.network.with_hidden(self._fixed_point(z))
        features = self.features(hidden).clamp(-FEATURE_MAX, FEATURE_MAX)
        mean, scale = outputs.to(torch.int32).chunk(2, dim=1)  # 32 bits: a prediction of a large image takes much memory
        if self._fine is None:
            level = (scale + (1 << (OUTPUT_BITS - LEVEL_BITS - 1))) >> (OUTPUT_BITS - LEVEL_BITS)
        else:
            self._fine = self._fine.to(scale.device)
            level = self._fine.index_select(0, scale.clamp(0, len(self._fine) - 1).flatten()).view_as(scale)
        shift = self.context.rate_shift(quality).to(level.device, torch.int32)
        return IntegerModel(mean, level + shift, features.to(torch.int32))

    def quantize(
        self, prediction: Any, y: Float[Tensor, "B M h w"], bands: Bands, rounding: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[Int[Tensor, "B M h w"], LatentParameters]:
        def choose(part: Part, values: Tensor) -> Tensor:
            return rounding(values - real_mean(part.mean), self.scale_of(part.level)).to(torch.int64)

        coded = self._code(prediction, y, bands, choose)
        return coded.symbols, LatentParameters(real_mean(coded.mean), coded.level)

    def replay(self, prediction: Any, symbols: Int[Tensor, "B M h w"], bands: Bands) -> LatentParameters:
        coded = self._code(prediction, symbols, bands, lambda part, values: values)
        return LatentParameters(real_mean(coded.mean), coded.level)

    def _code(self, prediction: Any, values: Tensor, bands: Bands, choose: Callable[[Part, Tensor], Tensor]) -> IntegerCoded:
        """Code every band; `choose` gives the symbols of a part and its entries of `values`."""
        found = []
        for top, end in bands:
            band = type(prediction)(*(part[:, :, top:end] for part in prediction))
            found.append(self.context.code(band, self.context.chooser(values[:, :, top:end], choose)))
        return IntegerCoded(*(torch.cat(parts, dim=2) for parts in zip(*found, strict=True)))

    def unknown(self, prediction: Any) -> LatentParameters:
        return LatentParameters(real_mean(prediction.mean), table_index(prediction.level).to(torch.int64))

    def encode_band(self, symbols: Int[Tensor, "1 M h w"], levels: Int[Tensor, "1 M h w"]) -> bytes:
        parts = []
        order, strong = self.context.order(symbols.device), self.context.strong
        sorted_phases = (split_phases(part.index_select(1, order)) for part in (symbols, levels))
        for value, level in zip(*sorted_phases, strict=True):
            parts += [(flat(value[:, own]), flat(level[:, own])) for own in (slice(strong), slice(strong, None))]
        groups = [(values.astype(np.int32), own.astype(np.uint8)) for values, own in parts]
        checks = level_check(groups[0][1]) + level_check(*(own for _, own in groups))
        return checks + coder.encode_groups(groups, self.y_tables)

    def decode_band(self, data: bytes, prediction: Any, name: str) -> tuple[Int[Tensor, "1 M h w"], LatentParameters]:
        if len(data) < 2 * CHECK:
            raise Corrupt(f"{name} is damaged", section=name)
        first, all_levels, payload = data[:CHECK], data[CHECK : 2 * CHECK], data[2 * CHECK :]
        decoder = coder.GroupDecoder(payload, self.y_tables)
        seen: list[np.ndarray] = []

        def choose(part: Part) -> Tensor:
            levels = flat(part.level).astype(np.uint8)
            if not seen and level_check(levels) != first:
                raise other_machine(name)
            seen.append(levels)
            symbols = torch.from_numpy(decoder.next(levels)).reshape(part.level.shape)
            return symbols.to(part.level.device, torch.int64)

        coded = self.context.code(prediction, choose)
        decoder.finish()
        if level_check(*seen) != all_levels:
            raise other_machine(name)
        return coded.symbols, LatentParameters(real_mean(coded.mean), coded.level)

    def tensors(self) -> dict[str, Tensor]:
        parts = {f"features.{name}": tensor for name, tensor in self.features.state_dict().items()}
        parts |= {f"context.{name}": tensor for name, tensor in self.context.tensors().items()}
        return {**super().tensors(), **parts, "thresholds": self.thresholds, "feature_unit": self.feature_unit}

    def spec(self) -> dict[str, Any]:
        features = {"network": self.features.spec(), "self_test": self.features.fingerprint()}
        return {**super().spec(), "features": features, "context": self.context.spec()}

    def set_mode(self, mode: Mode) -> None:
        super().set_mode(mode)
        self.features.mode = mode
        self.context.set_mode(mode)

    def fingerprint(self) -> str:
        return "".join((super().fingerprint(), self.features.fingerprint(), self.context.fingerprint()))

    @classmethod
    def from_tensors(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device) -> ContextCoding:
        base = FrozenCoding.from_tensors(spec, tensors, device)
        try:
            named = {n.removeprefix("features."): t for n, t in tensors.items() if n.startswith("features.")}
            entry = spec["features"]
            features = IntegerNetwork.from_spec(entry["network"], named).to(device).verified(str(entry["self_test"]))
            own = {n.removeprefix("context."): t for n, t in tensors.items() if n.startswith("context.")}
            context = IntegerContext.from_tensors(spec["context"], own).to(device).verified(str(spec["context"]["self_test"]))
            thresholds, unit = tensors["thresholds"], tensors["feature_unit"]
        except KeyError as error:
            raise ModelError(f"the context model lacks {error}", hint="train or download the model again") from None
        return cls(
            base.network,
            base.medians,
            base.y_tables,
            base.z_tables,
            features=features,
            context=context,
            thresholds=thresholds,
            feature_unit=unit,
        )

    def float_context(self) -> dict[str, Tensor]:
        """State of the `PhaseContext` with the results of the integer context, up to rounding."""
        state: dict[str, Tensor] = {}
        for kind in ("mean", "level"):
            for k in range(len(PHASES) - 1):
                filters, exponents = (self.context.buffers[f"{kind}_{part}.{k}"].cpu() for part in ("filters", "exponents"))
                state[f"{kind}_filters.{k}"] = filters.float() * (-exponents.float()).exp2()[:, None, None, None]
        unit = self.feature_unit.cpu().float()[:, None, None]
        for k, gate in enumerate(self.context.gates):
            ((weight, bias),) = float_parameters(copy.deepcopy(gate).cpu())
            state |= {f"gates.{k}.weight": weight / unit, f"gates.{k}.bias": bias}
        for k, network in enumerate(self.context.slices):
            (entry, entry_bias), (exit_weight, exit_bias) = float_parameters(copy.deepcopy(network).cpu())
            innovations = entry[:, : self.context.strong] * (1 << INNOVATION_BITS)
            state |= {f"slices.{k}.0.weight": torch.cat([innovations, entry[:, self.context.strong :] / unit], dim=1)}
            state |= {f"slices.{k}.0.bias": entry_bias, f"slices.{k}.2.weight": exit_weight, f"slices.{k}.2.bias": exit_bias}
        rates = self.context.buffers["rate_levels"].cpu()
        return state | ({"rate_levels": rates.float() / (1 << LEVEL_BITS)} if len(rates) > 1 else {})


def flat(values: Tensor) -> np.ndarray:
    return values.reshape(-1).cpu().numpy()


def level_check(*levels: np.ndarray) -> bytes:
    """Two bytes of the CRC32 of the levels (uint8) of several parts."""
    check = 0
    for part in levels:
        check = zlib.crc32(part.tobytes(), check)
    return (check & 0xFFFF).to_bytes(CHECK, "little")


def real_mean(mean: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Means in quantization steps; exact in float32, because they are below 2^24 in 1/1024."""
    return mean.float() / (1 << OUTPUT_BITS)


def fine_levels(thresholds: Int[Tensor, "_"]) -> Int[Tensor, "_"]:
    """Levels in 1/16 of all scales in 1/1024 up to the last threshold."""
    scales_in_order = torch.arange(int(thresholds[-1]) + 1)
    return torch.bucketize(scales_in_order, thresholds.to(torch.int64), right=True, out_int32=True)


# ------------------------------------------------------------------------------------------------------------- export


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
    return ContextCoding(
        base.network,
        base.medians,
        base.y_tables,
        base.z_tables,
        features=network,
        context=integer,
        thresholds=thresholds,
        feature_unit=unit.float(),
    )


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
