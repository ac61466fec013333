"""One coder stack an image: groups of symbols are put on it from the last to the first, and taken off from the first.

The tables are those of `codes.tables`; rows of tables of one width are coded in one call, each symbol with its own row. The
probabilities are exactly counts / 2^24, by the argument of `codes.tables.exact_model`. A symbol outside its table is the
escape, followed (behind all rows of its call) by the value itself as 12 uniform bits.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from latens.codes.coder import START
from latens.codes.tables import SymbolTables
from latens.errors import Corrupt

ESCAPE_BITS = 12
REACH = 1 << (ESCAPE_BITS - 1)  # coded values v satisfy -REACH <= v < REACH


class RowTables:
    """Tables sorted by width. `rows[k]` holds counts minus one of the tables of the k-th width, as the coder takes them."""

    def __init__(self, tables: SymbolTables) -> None:
        self.tables = tables
        self.lows = tables.lows
        widths = np.unique(tables.sizes)
        self.width_of = np.searchsorted(widths, tables.sizes).astype(np.uint8)
        self.row_of = np.zeros(tables.levels, dtype=np.int32)
        self.rows: list[np.ndarray] = []
        self.widths = [int(width) for width in widths]
        for number in range(len(widths)):
            members = np.flatnonzero(self.width_of == number)
            self.row_of[members] = np.arange(len(members))
            counts = [tables.counts[tables.starts[m] : tables.starts[m] + tables.sizes[m]] for m in members]
            self.rows.append(np.stack(counts).astype(np.float64) - 1)

    def parts(self, levels: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """Numbers of the widths that occur, and the places of their symbols, in the order in which they are decoded."""
        kinds = self.width_of[levels]
        if len(kinds) == 1 or not (kinds != kinds[0]).any():
            return [(int(kinds[0]), np.arange(len(kinds)))]
        present = np.flatnonzero(np.bincount(kinds))
        return [(int(number), np.flatnonzero(kinds == number)) for number in present]


class Writer:
    """Groups in, from the last to the first."""

    def __init__(self, tables: RowTables) -> None:
        self.tables = tables
        self.coder = _coder(np.array([START], dtype=np.uint32))

    def push(self, symbols: np.ndarray, levels: np.ndarray) -> None:
        """Put a group (n,) of symbols, |symbol| < REACH, each with the table of its level, on the stack."""
        tables = self.tables
        indices = symbols - tables.lows[levels]
        for number, places in reversed(tables.parts(levels)):
            last = tables.widths[number] - 1
            index = indices[places]
            escaped = (index < 0) | (index >= last)
            if escaped.any():
                outside = (symbols[places][escaped] + REACH).astype(np.int32)
                self.coder.encode_reverse(outside, _uniform())
                index[escaped] = last
            rows = tables.rows[number].take(tables.row_of[levels[places]], axis=0)
            self.coder.encode_reverse(index.astype(np.int32), _family(), rows)

    def data(self) -> bytes:
        """The words of the stack, little-endian."""
        words: np.ndarray = self.coder.get_compressed()
        return words.astype("<u4", copy=False).tobytes()


class Reader:
    """Groups out, from the first to the last. Raises Corrupt for bytes that no `Writer` wrote."""

    def __init__(self, data: bytes, tables: RowTables) -> None:
        if not data or len(data) % 4 or not any(data[-4:]):
            raise Corrupt("the coded pixels are damaged: no whole number of words")
        self.tables = tables
        self.coder = _coder(np.frombuffer(data, dtype="<u4").astype(np.uint32))

    def pop(self, levels: np.ndarray) -> np.ndarray:
        """The int32 symbols (n,) of a group of these levels."""
        tables = self.tables
        values = np.empty(len(levels), dtype=np.int32)
        for number, places in tables.parts(levels):
            rows = tables.rows[number].take(tables.row_of[levels[places]], axis=0)
            index = self.coder.decode(_family(), rows)
            found = index + tables.lows[levels[places]]
            escaped = index == tables.widths[number] - 1
            if escaped.any():
                found[escaped] = self.coder.decode(_uniform(), int(escaped.sum())) - REACH
            values[places] = found
        return values

    def finish(self) -> None:
        """Raises Corrupt unless everything was taken off."""
        if self.coder.pos() != (0, START):
            raise Corrupt("the coded pixels are damaged: the coder does not end in its start state")


def ideal_bits(symbols: np.ndarray, levels: np.ndarray, tables: SymbolTables) -> float:
    """Code length of the tables in bits, escapes included."""
    index = symbols.astype(np.int64) - tables.lows[levels]
    last = tables.sizes[levels] - 1
    escaped = (index < 0) | (index >= last)
    counts = tables.counts[tables.starts[levels] + np.where(escaped, last, index)]
    return float((24 - np.log2(counts.astype(np.float64))).sum()) + ESCAPE_BITS * int(escaped.sum())


@cache
def _family() -> Any:
    import constriction  # in functions: a machine that only trains may lack it

    return constriction.stream.model.Categorical(lazy=False, perfect=False)


@cache
def _uniform() -> Any:
    import constriction

    return constriction.stream.model.Uniform(1 << ESCAPE_BITS)


def _coder(words: np.ndarray) -> Any:
    import constriction

    return constriction.stream.stack.AnsCoder(words)
