"""One coder stack an image: groups of symbols are put on it from the last to the first, and taken off from the first.

The tables are those of `codes.tables`; rows of tables of one width are coded in one call, each symbol with its own row. All
images of a batch have the same groups, which are sorted at once. The
probabilities are exactly counts / 2^24, by the argument of `codes.tables.exact_model`. A symbol outside its table is the
escape, followed (behind all rows of its call) by the value itself as 12 uniform bits.
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
REACH = 1 << (ESCAPE_BITS - 1)  # coded values v satisfy -REACH <= v < REACH


class RowTables:
    """Tables sorted by width. `rows[k]` holds counts minus one of the tables of the k-th width, as the coder takes them."""

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
        """The coding order of a group."""
        kinds = self.width_of[levels]
        counts = np.stack([(kinds == number).sum(1) for number in range(len(self.widths))], axis=1)
        order = np.argsort(kinds, axis=1, kind="stable")
        ends = np.cumsum(np.pad(counts, ((0, 0), (1, 0))), axis=1)
        return Ordered(order, np.take_along_axis(self.row_of[levels], order, axis=1), ends)


class Ordered(NamedTuple):
    """A group of symbols of B images, those of each image sorted by the width of their tables."""

    order: Int[np.ndarray, "B n"]  # places within the group
    rows: Int[np.ndarray, "B n"]  # row of each table among those of its width
    ends: Int[np.ndarray, "B K"]  # where the symbols of each width begin, and the last end

    def parts(self) -> list[list[tuple[int, slice]]]:
        """For each image the numbers of the widths that occur, and where their symbols are."""
        return [
            [(number, slice(first, last)) for number, (first, last) in enumerate(pairwise(ends)) if first < last]
            for ends in self.ends.tolist()
        ]


class Writers:
    """One stack for each of B images. Groups go in from the last to the first."""

    def __init__(self, tables: RowTables, count: int) -> None:
        self.tables = tables
        self.coders = [_coder(np.array([START], dtype=np.uint32)) for _ in range(count)]

    def push(self, symbols: Int[np.ndarray, "B n"], levels: Int[np.ndarray, "B n"]) -> None:
        """Put a group of symbols, |symbol| < REACH, each with the table of its level, on the stacks."""
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
                    coder.encode_reverse((symbols[image, places[outside[image, places]]] + REACH).astype(np.int32), uniform)
                coder.encode_reverse(index[image, part], family, tables.rows[number].take(ordered.rows[image, part], axis=0))

    def data(self) -> list[bytes]:
        """The words of the stacks, little-endian."""
        return [coder.get_compressed().astype("<u4", copy=False).tobytes() for coder in self.coders]


class Readers:
    """One stack for each of B images. Groups come out from the first to the last.

    A stack whose bytes no `Writers` wrote is None in `coders` as soon as that shows, and gives zeros: the others go on.
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
        """The int32 symbols of a group of these levels."""
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
                        values = coder.decode(uniform, len(escaped)) - REACH
                        escapes.append((image, ordered.order[image, part][escaped], values))
            except (ValueError, AssertionError):  # the coder runs out of words
                self.coders[image] = None
        symbols = np.empty(levels.shape, dtype=np.int32)
        np.put_along_axis(symbols, ordered.order, index, axis=1)
        symbols += tables.lows[levels]
        for image, places, values in escapes:
            symbols[image, places] = values
        return symbols

    def intact(self) -> list[bool]:
        """Whether everything was taken off each stack, and nothing else."""
        return [coder is not None and coder.pos() == (0, START) for coder in self.coders]


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
