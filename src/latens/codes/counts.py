"""Lossless code length of region maps under adaptive counts."""

from __future__ import annotations

import math

import numpy as np
import torch

from latens.shapes import Int


def adaptive_bits(symbols: Int[np.ndarray, "n"], contexts: Int[np.ndarray, "n"], alphabet: int) -> float:
    """Code length in bits of symbols 0..alphabet - 1 under adaptive counts per context, each starting at 1/2.

    This is the estimator of Krichevsky and Trofimov 1981. Its code length depends only on the final counts, not on the order.
    """
    keys, places = np.unique(contexts, return_inverse=True)
    counts = np.zeros((len(keys), alphabet))
    np.add.at(counts, (places, symbols), 1)
    start = 0.5 * alphabet
    nats = _log_gamma(start + counts.sum(1)) - math.lgamma(start) - (_log_gamma(0.5 + counts) - math.lgamma(0.5)).sum(1)
    return float(nats.sum() / math.log(2))


def _log_gamma(values: np.ndarray) -> np.ndarray:
    found: np.ndarray = torch.from_numpy(values).lgamma().numpy()
    return found


def map_bits(maps: Int[np.ndarray, "T h w"], alphabet: int) -> float:
    """Code length in bits of the maps of a clip.

    The context of a value is its left neighbor, its upper neighbor and the same position of the previous map; values outside a
    map and the map before the first are 0.
    """
    padded = np.pad(maps.astype(np.int64), ((1, 0), (1, 0), (1, 0)))
    left, upper, before = padded[1:, 1:, :-1], padded[1:, :-1, 1:], padded[:-1, 1:, 1:]
    contexts = (left * alphabet + upper) * alphabet + before
    return adaptive_bits(maps.reshape(-1).astype(np.int64), contexts.reshape(-1), alphabet)
