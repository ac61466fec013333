"""Integer flow in exact integer arithmetic, so that packing and unpacking compute identical values.

It consists of an integer network for every network of the trained model, and a symbol table for every scale level and every
eighth of the mean. Both are stored and hashed with the weights. A pixel x with mean m / 8 is coded as x - floor(m / 8), with
the table of its level and of m mod 8.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from latens.codes.integer import IntegerNetwork
from latens.codes.quantize import quantize_network
from latens.codes.tables import SymbolTables, tables_from_pmfs
from latens.errors import ModelError
from latens.settings import decode, to_dict
from latens.shapes import Int, UInt8
from latens.systems.flow.config import IntegerFlow
from latens.systems.flow.pack.color import to_planes
from latens.systems.flow.pack.model import (
    RATIO,
    SCALES,
    SMALLEST,
    Group,
    IntegerFlowNet,
    PhaseContext,
    chroma_inputs,
    luma_inputs,
    name_of,
    pyramid,
    steps,
)
from latens.systems.flow.pack.phases import PHASES, Phase, phase_size
from latens.systems.flow.pack.stack import RowTables

INPUT_BITS = 6  # inputs are in units of 1/64 of the float input, which is 1/4 of a pixel value
INPUT_BOUND = 1023
OUTPUT_BITS = 10
ACTIVATION_BITS = 16
FRACTIONS = 8  # subdivisions of a pixel value in the mean
MEAN_LIMIT = 1023  # means are clipped to [-MEAN_LIMIT, MEAN_LIMIT]
TABLE_RADII = (7, 15, 31, 63, 127, 255)  # table radii: a table of radius r covers -r .. r
RADIUS_IN_SCALES = 9.0  # minimum radius of a table in units of the scale
TAILS = tuple((factor, weight) for factor in (0.7, 0.8, 0.9, 1.0, 1.12) for weight in (0.0, 0.02, 0.05, 0.1, 0.2, 0.3))
WIDER = 3.0  # ratio of the scales of the second and the first logistic of a table


class Predicted(NamedTuple):
    """Predicted pixels: floor of the mean, and index of the table."""

    floor: Int[Tensor, "B C h w"]
    table: Int[Tensor, "B C h w"]


class FrozenFlow:
    """Integer predictor of every pixel from the pixels before it. `tensors` and `spec` are stored in the model folder."""

    def __init__(self, config: IntegerFlow, networks: Mapping[str, IntegerNetwork], tables: SymbolTables) -> None:
        self.config, self.networks, self.tables = config, dict(networks), tables
        self.rows = RowTables(tables)

    def luma(self, context: PhaseContext, group: Group, phase: Phase, size: tuple[int, int]) -> Predicted:
        out = self.networks[f"luma_{name_of(group)}"](luma_inputs(context, group, phase, size))
        return predicted((context.base[:, :1].to(torch.int64) << (OUTPUT_BITS - 2)) + out[:, :1], out[:, 1:])

    def chroma(self, context: PhaseContext, luma: Tensor, group: Group, phase: Phase, size: tuple[int, int]) -> Chroma:
        out = self.networks[f"chroma_{name_of(group)}"](chroma_inputs(context, luma, group, phase, size))
        means = (context.base[:, 1:].to(torch.int64) << (OUTPUT_BITS - 2)) + out[:, :2]
        return Chroma(means, out[:, 2:4], out[:, 4:])

    @property
    def base(self) -> Predicted:
        """Prediction of the single pixel of the coarsest plane, (1, 3, 1, 1)."""
        means = torch.tensor([128, 0, 0])[None, :, None, None]
        return predicted(means << OUTPUT_BITS, torch.full_like(means, (SCALES - 4) << OUTPUT_BITS))

    def hash(self) -> str:
        """SHA-256 (hexadecimal) of networks and tables."""
        digest = hashlib.sha256(json.dumps(self.spec(), sort_keys=True).encode())
        for name, tensor in sorted(self.tensors().items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
        return digest.hexdigest()

    def table_hash(self) -> str:
        """SHA-256 (hexadecimal) of the tables only."""
        arrays = self.tables.arrays()
        return hashlib.sha256(b"".join(arrays[name].astype("<i4").tobytes() for name in sorted(arrays))).hexdigest()

    def reference(self) -> FrozenFlow:
        """The same flow with int64 arithmetic."""
        slow = {}
        for name, network in self.networks.items():
            slow[name] = IntegerNetwork.from_spec(network.spec(), network.state_dict())
            slow[name].mode = "reference"
        return FrozenFlow(self.config, slow, self.tables)

    def tensors(self) -> dict[str, Tensor]:
        found = {f"tables.{name}": torch.from_numpy(array) for name, array in self.tables.arrays().items()}
        for name, network in self.networks.items():
            found |= {f"{name}.{part}": tensor for part, tensor in network.state_dict().items()}
        return found

    def spec(self) -> dict[str, Any]:
        """Settings, layers and self-tests of the networks, without tensors."""
        networks = {name: {**network.spec(), "self_test": network.fingerprint()} for name, network in self.networks.items()}
        return {"model": to_dict(self.config), "networks": networks}

    @classmethod
    def from_tensors(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> FrozenFlow:
        """Inverse of `tensors` and `spec`; runs the self-tests. Raises ModelError or DeviceMismatch."""
        try:
            config: IntegerFlow = decode(IntegerFlow, spec["model"])
            networks = {}
            for name, one in spec["networks"].items():
                own = {part.removeprefix(f"{name}."): t for part, t in tensors.items() if part.startswith(f"{name}.")}
                networks[name] = IntegerNetwork.from_spec(one, own).verified(str(one["self_test"]))
            tables = SymbolTables(**{part: tensors[f"tables.{part}"].numpy() for part in ("counts", "lows", "sizes")})
        except KeyError as error:
            raise ModelError(f"the frozen flow of the model lacks {error}", hint="train it again") from None
        if tables.levels != SCALES * FRACTIONS or set(networks) != set(_names(config)):
            raise ModelError("the tables or networks do not fit the model's settings", hint="train it again")
        return cls(config, networks, tables)


class Chroma(NamedTuple):
    """Means and scales of Co and Cg, and the regression coefficient of the error of Cg on that of Co, times 2^OUTPUT_BITS."""

    means: Int[Tensor, "B 2 h w"]
    scales: Int[Tensor, "B 2 h w"]
    share: Int[Tensor, "B 1 h w"]

    def orange(self) -> Predicted:
        return predicted(self.means[:, :1], self.scales[:, :1])

    def cyan(self, orange: Int[Tensor, "B 1 h w"]) -> Predicted:
        """Prediction of Cg given Co."""
        error = (orange.to(torch.int64) << OUTPUT_BITS) - self.means[:, :1]
        return predicted(self.means[:, 1:] + (self.share * error >> OUTPUT_BITS), self.scales[:, 1:])


def predicted(mean: Int[Tensor, "..."], level: Int[Tensor, "..."]) -> Predicted:
    """Rounds a mean to eighths and a scale level to an integer; both are scaled by 2^OUTPUT_BITS."""
    limit = MEAN_LIMIT << OUTPUT_BITS
    eighths = (mean.clamp(-limit, limit) + (1 << (OUTPUT_BITS - 4))) >> (OUTPUT_BITS - 3)
    whole = ((level + (1 << (OUTPUT_BITS - 1))) >> OUTPUT_BITS).clamp(0, SCALES - 1)
    return Predicted(eighths >> 3, whole * FRACTIONS + (eighths & 7))


class Coded(NamedTuple):
    """One group of an image batch: coded symbols and their tables."""

    symbols: Int[Tensor, "B C h w"]
    table: Int[Tensor, "B C h w"]


def coded_groups(flow: FrozenFlow, pixels: UInt8[Tensor, "B 3 H W"], *, gray: bool = False) -> list[Coded]:
    """Groups of images in decoding order, from the coarsest to the finest level."""
    planes = to_planes(pixels)
    levels = list(enumerate(pyramid(planes)))
    last = levels[-1][1][1] if levels else planes
    base = flow.base
    channels = 1 if gray else 3
    groups = [Coded((last - base.floor)[:, :channels], base.table[:, :channels].expand(len(pixels), -1, -1, -1))]
    for level, (plane, coarse) in reversed(levels):
        for group, phase, canvas in steps(coarse, plane, level, flow.config):
            size = phase_size(plane.shape[2], plane.shape[3], phase)
            target = plane[:, :, phase.row :: 2, phase.column :: 2]
            context = PhaseContext.of(canvas, phase, size)
            luma = flow.luma(context, group, phase, size)
            groups.append(Coded(target[:, :1] - luma.floor, luma.table))
            if gray:
                continue
            chroma = flow.chroma(context, with_luma(canvas, target, phase), group, phase, size)
            for part, found in ((1, chroma.orange()), (2, chroma.cyan(target[:, 1:2]))):
                groups.append(Coded(target[:, part : part + 1] - found.floor, found.table))
    return groups


def with_luma(canvas: Tensor, target: Tensor, phase: Phase) -> Tensor:
    """Luma of a canvas with the pixels of a phase filled in."""
    luma = canvas[:, :1].clone()
    luma[:, :, phase.row :: 2, phase.column :: 2] = target[:, :1]
    return luma


def _names(config: IntegerFlow) -> Iterator[str]:
    for level in range(config.levels):
        for number in range(len(PHASES)):
            yield f"luma_{name_of(Group(level, number))}"
            yield f"chroma_{name_of(Group(level, number))}"


# --------------------------------------------------------------------------------------------------------------- freezing


@torch.no_grad()
def freeze(model: IntegerFlowNet, *pixels: UInt8[Tensor, "B 3 H W"]) -> FrozenFlow:
    """Quantizes a trained model. `pixels` calibrate the ranges of the networks and the shapes of the tables."""
    networks = {
        name: quantize_network(
            stack,
            calibration,
            input_frac_bits=INPUT_BITS,
            input_bound=INPUT_BOUND,
            output_frac_bits=OUTPUT_BITS,
            activation_bits=ACTIVATION_BITS,
        )
        for name, stack, calibration in _calibration(model, pixels)
    }
    rough = FrozenFlow(model.config, networks, logistic_tables([TAILS[18]] * SCALES))
    groups = [group for images in pixels for group in coded_groups(rough, images)[1:]]
    return FrozenFlow(model.config, networks, logistic_tables(fitted_tails(groups)))


def _calibration(model: IntegerFlowNet, pixels: Sequence[Tensor]) -> Iterator[tuple[str, Any, Tensor]]:
    """Name, layers and calibration inputs (1, F, n, 1) of every network."""
    found: dict[str, list[Tensor]] = {}
    planes = [pair for images in pixels for pair in enumerate(pyramid(to_planes(images)))]
    for level, (plane, coarse) in planes:
        for group, phase, canvas in steps(coarse, plane, level, model.config):
            size = phase_size(plane.shape[2], plane.shape[3], phase)
            context = PhaseContext.of(canvas, phase, size)
            target = plane[:, :, phase.row :: 2, phase.column :: 2]
            luma = luma_inputs(context, group, phase, size)
            chroma = chroma_inputs(context, with_luma(canvas, target, phase), group, phase, size)
            found.setdefault(f"luma_{name_of(group)}", []).append(luma.flatten(2))
            found.setdefault(f"chroma_{name_of(group)}", []).append(chroma.flatten(2))
    for name, parts in found.items():
        kind, _, group_name = name.partition("_")
        stack = (model.luma if kind == "luma" else model.chroma)[group_name]
        inputs = torch.cat([part.transpose(1, 2).flatten(0, 1) for part in parts])
        chosen = inputs[:: max(1, len(inputs) // 8192)].clamp(-INPUT_BOUND, INPUT_BOUND).float() / (1 << INPUT_BITS)
        yield name, stack, chosen.T.reshape(1, inputs.shape[1], -1, 1)


def _table_radius(scale: float) -> int:
    return next((radius for radius in TABLE_RADII if radius >= RADIUS_IN_SCALES * scale), TABLE_RADII[-1])


def level_scales() -> np.ndarray:
    """Logistic scale of every level, in pixel values."""
    return SMALLEST * np.exp(RATIO * np.arange(SCALES))


def logistic_mass(scale: float, fraction: int, radius: int, tail: tuple[float, float]) -> np.ndarray:
    """Probabilities of -radius .. radius under a mixture of two logistics centered at fraction / 8."""
    factor, weight = tail
    edges = np.arange(-radius, radius + 2) - 0.5 - fraction / FRACTIONS

    def mass(width: float) -> np.ndarray:
        # mirrored to negative arguments: a difference of sigmoids loses precision in the upper tail
        low, high = edges[:-1] / width, edges[1:] / width
        flip = low > 0
        low, high = np.where(flip, -high, low), np.where(flip, -low, high)
        found: np.ndarray = 1 / (1 + np.exp(-np.clip(high, -700, 700))) - 1 / (1 + np.exp(-np.clip(low, -700, 700)))
        return found

    narrow: np.ndarray = (1 - weight) * mass(scale * factor) + weight * mass(scale * factor * WIDER)
    return narrow


def logistic_tables(tails: list[tuple[float, float]]) -> SymbolTables:
    """Tables of all levels and fractions. `tails`: factor on the scale and weight of the wider logistic, for each level."""
    masses, lows = [], []
    for scale, tail in zip(level_scales().tolist(), tails, strict=True):
        radius = _table_radius(scale)
        for fraction in range(FRACTIONS):
            masses.append(logistic_mass(scale, fraction, radius, tail))
            lows.append(-radius)
    return tables_from_pmfs(masses, lows)


def fitted_tails(groups: list[Coded]) -> list[tuple[float, float]]:
    """Shape of `TAILS` with the shortest code of the symbols, for every level."""
    symbols = np.concatenate([group.symbols.flatten().numpy() for group in groups]).astype(np.int64)
    table = np.concatenate([group.table.flatten().numpy() for group in groups]).astype(np.int64)
    chosen = []
    for level, scale in enumerate(level_scales().tolist()):
        radius = _table_radius(scale)
        counts = np.zeros((FRACTIONS, 2 * radius + 1))
        here = (table // FRACTIONS == level) & (np.abs(symbols) <= radius)
        np.add.at(counts, (table[here] % FRACTIONS, symbols[here] + radius), 1)

        def length(tail: tuple[float, float], scale: float = scale, radius: int = radius, counts: np.ndarray = counts) -> float:
            masses = np.stack([logistic_mass(scale, fraction, radius, tail) for fraction in range(FRACTIONS)])
            return -float((counts * np.log2(np.maximum(masses, 2.0**-22))).sum())

        chosen.append(min(TAILS, key=length) if here.sum() >= 200 else (1.0, 0.05))
    return chosen
