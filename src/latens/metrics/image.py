"""How close two pictures are: PSNR, SSIM and MS-SSIM of uint8 RGB pictures, as the compression literature reports them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

if TYPE_CHECKING:
    from torch import Tensor

PEAK = 255.0
WINDOW = 11  # side of the Gaussian window of SSIM, in samples
SCALES = 5
SMALLEST_SIDE = WINDOW * 2 ** (SCALES - 1)  # 176: the coarsest scale must still hold one window
CEILING_DB = 100.0

Pixels = UInt8[np.ndarray, "H W 3"]


def psnr(a: Pixels, b: Pixels) -> float:
    """Peak signal-to-noise ratio in dB: peak 255, squared error averaged over all pixels and channels.

    Infinite for identical pictures; `mean_db` says how that enters a mean. Raises ValueError when the shapes differ.
    """
    _check(a, b)
    difference = a.astype(np.int32) - b.astype(np.int32)
    squared = int(np.sum(difference * difference, dtype=np.int64))
    if squared == 0:
        return math.inf
    return 10.0 * math.log10(PEAK**2 * difference.size / squared)


def ssim(a: Pixels, b: Pixels) -> float | None:
    """Structural similarity (Wang et al. 2004), Gaussian window of 11 samples and sigma 1.5, mean over RGB channels.

    At most 1, which means identical. None where a side is below 11 samples. Raises ValueError when the shapes differ.
    """
    _check(a, b)
    if min(a.shape[:2]) < WINDOW:
        return None
    from torchmetrics.functional.image import structural_similarity_index_measure

    return float(structural_similarity_index_measure(_tensor(a), _tensor(b), data_range=1.0))


def ms_ssim(a: Pixels, b: Pixels) -> float | None:
    """Multi-scale structural similarity (Wang et al. 2003): five scales with the weights of the paper, over RGB channels.

    In [0, 1]; 1 means identical. None where a side is below 176 samples: five scales do not fit, and fewer would be
    another measure with higher values. Raises ValueError when the shapes differ.
    """
    _check(a, b)
    if min(a.shape[:2]) < SMALLEST_SIDE:
        return None
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    return float(multiscale_structural_similarity_index_measure(_tensor(a), _tensor(b), data_range=1.0))


def similarity_db(similarity: float) -> float:
    """-10 log10(1 - similarity): the scale on which (MS-)SSIM near 1 is compared. At most 100 dB."""
    return min(CEILING_DB, -10.0 * math.log10(max(1.0 - similarity, 1e-10)))


def mean_db(values: Iterable[float]) -> float:
    """Mean of values in dB, as the literature takes it over pictures; an infinite one counts as 100 dB."""
    held = [min(CEILING_DB, value) if math.isinf(value) else value for value in values]
    if not held:
        raise ValueError("the mean of nothing")
    return math.fsum(held) / len(held)


def _check(a: Pixels, b: Pixels) -> None:
    for picture in (a, b):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(f"expected uint8 (H, W, 3), got {picture.dtype} {picture.shape}")
    if a.shape != b.shape:
        raise ValueError(f"the pictures differ in shape: {a.shape} and {b.shape}")


def _tensor(pixels: Pixels) -> Tensor:
    import torch

    return torch.tensor(pixels).permute(2, 0, 1)[None].float() / PEAK
