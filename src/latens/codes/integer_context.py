"""The context model of `latens.codes.context` in exact integer arithmetic.

    quantity                              unit                range
    mean, y_hat                           1/1024              mean within +-2^23 before and +-2^24 after the context
    level                                 1/16                0..1008; table of the coder: (level + 8) >> 4
    innovation u                          sigma / 16          +-127
    gate                                  1/256               0..511
    shift of the mean                     sigma / 512         +-2047 before it is multiplied by sigma

    u      = (d * reciprocal[level] + 2^23) >> 24      d = y_hat - mean within +-2^21, reciprocals below 2^22: below 2^43
    shift  = (gate * sum + half) >> (e + 3)            filters of 8 bits and exponents e: a sum of 27 taps is below 2^19
    mean  += (shift * sigma[level] + 256) >> 9         sigma in 1/1024 below 2^19: below 2^30
    level += (sum' + half) >> e'                       of |u| - 5 / 16

Sums of filters run in int32 (in mode `fast` on the CPU in float32, which is exact below 2^24) and products in int64, so no
operation rounds on any device. Gates and slices are networks of `latens.codes.integer`. `sigma` and `reciprocal` are those of
the level before the context, in which symbols are clamped to +-2^12.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from latens.codes.coding import LEVELS, OUTPUT_BITS
from latens.codes.context import PHASES, split_phases
from latens.codes.integer import MODES, IntegerNetwork, Mode, probe
from latens.errors import DeviceMismatch, ModelError
from latens.shapes import Int, Shaped

LEVEL_BITS = 4  # fractional bits of levels
FINE_LEVELS = ((LEVELS - 1) << LEVEL_BITS) + 1  # from 0 to the last table
INNOVATION_BITS = 4  # fractional bits of innovations
INNOVATION_MAX = 127
MAGNITUDE = 5  # subtracted from |u|, 5/16
GATE_BITS = 8
SHIFT_BITS = 9  # fractional bits of shifts of the mean, in units of sigma
SHIFT_MAX = (1 << 11) - 1
RECIPROCAL_BITS = 24
DIFFERENCE_MAX = 1 << 21
SYMBOL_MAX = 1 << 12
MEAN_MAX = 1 << 23
FEATURE_MAX = 127
GAIN_BITS = 3  # SHIFT_BITS = GATE_BITS + INNOVATION_BITS - GAIN_BITS


class IntegerModel(NamedTuple):
    """What the integer hyper-synthesis predicts of a latent, or of a band of it."""

    mean: Int[Tensor, "B M h w"]  # 1/1024
    level: Int[Tensor, "B M h w"]  # 1/16
    features: Int[Tensor, "B F h w"]  # +-127


class Part(NamedTuple):
    """Symbols that are coded together: the strong or the weak channels of one phase."""

    phase: int
    weak: bool
    mean: Int[Tensor, "B _ _ _"]  # 1/1024
    level: Int[Tensor, "B _ _ _"]  # table index


class IntegerCoded(NamedTuple):
    """A coded band, int32."""

    symbols: Int[Tensor, "B M h w"]
    mean: Int[Tensor, "B M h w"]  # 1/1024, with the context
    level: Int[Tensor, "B M h w"]  # table index, with the context


Chooser: TypeAlias = Callable[[Part], Tensor]
"""The symbols of a part: those that the encoder chooses, or those that the decoder reads."""


class IntegerContext:
    """Buffers: filters int8 (M, k, 3, 3) with exponents int8 (M,), `rate_levels` int8 (R, M) in 1/16, tables of the scales.

    Raises ModelError for tensors of other types, sizes or ranges.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], gates: Sequence[IntegerNetwork], slices: Sequence[IntegerNetwork]
    ) -> None:
        self.buffers = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
        self.gates, self.slices = tuple(gates), tuple(slices)
        self._check()
        self._cache: dict[torch.device, dict[str, Tensor]] = {}

    @property
    def channels(self) -> int:
        return len(self.buffers["mean_filters.0"])

    @torch.no_grad()
    def code(self, model: IntegerModel, choose: Chooser) -> IntegerCoded:
        """Symbols of a band in the order of coding; `choose` is called for each `Part`. h and w must be even."""
        named = self._on(model.mean.device)
        mean, level = (part.to(torch.int32).index_select(1, named["order"]) for part in (model.mean, model.level))
        ordered = IntegerModel(mean, level, model.features.to(torch.int32))
        known: list[Tensor] = []
        result = IntegerCoded(*(torch.empty_like(mean) for _ in IntegerCoded._fields))
        for k, (row, column) in enumerate(PHASES):  # one phase in memory at a time
            phase = IntegerModel(*(part[:, :, row::2, column::2].contiguous() for part in ordered))
            coded, innovations = self._phase(k, phase, known, choose, named)
            known.append(torch.cat([innovations, innovations.abs().sub_(MAGNITUDE)], dim=1))
            for whole, part in zip(result, coded, strict=True):
                whole[:, :, row::2, column::2] = part
        return IntegerCoded(*(part.index_select(1, named["back"]) for part in result))

    def _phase(
        self, k: int, model: IntegerModel, known: Sequence[Tensor], choose: Chooser, named: Mapping[str, Tensor]
    ) -> tuple[IntegerCoded, Tensor]:
        """One phase with its channels in the order of coding, in int32."""
        base, level, features = model
        fine = level.clamp(0, FINE_LEVELS - 1)
        moved = torch.zeros_like(base)
        if known:
            moved, raised = self._context(k - 1, fine, features, known, named)
            level = level + raised
        mean, reciprocal = base + moved, taken(named["reciprocal"], fine)
        strong, weak = slice(self.strong), slice(self.strong, None)
        first = table_index(level[:, strong])
        symbols = choose(Part(k, False, mean[:, strong], first)).to(torch.int32)
        u_strong = innovation(symbols, moved[:, strong], reciprocal[:, strong])
        hints = torch.cat([u_strong.abs() - MAGNITUDE, features], dim=1)
        second = table_index(level[:, weak] + self.slices[k](hints, dtype=torch.int32))
        rest = choose(Part(k, True, mean[:, weak], second)).to(torch.int32)
        u_weak = innovation(rest, moved[:, weak], reciprocal[:, weak])
        coded = IntegerCoded(torch.cat([symbols, rest], dim=1), mean, torch.cat([first, second], dim=1))
        return coded, torch.cat([u_strong, u_weak], dim=1)

    def _context(
        self, k: int, fine: Tensor, features: Tensor, known: Sequence[Tensor], named: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """What the innovations of the earlier phases add to the means and to the levels of phase k + 1.

        `known` contains u and then |u| - 5 / 16 of each earlier phase, (B, 2 M, h/2, w/2).
        """
        gate = self.gates[k](features, dtype=torch.int32).index_select(1, named["order"])
        gate = gate.add_(1 << GATE_BITS).clamp_(0, (2 << GATE_BITS) - 1)
        mean_sum, level_sum = convolved(known, named[f"filters.{k}"], fast=self.fast).chunk(2, dim=1)
        shift = rounded_shift(gate.mul_(mean_sum), named[f"mean_exponents.{k}"] + GAIN_BITS).clamp_(-SHIFT_MAX, SHIFT_MAX)
        moved = rounded_shift(shift.mul_(taken(named["sigma"], fine)), SHIFT_BITS)
        return moved, rounded_shift(level_sum, named[f"level_exponents.{k}"])

    @property
    def strong(self) -> int:
        """Number of strong channels, the first ones in the order of coding."""
        return len(self.buffers["strong"])

    def in_order(self, values: Shaped[Tensor, "B M h w"]) -> list[tuple[Tensor, Tensor]]:
        """The strong and the weak channels of every phase of `values`, in the order of coding."""
        ordered = values.index_select(1, self._on(values.device)["order"])
        return [(phase[:, : self.strong], phase[:, self.strong :]) for phase in split_phases(ordered)]

    def chooser(self, values: Tensor, choose: Callable[[Part, Tensor], Tensor]) -> Chooser:
        """A chooser that also gets the part's own entries of `values` (B, M, h, w)."""
        phases = self.in_order(values)

        def chosen(part: Part) -> Tensor:
            return choose(part, phases[part.phase][part.weak])

        return chosen

    def rate_shift(self, quality: int) -> Int[Tensor, "M 1 1"]:
        """Level shift in 1/16 at a quality in 1/256 (256 is the first rate), interpolated between the rates."""
        table = self.buffers["rate_levels"].to(torch.int64)
        place = min(max(quality - 256, 0), 256 * (len(table) - 1))
        low = min(place // 256, max(len(table) - 2, 0))
        high, share = min(low + 1, len(table) - 1), place - 256 * low
        return rounded_shift(table[low] * (256 - share) + table[high] * share, 8)[:, None, None]

    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of the means and levels for fixed pseudo-random inputs."""
        device = self.buffers["mean_filters.0"].device
        count = self.channels
        mean, level, symbols = (probe(count, bound).to(device) for bound in (MEAN_MAX, 16 * LEVELS, 6))
        model = IntegerModel(mean, level.abs(), probe(self.features, FEATURE_MAX).to(device))
        coded = self.code(model, self.chooser(symbols, lambda part, values: values))
        digest = hashlib.sha256()
        for part in coded:
            digest.update(part.cpu().contiguous().numpy().astype("<i8").tobytes())
        return digest.hexdigest()

    @property
    def features(self) -> int:
        return int(self.gates[0].stack()[0].shape.inputs)

    def verified(self, expected: str) -> IntegerContext:
        """This context with its networks in the first mode that gives the expected fingerprint. Raises DeviceMismatch."""
        for mode in MODES:
            self.set_mode(mode)
            if self.fingerprint() == expected:
                return self
        raise DeviceMismatch(
            "the self-test of the context model fails on this machine",
            hint="files cannot be exchanged with other machines; please report the processor and the torch version",
        )

    @property
    def fast(self) -> bool:
        """True if all networks are in mode `fast`; the CPU then sums the filters in float32."""
        return all(network.mode == "fast" for network in (*self.gates, *self.slices))

    def set_mode(self, mode: Mode) -> None:
        for network in (*self.gates, *self.slices):
            network.mode = mode

    def to(self, device: torch.device) -> IntegerContext:
        buffers = {name: tensor.to(device) for name, tensor in self.buffers.items()}
        return IntegerContext(buffers, [g.to(device) for g in self.gates], [s.to(device) for s in self.slices])

    def tensors(self) -> dict[str, Tensor]:
        parts = dict(self.buffers)
        for name, networks in (("gates", self.gates), ("slices", self.slices)):
            for index, network in enumerate(networks):
                parts |= {f"{name}.{index}.{key}": tensor for key, tensor in network.state_dict().items()}
        return parts

    def spec(self) -> dict[str, Any]:
        """Values for config.json: the networks and the result of the self-test."""
        return {
            "gates": [network.spec() for network in self.gates],
            "slices": [network.spec() for network in self.slices],
            "self_test": self.fingerprint(),
        }

    @classmethod
    def from_tensors(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> IntegerContext:
        """Inverse of `tensors` and `spec`; proves the bounds again. Raises ModelError if they are invalid."""
        found: dict[str, list[IntegerNetwork]] = {"gates": [], "slices": []}
        try:
            for name, networks in found.items():
                for index, entry in enumerate(spec[name]):
                    prefix = f"{name}.{index}."
                    own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
                    networks.append(IntegerNetwork.from_spec(entry, own))
        except (KeyError, TypeError) as error:
            raise ModelError(f"the context model lacks {error}", hint="train or download the model again") from None
        buffers = {name: value for name, value in tensors.items() if not name.startswith(("gates.", "slices."))}
        return cls(buffers, found["gates"], found["slices"])

    def _on(self, device: torch.device) -> dict[str, Tensor]:
        """The buffers on a device as int32, filters and exponents in the order of coding; that order and its inverse."""
        if device not in self._cache:
            strong = self.buffers["strong"].cpu().long()
            others = torch.ones(self.channels, dtype=torch.bool)
            others[strong] = False
            order = torch.cat([strong, others.nonzero().flatten()])
            named = {"order": order.to(device), "back": order.argsort().to(device)}
            for name, buffer in self.buffers.items():
                if "filters" in name or "exponents" in name:
                    sorted_buffer = buffer.to(device, torch.int32)[named["order"]]
                    named[name] = sorted_buffer[:, None, None] if "exponents" in name else sorted_buffer
            for k in range(len(PHASES) - 1):
                named[f"filters.{k}"] = torch.cat([named.pop(f"{kind}_filters.{k}") for kind in ("mean", "level")])
            named |= {name: self.buffers[name].to(device) for name in ("sigma", "reciprocal")}
            self._cache[device] = named
        return self._cache[device]

    def _check(self) -> None:
        later = range(len(PHASES) - 1)
        try:
            channels = len(self.buffers["mean_filters.0"])
            expected: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
                "sigma": (torch.int32, (FINE_LEVELS,)),
                "reciprocal": (torch.int32, (FINE_LEVELS,)),
                "strong": (torch.int16, tuple(self.buffers["strong"].shape)),
                "rate_levels": (torch.int8, (len(self.buffers["rate_levels"]), channels)),
            }
            for k in later:
                expected |= {f"{kind}_filters.{k}": (torch.int8, (channels, k + 1, 3, 3)) for kind in ("mean", "level")}
                expected |= {f"{kind}_exponents.{k}": (torch.int8, (channels,)) for kind in ("mean", "level")}
            for name, (dtype, size) in expected.items():
                tensor = self.buffers[name]
                _require(
                    tensor.dtype == dtype and tuple(tensor.shape) == size, f"{name} is {tensor.dtype} {list(tensor.shape)}"
                )
            _require(set(self.buffers) == set(expected), "it has unknown tensors")
            strong = self.buffers["strong"].tolist()
            _require(len(set(strong)) == len(strong) and 0 < len(strong) < channels, "its strong channels repeat or are all")
            _require(min(strong) >= 0 and max(strong) < channels, "a strong channel does not exist")
            for name, low, high in (("sigma", 1, 1 << 19), ("reciprocal", 1, 1 << 22)):
                _require(low <= int(self.buffers[name].min()) and int(self.buffers[name].max()) < high, f"{name} out of range")
            for k in later:
                for kind, low in (("mean", -GAIN_BITS + 1), ("level", 1)):
                    exponents = self.buffers[f"{kind}_exponents.{k}"]
                    _require(low <= int(exponents.min()) and int(exponents.max()) <= 20, "an exponent is out of range")
            sizes = [(network.stack()[0].shape.inputs, network.stack()[-1].shape.outputs) for network in self.gates]
            _require(len(set(sizes)) == 1 and len(sizes) == len(later) and sizes[0][1] == channels, "its gates do not fit")
            outer = (len(strong) + sizes[0][0], channels - len(strong))
            inner = [(network.stack()[0].shape.inputs, network.stack()[-1].shape.outputs) for network in self.slices]
            _require(inner == [outer] * len(PHASES), "its slices do not fit")
        except KeyError as error:
            raise ModelError(f"the context model lacks {error}", hint="train or download the model again") from None


def table_index(level: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Index of the table of a level in 1/16."""
    return rounded_shift(level, LEVEL_BITS).clamp(0, LEVELS - 1)


def rounded_shift(x: Int[Tensor, "..."], bits: int | Tensor) -> Int[Tensor, "..."]:
    """x / 2^bits, rounded to the nearest integer, halves up. `bits` >= 1."""
    half = 1 << (bits - 1) if isinstance(bits, int) else torch.ones_like(bits) << (bits - 1)
    return (x + half) >> bits


def innovation(
    symbols: Int[Tensor, "B C h w"], moved: Int[Tensor, "B C h w"], reciprocal: Int[Tensor, "B C h w"]
) -> Int[Tensor, "B C h w"]:
    """y_hat minus the mean before the context, in sigma / 16; `moved` is what the context added to the mean."""
    d = (symbols.clamp(-SYMBOL_MAX, SYMBOL_MAX) << OUTPUT_BITS).add_(moved).clamp_(-DIFFERENCE_MAX, DIFFERENCE_MAX)
    u = rounded_shift(d.to(torch.int64).mul_(reciprocal), RECIPROCAL_BITS)
    return u.clamp_(-INNOVATION_MAX, INNOVATION_MAX).to(torch.int32)


def taken(table: Int[Tensor, "L"], index: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Entries of a table."""
    return table.index_select(0, index.flatten()).view_as(index)


def convolved(images: Sequence[Int[Tensor, "B C h w"]], filters: Int[Tensor, "C k 3 3"], *, fast: bool) -> Tensor:
    """The sum over k images, each of whose channels is convolved with its own filter, in int32; zeros outside.

    With `fast`, the CPU computes in float32: sums are integers below 2^24, so nothing is rounded, in any order.
    """
    total, *others = (_convolved(image, own, fast=fast) for image, own in zip(images, filters.unbind(1), strict=True))
    for other in others:
        total.add_(other)
    return total.to(torch.int32)


def _convolved(image: Int[Tensor, "B C h w"], filters: Int[Tensor, "C 3 3"], *, fast: bool) -> Tensor:
    if fast and image.device.type == "cpu":
        with torch.autocast("cpu", enabled=False):
            return F.conv2d(image.float(), filters.float()[:, None], padding=1, groups=len(filters))
    height, width = image.shape[-2:]
    padded, total = F.pad(image, (1, 1, 1, 1)), torch.zeros_like(image)
    for row in range(3):
        for column in range(3):
            window = padded[:, :, row : row + height, column : column + width]
            total.addcmul_(window, filters[:, row, column, None, None])
    return total


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ModelError(f"the context model is invalid: {what}", hint="train or download the model again")
