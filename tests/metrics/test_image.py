"""PSNR from its definition, SSIM against scikit-image, MS-SSIM against the formula of the paper in scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from latens.metrics.image import mean_db, ms_ssim, psnr, similarity_db, ssim

PAPER_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003


def pair(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A smooth image with edges, and the same image with noise and lower contrast."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin((rows * a + columns * b) / 19) for a, b in ((1, 0.2), (0.4, 1), (-0.6, 0.8))], axis=-1)
    clean = 120 + 70 * waves + 30 * (((rows // 21 + columns // 33) % 2)[..., None])
    noisy = 0.9 * clean + 8 + rng.normal(0, 9, clean.shape)
    return as_bytes(clean), as_bytes(noisy)


def as_bytes(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(np.rint(values), 0, 255), dtype=np.uint8)


@pytest.mark.parametrize("offset", [1, 5, 51, 255])
def test_psnr_of_a_constant_error(offset: int) -> None:
    dark = np.zeros((7, 5, 3), np.uint8)
    bright = np.full_like(dark, offset)
    assert psnr(dark, bright) == pytest.approx(20 * math.log10(255 / offset), abs=1e-12)
    assert psnr(bright, dark) == psnr(dark, bright)  # no wrap-around of unsigned differences


def test_psnr_averages_over_channels() -> None:
    a = np.zeros((4, 4, 3), np.uint8)
    b = a.copy()
    b[..., 1] = 10
    assert psnr(a, b) == pytest.approx(10 * math.log10(255**2 / (100 / 3)))


def test_equal_images_count_as_100_db_in_a_mean() -> None:
    a, _ = pair(20, 30)
    assert psnr(a, a) == math.inf
    assert mean_db([math.inf, 30.0]) == 65.0
    assert mean_db([108.0, 30.0]) == 69.0
    with pytest.raises(ValueError, match="at least one value"):
        mean_db([])


def test_ssim_equals_scikit_image() -> None:
    from skimage.metrics import structural_similarity

    a, b = pair(60, 90)
    expected = structural_similarity(
        a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=2
    )
    assert ssim(a, b) == pytest.approx(expected, abs=1e-5)


def test_ms_ssim_equals_the_paper() -> None:
    a, b = pair(180, 201)
    assert ms_ssim(a, b) == pytest.approx(ms_ssim_by_formula(a, b), abs=1e-5)
    assert ms_ssim(a, a) == pytest.approx(1.0, abs=1e-6)


def ms_ssim_by_formula(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.signal import convolve2d

    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(taps, taps) / taps.sum() ** 2
    x, y = a.astype(np.float64), b.astype(np.float64)
    result = np.ones(3)
    for scale, weight in enumerate(PAPER_WEIGHTS):

        def blur(values: np.ndarray) -> np.ndarray:
            return np.stack([convolve2d(values[..., c], window, mode="valid") for c in range(3)], axis=-1)

        mean_x, mean_y = blur(x), blur(y)
        var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
        contrast = (2 * (blur(x * y) - mean_x * mean_y) + (0.03 * 255) ** 2) / (var_x + var_y + (0.03 * 255) ** 2)
        luminance = (2 * mean_x * mean_y + (0.01 * 255) ** 2) / (mean_x**2 + mean_y**2 + (0.01 * 255) ** 2)
        last = scale == len(PAPER_WEIGHTS) - 1
        result *= (contrast * luminance if last else contrast).mean(axis=(0, 1)) ** weight
        height, width = (side // 2 * 2 for side in x.shape[:2])
        x, y = (v[:height, :width].reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3)) for v in (x, y))
    return float(result.mean())


@pytest.mark.parametrize(("height", "width", "given"), [(176, 176, True), (175, 400, False), (400, 175, False)])
def test_ms_ssim_needs_five_scales(height: int, width: int, given: bool) -> None:
    a, b = pair(height, width)
    assert (ms_ssim(a, b) is not None) == given


def test_ssim_needs_one_window() -> None:
    a, b = pair(10, 40)
    assert ssim(a, b) is None


def test_similarity_in_decibels() -> None:
    assert similarity_db(0.99) == pytest.approx(20.0)
    assert similarity_db(0.9) == pytest.approx(10.0)
    assert similarity_db(1.0) == 100.0


@pytest.mark.parametrize("other", [np.zeros((4, 5, 3), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8)])
def test_incomparable_inputs_are_refused(other: np.ndarray) -> None:
    a = np.zeros((4, 4, 3), np.uint8)
    for measure in (psnr, ssim, ms_ssim):
        with pytest.raises(ValueError, match=r"uint8|shape"):
            measure(a, other)
