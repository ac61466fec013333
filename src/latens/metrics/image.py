"""PSNR, SSIM and MS-SSIM of uint8 RGB images, as reported in the compression literature."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from latens.shapes import Float, UInt8

if TYPE_CHECKING:
    from torch import Tensor

PEAK = 255.0
WINDOW, SIGMA = 11, 1.5  # side and width of the Gaussian window of SSIM, in samples
K1, K2 = 0.01, 0.03  # constants that stabilize the quotients of SSIM, relative to the peak
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, from fine to coarse
SMALLEST_SIDE = WINDOW * 2 ** (len(SCALE_WEIGHTS) - 1)  # 176: the coarsest scale must contain at least one window
CEILING_DB = 100.0
PART = 1 << 22  # values whose differences are computed at once

Pixels = UInt8[np.ndarray, "H W 3"]


def psnr(a: Pixels, b: Pixels) -> float:
    """Peak signal-to-noise ratio in dB: peak 255, squared error averaged over all pixels and channels.

    Infinite for identical images (`mean_db` counts it as 100 dB). Raises ValueError if the shapes differ.
    """
    _check(a, b)
    squared = 0
    for one, other in zip(_parts(a), _parts(b), strict=True):
        difference = one.astype(np.int32) - other.astype(np.int32)
        squared += int(np.sum(difference * difference, dtype=np.int64))
    if squared == 0:
        return math.inf
    return 10.0 * math.log10(PEAK**2 * a.size / squared)


def _parts(pixels: Pixels) -> Iterator[np.ndarray]:
    """All values in parts of PART, because differences take four times the memory of pixels."""
    flat = pixels.reshape(-1)
    return (flat[start : start + PART] for start in range(0, flat.size, PART))


def ssim(a: Pixels, b: Pixels) -> float | None:
    """Structural similarity (Wang et al. 2004), Gaussian window of 11 samples and sigma 1.5, mean over RGB channels.

    Windows lie entirely inside the image. At most 1, for identical images. None if a side is below 11 pixels.
    Raises ValueError if the shapes differ.
    """
    _check(a, b)
    if min(a.shape[:2]) < WINDOW:
        return None
    return float(_similarity(_planes(a), _planes(b)).whole.mean())


def ms_ssim(a: Pixels, b: Pixels) -> float | None:
    """Multi-scale structural similarity (Wang et al. 2003): five scales with the weights of the paper, mean over RGB.

    In [0, 1]; 1 for identical images. None if a side is below 176 pixels: five scales do not fit, and fewer scales would be
    another metric with higher values. Raises ValueError if the shapes differ.

    Windows lie entirely inside the image and channels are averaged last, as in the implementation behind most published results
    of learned codecs. torchmetrics mirrors the borders at the coarsest scale.
    """
    _check(a, b)
    if min(a.shape[:2]) < SMALLEST_SIDE:
        return None
    from torch.nn.functional import avg_pool2d

    x, y = _planes(a), _planes(b)
    value = x.new_ones(3)
    for scale, weight in enumerate(SCALE_WEIGHTS):
        found = _similarity(x, y)
        coarsest = scale == len(SCALE_WEIGHTS) - 1
        value = value * (found.whole if coarsest else found.contrast).clamp(min=0) ** weight
        x, y = avg_pool2d(x, 2), avg_pool2d(y, 2)
    return float(value.mean())


def similarity_db(similarity: float) -> float:
    """-10 log10(1 - similarity), at most 100: (MS-)SSIM in dB, which resolves values near 1."""
    return min(CEILING_DB, -10.0 * math.log10(max(1.0 - similarity, 1e-10)))


def mean_db(values: Iterable[float]) -> float:
    """Arithmetic mean of values in dB, the convention for averages over images; infinite values count as 100 dB.

    Raises ValueError without values.
    """
    held = [min(CEILING_DB, value) if math.isinf(value) else value for value in values]
    if not held:
        raise ValueError("a mean needs at least one value")
    return math.fsum(held) / len(held)


def _check(a: Pixels, b: Pixels) -> None:
    for image in (a, b):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"expected uint8 (H, W, 3), got {image.dtype} {image.shape}")
    if a.shape != b.shape:
        raise ValueError(f"the images differ in shape: {a.shape} and {b.shape}")


class _Similarity(NamedTuple):
    """Means over all windows, per channel: the full index, and its contrast-structure factor."""

    whole: Float[Tensor, "3"]
    contrast: Float[Tensor, "3"]


def _similarity(x: Float[Tensor, "3 H W"], y: Float[Tensor, "3 H W"]) -> _Similarity:
    import torch

    mean_x, mean_y, square_x, square_y, product = _window_means(torch.stack((x, y, x * x, y * y, x * y)))
    variances = (square_x - mean_x**2).clamp(min=0) + (square_y - mean_y**2).clamp(min=0)
    contrast = (2 * (product - mean_x * mean_y) + K2**2) / (variances + K2**2)
    luminance = (2 * mean_x * mean_y + K1**2) / (mean_x**2 + mean_y**2 + K1**2)
    return _Similarity((luminance * contrast).mean((1, 2)), contrast.mean((1, 2)))


def _window_means(planes: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 h w"]:
    """Gaussian means of all windows inside the image. Shifts and sums are ten times faster than a convolution."""
    taps = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    for dim in (2, 3):
        length = planes.shape[dim] - WINDOW + 1
        total = planes.narrow(dim, 0, length) * float(taps[0] / taps.sum())
        for shift in range(1, WINDOW):
            total.add_(planes.narrow(dim, shift, length), alpha=float(taps[shift] / taps.sum()))
        planes = total
    return planes


def _planes(pixels: Pixels) -> Float[Tensor, "3 H W"]:
    import torch

    return torch.tensor(pixels).permute(2, 0, 1).float() / PEAK
