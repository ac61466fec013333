"""Densities of images and rows under a frozen flow, the same for the same input whatever else is in the batch.

The noise of dequantization and the probes of the log-determinants of an image depend on its pixels and a seed alone, and are
independent between images: means over many images average them out.
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
EXACT_UP_TO = 16  # dimensions


class Scores(NamedTuple):
    """`bits` holds bits per dimension, one column a draw of noise; `latents` and `logits` are those of the first draw."""

    bits: Float[np.ndarray, "n draws"]
    latents: Float[Tensor, "n D"]
    logits: Float[Tensor, "n K"] | None
    tail: Float[
        np.ndarray, "n"
    ]  # upper bound on the error of the truncated series, bits per dimension; NaN without certificates

    @property
    def mean(self) -> Float[np.ndarray, "n"]:
        return self.bits.mean(axis=1)

    @property
    def standard_error(self) -> Float[np.ndarray, "n"]:
        """Of the mean over draws; NaN for one draw."""
        draws = self.bits.shape[1]
        if draws == 1:
            return np.full(len(self.bits), np.nan)
        return self.bits.std(axis=1, ddof=1) / np.sqrt(draws)


class _Noise:
    """Uniform numbers and signs from one generator for every image."""

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
    """Bits per dimension of 8-bit images under `terms` terms of the series. `bounds` adds the bound of what they leave out."""
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
    """Exact for few dimensions, else a series with probes that depend on nothing but the shape."""
    if dims <= EXACT_UP_TO:
        return Exact()

    def signs(like: Tensor, count: int) -> Tensor:
        drawn = torch.randint(0, 2, (count, *like.shape[1:]), generator=torch.Generator().manual_seed(dims))
        return drawn[:, None].expand(count, *like.shape).to(device=like.device, dtype=like.dtype) * 2 - 1

    return Series(terms, probes=16, draw=signs)


@torch.no_grad()
def score_rows(flow: Flow, rows: Float[Tensor, "n D"], *, terms: int, batch: int = 4096) -> Float[np.ndarray, "n"]:
    """Log-densities of rows in nats, in the units of the table; float64."""
    estimate = row_estimate(flow.dims, terms)
    parts = [flow(part.to(flow.started.device), estimate).log_prob.double().cpu() for part in rows.split(batch)]
    return torch.cat(parts).numpy() if parts else np.zeros(0)


def mean_and_error(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Mean over images and its standard error."""
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()), float(array.std(ddof=1) / np.sqrt(len(array))) if len(array) > 1 else float("nan")
