"""One latent to bytes and back, with the frozen integers of `exact.ExactCoding`.

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

ROUNDING_WEIGHT = 20.0  # of squared errors relative to bits in rate-aware rounding (see `round_for_rate`)
CRC_BYTES = 2  # checksum of table indices, which separates a machine that computes others from damage
MAX_BYTES = 1 << 28  # of one part


class PackerMark(NamedTuple):
    """A state of a packer."""

    parts: int
    bits: dict[str, int]
    bit_maps: int


class Packer:
    """The parts of a group of frames in order, each preceded by its length. `bits` counts them by name.

    With `bit_maps` it also collects the code length at every position of every latent, and the frames that share the latent;
    coders set `current_frames`. `qualities` are those of the units that `groups.with_rate_control` wrote, in 1/256.
    """

    def __init__(self, *, bit_maps: bool = False) -> None:
        self._parts: list[bytes] = []
        self.bits: dict[str, int] = {}
        self.bit_maps: list[tuple[range, Float[Tensor, "h w"]]] | None = [] if bit_maps else None
        self.current_frames = range(0)
        self.qualities: list[int] = []

    @property
    def size(self) -> int:
        """Bytes so far."""
        return sum(self.bits.values()) // 8

    def mark(self) -> PackerMark:
        """The current state, for `rewind`."""
        return PackerMark(len(self._parts), dict(self.bits), 0 if self.bit_maps is None else len(self.bit_maps))

    def rewind(self, mark: PackerMark) -> None:
        """Remove the parts that were appended since `mark`."""
        del self._parts[mark.parts :]
        self.bits = dict(mark.bits)
        if self.bit_maps is not None:
            del self.bit_maps[mark.bit_maps :]

    def put(self, part: bytes, name: str) -> None:
        """Append a part."""
        head = varint(len(part))
        self._parts += [head, part]
        self.bits[name] = self.bits.get(name, 0) + 8 * (len(head) + len(part))

    def data(self) -> bytes:
        return b"".join(self._parts)


class Unpacker:
    """Reads the parts of a group in order. Raises Corrupt after the last part."""

    def __init__(self, data: bytes) -> None:
        self._data, self._position = data, 0

    @property
    def position(self) -> int:
        """Bytes read so far."""
        return self._position

    @property
    def done(self) -> bool:
        """True after the last part."""
        return self._position == len(self._data)

    def number(self) -> int:
        """An unsigned integer below 2^63."""
        value = shift = 0
        while True:
            if self._position >= len(self._data) or shift > 56:
                raise Corrupt("a group of frames ends early or is damaged", section="frames")
            byte = self._data[self._position]
            self._position += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def take(self) -> bytes:
        """The next part."""
        length = self.number()
        if length > min(MAX_BYTES, len(self._data) - self._position):
            raise Corrupt("a group of frames ends early or is damaged", section="frames")
        self._position += length
        return self._data[self._position - length : self._position]

    def rest(self) -> bytes:
        """All remaining bytes."""
        position, self._position = self._position, len(self._data)
        return self._data[position:]

    def finish(self) -> None:
        """Raise Corrupt if bytes remain."""
        if self._position != len(self._data):
            raise Corrupt(f"{len(self._data) - self._position:,} bytes follow a group of frames", section="frames")


def varint(value: int) -> bytes:
    """The bytes of an unsigned integer, 7 bits per byte, lowest first."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


class Quantized(NamedTuple):
    """A decoded latent, in units of the quantization step of its rate."""

    symbols: Int[Tensor, "1 M h w"]
    mean: Float[Tensor, "1 M h w"]
    step_index: Int[Tensor, "1 M h w"] | None  # k

    def values(self) -> Float[Tensor, "1 M h w"]:
        if self.step_index is None:
            return self.symbols + self.mean
        return self.symbols * step_of(self.step_index.float()) + self.mean

    def fixed_point(self) -> Int[Tensor, "1 M h w"]:
        """The values in 1/1024 as exact integers; for a latent without steps."""
        return (self.symbols << OUTPUT_BITS) + (self.mean * (1 << OUTPUT_BITS)).long()


class Conditions(NamedTuple):
    """Inputs of the table selection in addition to the hyper-latent; the decoder knows all of them."""

    shift: Int[Tensor, "M _ _"] | int = 0
    step_index: Int[Tensor, "1 M h w"] | None = None
    cells: Bool[Tensor, "1 1 h w"] | None = None  # True selects the first of two hyper-codecs


class LatentCoder:
    """Codes one latent with one hyper-codec, or with two for region and background (`Conditions.cells`)."""

    def __init__(self, name: str, analyses: Sequence[nn.Module], codings: Sequence[FrozenCoding], ratio: int) -> None:
        self.name, self.analyses, self.codings, self.ratio = name, analyses, codings, ratio

    def write(self, packer: Packer, scaled: Float[Tensor, "1 M h w"], given: Conditions) -> Quantized:
        """Quantize the latent and append it to the packer."""
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
        if packer.bit_maps is not None:
            packer.bit_maps.append((packer.current_frames, gaussian_bits(symbols.float(), scale).sum((0, 1))))
        packer.put(level_crc(level) + coding.encode_y(symbols, level), self.name)
        return Quantized(symbols, mean, given.step_index)

    def read(self, unpacker: Unpacker, size: tuple[int, int], given: Conditions, device: torch.device) -> Quantized:
        """Read the next latent, of `size` = (h, w). Raises Corrupt, or DeviceMismatch if this machine computes other tables."""
        height, width = (side // self.ratio for side in size)
        found = [coding.parameters(coding.decode_z(unpacker.take(), height, width).to(device)) for coding in self.codings]
        mean, level = self._merged(found, given)
        data = unpacker.take()
        if data[:CRC_BYTES] != level_crc(level):
            what = f"this machine computes other entropy parameters than the encoder did ({self.name})"
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
