import itertools
import math

import numpy as np
import pytest

from latens.codes.counts import adaptive_bits, map_bits


def sequential_bits(symbols: np.ndarray, contexts: np.ndarray, alphabet: int) -> float:
    """Code length of a sequential coder that updates the counts after every symbol."""
    counts: dict[int, np.ndarray] = {}
    total = 0.0
    for symbol, context in zip(symbols, contexts, strict=True):
        table = counts.setdefault(int(context), np.full(alphabet, 0.5))
        total -= math.log2(table[symbol] / table.sum())
        table[symbol] += 1
    return total


@pytest.mark.parametrize("alphabet", [2, 5])
def test_length_equals_that_of_a_sequential_coder(alphabet: int) -> None:
    rng = np.random.default_rng(0)
    symbols, contexts = rng.integers(alphabet, size=200), rng.integers(3, size=200)
    assert adaptive_bits(symbols, contexts, alphabet) == pytest.approx(sequential_bits(symbols, contexts, alphabet))


def test_contexts_are_known_to_the_decoder() -> None:
    maps = (np.random.default_rng(0).random((3, 5, 6)) < 0.3).astype(np.int64)
    contexts = []
    for t, i, j in itertools.product(range(3), range(5), range(6)):
        left, upper = maps[t, i, j - 1] if j else 0, maps[t, i - 1, j] if i else 0
        contexts.append(4 * left + 2 * upper + (maps[t - 1, i, j] if t else 0))
    assert map_bits(maps, 2) == pytest.approx(sequential_bits(maps.ravel(), np.array(contexts), 2))


def test_a_constant_map_costs_little_more_than_its_first_frame() -> None:
    first = np.zeros((1, 30, 54), np.int64)
    first[:, 10:20, 20:40] = 1
    assert map_bits(np.repeat(first, 12, axis=0), 2) < 2 * map_bits(first, 2) + 40
