"""A Gaussian with full covariance: the first row of every table of densities."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from latens.shapes import Float, UInt8

CHUNK = 2000  # images whose products are summed at once
SMALLEST = 1 / 12  # variance of the noise of dequantization, in gray levels: no direction has less


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
    """The Gaussian of images and, with `flip`, their mirror images; a weak prior (Ledoit-Wolf shrinkage) where they are few.

    Shrinkage goes toward a multiple of the identity with the intensity of Ledoit and Wolf (2004).
    """
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
    share = min(error / max(spread, 1e-300), 1.0)
    covariance = (1 - share) * covariance + (share * scale + SMALLEST) * np.eye(dims)
    return Gaussian(mean + 0.5, np.linalg.cholesky(covariance))


def _dequantized(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    flat = pixels.reshape(len(pixels), -1).astype(np.float64)
    dequantized: np.ndarray = flat + rng.random(flat.shape)
    return dequantized
