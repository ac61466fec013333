"""Out-of-distribution score of an image: Mahalanobis distance of a few statistics from those of held-out images.

Likelihood alone ranks smooth images highest, whatever their content (Nalisnick et al. 2019, Kirichenko et al. 2020). The
statistics are bits per dimension (typicality), bits per dimension of a lossless WebP file (complexity, Serra et al. 2020), and
moments and neighbor correlations of the latents, which are independent and standard normal for images drawn from the model.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from latens.data.image_output import webp_bytes
from latens.shapes import Float, UInt8

STATISTICS = ("bits_per_dim", "webp_bits_per_dim", "mean_square", "mean_fourth", "correlation_x", "correlation_y")
SHRINKAGE = 0.05  # shrinkage of the covariance toward its diagonal
LEVELS = 101  # number of stored quantiles of the held-out distances


class Reference(NamedTuple):
    """Statistics of held-out images: mean, inverse covariance, and quantiles of their distances."""

    mean: Float[np.ndarray, "F"]
    precision: Float[np.ndarray, "F F"]
    distances: Float[np.ndarray, "Q"]

    def distance(self, statistics: Float[np.ndarray, "n F"]) -> Float[np.ndarray, "n"]:
        """Mahalanobis distance of every image."""
        centered = statistics - self.mean
        return np.sqrt(np.maximum(np.einsum("nf,fg,ng->n", centered, self.precision, centered), 0))

    def unusual(self, statistics: Float[np.ndarray, "n F"]) -> Float[np.ndarray, "n"]:
        """Share of held-out images with a smaller distance, in [0, 1]."""
        return share_below(self.distances, self.distance(statistics))

    def to_dict(self) -> dict[str, Any]:
        return {
            "statistics": list(STATISTICS),
            "mean": self.mean.tolist(),
            "precision": self.precision.tolist(),
            "distances": self.distances.tolist(),
        }

    @staticmethod
    def from_dict(plain: dict[str, Any]) -> Reference:
        return Reference(*(np.array(plain[name], dtype=np.float64) for name in ("mean", "precision", "distances")))


def share_below(quantiles: np.ndarray, values: np.ndarray) -> Float[np.ndarray, "n"]:
    """Share of a distribution below each value. The distribution is given by its evenly spaced quantiles."""
    return np.interp(values, quantiles, np.linspace(0, 1, len(quantiles)))


def quantiles_of(values: np.ndarray) -> Float[np.ndarray, "Q"]:
    """LEVELS evenly spaced quantiles, from the minimum to the maximum."""
    return np.quantile(values, np.linspace(0, 1, LEVELS))


def reference_of(statistics: Float[np.ndarray, "n F"]) -> Reference:
    """Reference of held-out images: moments of one half, distances of the other; of all images where they are few."""
    few = len(statistics) < 8 * statistics.shape[1]
    fitted, measured = (statistics, statistics) if few else (statistics[::2], statistics[1::2])
    mean = fitted.mean(axis=0)
    covariance = np.cov(fitted, rowvar=False) if len(fitted) > 1 else np.eye(len(mean))
    diagonal = np.diag(np.diag(covariance) + 1e-9)
    precision = np.linalg.inv((1 - SHRINKAGE) * covariance + SHRINKAGE * diagonal + 1e-12 * np.eye(len(mean)))
    found = Reference(mean, precision, np.zeros(1))
    return found._replace(distances=quantiles_of(found.distance(measured)))


def statistics_of(
    pixels: UInt8[np.ndarray, "n C S S"], latents: Float[Tensor, "n D"], bits: np.ndarray, shape: tuple[int, int, int]
) -> Float[np.ndarray, "n F"]:
    """Columns named in STATISTICS. `shape` is the shape of the latents before flattening, `bits` the bits per dimension."""
    z = latents.double().cpu().view(-1, *shape)
    square = z.square().flatten(1).mean(1)
    columns = [
        bits,
        np.array([complexity(one) for one in pixels]),
        square.numpy(),
        z.pow(4).flatten(1).mean(1).sqrt().numpy(),
        _correlation(z[:, :, :, 1:], z[:, :, :, :-1]),
        _correlation(z[:, :, 1:], z[:, :, :-1]),
    ]
    return np.stack(columns, axis=1)


def _correlation(first: Tensor, second: Tensor) -> np.ndarray:
    """Correlation of neighbors: mean product over mean square; 0 for latents without neighbors."""
    if not first[0].numel():
        return np.zeros(len(first))
    product = (first * second).flatten(1).mean(1)
    scale = 0.5 * (first.square() + second.square()).flatten(1).mean(1)
    ratio: np.ndarray = (product / scale.clamp(min=torch.finfo(scale.dtype).tiny)).numpy()
    return ratio


def complexity(pixels: UInt8[np.ndarray, "C S S"]) -> float:
    """Bits per dimension of the lossless WebP file of an image."""
    stacked = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    data = webp_bytes(np.repeat(stacked, 3, axis=2) if stacked.shape[2] == 1 else stacked)
    return 8 * len(data) / pixels.size
