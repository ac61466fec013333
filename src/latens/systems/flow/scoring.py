"""Densities of images and rows under a frozen flow. The score of an input does not depend on the rest of the batch.

Dequantization noise and probes of an image are drawn from a generator seeded by its pixels and a seed. They are independent
between images, so their errors average out in means over many images.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from latens.codes.bijector import bits_per_dim, dequantized
from latens.codes.logdet import Estimate, Exact, Series
from latens.shapes import Float, UInt8
from latens.systems.flow.model import Flow, truncation

BATCH = 32
MAX_EXACT_DIMS = 16  # maximum number of dimensions for exact log-determinants of rows


class Scores(NamedTuple):
    """Scores of n images. `bits` has one column per draw of noise; `latents` and `logits` are those of the first draw."""

    bits: Float[np.ndarray, "n draws"]  # per dimension
    latents: Float[Tensor, "n D"]
    logits: Float[Tensor, "n K"] | None
    tail: Float[np.ndarray, "n"]  # upper bound on the truncation error of the series, bits per dimension; NaN without bounds

    @property
    def mean(self) -> Float[np.ndarray, "n"]:
        return self.bits.mean(axis=1)

    @property
    def standard_error(self) -> Float[np.ndarray, "n"]:
        """Standard error of the mean over draws; NaN for one draw."""
        draws = self.bits.shape[1]
        if draws == 1:
            return np.full(len(self.bits), np.nan)
        return self.bits.std(axis=1, ddof=1) / np.sqrt(draws)


class _Noise:
    """Uniform noise and Rademacher signs, from a separate generator for each image."""

    def __init__(self, pixels: Tensor, seed: int, draw: int) -> None:
        keys = [zlib.crc32(one.numpy().tobytes()) for one in pixels.cpu()]
        self.generators = [np.random.default_rng([key, seed, draw]) for key in keys]

    def uniform(self, like: Tensor) -> Tensor:
        drawn = [generator.random(tuple(like.shape[1:]), dtype=np.float32) for generator in self.generators]
        return torch.from_numpy(np.stack(drawn)).to(like.device)

    def signs(self, like: Tensor, count: int) -> Tensor:
        shape = (count, *like.shape[1:])
        drawn = [generator.integers(0, 2, shape, dtype=np.int8) for generator in self.generators]
        return torch.from_numpy(np.stack(drawn, axis=1)).to(device=like.device, dtype=like.dtype).mul_(2).sub_(1)


@torch.no_grad()
def score_images(
    flow: Flow, pixels: UInt8[Tensor, "n C S S"], *, terms: int, draws: int = 1, seed: int = 0, bounds: bool = False
) -> Scores:
    """Bits per dimension of 8-bit images with `terms` terms of the series. `bounds` adds the bound `tail`."""
    certificates = flow.certify() if bounds else []
    columns: list[list[np.ndarray]] = [[] for _ in range(draws)]
    latents, logits, tails = [], [], []
    for part in pixels.split(BATCH):
        for draw in range(draws):
            noise = _Noise(part, seed, draw)
            moved = part.to(flow.started.device)
            x = dequantized(moved, noise=noise.uniform(moved)).contiguous(memory_format=torch.channels_last)
            coded = flow(x, Series(terms, draw=noise.signs))
            columns[draw].append(bits_per_dim(coded.log_prob.double(), flow.dims).cpu().numpy())
            if draw == 0:
                latents.append(coded.latent.cpu())
                if coded.logits is not None:
                    logits.append(coded.logits.cpu())
                if bounds and coded.moments and all(one.lipschitz < 1 for one in certificates):
                    tail = truncation(coded, terms, certificates) / (flow.dims * np.log(2))
                    tails.append(tail.cpu().double().numpy())
    bits = np.stack([np.concatenate(column) for column in columns], axis=1)
    tail = np.concatenate(tails) if tails else np.full(len(bits), np.nan)
    return Scores(bits, torch.cat(latents), torch.cat(logits) if logits else None, tail)


def row_estimate(dims: int, terms: int) -> Estimate:
    """Exact log-determinants for at most MAX_EXACT_DIMS dimensions, otherwise a series with fixed probes."""
    if dims <= MAX_EXACT_DIMS:
        return Exact()

    def signs(like: Tensor, count: int) -> Tensor:
        drawn = torch.randint(0, 2, (count, *like.shape[1:]), generator=torch.Generator().manual_seed(dims))
        return drawn[:, None].expand(count, *like.shape).to(device=like.device, dtype=like.dtype) * 2 - 1

    return Series(terms, probes=16, draw=signs)


@torch.no_grad()
def score_rows(flow: Flow, rows: Float[Tensor, "n D"], *, terms: int, batch: int = 4096) -> Float[np.ndarray, "n"]:
    """Log-densities of rows in nats, in the units of the table (float64)."""
    estimate = row_estimate(flow.dims, terms)
    parts = [flow(part.to(flow.started.device), estimate).log_prob.double().cpu() for part in rows.split(batch)]
    return torch.cat(parts).numpy() if parts else np.zeros(0)


def mean_and_error(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Mean and its standard error (NaN for one value)."""
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()), float(array.std(ddof=1) / np.sqrt(len(array))) if len(array) > 1 else float("nan")
