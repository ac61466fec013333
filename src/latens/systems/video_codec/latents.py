"""One latent to bytes and back, with the frozen integers of `exact`.

    scaled latent --hyper_analysis--> z, integers --frozen hyper-synthesis--> mean, table index (+ shift - k)
                  (y - mean) / r^k --round--> symbols, integers;  decoded: symbols r^k + mean

Letters: M channels of the latent y, N of the hyper-latent z, h w sizes of y.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from latens.codes.coding import OUTPUT_BITS, FrozenCoding, LatentParameters
from latens.codes.entropy import gaussian_bits, round_for_rate
from latens.errors import Corrupt, DeviceMismatch
from latens.shapes import Bool, Float, Int
from latens.systems.video_codec.codec import step_of
from latens.systems.video_codec.exact import shifted

ROUNDING_WEIGHT = 20.0  # of squared errors against bits when the encoder rounds (see `round_for_rate`)
CRC_BYTES = 2  # checksum of a latent's table indices: tells another machine from damage
MAX_BYTES = 1 << 28  # of one part


class PackerMark(NamedTuple):
    """A state of a packer."""

    parts: int
    bits: dict[str, int]
    places: int


class Packer:
    """Parts of a group of frames, one after the other, each behind its length; `bits` counts them by name.

    With `places` it also collects the code length of every place of every latent, with the frames that share it; coders set
    `now` to the frames that they write. `qualities` are those of the units that `groups.at_pace` wrote, in 1/256.
    """

    def __init__(self, *, places: bool = False) -> None:
        self._parts: list[bytes] = []
        self.bits: dict[str, int] = {}
        self.places: list[tuple[range, Float[Tensor, "h w"]]] | None = [] if places else None
        self.now = range(0)
        self.qualities: list[int] = []

    @property
    def size(self) -> int:
        """Bytes so far."""
        return sum(self.bits.values()) // 8

    def mark(self) -> PackerMark:
        """The present state, for `rewind`."""
        return PackerMark(len(self._parts), dict(self.bits), 0 if self.places is None else len(self.places))

    def rewind(self, mark: PackerMark) -> None:
        """Drops what was appended since `mark`."""
        del self._parts[mark.parts :]
        self.bits = dict(mark.bits)
        if self.places is not None:
            del self.places[mark.places :]

    def put(self, part: bytes, name: str) -> None:
        """Appends bytes of any length."""
        head = varint(len(part))
        self._parts += [head, part]
        self.bits[name] = self.bits.get(name, 0) + 8 * (len(head) + len(part))

    def data(self) -> bytes:
        return b"".join(self._parts)


class Unpacker:
    """Takes the parts off again. Raises Corrupt where there are none left."""

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    @property
    def place(self) -> int:
        """Bytes that were taken."""
        return self._place

    @property
    def done(self) -> bool:
        """Whether nothing is left."""
        return self._place == len(self._data)

    def number(self) -> int:
        """An unsigned integer below 2^63."""
        value = shift = 0
        while True:
            if self._place >= len(self._data) or shift > 56:
                raise Corrupt("a group of frames ends early or is damaged", section="frames")
            byte = self._data[self._place]
            self._place += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def take(self) -> bytes:
        """The next part."""
        length = self.number()
        if length > min(MAX_BYTES, len(self._data) - self._place):
            raise Corrupt("a group of frames ends early or is damaged", section="frames")
        self._place += length
        return self._data[self._place - length : self._place]

    def rest(self) -> bytes:
        """All that is left."""
        place, self._place = self._place, len(self._data)
        return self._data[place:]

    def finish(self) -> None:
        """Raises Corrupt where something is left."""
        if self._place != len(self._data):
            raise Corrupt(f"{len(self._data) - self._place:,} bytes follow a group of frames", section="frames")


def varint(value: int) -> bytes:
    """An unsigned integer in groups of 7 bits, lowest first."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


class Quantized(NamedTuple):
    """A latent as decoded, in quantization steps of its rate."""

    symbols: Int[Tensor, "1 M h w"]
    mean: Float[Tensor, "1 M h w"]
    step_index: Int[Tensor, "1 M h w"] | None  # k

    def values(self) -> Float[Tensor, "1 M h w"]:
        if self.step_index is None:
            return self.symbols + self.mean
        return self.symbols * step_of(self.step_index.float()) + self.mean

    def fixed_point(self) -> Int[Tensor, "1 M h w"]:
        """The values in 1/1024, exact; only of a latent without steps."""
        return (self.symbols << OUTPUT_BITS) + (self.mean * (1 << OUTPUT_BITS)).long()


class Conditions(NamedTuple):
    """What decides the tables of a latent beside its hyper-latent; all are known to the decoder."""

    shift: Int[Tensor, "M _ _"] | int = 0
    step_index: Int[Tensor, "1 M h w"] | None = None
    cells: Bool[Tensor, "1 1 h w"] | None = None  # True: the first of two hyper-codecs


class LatentCoder:
    """The hyper-codecs of one latent: one, or two for region and background (see `Conditions.cells`)."""

    def __init__(self, name: str, analyses: Sequence[nn.Module], codings: Sequence[FrozenCoding], ratio: int) -> None:
        self.name, self.analyses, self.codings, self.ratio = name, analyses, codings, ratio

    def write(self, packer: Packer, scaled: Float[Tensor, "1 M h w"], given: Conditions) -> Quantized:
        """Quantizes the latent at its rate and appends it."""
        cells = given.cells
        insides = [scaled] if cells is None else [scaled * cells, scaled * ~cells]
        found = []
        for inside, analysis, coding in zip(insides, self.analyses, self.codings, strict=True):
            z = coding.z_symbols(analysis(inside).float())
            packer.put(coding.encode_z(z), f"{self.name}_hyper")
            found.append(coding.parameters(z))
        mean, level = self._merged(found, given)
        residual = scaled - mean
        if given.step_index is not None:
            residual = residual / step_of(given.step_index.float())
        coding = self.codings[0]
        scale = coding.scale_of(level)
        symbols = round_for_rate(residual, scale, ROUNDING_WEIGHT).long()
        if packer.places is not None:
            packer.places.append((packer.now, gaussian_bits(symbols.float(), scale).sum((0, 1))))
        packer.put(level_crc(level) + coding.encode_y(symbols, level), self.name)
        return Quantized(symbols, mean, given.step_index)

    def read(self, unpacker: Unpacker, size: tuple[int, int], given: Conditions, device: torch.device) -> Quantized:
        """The next latent, of the size h, w. Raises Corrupt, or DeviceMismatch where this machine finds other tables."""
        height, width = (side // self.ratio for side in size)
        found = [coding.parameters(coding.decode_z(unpacker.take(), height, width).to(device)) for coding in self.codings]
        mean, level = self._merged(found, given)
        data = unpacker.take()
        if data[:CRC_BYTES] != level_crc(level):
            what = f"this machine computes other entropy parameters than the file was written with ({self.name})"
            raise DeviceMismatch(what, hint="`latens doctor` tests the arithmetic; try --device cpu")
        symbols = self.codings[0].decode_y(data[CRC_BYTES:], level).to(device)
        return Quantized(symbols, mean, given.step_index)

    @staticmethod
    def _merged(found: Sequence[LatentParameters], given: Conditions) -> LatentParameters:
        mean, level = found[0]
        if given.cells is not None:
            mean = torch.where(given.cells, mean, found[1].mean)
            level = torch.where(given.cells, level, found[1].level)
        shift = given.shift if given.step_index is None else given.shift - given.step_index
        return LatentParameters(mean, shifted(level, shift))


def level_crc(levels: Int[Tensor, "..."]) -> bytes:
    crc = zlib.crc32(levels.to(torch.uint8).contiguous().cpu().numpy().tobytes())
    return (crc & 0xFFFF).to_bytes(CRC_BYTES, "little")
