"""Frozen integer entropy coding of a mean-scale hyperprior, bit-exact between encoder and decoder.

It consists of the integer hyper-synthesis (z symbols -> mean and scale level of every symbol of y), the tables of the entropy
coder, and the medians for rounding z. All are integers, stored and hashed with the weights, so a file decodes to the same
latents on any machine.

Letters: B batch, M channels of the latent y, N channels of the hyper-latent z, h w their sizes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from latens.codes import coder
from latens.codes.entropy import SCALE_MIN, FactorizedPrior
from latens.codes.integer import IntegerNetwork, Mode, Rows
from latens.codes.quantize import quantize_network
from latens.codes.tables import SymbolTables, gaussian_tables, tables_from_pmfs
from latens.errors import Corrupt, DeviceMismatch, ModelError
from latens.shapes import Float, Int, UInt8

LEVELS = 64  # Gaussian tables, log-spaced in scale
SCALE_MAX = 256.0
INPUT_BITS = 8  # z and its medians are counted in 1/256
OUTPUT_BITS = 10  # means and scales are counted in 1/1024
ACTIVATION_BITS = 11  # of the hyper-synthesis: sums are exact in float32, at no measurable cost in rate
Z_MAX = 255  # largest |z symbol|
COUNTED_AT_ONCE = 1 << 22  # symbols whose bits are computed at once, in 64 bits
LEVEL_CRC = 4  # bytes of the checksum of the levels at the start of a band

Bands = Sequence[Rows]  # bands of rows, each of which is coded by itself


class LatentParameters(NamedTuple):
    """Parameters of y, computed from z; the mean is exact in float32 (a multiple of 1/1024 below 2^13)."""

    mean: Float[Tensor, "B M h w"]
    level: Int[Tensor, "B M h w"]  # index of the Gaussian table; negative levels must be shifted before coding


class FrozenCoding:
    """Entropy coding with integers only. `tensors` and `spec` go into the model folder."""

    def __init__(
        self, network: IntegerNetwork, medians: Int[Tensor, "N"], y: SymbolTables, z: SymbolTables, *, below: int = 0
    ) -> None:
        self.network = network
        self.medians = medians.to(torch.int64)
        self.y_tables = y
        self.z_tables = z
        self._scales = torch.from_numpy(scales()).float()
        self.below = below  # number of levels below the first table, for codecs that shift levels by a gain
        # Levels of all scales up to the last threshold: a table lookup is ten times faster than a search.
        thresholds = scale_thresholds(below)
        self._levels = torch.bucketize(torch.arange(int(thresholds[-1]) + 2), thresholds) - below

    def z_symbols(self, z: Float[Tensor, "B N h w"]) -> Int[Tensor, "B N h w"]:
        """z minus the medians, rounded to integers and clamped to +-255."""
        offset = self.medians.to(z.device)[:, None, None].float() / (1 << INPUT_BITS)
        # Contiguous, as in the decoder: networks in channels_last give strides with which integer networks are slower.
        return (z.float() - offset).round().clamp(-Z_MAX, Z_MAX).to(torch.int64).contiguous()

    def z_hat(self, symbols: Int[Tensor, "B N h w"]) -> Float[Tensor, "B N h w"]:
        """The hyper-latent of given symbols; exact in float32."""
        return self._fixed_point(symbols).float() / (1 << INPUT_BITS)

    def parameters(self, symbols: Int[Tensor, "B N h w"], rows: Rows | None = None) -> LatentParameters:
        """Mean and scale level of every symbol of y, or of some rows of y; identical on every machine."""
        inputs, outputs = self._window(symbols, rows)
        mean, scale = self.network(self._fixed_point(inputs))[:, :, outputs].chunk(2, dim=1)
        self._levels = self._levels.to(scale.device)
        level = self._levels.index_select(0, scale.clamp(0, len(self._levels) - 1).flatten()).reshape(scale.shape)
        return LatentParameters(mean.float() / (1 << OUTPUT_BITS), level)

    def scale_of(self, level: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Standard deviation of the Gaussian tables of these levels, in quantization steps."""
        self._scales = self._scales.to(level.device)
        return self._scales.index_select(0, level.flatten()).view_as(level)

    def _window(self, symbols: Int[Tensor, "B N h w"], rows: Rows | None) -> tuple[Int[Tensor, "B N _ w"], slice]:
        """The rows of z on which rows of y depend, and the place of these in the output of the network for them."""
        if rows is None:
            return symbols, slice(None)
        window = self.network.window(rows, symbols.shape[2])
        return symbols[:, :, window.inputs], window.outputs

    def _fixed_point(self, symbols: Tensor) -> Tensor:
        return (symbols << INPUT_BITS) + self.medians.to(symbols.device)[:, None, None]

    def encode_z(self, symbols: Int[Tensor, "1 N h w"]) -> bytes:
        return coder.encode(_flat(symbols).astype(np.int32), self._z_levels(symbols.shape), self.z_tables)

    def decode_z(self, data: bytes, height: int, width: int) -> Int[Tensor, "1 N h w"]:
        """Raises Corrupt for bytes that `encode_z` did not write."""
        shape = (1, len(self.medians), height, width)
        symbols = coder.decode(data, self._z_levels(shape), self.z_tables)
        if np.abs(symbols).max(initial=0) > Z_MAX:
            raise Corrupt("a hyper-latent symbol is out of range", section="hyper-latent")
        return torch.from_numpy(symbols.astype(np.int64)).reshape(shape)

    def _z_levels(self, shape: Sequence[int]) -> np.ndarray:
        return np.repeat(np.arange(shape[1], dtype=np.int32), shape[2] * shape[3])

    def encode_y(self, symbols: Int[Tensor, "1 M h w"], levels: Int[Tensor, "1 M h w"]) -> bytes:
        return coder.encode(_flat(symbols).astype(np.int32), _flat(levels).astype(np.uint8), self.y_tables)

    def decode_y(self, data: bytes, levels: Int[Tensor, "1 M h w"]) -> Int[Tensor, "1 M h w"]:
        """Raises Corrupt for bytes that `encode_y` did not write."""
        symbols = coder.decode(data, _flat(levels).astype(np.uint8), self.y_tables)
        return torch.from_numpy(symbols).reshape(levels.shape).to(torch.int64)

    # The methods below are the interface of image files; `latens.codes.context_coding` overrides them.

    def predict(self, z: Int[Tensor, "B N hz wz"], quality: int, rows: Rows | None = None) -> Any:
        """What is known of y, or of some of its rows, before its symbols, at a quality in 1/256.

        A named tuple of tensors with these rows. The prediction of one band at a time takes a fraction of the memory.
        """
        return self.parameters(z, rows)

    def quantize(
        self, prediction: Any, y: Float[Tensor, "B M h w"], bands: Bands, rounding: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[Int[Tensor, "B M h w"], LatentParameters]:
        """Symbols of a latent, and their parameters. `rounding` maps y - mean and the scale to symbols."""
        symbols = rounding(y - prediction.mean, self.scale_of(prediction.level))
        return symbols.to(torch.int64), prediction

    def replay(self, prediction: Any, symbols: Int[Tensor, "B M h w"], bands: Bands) -> LatentParameters:
        """The parameters of given symbols."""
        return prediction  # type: ignore[no-any-return]

    def unknown(self, prediction: Any) -> LatentParameters:
        """The parameters of rows whose symbols are lost."""
        return prediction  # type: ignore[no-any-return]

    def encode_band(self, symbols: Int[Tensor, "1 M h w"], levels: Int[Tensor, "1 M h w"]) -> bytes:
        """The bytes of a band: the CRC32 of its levels, then the coded symbols."""
        return level_crc(levels) + self.encode_y(symbols, levels)

    def decode_band(self, data: bytes, prediction: Any, name: str) -> tuple[Int[Tensor, "1 M h w"], LatentParameters]:
        """Symbols and parameters of a band, for the rows of a prediction. `name` of the band is for messages.

        Raises Corrupt for damaged bytes, DeviceMismatch if this machine computes other levels.
        """
        if len(data) < LEVEL_CRC:
            raise Corrupt(f"{name} is damaged", section=name)
        if data[:LEVEL_CRC] != level_crc(prediction.level):
            raise other_machine(name)
        symbols = self.decode_y(data[LEVEL_CRC:], prediction.level)
        return symbols.to(prediction.level.device), prediction

    def code_length(
        self, y: Int[Tensor, "1 M h w"], levels: Int[Tensor, "1 M h w"] | UInt8[Tensor, "1 M h w"], z: Int[Tensor, "1 N hz wz"]
    ) -> tuple[float, float]:
        """Bits of y and of z under the tables, escapes included: the size of a file without headers and rounding to words."""
        bits_z = coder.ideal_bits(_flat(z), self._z_levels(z.shape), self.z_tables)
        values, own = _flat(y), _flat(levels)
        parts = [slice(start, start + COUNTED_AT_ONCE) for start in range(0, len(values), COUNTED_AT_ONCE)]
        return sum(coder.ideal_bits(values[part], own[part], self.y_tables) for part in parts), bits_z

    @property
    def channels(self) -> int:
        """M, the number of channels of y."""
        return self.network.stack()[-1].shape.outputs // 2

    @property
    def mode(self) -> Mode:
        """The arithmetic in use; see `IntegerNetwork`."""
        return self.network.mode

    def set_mode(self, mode: Mode) -> None:
        self.network.mode = mode

    def fingerprint(self) -> str:
        """Hash of the results of all integer networks for fixed inputs, in the arithmetic in use."""
        return self.network.fingerprint()

    def tensors(self) -> dict[str, Tensor]:
        """All frozen parameters, as integer tensors."""
        parts = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for prefix, tables in (("y", self.y_tables), ("z", self.z_tables)):
            parts |= {f"{prefix}.{name}": torch.from_numpy(array) for name, array in tables.arrays().items()}
        return {**parts, "medians": self.medians}

    def spec(self) -> dict[str, Any]:
        """Values for config.json: the network's layers and the result of its self-test."""
        below = {"below": self.below} if self.below else {}
        return {"network": self.network.spec(), "self_test": self.network.fingerprint(), **below}

    @classmethod
    def from_tensors(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device) -> FrozenCoding:
        """Restore the coding from `tensors` and `spec`, and run the self-test on `device`.

        Raises ModelError for missing or inconsistent tensors, DeviceMismatch if `device` does not reproduce the stored result.
        """
        try:
            named = {n.removeprefix("network."): t for n, t in tensors.items() if n.startswith("network.")}
            network = IntegerNetwork.from_spec(spec["network"], named).to(device).verified(str(spec["self_test"]))
            tables = [
                SymbolTables(**{part: tensors[f"{which}.{part}"].numpy() for part in ("counts", "lows", "sizes")})
                for which in ("y", "z")
            ]
            return cls(network, tensors["medians"], *tables, below=int(spec.get("below", 0)))
        except KeyError as error:
            raise ModelError(f"the frozen coding of the model lacks {error}", hint="train or convert it again") from None


def level_crc(levels: Tensor) -> bytes:
    """CRC32 of scale levels."""
    return zlib.crc32(levels.to(torch.uint8).contiguous().cpu().numpy().tobytes()).to_bytes(LEVEL_CRC, "little")


def other_machine(name: str) -> DeviceMismatch:
    """The error for a band whose levels differ from those of the encoder."""
    return DeviceMismatch(
        f"this machine computes other entropy parameters than the encoder did ({name})",
        hint="`latens doctor` tests the arithmetic; try --device cpu",
    )


def _flat(symbols: Tensor) -> np.ndarray:
    return symbols.reshape(-1).cpu().numpy()


def scales() -> np.ndarray:
    """Standard deviations of the Gaussian tables, from 0.11 to 256 quantization steps."""
    return np.geomspace(SCALE_MIN, SCALE_MAX, LEVELS)


def scale_thresholds(below: int = 0) -> Int[Tensor, "_"]:
    """Upper ends of all levels but the last, in 1/1024: the geometric means of neighboring scales.

    `below` extends the grid by that many levels towards smaller scales.
    """
    ratio = (SCALE_MAX / SCALE_MIN) ** (1 / (LEVELS - 1))
    table = np.concatenate([SCALE_MIN * ratio ** np.arange(-below, 0.0), scales()])
    return torch.from_numpy(np.round(np.sqrt(table[1:] * table[:-1]) * (1 << OUTPUT_BITS)).astype(np.int64))


@torch.no_grad()
def freeze(
    hyper_synthesis: nn.Sequential,
    prior: FactorizedPrior,
    hyper_latents: Float[Tensor, "n N h w"],
    *,
    activation_bits: int = ACTIVATION_BITS,
    weight_bits: int = 16,
    below: int = 0,
) -> FrozenCoding:
    """Freeze a trained hyper-synthesis (N -> 2 M channels: mean, scale) and prior.

    `hyper_latents` of real images calibrate the ranges of the integer network. More than 11 `activation_bits` are more
    precise, but the sums then need float64, which takes twice as long. For `below` see `FrozenCoding`. Raises ValueError for
    layers that cannot be made exact.
    """
    medians = (prior.medians() * (1 << INPUT_BITS)).round().to(torch.int64)
    masses, lows = prior.probabilities(medians.float() / (1 << INPUT_BITS), max_offset=Z_MAX)
    network = quantize_network(
        hyper_synthesis,
        hyper_latents,
        input_frac_bits=INPUT_BITS,
        input_bound=(Z_MAX << INPUT_BITS) + int(medians.abs().max()),
        output_frac_bits=OUTPUT_BITS,
        activation_bits=activation_bits,
        weight_bits=weight_bits,
        float32=activation_bits <= ACTIVATION_BITS,
    )
    return FrozenCoding(network, medians, gaussian_tables(scales()), tables_from_pmfs(masses, lows), below=below)
