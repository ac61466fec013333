"""The integer flow in exact integers: what packing and unpacking must agree on to the last bit.

It holds an integer network for every network of the trained model, and one table for every scale level and eighth of the mean.
All of it is stored with the weights and hashed with them. A pixel x with the mean m, in eighths, is coded as x - floor(m / 8)
under the table of its level and of m mod 8.
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
    Seen,
    chroma_inputs,
    luma_inputs,
    name_of,
    pyramid,
    steps,
)
from latens.systems.flow.pack.phases import PHASES, Phase, phase_size
from latens.systems.flow.pack.stack import RowTables

INPUT_BITS = 6  # inputs count in 1/64 of what the networks see: 1/4 of a pixel value
INPUT_BOUND = 1023
OUTPUT_BITS = 10
ACTIVATION_BITS = 16
FRACTIONS = 8  # of the mean
MEAN_REACH = 1023  # means are held within this
REACHES = (7, 15, 31, 63, 127, 255)  # of the tables
SCALES_REACH = 9.0  # a table reaches so many scales
TAILS = tuple((factor, weight) for factor in (0.7, 0.8, 0.9, 1.0, 1.12) for weight in (0.0, 0.02, 0.05, 0.1, 0.2, 0.3))
WIDER = 3.0  # the second logistic of a table has so many times the scale of the first


class Predicted(NamedTuple):
    """Of pixels (B, C, h, w): floor of the mean, and index of the table."""

    floor: Int[Tensor, "B C h w"]
    table: Int[Tensor, "B C h w"]


class FrozenFlow:
    """Means and tables of every pixel from the pixels before it, in integers. `tensors` and `spec` go into the model folder."""

    def __init__(self, config: IntegerFlow, networks: Mapping[str, IntegerNetwork], tables: SymbolTables) -> None:
        self.config, self.networks, self.tables = config, dict(networks), tables
        self.rows = RowTables(tables)

    def luma(self, seen: Seen, group: Group, phase: Phase, size: tuple[int, int]) -> Predicted:
        out = self.networks[f"luma_{name_of(group)}"](luma_inputs(seen, group, phase, size))
        return predicted((seen.base[:, :1].to(torch.int64) << (OUTPUT_BITS - 2)) + out[:, :1], out[:, 1:])

    def chroma(self, seen: Seen, luma: Tensor, group: Group, phase: Phase, size: tuple[int, int]) -> Chroma:
        out = self.networks[f"chroma_{name_of(group)}"](chroma_inputs(seen, luma, group, phase, size))
        means = (seen.base[:, 1:].to(torch.int64) << (OUTPUT_BITS - 2)) + out[:, :2]
        return Chroma(means, out[:, 2:4], out[:, 4:])

    @property
    def base(self) -> Predicted:
        """The prediction of the last pixel, (1, 3, 1, 1)."""
        means = torch.tensor([128, 0, 0])[None, :, None, None]
        return predicted(means << OUTPUT_BITS, torch.full_like(means, (SCALES - 4) << OUTPUT_BITS))

    def hash(self) -> str:
        """SHA-256 (hexadecimal) of all integers."""
        digest = hashlib.sha256(json.dumps(self.spec(), sort_keys=True).encode())
        for name, tensor in sorted(self.tensors().items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
        return digest.hexdigest()

    def table_hash(self) -> str:
        """SHA-256 (hexadecimal) of the tables alone."""
        arrays = self.tables.arrays()
        return hashlib.sha256(b"".join(arrays[name].astype("<i4").tobytes() for name in sorted(arrays))).hexdigest()

    def reference(self) -> FrozenFlow:
        """The same flow, computed in int64."""
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
        """What is not a tensor: settings, layers and self-tests of the networks."""
        networks = {name: {**network.spec(), "self_test": network.fingerprint()} for name, network in self.networks.items()}
        return {"model": to_dict(self.config), "networks": networks}

    @classmethod
    def from_tensors(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> FrozenFlow:
        """Undoes `tensors` and `spec`, and runs the self-tests. Raises ModelError or DeviceMismatch."""
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
    """Means of Co and Cg and their scales, times 2^OUTPUT_BITS, and how much of Co's error is expected of Cg."""

    means: Int[Tensor, "B 2 h w"]
    scales: Int[Tensor, "B 2 h w"]
    share: Int[Tensor, "B 1 h w"]

    def orange(self) -> Predicted:
        return predicted(self.means[:, :1], self.scales[:, :1])

    def cyan(self, orange: Int[Tensor, "B 1 h w"]) -> Predicted:
        """The prediction of Cg for given Co."""
        error = (orange.to(torch.int64) << OUTPUT_BITS) - self.means[:, :1]
        return predicted(self.means[:, 1:] + (self.share * error >> OUTPUT_BITS), self.scales[:, 1:])


def predicted(mean: Int[Tensor, "..."], level: Int[Tensor, "..."]) -> Predicted:
    """Rounds a mean to eighths and a level to a whole one; both times 2^OUTPUT_BITS."""
    limit = MEAN_REACH << OUTPUT_BITS
    eighths = (mean.clamp(-limit, limit) + (1 << (OUTPUT_BITS - 4))) >> (OUTPUT_BITS - 3)
    whole = ((level + (1 << (OUTPUT_BITS - 1))) >> OUTPUT_BITS).clamp(0, SCALES - 1)
    return Predicted(eighths >> 3, whole * FRACTIONS + (eighths & 7))


class Coded(NamedTuple):
    """One group of an image batch: what is coded, and under which table."""

    symbols: Int[Tensor, "B C h w"]
    table: Int[Tensor, "B C h w"]


def coded_groups(flow: FrozenFlow, pixels: UInt8[Tensor, "B 3 H W"], *, gray: bool = False) -> list[Coded]:
    """All groups of images in the order of decoding: from the last pixel to the finest level."""
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
            seen = Seen.of(canvas, phase, size)
            luma = flow.luma(seen, group, phase, size)
            groups.append(Coded(target[:, :1] - luma.floor, luma.table))
            if gray:
                continue
            chroma = flow.chroma(seen, with_luma(canvas, target, phase), group, phase, size)
            for part, found in ((1, chroma.orange()), (2, chroma.cyan(target[:, 1:2]))):
                groups.append(Coded(target[:, part : part + 1] - found.floor, found.table))
    return groups


def with_luma(canvas: Tensor, target: Tensor, phase: Phase) -> Tensor:
    """Luma of a canvas with that of a phase filled in."""
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
    """The frozen flow of a trained model. `pixels` set the ranges of the networks and the shapes of the tables."""
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
    """Every network by name with inputs, (n, F, 1, 1)."""
    found: dict[str, list[Tensor]] = {}
    planes = [pair for images in pixels for pair in enumerate(pyramid(to_planes(images)))]
    for level, (plane, coarse) in planes:
        for group, phase, canvas in steps(coarse, plane, level, model.config):
            size = phase_size(plane.shape[2], plane.shape[3], phase)
            seen = Seen.of(canvas, phase, size)
            target = plane[:, :, phase.row :: 2, phase.column :: 2]
            luma = luma_inputs(seen, group, phase, size)
            chroma = chroma_inputs(seen, with_luma(canvas, target, phase), group, phase, size)
            found.setdefault(f"luma_{name_of(group)}", []).append(luma.flatten(2))
            found.setdefault(f"chroma_{name_of(group)}", []).append(chroma.flatten(2))
    for name, parts in found.items():
        kind, _, group_name = name.partition("_")
        stack = (model.luma if kind == "luma" else model.chroma)[group_name]
        inputs = torch.cat([part.transpose(1, 2).flatten(0, 1) for part in parts])
        chosen = inputs[:: max(1, len(inputs) // 8192)].clamp(-INPUT_BOUND, INPUT_BOUND).float() / (1 << INPUT_BITS)
        yield name, stack, chosen.T.reshape(1, inputs.shape[1], -1, 1)


def _reach(scale: float) -> int:
    return next((reach for reach in REACHES if reach >= SCALES_REACH * scale), REACHES[-1])


def level_scales() -> np.ndarray:
    """Scales of the levels, in pixel values."""
    return SMALLEST * np.exp(RATIO * np.arange(SCALES))


def logistic_mass(scale: float, fraction: int, reach: int, tail: tuple[float, float]) -> np.ndarray:
    """Probabilities of -reach .. reach under two logistics around fraction / 8."""
    factor, weight = tail
    edges = np.arange(-reach, reach + 2) - 0.5 - fraction / FRACTIONS

    def mass(width: float) -> np.ndarray:
        # tanh is odd and exact at its ends; a difference of sigmoids would lose the tail above
        low, high = edges[:-1] / width, edges[1:] / width
        flip = low > 0
        low, high = np.where(flip, -high, low), np.where(flip, -low, high)
        found: np.ndarray = 1 / (1 + np.exp(-np.clip(high, -700, 700))) - 1 / (1 + np.exp(-np.clip(low, -700, 700)))
        return found

    narrow: np.ndarray = (1 - weight) * mass(scale * factor) + weight * mass(scale * factor * WIDER)
    return narrow


def logistic_tables(tails: list[tuple[float, float]]) -> SymbolTables:
    """Tables of all levels and fractions; `tails` holds a factor on the scale and the weight of the wider logistic a level."""
    masses, lows = [], []
    for scale, tail in zip(level_scales().tolist(), tails, strict=True):
        reach = _reach(scale)
        for fraction in range(FRACTIONS):
            masses.append(logistic_mass(scale, fraction, reach, tail))
            lows.append(-reach)
    return tables_from_pmfs(masses, lows)


def fitted_tails(groups: list[Coded]) -> list[tuple[float, float]]:
    """Of `TAILS`, the shape with the shortest code of these symbols, for every level."""
    symbols = np.concatenate([group.symbols.flatten().numpy() for group in groups]).astype(np.int64)
    table = np.concatenate([group.table.flatten().numpy() for group in groups]).astype(np.int64)
    chosen = []
    for level, scale in enumerate(level_scales().tolist()):
        reach = _reach(scale)
        counts = np.zeros((FRACTIONS, 2 * reach + 1))
        here = (table // FRACTIONS == level) & (np.abs(symbols) <= reach)
        np.add.at(counts, (table[here] % FRACTIONS, symbols[here] + reach), 1)

        def length(tail: tuple[float, float], scale: float = scale, reach: int = reach, counts: np.ndarray = counts) -> float:
            masses = np.stack([logistic_mass(scale, fraction, reach, tail) for fraction in range(FRACTIONS)])
            return -float((counts * np.log2(np.maximum(masses, 2.0**-22))).sum())

        chosen.append(min(TAILS, key=length) if here.sum() >= 200 else (1.0, 0.05))
    return chosen
