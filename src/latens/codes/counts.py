"""Code lengths of small integers under adaptive counts: what maps of regions cost when they are sent without loss."""

from __future__ import annotations

import math

import numpy as np
import torch

from latens.shapes import Int


def adaptive_bits(symbols: Int[np.ndarray, "n"], contexts: Int[np.ndarray, "n"], alphabet: int) -> float:
    """Bits of an arithmetic coder that counts symbols 0..alphabet - 1 in every context, each count starting at 1/2.

    This is the Krichevsky-Trofimov estimator. Its code length depends on the final counts alone, not on the order.
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
    """Bits of maps of a clip, each value in the context of its left and upper neighbors and of its place in the map before.

    Neighbors outside a map, and the map before the first, count as 0.
    """
    padded = np.pad(maps.astype(np.int64), ((1, 0), (1, 0), (1, 0)))
    left, upper, before = padded[1:, 1:, :-1], padded[1:, :-1, 1:], padded[:-1, 1:, 1:]
    contexts = (left * alphabet + upper) * alphabet + before
    return adaptive_bits(maps.reshape(-1).astype(np.int64), contexts.reshape(-1), alphabet)
