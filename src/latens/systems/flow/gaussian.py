"""Gaussian with full covariance, the baseline of every table of densities."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from latens.shapes import Float, UInt8

CHUNK = 2000  # images per matrix product
HELD_OUT = 10  # every tenth image is held out to select the shrinkage
MIN_HELD_OUT = 20  # minimum number of held-out images for the selection
INTENSITIES = (0.0, 1e-5, 1e-4, 1e-3)
SMALLEST = 1 / 12  # minimum variance of any direction, in squared gray levels: that of the dequantization noise


class Gaussian(NamedTuple):
    """Mean and Cholesky factor of the covariance of dequantized images, in gray levels."""

    mean: Float[np.ndarray, "D"]
    factor: Float[np.ndarray, "D D"]

    def bits_per_dim(self, pixels: UInt8[np.ndarray, "n C S S"], *, seed: int = 0) -> Float[np.ndarray, "n"]:
        """Bits per dimension of images under one draw of uniform dequantization noise."""
        from scipy.linalg import solve_triangular

        x = _dequantized(pixels, np.random.default_rng(seed)) - self.mean
        white = solve_triangular(self.factor, x.T, lower=True)
        log_det = 2 * np.log(np.diag(self.factor)).sum()
        nats = 0.5 * ((white**2).sum(axis=0) + log_det + len(self.mean) * math.log(2 * math.pi))
        bits: np.ndarray = nats / (len(self.mean) * math.log(2))
        return bits


def fit_gaussian(pixels: UInt8[np.ndarray, "n C S S"], *, flip: bool = True) -> Gaussian:
    """Fits a Gaussian to images and, with `flip`, their mirror images.

    The covariance is shrunk toward a multiple of the identity. The intensity is that of Ledoit and Wolf 2004 or one of
    `INTENSITIES`, whichever gives a held-out tenth of the images the fewest bits.
    """
    held_out = pixels[::HELD_OUT]
    share = None
    if len(held_out) >= MIN_HELD_OUT:
        others = np.arange(len(pixels)) % HELD_OUT > 0
        moments = _moments(pixels[others], flip=flip)
        found = {share: _gaussian(moments, share).bits_per_dim(held_out).mean() for share in (None, *INTENSITIES)}
        share = min(found, key=lambda choice: float(found[choice]))
    return _gaussian(_moments(pixels, flip=flip), share)


class _Moments(NamedTuple):
    mean: Float[np.ndarray, "D"]
    covariance: Float[np.ndarray, "D D"]
    ledoit_wolf: float  # intensity


def _moments(pixels: UInt8[np.ndarray, "n C S S"], *, flip: bool) -> _Moments:
    views = [pixels, pixels[..., ::-1]] if flip else [pixels]
    count, dims = sum(map(len, views)), pixels[0].size
    mean = sum(view.reshape(len(view), -1).sum(axis=0, dtype=np.float64) for view in views) / count
    moment, quartic = np.zeros((dims, dims)), 0.0
    for view in views:
        for start in range(0, len(view), CHUNK):
            centered = view[start : start + CHUNK].reshape(-1, dims).astype(np.float64) - mean
            moment += centered.T @ centered
            quartic += float(((centered**2).sum(axis=1) ** 2).sum())
    covariance = moment / count
    scale = np.trace(covariance) / dims
    spread = float((covariance**2).sum()) - dims * scale**2  # |S - m I|^2
    error = max((quartic / count - float((covariance**2).sum())) / count, 0.0)
    return _Moments(mean, covariance, min(error / max(spread, 1e-300), 1.0))


def _gaussian(moments: _Moments, share: float | None) -> Gaussian:
    """Gaussian with a shrinkage intensity; None: that of Ledoit and Wolf 2004."""
    mean, covariance, chosen = moments
    share = chosen if share is None else share
    scale = np.trace(covariance) / len(mean)
    shrunk = (1 - share) * covariance + (share * scale + SMALLEST) * np.eye(len(mean))
    return Gaussian(mean + 0.5, np.linalg.cholesky(shrunk))


def _dequantized(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    flat = pixels.reshape(len(pixels), -1).astype(np.float64)
    dequantized: np.ndarray = flat + rng.random(flat.shape)
    return dequantized
