"""Entropy parameters of the video codecs in integer arithmetic, equal in encoder and decoder to the last bit.

The frozen hyper-synthesis computes mean and scale from decoded integers (`latens.codes.coding`). Gains of rates and quality
maps shift the table index of a scale by sums of stored integers. Steps of latent scaling shift it by an integer, which is found
by thresholds for the output of a frozen gain decoder. Only encoders and decoded pixels depend on floating-point arithmetic.

Letters: Q rates, M channels of a latent, T frames of a chunk, N channels of a hyper-latent, h w size of the latent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from latens.codes.coding import LEVELS, OUTPUT_BITS, FrozenCoding, freeze
from latens.codes.gains import RateGains
from latens.codes.integer import IntegerNetwork
from latens.codes.quantize import quantize_network
from latens.errors import ModelError
from latens.shapes import Float, Int
from latens.systems.video_codec.chunk_model import BLOCK, MAP_CELL, ChunkCodec, map_slope
from latens.systems.video_codec.codec import SCALE_RATIO, GainCodec, HyperpriorCodec
from latens.systems.video_codec.config import AMPLIFIER_MAX
from latens.systems.video_codec.model import ScaleSpaceFlow

QUALITY_STEPS = 256  # steps of a stored quality per unit
FRACTION_BITS = 12  # of stored log-gains, in levels
SUM_BITS = FRACTION_BITS + 8  # of log-gains at a quality in 1/256, and of quality maps enlarged with weights in 1/256
LEVELS_BELOW = 24  # levels below the first table: gains raise scales by at most 2.1 octaves, 11.5 levels
WEIGHT_BITS = 8  # of frozen hyper-syntheses and gain decoders; half the size of 16 bits
Y_TABLES = ("y.counts", "y.lows", "y.sizes")
GAIN_INPUT_BOUND = 1 << 21  # largest input of a gain decoder, in 1/1024
GAIN_ACTIVATION_BITS = 11
AMPLIFIER_STEPS = 2  # stored gain amplifiers per octave
MAX_AMPLIFIER = round(AMPLIFIER_STEPS * math.log2(AMPLIFIER_MAX))
CHUNK = "chunk"  # name of the latent of a chunk codec


class ExactCoding(NamedTuple):
    """The frozen integers of a model, by name of the latent."""

    parts: Mapping[str, FrozenCoding]
    gains: Mapping[str, Int[Tensor, "Q M"]]  # log-gains of latents whose scales follow the rate, in 2^-12 levels
    response: Int[Tensor, "M T"] | None  # of a chunk codec: change of log-gains per level of the quality map, in 2^-12 levels
    decoders: Mapping[str, IntegerNetwork]  # gain decoders
    steps: Int[Tensor, "A K"] | None  # thresholds of a gain decoder's output, in 1/1024, for every gain amplifier
    drop: Int[Tensor, "1"]  # of the quality per level of a quality map (half an octave of lambda), in 1/256

    def shift(
        self, name: str, quality: Int[Tensor, "h w"], offset: Int[Tensor, "M h w"] | int = 0
    ) -> Int[Tensor, "M h w"] | int:
        """Levels by which gains at qualities in 1/256 shift the tables of a latent; `offset` is in 2^-20 levels."""
        table = self.gains.get(name)
        return 0 if table is None else rounded(at_quality(table, quality) + offset, SUM_BITS)

    def qualities(self, quality: int, levels: Int[Tensor, "a b"], factor: int) -> Int[Tensor, "h w"]:
        """Qualities in 1/256 of the entries of a latent, with `factor` x `factor` entries per cell of a quality map.

        They may be below 1, where gains are extrapolated.
        """
        smooth = enlarged(enlarged(levels[None], factor).transpose(1, 2), factor).transpose(1, 2)[0]
        return quality - rounded(smooth * self.drop, 2 * (2 * factor).bit_length() - 2)

    def map_offset(self, levels: Int[Tensor, "T a b"]) -> Int[Tensor, "M h w"]:
        """Change of the log-gains of the latent of a chunk by a quality map, in 2^-20 levels."""
        assert self.response is not None
        coarse = (self.response[:, :, None, None] * levels).sum(1)
        return enlarged(enlarged(coarse, MAP_CELL // BLOCK).transpose(1, 2), MAP_CELL // BLOCK).transpose(1, 2)

    def step_index(self, name: str, latent: Int[Tensor, "1 N h w"], amplifier: int) -> Int[Tensor, "1 M h w"]:
        """The integers k of the quantization steps r^k, from a gain latent in 1/1024. `amplifier` is in half octaves."""
        assert self.steps is not None
        raw = self.decoders[name](latent)
        return torch.bucketize(raw.contiguous(), self.steps[amplifier], right=True)

    def tensors(self) -> dict[str, Tensor]:
        """All frozen integers as tensors. Tables of y that equal those of the first part are left out."""
        found = {f"{name}|{key}": tensor for name, part in self.parts.items() for key, tensor in part.tensors().items()}
        first = next(iter(self.parts))
        for name in list(self.parts)[1:]:
            if all(torch.equal(found[f"{name}|{key}"], found[f"{first}|{key}"]) for key in Y_TABLES):
                for key in Y_TABLES:
                    del found[f"{name}|{key}"]
        found |= {f"{name}|gains": table for name, table in self.gains.items()}
        for name, network in self.decoders.items():
            found |= {f"{name}|decoder.{key}": tensor for key, tensor in network.state_dict().items()}
        found |= {key: value for key, value in (("response", self.response), ("steps", self.steps)) if value is not None}
        return found | {"drop": self.drop}

    def spec(self) -> dict[str, Any]:
        """The specification of the networks, for config.json."""
        decoders = {name: {"network": net.spec(), "self_test": net.fingerprint()} for name, net in self.decoders.items()}
        return {"parts": {name: part.spec() for name, part in self.parts.items()}, "decoders": decoders}

    @classmethod
    def from_tensors(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device) -> ExactCoding:
        """The inverse of `spec` and `tensors`; runs the self-tests on `device`. Raises ModelError or DeviceMismatch."""
        try:
            first = _under(tensors, f"{next(iter(spec['parts']))}|")
            common = {key: first[key] for key in Y_TABLES}
            parts = {
                name: FrozenCoding.from_tensors(own, {**common, **_under(tensors, f"{name}|")}, device)
                for name, own in spec["parts"].items()
            }
            decoders = {
                name: IntegerNetwork.from_spec(own["network"], _under(tensors, f"{name}|decoder."))
                .to(device)
                .verified(str(own["self_test"]))
                for name, own in spec["decoders"].items()
            }
            drop = tensors["drop"]
        except KeyError as error:
            raise ModelError(f"the frozen coding of the model lacks {error}", hint="train it again") from None
        gains = {key.removesuffix("|gains"): value.to(device) for key, value in tensors.items() if key.endswith("|gains")}
        response, steps = (tensors[key].to(device) if key in tensors else None for key in ("response", "steps"))
        return cls(parts, gains, response, decoders, steps, drop.to(device))


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


# --------------------------------------------------------------------------------------------------------- arithmetic


def rounded(value: Int[Tensor, "..."], bits: int) -> Int[Tensor, "..."]:
    """value / 2^bits, rounded to the nearest integer."""
    return (value + (1 << (bits - 1))) >> bits


def at_quality(table: Tensor, quality: Int[Tensor, "h w"]) -> Tensor:
    """256 times the rows of a table (Q, M) at qualities in 1/256, as (M, h, w); linear in between and below the first."""
    place = (quality - QUALITY_STEPS).clamp(max=QUALITY_STEPS * (len(table) - 1))
    low = torch.div(place, QUALITY_STEPS, rounding_mode="floor").clamp(0, len(table) - 2)
    share = (place - low * QUALITY_STEPS)[..., None]
    return (table[low] * (QUALITY_STEPS - share) + table[low + 1] * share).permute(2, 0, 1)


def enlarged(coarse: Int[Tensor, "M h w"], factor: int) -> Int[Tensor, "M h v"]:
    """2 `factor` times the linear interpolation along rows, as by `F.interpolate(align_corners=False)`. `factor` is even."""
    width = coarse.shape[2]
    places = torch.arange(width * factor, device=coarse.device)
    position = 2 * places + 1 - factor  # of the sample centers, in units of 1 / (2 factor) from the center of the first cell
    low = torch.div(position, 2 * factor, rounding_mode="floor")
    share = position - low * 2 * factor
    first, second = (index.clamp(0, width - 1) for index in (low, low + 1))
    return coarse[:, :, first] * (2 * factor - share) + coarse[:, :, second] * share


def shifted(level: Int[Tensor, "1 M h w"], shift: Int[Tensor, "..."] | int) -> Int[Tensor, "1 M h w"]:
    """Table indices plus shifts, clamped to the range of tables."""
    return (level + shift).clamp(0, LEVELS - 1)


def fixed_log(values: Float[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Logarithms as integers, in 2^-12 levels."""
    return (values.detach().double().cpu() * (2.0**FRACTION_BITS / math.log(SCALE_RATIO))).round().long()


def step_thresholds() -> Int[Tensor, "A K"]:
    """Lowest outputs of a gain decoder, in 1/1024, at which k is 1, 2, ..., for every amplifier (see `gain_steps`)."""
    k = np.arange(1, LEVELS) - 0.5
    rows = []
    for amplifier in range(MAX_AMPLIFIER + 1):
        softplus = np.expm1(k * math.log(SCALE_RATIO)) / 2.0 ** (amplifier / AMPLIFIER_STEPS)
        raw = softplus + np.log(-np.expm1(-softplus))
        rows.append(np.clip(np.ceil(raw * (1 << OUTPUT_BITS)), -(2.0**40), 2.0**40))
    return torch.from_numpy(np.stack(rows).astype(np.int64))


# ------------------------------------------------------------------------------------------------------------ freezing


def hyper_parts(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """(name, module) of every module with a hyper-codec."""
    for name, module in model.named_modules():
        if hasattr(module, "hyper_synthesis"):
            yield name or CHUNK, module


class Calibration:
    """Records the inputs of hyper-syntheses and gain decoders while a model codes clips."""

    def __init__(self, model: nn.Module) -> None:
        self.found: dict[str, list[Tensor]] = {}
        self.hooks = []
        for name, part in hyper_parts(model):
            watched = {name: part.hyper_synthesis} | ({f"{name}|decoder": part.decoder} if isinstance(part, GainCodec) else {})
            for key, module in watched.items():
                self.hooks.append(module.register_forward_pre_hook(self._recorder(key)))

    def _recorder(self, key: str) -> Any:
        return lambda module, inputs: self.found.setdefault(key, []).append(inputs[0].detach().float().cpu())

    def inputs(self, key: str) -> Float[Tensor, "n C h w"]:
        """All recorded inputs, cropped to the smallest size."""
        found = self.found[key]
        height, width = (min(x.shape[side] for x in found) for side in (2, 3))
        return torch.cat([x[:, :, :height, :width] for x in found])

    def close(self) -> None:
        for hook in self.hooks:
            hook.remove()


@torch.no_grad()
def freeze_model(model: ScaleSpaceFlow | ChunkCodec, batches: Sequence[Mapping[str, Tensor]]) -> ExactCoding:
    """The frozen coding of a trained model. `batches` of clips, coded at its lowest and highest rate, calibrate it."""
    calibration = Calibration(model)
    for batch in batches:
        frames, mask = batch["frames"].cpu(), batch.get("mask")
        for level in (1.0, float(len(model.config.lambdas))):
            quality = torch.full((len(frames),), level)
            model(frames, quality, mask=None if mask is None else mask.cpu(), rounding="plain")
    calibration.close()
    parts: dict[str, FrozenCoding] = {}
    gains: dict[str, Tensor] = {}
    decoders: dict[str, IntegerNetwork] = {}
    for name, part in hyper_parts(model):
        follows = isinstance(part, ChunkCodec) or (isinstance(part, HyperpriorCodec) and part.follow)
        owner = name.removesuffix(".background")  # the second hyper-codec of a latent shares its gains
        follows = follows or (owner != name and bool(model.get_submodule(owner).follow))
        parts[name] = freeze(
            part.hyper_synthesis,
            part.prior,
            calibration.inputs(name),
            weight_bits=WEIGHT_BITS,
            below=LEVELS_BELOW if follows else 0,
        )
        if follows and owner == name:
            assert isinstance(part.gains, RateGains)
            gains[name] = fixed_log(part.gains.log_gain)
        if isinstance(part, GainCodec):
            decoders[name] = quantize_network(
                part.decoder,
                calibration.inputs(f"{name}|decoder"),
                input_frac_bits=OUTPUT_BITS,
                input_bound=GAIN_INPUT_BOUND,
                output_frac_bits=OUTPUT_BITS,
                weight_bits=WEIGHT_BITS,
                activation_bits=GAIN_ACTIVATION_BITS,
                float32=True,
            )
    response = None
    if isinstance(model, ChunkCodec):
        response = fixed_log(model.response * map_slope(model.config.frames))
    lambdas = model.config.lambdas
    drop = 0.5 * math.log(2) / math.log(lambdas[-1] / lambdas[0]) * (len(lambdas) - 1) * QUALITY_STEPS
    steps = step_thresholds() if decoders else None
    return ExactCoding(parts, gains, response, decoders, steps, torch.tensor([round(drop)]))
