"""ANS stack of each image: groups of symbols are encoded from the last to the first and decoded from the first to the last.

Tables are those of `codes.tables`. Symbols with tables of equal width are coded in one call, each with its own table. All
images of a batch have the same groups. Probabilities are exactly counts / 2^24 (see `codes.tables.exact_model`). A symbol
outside its table is coded as the escape symbol, followed after all symbols of the call by its value as 12 uniform bits.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from latens.codes.coder import START
from latens.codes.tables import SymbolTables
from latens.shapes import Int

ESCAPE_BITS = 12
VALUE_LIMIT = 1 << (ESCAPE_BITS - 1)  # coded values v satisfy -VALUE_LIMIT <= v < VALUE_LIMIT


class RowTables:
    """Tables sorted by width. `rows[k]` holds the counts minus one of the tables of the k-th width, the input of the coder."""

    def __init__(self, tables: SymbolTables) -> None:
        self.tables = tables
        self.lows = tables.lows
        self.widths: np.ndarray = np.unique(tables.sizes)
        self.width_of = np.searchsorted(self.widths, tables.sizes).astype(np.uint8)
        self.row_of = np.zeros(tables.levels, dtype=np.int32)
        self.rows: list[np.ndarray] = []
        for number in range(len(self.widths)):
            members = np.flatnonzero(self.width_of == number)
            self.row_of[members] = np.arange(len(members))
            counts = [tables.counts[tables.starts[m] : tables.starts[m] + tables.sizes[m]] for m in members]
            self.rows.append(np.stack(counts).astype(np.float64) - 1)

    def ordered(self, levels: Int[np.ndarray, "B n"]) -> Ordered:
        """Coding order of a group."""
        kinds = self.width_of[levels]
        counts = np.stack([(kinds == number).sum(1) for number in range(len(self.widths))], axis=1)
        order = np.argsort(kinds, axis=1, kind="stable")
        ends = np.cumsum(np.pad(counts, ((0, 0), (1, 0))), axis=1)
        return Ordered(order, np.take_along_axis(self.row_of[levels], order, axis=1), ends)


class Ordered(NamedTuple):
    """Coding order of a group of B images: by the width of the tables."""

    order: Int[np.ndarray, "B n"]  # indices within the group
    rows: Int[np.ndarray, "B n"]  # index of each table among those of its width
    ends: Int[np.ndarray, "B K"]  # offsets at which the symbols of each width begin, and the end

    def parts(self) -> list[list[tuple[int, slice]]]:
        """For each image: index and symbol range of every width that occurs."""
        return [
            [(number, slice(first, last)) for number, (first, last) in enumerate(pairwise(ends)) if first < last]
            for ends in self.ends.tolist()
        ]


class Writers:
    """Encoders: one stack for each of B images. Groups are pushed from the last to the first."""

    def __init__(self, tables: RowTables, count: int) -> None:
        self.tables = tables
        self.coders = [_coder(np.array([START], dtype=np.uint32)) for _ in range(count)]

    def push(self, symbols: Int[np.ndarray, "B n"], levels: Int[np.ndarray, "B n"]) -> None:
        """Encodes a group of symbols in [-VALUE_LIMIT, VALUE_LIMIT), each with the table of its level."""
        tables = self.tables
        ordered = tables.ordered(levels)
        last = (tables.tables.sizes - 1)[levels]
        index = symbols - tables.lows[levels]
        outside = (index < 0) | (index >= last)
        index = np.take_along_axis(np.where(outside, last, index).astype(np.int32), ordered.order, axis=1)
        escaped = outside.any(1).tolist()
        family, uniform = _family(), _uniform()
        for image, (coder, parts) in enumerate(zip(self.coders, ordered.parts(), strict=True)):
            for number, part in reversed(parts):
                if escaped[image]:
                    places = ordered.order[image, part]
                    coder.encode_reverse(
                        (symbols[image, places[outside[image, places]]] + VALUE_LIMIT).astype(np.int32), uniform
                    )
                coder.encode_reverse(index[image, part], family, tables.rows[number].take(ordered.rows[image, part], axis=0))

    def data(self) -> list[bytes]:
        """Bytes of the stacks: little-endian 32-bit words."""
        return [coder.get_compressed().astype("<u4", copy=False).tobytes() for coder in self.coders]


class Readers:
    """Decoders: one stack for each of B images. Groups are popped from the first to the last.

    When a stack turns out to be damaged, its entry in `coders` becomes None and its symbols are arbitrary; the other stacks are
    unaffected.
    """

    def __init__(self, streams: list[bytes], tables: RowTables) -> None:
        self.tables = tables
        whole = [len(data) > 0 and len(data) % 4 == 0 and any(data[-4:]) for data in streams]
        words = [
            np.frombuffer(data, dtype="<u4").astype(np.uint32) if good else None
            for data, good in zip(streams, whole, strict=True)
        ]
        self.coders = [None if one is None else _coder(one) for one in words]

    def pop(self, levels: Int[np.ndarray, "B n"]) -> Int[np.ndarray, "B n"]:
        """Decodes the int32 symbols of a group with these levels."""
        tables, ordered = self.tables, self.tables.ordered(levels)
        index = np.zeros(levels.shape, dtype=np.int32)
        escapes: list[tuple[int, np.ndarray, np.ndarray]] = []  # image, places, values
        family, uniform, last = _family(), _uniform(), (tables.widths - 1).tolist()
        for image, (coder, parts) in enumerate(zip(self.coders, ordered.parts(), strict=True)):
            if coder is None:
                continue
            try:
                for number, part in parts:
                    rows = tables.rows[number].take(ordered.rows[image, part], axis=0)
                    found = index[image, part] = coder.decode(family, rows)
                    if found.max() == last[number]:
                        escaped = np.flatnonzero(found == last[number])
                        values = coder.decode(uniform, len(escaped)) - VALUE_LIMIT
                        escapes.append((image, ordered.order[image, part][escaped], values))
            except (ValueError, AssertionError):  # the stack has no words left
                self.coders[image] = None
        symbols = np.empty(levels.shape, dtype=np.int32)
        np.put_along_axis(symbols, ordered.order, index, axis=1)
        symbols += tables.lows[levels]
        for image, places, values in escapes:
            symbols[image, places] = values
        return symbols

    def intact(self) -> list[bool]:
        """True for each stack that was decoded completely and exactly."""
        return [coder is not None and coder.pos() == (0, START) for coder in self.coders]


@cache
def _family() -> Any:
    import constriction  # imported on use: training does not need it

    return constriction.stream.model.Categorical(lazy=False, perfect=False)


@cache
def _uniform() -> Any:
    import constriction

    return constriction.stream.model.Uniform(1 << ESCAPE_BITS)


def _coder(words: np.ndarray) -> Any:
    import constriction

    return constriction.stream.stack.AnsCoder(words)
