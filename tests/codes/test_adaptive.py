"""Adaptive coding of maps."""

from __future__ import annotations

import numpy as np
import pytest

from latens.codes.adaptive import decode_maps, encode_maps
from latens.codes.counts import map_bits
from latens.errors import Corrupt


def blob(frames: int, height: int, width: int, alphabet: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    maps = [np.clip(np.hypot(y - 3, x - 2 - t / 2) - 2, 0, alphabet - 1) for t in range(frames)]
    return np.stack(maps).astype(np.int64)


@pytest.mark.parametrize("shape", [(12, 8, 14), (1, 1, 1), (3, 17, 5)])
@pytest.mark.parametrize("alphabet", [2, 13])
def test_round_trip_at_the_estimated_length(shape: tuple[int, int, int], alphabet: int) -> None:
    rng = np.random.default_rng(0)
    for maps in (blob(*shape, alphabet), rng.integers(alphabet, size=shape), np.zeros(shape, dtype=np.int64)):
        data = encode_maps(maps, alphabet)
        np.testing.assert_array_equal(decode_maps(data, shape, alphabet), maps)
        assert 8 * len(data) <= map_bits(maps, alphabet) + 16


def test_any_bytes_decode_to_some_maps() -> None:
    rng = np.random.default_rng(1)
    for size in (0, 1, 40):
        found = decode_maps(rng.bytes(size), (4, 8, 14), 13)
        assert found.shape == (4, 8, 14)
        assert found.min() >= 0
        assert found.max() < 13
    with pytest.raises(Corrupt):
        decode_maps(b"", (1 << 20, 1 << 10, 1 << 10), 13)
