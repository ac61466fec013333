"""Adaptive arithmetic coder (32 bits) for maps of small integers, such as region maps. It needs no trained model.

The coder is that of Witten et al. 1987. Counts start at 1/2 (Krichevsky and Trofimov 1981) and are stored doubled, so all
arithmetic is in integers. The code length is that of `latens.codes.counts.map_bits`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from latens.errors import Corrupt
from latens.shapes import Int

BITS = 32
FULL, HALF, QUARTER = (1 << BITS) - 1, 1 << (BITS - 1), 1 << (BITS - 2)
MAX_COUNT = 1 << 24  # doubled count of one symbol; above it the counts of its context are halved
MAX_SYMBOLS = 1 << 24  # symbols that one call decodes


class Counts:
    """Doubled symbol counts of every context."""

    def __init__(self, alphabet: int) -> None:
        self.alphabet = alphabet
        self._counts: dict[int, list[int]] = {}

    def of(self, context: int) -> list[int]:
        found = self._counts.get(context)
        if found is None:
            found = self._counts[context] = [1] * self.alphabet
        return found

    @staticmethod
    def add(counts: list[int], symbol: int) -> None:
        counts[symbol] += 2
        if counts[symbol] > MAX_COUNT:
            counts[:] = [(count >> 1) | 1 for count in counts]


def contexts(padded: list[list[list[int]]], t: int, alphabet: int) -> Iterator[tuple[int, int, int]]:
    """Yield (row, column, context) per value of map t - 1 in coding order. `padded` starts with a zero map, row and column."""
    before, now = padded[t - 1], padded[t]
    for i in range(1, len(now)):
        above, row, old = now[i - 1], now[i], before[i]
        for j in range(1, len(row)):
            yield i, j, (row[j - 1] * alphabet + above[j]) * alphabet + old[j]


def encode_maps(maps: Int[np.ndarray, "T h w"], alphabet: int) -> bytes:
    """Encode values 0..alphabet - 1. Contexts: left and upper neighbor, and the same position of the previous map."""
    padded = np.pad(maps.astype(np.int64), ((1, 0), (1, 0), (1, 0))).tolist()
    counts, writer = Counts(alphabet), _Writer()
    for t in range(1, len(padded)):
        for i, j, context in contexts(padded, t, alphabet):
            symbol, found = padded[t][i][j], counts.of(context)
            writer.write(sum(found[:symbol]), found[symbol], sum(found))
            counts.add(found, symbol)
    return writer.finish()


def decode_maps(data: bytes, shape: tuple[int, int, int], alphabet: int) -> Int[np.ndarray, "T h w"]:
    """Inverse of `encode_maps`. Any bytes decode to maps of this shape. Raises Corrupt if the shape is too large."""
    count, height, width = shape
    if count * height * width > MAX_SYMBOLS:
        raise Corrupt(f"a map of {count} x {height} x {width} values is too large", section="map")
    padded = np.zeros((count + 1, height + 1, width + 1), dtype=np.int64).tolist()
    counts, reader = Counts(alphabet), _Reader(data)
    for t in range(1, count + 1):
        for i, j, context in contexts(padded, t, alphabet):
            found = counts.of(context)
            symbol = padded[t][i][j] = reader.read(found)
            counts.add(found, symbol)
    return np.array(padded, dtype=np.int64)[1:, 1:, 1:]


class _Writer:
    def __init__(self) -> None:
        self.low, self.high, self.pending = 0, FULL, 0
        self.bits: list[int] = []

    def write(self, start: int, size: int, total: int) -> None:
        span = self.high - self.low + 1
        self.high = self.low + span * (start + size) // total - 1
        self.low += span * start // total
        while True:
            if self.high < HALF:
                self._put(0)
            elif self.low >= HALF:
                self._put(1)
                self.low, self.high = self.low - HALF, self.high - HALF
            elif self.low >= QUARTER and self.high < HALF + QUARTER:
                self.pending += 1
                self.low, self.high = self.low - QUARTER, self.high - QUARTER
            else:
                return
            self.low, self.high = 2 * self.low, 2 * self.high + 1

    def _put(self, bit: int) -> None:
        self.bits += [bit, *[1 - bit] * self.pending]
        self.pending = 0

    def finish(self) -> bytes:
        """The coded bytes without trailing zeros, which the reader supplies."""
        self.pending += 1
        self._put(int(self.low >= QUARTER))
        return np.packbits(np.array(self.bits, dtype=np.uint8)).tobytes().rstrip(b"\0")


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8)).tolist()
        self.low, self.high, self.place = 0, FULL, BITS
        self.value = int("".join(map(str, (self.bits + [0] * BITS)[:BITS])), 2)

    def read(self, counts: list[int]) -> int:
        total, span = sum(counts), self.high - self.low + 1
        wanted = ((self.value - self.low + 1) * total - 1) // span
        symbol, start = 0, 0
        while start + counts[symbol] <= wanted:
            start += counts[symbol]
            symbol += 1
        self.high = self.low + span * (start + counts[symbol]) // total - 1
        self.low += span * start // total
        while True:
            if self.low >= HALF:
                shift = HALF
            elif self.high < HALF:
                shift = 0
            elif self.low >= QUARTER and self.high < HALF + QUARTER:
                shift = QUARTER
            else:
                return symbol
            bit = self.bits[self.place] if self.place < len(self.bits) else 0
            self.low, self.high = 2 * (self.low - shift), 2 * (self.high - shift) + 1
            self.value = 2 * (self.value - shift) + bit
            self.place += 1
