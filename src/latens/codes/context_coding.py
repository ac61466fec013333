"""Frozen integer coding with a context model: `latens.codes.coding` with `latens.codes.integer_context`.

A band is 2 bytes of checksum of the levels of its first part, which depend on z alone, 2 bytes of checksum of all its levels,
and the coded symbols: eight groups, the strong and then the weak channels of every phase. The context ends at the border of a
band, so bands are decoded independently, and a damaged one costs its own rows only.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latens.codes import coder
from latens.codes.coding import (
    OUTPUT_BITS,
    Bands,
    FrozenCoding,
    LatentParameters,
    other_machine,
)
from latens.codes.context import PHASES
from latens.codes.integer import IntegerNetwork, Mode, Rows
from latens.codes.integer_context import (
    FEATURE_MAX,
    INNOVATION_BITS,
    LEVEL_BITS,
    IntegerCoded,
    IntegerContext,
    IntegerModel,
    Part,
    table_index,
)
from latens.codes.quantize import FloatLayer, float_parameters
from latens.codes.tables import SymbolTables
from latens.errors import Corrupt, ModelError
from latens.shapes import Float, Int

CHECK = 2  # bytes of each checksum


class ContextCoding(FrozenCoding):
    """Entropy coding with a context model.

    The tensors are those of `FrozenCoding`, features.*, context.*, thresholds, and `feature_unit` (F,), the real value of one
    step of every feature, which only refinement uses. `thresholds` int32 are the lower ends of all levels in 1/16 but the
    lowest, in 1/1024 of the scale that the network gives; empty if the network gives levels in 1/1024 directly.
    """

    def __init__(
        self,
        base: FrozenCoding,
        *,
        features: IntegerNetwork,
        context: IntegerContext,
        thresholds: Int[Tensor, "_"],
        feature_unit: Float[Tensor, "F"],
    ) -> None:
        super().__init__(base.network, base.medians, base.y_tables, base.z_tables)
        self.features = features
        self.context = context
        self.thresholds = thresholds
        self.feature_unit = feature_unit
        self._fine = fine_levels(thresholds) if len(thresholds) else None

    def with_tables(self, y: SymbolTables) -> ContextCoding:
        """The same coding with other tables of y."""
        return ContextCoding(
            FrozenCoding(self.network, self.medians, y, self.z_tables),
            features=self.features,
            context=self.context,
            thresholds=self.thresholds,
            feature_unit=self.feature_unit,
        )

    def parameters(self, symbols: Int[Tensor, "B N h w"], rows: Rows | None = None) -> LatentParameters:
        """The prediction of the hyper-synthesis alone, at the first rate."""
        return self.unknown(self.predict(symbols, 256, rows))

    def predict(self, z: Int[Tensor, "B N hz wz"], quality: int, rows: Rows | None = None) -> IntegerModel:
        inputs, kept = self._window(z, rows)
        hidden, outputs = self.network.with_hidden(self._fixed_point(inputs), dtype=torch.int32)
        features = self.features(hidden[:, :, kept]).clamp(-FEATURE_MAX, FEATURE_MAX)
        mean, scale = outputs[:, :, kept].chunk(2, dim=1)
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
            return rounding(values - real_mean(part.mean), self.scale_of(part.level)).to(torch.int32)

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
        return LatentParameters(real_mean(prediction.mean), table_index(prediction.level))

    def encode_band(self, symbols: Int[Tensor, "1 M h w"], levels: Int[Tensor, "1 M h w"]) -> bytes:
        values, tables = (self.context.in_order(part) for part in (symbols.to(torch.int32), levels.to(torch.uint8)))
        pairs = zip(chain(*values), chain(*tables), strict=True)
        groups = [(flat(value), flat(level)) for value, level in pairs]
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
            return torch.from_numpy(decoder.next(levels)).reshape(part.level.shape).to(part.level.device)

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
        return cls(base, features=features, context=context, thresholds=thresholds, feature_unit=unit)

    def float_hyper_synthesis(self) -> tuple[list[FloatLayer], FloatLayer]:
        """Layers with the results of the integer hyper-synthesis, and the layer of the features, up to rounding."""
        layers = float_parameters(copy.deepcopy(self.network).cpu())
        (features,) = float_parameters(copy.deepcopy(self.features).cpu())
        unit, hidden = self.feature_unit.cpu().double(), layers[-2].step
        weight = features.weight.double() * unit[:, None, None, None] / hidden[:, None, None]
        return layers, FloatLayer(weight.float(), (features.bias.double() * unit).float(), unit)

    def float_context(self) -> dict[str, Tensor]:
        """State of the `PhaseContext` with the results of the integer context, up to rounding."""
        state: dict[str, Tensor] = {}
        for kind in ("mean", "level"):
            for k in range(len(PHASES) - 1):
                filters, exponents = (self.context.buffers[f"{kind}_{part}.{k}"].cpu() for part in ("filters", "exponents"))
                state[f"{kind}_filters.{k}"] = filters.float() * (-exponents.float()).exp2()[:, None, None, None]
        unit = self.feature_unit.cpu().float()[:, None, None]
        for k, gate in enumerate(self.context.gates):
            (layer,) = float_parameters(copy.deepcopy(gate).cpu())
            state |= {f"gates.{k}.weight": layer.weight / unit, f"gates.{k}.bias": layer.bias}
        for k, network in enumerate(self.context.slices):
            entry, last = float_parameters(copy.deepcopy(network).cpu())
            innovations = entry.weight[:, : self.context.strong] * (1 << INNOVATION_BITS)
            state |= {f"slices.{k}.0.weight": torch.cat([innovations, entry.weight[:, self.context.strong :] / unit], dim=1)}
            state |= {f"slices.{k}.0.bias": entry.bias, f"slices.{k}.2.weight": last.weight, f"slices.{k}.2.bias": last.bias}
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
