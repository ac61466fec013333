"""Entropy coding of integer symbols: asymmetric numeral systems (Duda 2013) through constriction, grouped by table.

The coder is a stack of 32-bit words under a 64-bit state. Symbols are sorted by level (stably), because coding many symbols
with one model in one call is fast; the decoder knows all levels in advance and derives the same order.

Order in which the decoder pops the stack, once for every group of symbols (`encode` writes one group):

    1. the symbols of level 0, of level 1, ... (index in the table; the last index is the escape)
    2. for every escape of step 1, in the same order: its class c, 0..22, with probability 2^-(c+1)
    3. for c = 1, 2, ...: the mantissas of all escapes of class c, c uniform bits each

An escaped value is d = 0, 1, ... steps beyond the table's upper end (e = 2 d) or lower end (e = 2 d + 1); class and
mantissa are the Elias gamma code of e + 1 = 2^c + mantissa. The payload is the words, little-endian, bottom first.

The state starts at 0xA53C instead of constriction's 0, and the decoder must end in that state. This integrity check costs two
bytes; the state 0 would be no check, because a decoder that runs out of words often ends there by chance.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from latens.codes.tables import MAGNITUDE, PRECISION, TOTAL, SymbolTables, exact_model
from latens.errors import Corrupt, LimitExceeded

START = 0xA53C
CLASSES = 23  # e + 1 < 2^23, because values and table ends are below 2^20 in magnitude


class Run(NamedTuple):
    """All symbols of one level, start..stop - 1 after sorting."""

    level: int
    start: int
    stop: int


class Plan(NamedTuple):
    """Grouping of the symbols of a call; `order` is None if they are already grouped."""

    order: np.ndarray | None
    runs: list[Run]


def encode(symbols: np.ndarray, levels: np.ndarray, tables: SymbolTables) -> bytes:
    """Encode integer `symbols` (n,), each with the table that its entry in `levels` (n,) names.

    Values outside a table's support cost an escape; |value| >= 2^20 raises LimitExceeded. Without symbols the result is b"".
    Raises ValueError if the shapes differ or a level does not exist.
    """
    return encode_groups([(symbols, levels)], tables)


def encode_groups(groups: Sequence[tuple[np.ndarray, np.ndarray]], tables: SymbolTables) -> bytes:
    """Encode several groups of (symbols, levels) into one payload, for a decoder that learns the levels of each from the last.

    Raises as `encode`.
    """
    checked = [(np.asarray(symbols), np.asarray(levels)) for symbols, levels in groups]
    for symbols, levels in checked:
        if symbols.shape != levels.shape or symbols.dtype.kind not in "iu":
            raise ValueError(f"need integer symbols of shape {levels.shape}, got {symbols.dtype} {symbols.shape}")
    filled = [(symbols, levels) for symbols, levels in checked if len(symbols)]
    if not filled:
        return b""
    coder = _coder(np.array([START], dtype=np.uint32))
    for symbols, levels in reversed(filled):
        _push(coder, symbols, levels, tables)
    words: np.ndarray = coder.get_compressed()
    return words.astype("<u4", copy=False).tobytes()


class GroupDecoder:
    """Inverse of `encode_groups`: call `next` with the levels of each group in order, then `finish`.

    Both raise Corrupt for a damaged payload, as `decode` does.
    """

    def __init__(self, data: bytes, tables: SymbolTables) -> None:
        self.tables = tables
        self.coder = _open(data) if data else None

    def next(self, levels: np.ndarray) -> np.ndarray:
        """The symbols (n,) int32 of the next group, for its `levels` (n,)."""
        levels = np.asarray(levels)
        if len(levels) == 0:
            return np.empty(0, dtype=np.int32)
        if self.coder is None:
            raise _corrupt("the payload is empty")
        return _pop(self.coder, _plan(levels, self.tables), self.tables)

    def finish(self) -> None:
        """Raise Corrupt unless all groups of the payload were decoded."""
        if self.coder is not None:
            _check_finished(self.coder)


def _push(coder: Any, symbols: np.ndarray, levels: np.ndarray, tables: SymbolTables) -> None:
    _check_magnitude(symbols)
    plan = _plan(levels, tables)
    values = symbols.astype(np.int32, copy=False)
    values = values if plan.order is None else values.take(plan.order)
    indices, escapes = _table_indices(values, plan.runs, tables)
    if len(escapes):
        _push_escapes(coder, values[escapes], _escape_levels(escapes, plan.runs), tables)
    for level, start, stop in reversed(plan.runs):
        coder.encode_reverse(indices[start:stop], tables.models[level])


def decode(data: bytes, levels: np.ndarray, tables: SymbolTables) -> np.ndarray:
    """Inverse of `encode` for the same `levels` (n,) and tables; returns int32 symbols (n,).

    Raises Corrupt unless the payload is consumed exactly and the coder ends in its start state, and no other error for any
    bytes. A few in 100,000 damaged payloads pass and decode to other symbols; the container's CRC detects those. Raises
    ValueError if `levels` is not a vector or a level does not exist.
    """
    levels = np.asarray(levels)
    if len(levels) == 0:
        if data:
            raise _corrupt(f"{len(data):,} bytes although there are no symbols")
        return np.empty(0, dtype=np.int32)
    plan = _plan(levels, tables)
    coder = _open(data)
    symbols = _pop(coder, plan, tables)
    _check_finished(coder)
    return symbols


def _pop(coder: Any, plan: Plan, tables: SymbolTables) -> np.ndarray:
    values = np.empty(plan.runs[-1].stop, dtype=np.int32)
    for level, start, stop in plan.runs:
        values[start:stop] = coder.decode(tables.models[level], stop - start)
    used, lengths = [run.level for run in plan.runs], [run.stop - run.start for run in plan.runs]
    places = np.flatnonzero(values == np.repeat((tables.sizes[used] - 1).astype(np.int32), lengths))
    values += np.repeat(tables.lows[used], lengths)
    if len(places):
        values[places] = _pop_escapes(coder, _escape_levels(places, plan.runs), tables)
    if plan.order is None:
        return values
    symbols = np.empty_like(values)
    symbols[plan.order] = values
    return symbols


def ideal_bits(symbols: np.ndarray, levels: np.ndarray, tables: SymbolTables) -> float:
    """Code length in bits under the tables, escapes included: the size of `encode`'s result before rounding to words."""
    symbols, levels = np.asarray(symbols, dtype=np.int64), np.asarray(levels, dtype=np.int64)
    index = symbols - tables.lows[levels]
    last = tables.sizes[levels] - 1
    escaped = (index < 0) | (index >= last)
    counts = tables.counts[tables.starts[levels] + np.where(escaped, last, index)]
    bits = float((PRECISION - np.log2(counts.astype(np.float64))).sum())
    classes, _ = _gamma(symbols[escaped], levels[escaped], tables)
    model_bits = PRECISION - np.log2(_class_counts().astype(np.float64))
    return bits + float((model_bits[classes] + classes).sum())


def _plan(levels: np.ndarray, tables: SymbolTables) -> Plan:
    if levels.ndim != 1 or levels.dtype.kind not in "iu":
        raise ValueError(f"levels must be a vector of integers, not {levels.dtype} {levels.shape}")
    lowest, highest = int(levels.min()), int(levels.max())
    if lowest < 0 or highest >= tables.levels:
        raise ValueError(f"the scale levels are {lowest}..{highest}, but the tables have levels 0..{tables.levels - 1}")
    if lowest == highest:
        return Plan(None, [Run(lowest, 0, len(levels))])
    # numpy sorts 8- and 16-bit integers stably by radix, in linear time.
    narrow = levels.astype(np.uint8 if highest < 256 else np.uint16, copy=False)
    grouped = bool(np.greater_equal(narrow[1:], narrow[:-1]).all())
    order = None if grouped else np.argsort(narrow, kind="stable")
    ascending = narrow if order is None else narrow.take(order)
    stops = np.searchsorted(ascending, np.arange(highest + 1, dtype=narrow.dtype), side="right")
    edges = [0, *stops.tolist()]
    return Plan(order, [Run(i, a, b) for i, (a, b) in enumerate(itertools.pairwise(edges)) if b > a])


def _table_indices(values: np.ndarray, runs: list[Run], tables: SymbolTables) -> tuple[np.ndarray, np.ndarray]:
    """Index of every value in its table, and the positions whose index is the escape."""
    indices = np.empty_like(values)
    unsigned = indices.view(np.uint32)
    escapes = []
    for level, start, stop in runs:
        escape = int(tables.sizes[level]) - 1
        np.subtract(values[start:stop], tables.lows[level], out=indices[start:stop])
        # As unsigned integers, values below the support are huge, so one comparison detects both ends.
        part = unsigned[start:stop]
        if int(part.max()) >= escape:
            np.minimum(part, np.uint32(escape), out=part)
            escapes.append(np.flatnonzero(part == escape) + start)
    return indices, np.concatenate(escapes) if escapes else np.empty(0, dtype=np.int64)


def _escape_levels(places: np.ndarray, runs: list[Run]) -> np.ndarray:
    starts = np.array([run.start for run in runs])
    levels = np.array([run.level for run in runs])
    return levels[np.searchsorted(starts, places, side="right") - 1]


def _gamma(values: np.ndarray, levels: np.ndarray, tables: SymbolTables) -> tuple[np.ndarray, np.ndarray]:
    """Class and mantissa of values outside the support of their level."""
    wide = values.astype(np.int64)
    above: np.ndarray = wide - tables.highs[levels] - 1
    below: np.ndarray = tables.lows[levels] - 1 - wide
    code = np.where(above >= 0, 2 * above, 2 * below + 1) + 1
    classes = np.frexp(code.astype(np.float64))[1].astype(np.int64) - 1
    return classes, (code - (1 << classes)).astype(np.int32)


def _push_escapes(coder: Any, values: np.ndarray, levels: np.ndarray, tables: SymbolTables) -> None:
    classes, mantissas = _gamma(values, levels, tables)
    for number in range(int(classes.max()), 0, -1):
        part = mantissas[classes == number]
        if len(part):
            coder.encode_reverse(part, _uniform_bits(number))
    coder.encode_reverse(classes.astype(np.int32), _class_model())


def _pop_escapes(coder: Any, levels: np.ndarray, tables: SymbolTables) -> np.ndarray:
    classes = coder.decode(_class_model(), len(levels)).astype(np.int64)
    code = np.left_shift(np.int64(1), classes)
    for number in range(1, int(classes.max()) + 1):
        chosen = np.flatnonzero(classes == number)
        if len(chosen):
            code[chosen] += coder.decode(_uniform_bits(number), len(chosen))
    steps, below = np.divmod(code - 1, 2)
    values: np.ndarray = np.where(below == 1, tables.lows[levels] - 1 - steps, tables.highs[levels] + 1 + steps)
    if bool((np.abs(values) >= MAGNITUDE).any()):
        raise _corrupt("an escaped value is out of range")
    return values.astype(np.int32)


def _class_counts() -> np.ndarray:
    counts: np.ndarray = np.left_shift(1, PRECISION - 1 - np.arange(CLASSES))
    counts[-1] = TOTAL - counts[:-1].sum()
    return counts


@cache
def _class_model() -> Any:
    return exact_model(_class_counts())


@cache
def _uniform_bits(bits: int) -> Any:
    # A power of two divides 2^24, so every outcome has exactly the same probability.
    import constriction  # imported in functions: training works without it

    return constriction.stream.model.Uniform(1 << bits)


def _check_magnitude(symbols: np.ndarray) -> None:
    extreme = max(abs(int(symbols.min())), abs(int(symbols.max())))
    if extreme >= MAGNITUDE:
        raise LimitExceeded(f"a latent of magnitude {extreme:,} cannot be coded; the limit is {MAGNITUDE - 1:,}")


def _open(data: bytes) -> Any:
    if len(data) % 4:
        raise _corrupt(f"{len(data):,} bytes are not a whole number of words")
    words = np.frombuffer(data, dtype="<u4").astype(np.uint32)
    if len(words) == 0 or words[-1] == 0:
        raise _corrupt("the payload is empty or its last word is zero")
    return _coder(words)


def _coder(words: np.ndarray) -> Any:
    import constriction

    return constriction.stream.stack.AnsCoder(words)


def _check_finished(coder: Any) -> None:
    if coder.pos() != (0, START):
        raise _corrupt("the coder does not end in its start state")


def _corrupt(why: str) -> Corrupt:
    return Corrupt(f"the entropy-coded data is damaged: {why}")
