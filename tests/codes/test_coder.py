from __future__ import annotations

import copy
import math
import pickle
import random
from typing import Any

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latens.codes.coder import START, GroupDecoder, decode, encode, encode_groups, ideal_bits
from latens.codes.tables import MAGNITUDE, TOTAL, SymbolTables, exact_model, gaussian_tables, tables_from_pmfs
from latens.errors import Corrupt, LimitExceeded, ModelError

SCALES = np.exp(np.linspace(math.log(0.11), math.log(256), 64))


@pytest.fixture(scope="module")
def tables() -> SymbolTables:
    return gaussian_tables(SCALES)


def sample(count: int, seed: int, tables: SymbolTables, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, tables.levels, count)
    symbols = np.rint(rng.standard_normal(count) * SCALES[levels] * spread).astype(np.int32)
    return symbols, levels


class PlainDecoder:
    """An independent decoder of the payload: ANS with Python integers, from the docstring of the module."""

    def __init__(self, data: bytes) -> None:
        self.words = [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]
        self.state = 0
        self.refill()

    def refill(self) -> None:
        while self.state < 1 << 32 and self.words:
            self.state = self.state << 32 | self.words.pop()

    def take(self, counts: list[int]) -> int:
        quantile, left = self.state % TOTAL, 0
        for symbol, count in enumerate(counts):
            if quantile < left + count:
                self.state = count * (self.state // TOTAL) + quantile - left
                self.refill()
                return symbol
            left += count
        raise AssertionError

    def bits(self, number: int) -> int:
        width = TOTAL >> number
        quantile = self.state % TOTAL
        self.state = width * (self.state // TOTAL) + quantile % width
        self.refill()
        return quantile // width


def plain_decode(data: bytes, levels: np.ndarray, tables: SymbolTables) -> list[int]:
    reader, values, escaped = PlainDecoder(data), {}, []
    parts = [part.tolist() for part in np.split(tables.counts, tables.starts[1:])]
    for level in range(tables.levels):
        for place in np.flatnonzero(levels == level).tolist():
            index = reader.take(parts[level])
            values[place] = index + int(tables.lows[level])
            if index == len(parts[level]) - 1:
                escaped.append(place)
    class_counts = [TOTAL >> (c + 1) for c in range(22)] + [TOTAL >> 22]
    classes = {place: reader.take(class_counts) for place in escaped}
    for number in range(23):
        for place in escaped:
            if classes[place] == number:
                steps, below = divmod((1 << number) + (reader.bits(number) if number else 0) - 1, 2)
                low, high = int(tables.lows[levels[place]]), int(tables.highs[levels[place]])
                values[place] = low - 1 - steps if below else high + 1 + steps
    assert (reader.state, reader.words) == (START, [])
    return [values[i] for i in range(len(levels))]


@pytest.mark.parametrize("seed", range(3))
def test_constriction_reproduces_the_counts_exactly(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(TOTAL - 400, rng.dirichlet(np.full(400, 0.05))) + 1
    model, left = exact_model(counts), []
    for symbol in range(400):
        coder = constriction.stream.stack.AnsCoder()
        coder.encode_reverse(np.array([symbol], dtype=np.int32), model)
        left.append(coder.pos()[1])  # from state 0, coding a symbol leaves exactly its left edge
    assert left == [0, *np.cumsum(counts)[:-1].tolist()]


def test_an_independent_decoder_agrees(tables: SymbolTables) -> None:
    symbols, levels = sample(400, 5, tables, spread=2.5)
    symbols[:6] = [MAGNITUDE - 1, 1 - MAGNITUDE, 5000, -5000, 77, -1]
    assert plain_decode(encode(symbols, levels, tables), levels, tables) == symbols.tolist()


def test_payload_is_frozen() -> None:
    """The bytes of format 1.0, derived by hand: two words, the top one last.

    Two tables of equal halves, {0, escape} with 2^23 counts each. From the last decoded to the first: escape class 1
    (value 2: d = 1, e = 2, e + 1 = 3 = 2^1 + 1) pushes one bit 1 and then the class, 4194304 counts from 8388608; then
    the symbols. With P = 2^24, pushing (left, count) on state s gives (s // count) P + left + s % count.
    """
    tables = SymbolTables(np.full(4, TOTAL // 2), np.zeros(2, np.int32), np.full(2, 2))
    state = 0xA53C
    for left, count in [(1 << 23, 1 << 23), (1 << 23, 1 << 22), (0, 1 << 23), (1 << 23, 1 << 23)]:
        state = (state // count) * TOTAL + left + state % count
    expected = state.to_bytes(8 if state >> 32 else 4, "little")
    assert encode(np.array([0, 2]), np.array([1, 0]), tables) == expected


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_round_trip(tables: SymbolTables, data: st.DataObject) -> None:
    pairs = st.tuples(
        st.one_of(st.integers(-30, 30), st.integers(1 - MAGNITUDE, MAGNITUDE - 1)), st.integers(0, tables.levels - 1)
    )
    drawn = data.draw(st.lists(pairs, max_size=60))
    symbols, levels = (np.array([pair[i] for pair in drawn], dtype=np.int64) for i in range(2))
    decoded = decode(encode(symbols, levels, tables), levels, tables)
    assert decoded.dtype == np.int32
    assert np.array_equal(decoded, symbols)


@pytest.mark.parametrize("spread", [0.0, 1.0, 8.0, 300.0])
@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.int64])
def test_round_trip_at_random_scales(tables: SymbolTables, spread: float, kind: type) -> None:
    symbols, levels = sample(20_000, 1, tables, spread)
    levels = levels.astype(kind)
    assert np.array_equal(decode(encode(symbols, levels, tables), levels, tables), symbols)


def test_order_and_layout_of_the_input_do_not_matter(tables: SymbolTables) -> None:
    symbols, levels = sample(3000, 2, tables, 3.0)
    order = np.argsort(levels, kind="stable")
    grouped = encode(symbols[order], levels[order], tables)
    assert encode(symbols, levels, tables) == grouped
    strided = np.repeat(symbols, 2)[::2], np.repeat(levels, 2)[::2]
    assert encode(*strided, tables) == grouped
    assert np.array_equal(decode(grouped, np.sort(levels), tables), symbols[order])


def test_one_level_for_all(tables: SymbolTables) -> None:
    levels = np.full(5000, 30)
    symbols = np.rint(np.random.default_rng(3).standard_normal(5000) * SCALES[30]).astype(np.int32)
    assert np.array_equal(decode(encode(symbols, levels, tables), levels, tables), symbols)


def test_more_than_256_levels() -> None:
    wide = gaussian_tables(np.linspace(0.2, 5, 300))
    rng = np.random.default_rng(4)
    levels = rng.integers(0, 300, 4000)
    symbols = rng.integers(-9, 10, 4000)
    assert np.array_equal(decode(encode(symbols, levels, wide), levels, wide), symbols)


def test_no_symbols_need_no_bytes(tables: SymbolTables) -> None:
    empty = np.empty(0, dtype=np.int32)
    assert encode(empty, empty, tables) == b""
    assert decode(b"", empty, tables).shape == (0,)
    with pytest.raises(Corrupt):
        decode(b"abcd", empty, tables)


def test_size_is_within_a_thousandth_of_the_ideal_and_of_the_entropy() -> None:
    scales = np.array([0.3, 0.7, 1.5, 4.0])
    tables = gaussian_tables(scales)
    rng = np.random.default_rng(6)
    levels = rng.integers(0, 4, 100_000)
    symbols = np.rint(rng.standard_normal(100_000) * scales[levels]).astype(np.int32)
    size = 8 * len(encode(symbols, levels, tables))
    assert ideal_bits(symbols, levels, tables) <= size <= ideal_bits(symbols, levels, tables) + 64
    gaussian = 0.0
    for symbol, level in zip(symbols.tolist(), levels.tolist(), strict=True):
        width = scales[level] * math.sqrt(2)
        distance = abs(symbol)
        gaussian -= math.log2(0.5 * (math.erfc((distance - 0.5) / width) - math.erfc((distance + 0.5) / width)))
    assert abs(size / gaussian - 1) < 1e-3


def test_escape_costs_the_gamma_code(tables: SymbolTables) -> None:
    level = 20
    index = int(tables.starts[level] + tables.sizes[level] - 1)
    escape = -math.log2(tables.counts[index] / TOTAL)
    just_above = np.array([tables.highs[level] + 1])  # e + 1 = 1: class 0, one bit
    assert ideal_bits(just_above, np.array([level]), tables) == pytest.approx(escape + 1)
    beyond = np.array([tables.lows[level] - 2])  # d = 1 below: e + 1 = 4, class 2, three bits and a mantissa of two
    assert ideal_bits(beyond, np.array([level]), tables) == pytest.approx(escape + 5)


@pytest.mark.parametrize("value", [MAGNITUDE, -MAGNITUDE, -(2**31), 2**40])
def test_too_large_a_value_is_refused(tables: SymbolTables, value: int) -> None:
    with pytest.raises(LimitExceeded):
        encode(np.array([0, value]), np.array([1, 2]), tables)


def test_invalid_arguments_raise_value_error(tables: SymbolTables) -> None:
    with pytest.raises(ValueError, match="shape"):
        encode(np.zeros(3, np.int32), np.zeros(2, np.int32), tables)
    with pytest.raises(ValueError, match="integer symbols"):
        encode(np.zeros(3), np.zeros(3, np.int32), tables)
    with pytest.raises(ValueError, match=r"levels are 0\.\.64"):
        encode(np.zeros(2, np.int32), np.array([0, 64]), tables)
    with pytest.raises(ValueError, match="levels are -1"):
        decode(b"", np.array([-1, 2]), tables)


def test_damaged_payloads_raise_corrupt_or_decode_to_something(tables: SymbolTables) -> None:
    """The coder detects most damage, but not all; the container's CRC detects the rest."""
    rng = random.Random(8)
    symbols, levels = sample(300, 8, tables, spread=2.0)
    original = encode(symbols, levels, tables)
    outcomes = {"corrupt": 0, "decoded": 0}
    for _ in range(1500):
        payload = bytearray(original)
        for _ in range(rng.randrange(1, 4)):
            payload[rng.randrange(len(payload))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.5:
            payload = payload[: rng.randrange(len(payload))]
        try:
            decoded = decode(bytes(payload), levels, tables)
        except Corrupt:
            outcomes["corrupt"] += 1
        else:
            outcomes["decoded"] += 1
            assert np.abs(decoded).max() < MAGNITUDE
    assert outcomes["decoded"] <= 3  # by chance, the final state is correct in about one of 50,000


def test_every_truncation_and_extension_is_detected(tables: SymbolTables) -> None:
    symbols, levels = sample(200, 9, tables)
    data = encode(symbols, levels, tables)
    for length in range(len(data)):
        with pytest.raises(Corrupt):
            decode(data[:length], levels, tables)
    for tail in (b"x", bytes(4), b"abcd"):
        with pytest.raises(Corrupt):
            decode(data + tail, levels, tables)


def test_an_escaped_value_out_of_range_is_corrupt() -> None:
    tables = SymbolTables(np.array([1, TOTAL - 1]), np.array([0]), np.array([2]))
    coder = constriction.stream.stack.AnsCoder(np.array([START], np.uint32))
    coder.encode_reverse(np.array([(1 << 22) - 1], np.int32), constriction.stream.model.Uniform(1 << 22))
    counts = np.array([TOTAL >> (c + 1) for c in range(22)] + [TOTAL >> 22])
    coder.encode_reverse(np.array([22], np.int32), exact_model(counts))
    coder.encode_reverse(np.array([1], np.int32), tables.models[0])
    with pytest.raises(Corrupt, match="out of range"):
        decode(coder.get_compressed().astype("<u4").tobytes(), np.array([0]), tables)


def test_gaussian_counts_are_the_integrated_density(tables: SymbolTables) -> None:
    for level in (0, 20, 40, 63):
        width = SCALES[level] * math.sqrt(2)
        support = range(int(tables.lows[level]), int(tables.highs[level]) + 1)
        counts = tables.counts[tables.starts[level] :][: len(support)]
        exact = [0.5 * (math.erf((v + 0.5) / width) - math.erf((v - 0.5) / width)) for v in support]
        # One count per symbol is reserved and 2^-16 goes to the escape, taken from all in proportion; each is rounded.
        lost = 2.0**-16 + (len(support) + 1) / TOTAL
        assert np.abs(counts / TOTAL - exact).max() <= lost * max(exact) + 2 / TOTAL
        outside = 1 - sum(exact)
        assert outside <= 2.0**-16
        assert np.array_equal(counts, counts[::-1]) or np.abs(counts - counts[::-1]).max() == 1


def test_wider_gaussians_have_lower_peaks_and_wider_supports(tables: SymbolTables) -> None:
    peaks = tables.counts[tables.starts - tables.lows]
    assert (np.diff(peaks) <= 0).all()
    assert (np.diff(tables.sizes) >= 0).all()
    assert (np.minimum.reduceat(tables.counts, tables.starts) >= 1).all()
    assert (np.add.reduceat(tables.counts, tables.starts) == TOTAL).all()


def test_pmfs_keep_their_shape_and_the_escape_takes_what_is_missing() -> None:
    tables = tables_from_pmfs([np.array([0.5, 0.25]), np.array([1.0])], [-3, 4])
    assert tables.sizes.tolist() == [3, 2]
    assert np.allclose(tables.counts[:3] / TOTAL, [0.5, 0.25, 0.25], atol=3 / TOTAL)
    assert tables.counts[4] == pytest.approx(TOTAL * 2.0**-16, rel=1e-3, abs=1)
    assert (tables.lows.tolist(), tables.highs.tolist()) == ([-3, 4], [-2, 4])


@pytest.mark.parametrize("pmf", [[0.5, -0.1], [float("nan")], [0.0, 0.0], [float("inf")], [[0.5]]])
def test_bad_mass_functions_are_refused(pmf: list[Any]) -> None:
    with pytest.raises(ValueError, match="mass function"):
        tables_from_pmfs([np.array(pmf)], [0])


@pytest.mark.parametrize("scales", [[0.0], [float("nan")], [-1.0], [1e6], []])
def test_bad_scales_are_refused(scales: list[float]) -> None:
    with pytest.raises(ValueError, match="scales"):
        gaussian_tables(np.array(scales))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts": np.array([TOTAL // 2, TOTAL // 2, TOTAL, 0])}, "below 1"),
        ({"counts": np.array([TOTAL // 2, TOTAL // 2, 5, TOTAL - 4])}, "sum to"),
        ({"counts": np.array([TOTAL // 2, TOTAL // 2, TOTAL])}, "add up"),
        ({"sizes": np.array([3, 1])}, "size"),
        ({"lows": np.array([0])}, "lows"),
        ({"lows": np.array([0, MAGNITUDE])}, "high"),
        ({"lows": np.array([0, -MAGNITUDE])}, "low"),
        ({"counts": np.full(4, TOTAL / 2)}, "integers"),
        ({"counts": np.array([2**40, TOTAL // 2, 5, TOTAL - 5])}, "32 bits"),
    ],
)
def test_invalid_tables_are_a_model_error(change: dict[str, np.ndarray], message: str) -> None:
    valid = {
        "counts": np.array([TOTAL // 2, TOTAL // 2, 5, TOTAL - 5]),
        "lows": np.zeros(2, int),
        "sizes": np.full(2, 2),
    }
    SymbolTables(**valid)
    with pytest.raises(ModelError, match=message):
        SymbolTables(**valid | change)


def test_tables_survive_storage_copy_and_pickle(tables: SymbolTables) -> None:
    _ = tables.models
    for again in (SymbolTables(**tables.arrays()), copy.deepcopy(tables), pickle.loads(pickle.dumps(tables))):
        for name, integers in tables.arrays().items():
            assert np.array_equal(again.arrays()[name], integers), name
    with pytest.raises(ValueError, match="read-only"):
        tables.counts[0] = 3


# ------------------------------------------------------------------------------------------------------------- groups


def groups(tables: SymbolTables) -> list[tuple[np.ndarray, np.ndarray]]:
    """Groups of different sizes, two of them empty, with escapes in the third."""
    return [sample(count, seed, tables, 9.0 if seed == 2 else 1.0) for seed, count in enumerate((0, 300, 200, 0, 1, 70))]


def test_groups_are_decoded_in_order(tables: SymbolTables) -> None:
    written = groups(tables)
    data = encode_groups(written, tables)
    decoder = GroupDecoder(data, tables)
    for symbols, levels in written:
        assert np.array_equal(decoder.next(levels), symbols)
    decoder.finish()
    bits = sum(ideal_bits(symbols, levels, tables) for symbols, levels in written)
    assert bits <= 8 * len(data) <= bits + 64


def test_one_group_is_the_format_of_encode(tables: SymbolTables) -> None:
    symbols, levels = sample(500, 3, tables)
    assert encode_groups([(symbols, levels)], tables) == encode(symbols, levels, tables)
    assert encode_groups([], tables) == encode_groups([sample(0, 0, tables)], tables) == b""
    GroupDecoder(b"", tables).finish()


def test_damaged_groups_are_found(tables: SymbolTables) -> None:
    written = groups(tables)
    data = encode_groups(written, tables)
    decoder = GroupDecoder(data, tables)
    for _, levels in written[:-1]:
        decoder.next(levels)
    with pytest.raises(Corrupt):
        decoder.finish()
    with pytest.raises(Corrupt):
        GroupDecoder(b"", tables).next(written[1][1])
    with pytest.raises(Corrupt):
        GroupDecoder(data[:-1], tables)
    with pytest.raises(ValueError, match="need integer symbols"):
        encode_groups([written[1], (written[1][0], written[2][1])], tables)
    with pytest.raises(LimitExceeded):
        encode_groups([written[1], (np.array([MAGNITUDE]), np.array([0]))], tables)
