"""Window filters compared with slow sums and OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from latens.nn.filters import block_mean, box_max, box_mean, box_min, fit_guide, guided_filter, luminance


def image(height: int, width: int, channels: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("height", "width", "radius"), [(17, 23, 3), (40, 31, 7), (9, 60, 8)])
def test_means_and_minima_equal_those_of_opencv(height: int, width: int, radius: int) -> None:
    x = image(height, width, 2)
    side = (2 * radius + 1, 2 * radius + 1)
    for channel in range(2):
        plane = x[1, channel].numpy()
        mean = cv2.blur(plane, side, borderType=cv2.BORDER_REFLECT_101)
        assert box_mean(x, radius)[1, channel].numpy() == pytest.approx(mean, abs=1e-5)
        mirrored = cv2.copyMakeBorder(plane, radius, radius, radius, radius, cv2.BORDER_REFLECT_101)
        inner = (slice(radius, -radius), slice(radius, -radius))
        assert np.array_equal(box_min(x, radius)[1, channel].numpy(), cv2.erode(mirrored, np.ones(side))[inner])
        assert np.array_equal(box_max(x, radius)[1, channel].numpy(), cv2.dilate(mirrored, np.ones(side))[inner])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (3, 2)])
def test_images_smaller_than_the_window(height: int, width: int) -> None:
    x = image(height, width)
    assert box_mean(x, 5).shape == x.shape
    assert bool((box_min(x, 5) >= x.amin((2, 3), keepdim=True)).all())
    assert bool(guided_filter(x, x, 5, 1e-3).isfinite().all())


def test_running_sums_are_accurate() -> None:
    x = 1 + 1e-3 * image(4, 4000).double()
    exact = box_mean(x, 30)
    assert (box_mean(x.float(), 30).double() - exact).abs().max() < 1e-6


def slow_guided(guide: np.ndarray, x: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """He et al. 2010, Eqs. 5, 6 and 8, window by window in float64; only windows that lie inside the image."""
    height, width = guide.shape
    slopes, offsets = np.zeros((height, width)), np.zeros((height, width))
    for row in range(radius, height - radius):
        for column in range(radius, width - radius):
            window = (slice(row - radius, row + radius + 1), slice(column - radius, column + radius + 1))
            inside, values = guide[window], x[window]
            covariance = (inside * values).mean() - inside.mean() * values.mean()
            slopes[row, column] = covariance / (inside.var() + epsilon)
            offsets[row, column] = values.mean() - slopes[row, column] * inside.mean()
    side = (2 * radius + 1, 2 * radius + 1)
    return np.asarray(cv2.blur(slopes, side) * guide + cv2.blur(offsets, side))


def test_guided_filter_equals_sums_in_float64() -> None:
    guide, x = image(24, 27, seed=1), image(24, 27, seed=2)
    expected = slow_guided(guide[0, 0].double().numpy(), x[0, 0].double().numpy(), 3, 1e-2)
    found = guided_filter(guide.double(), x.double(), 3, 1e-2)[0, 0].numpy()
    inner = (slice(6, -6), slice(6, -6))  # two windows away from the border
    assert found[inner] == pytest.approx(expected[inner], abs=1e-10)
    assert guided_filter(guide, x, 3, 1e-2)[0, 0].numpy()[inner] == pytest.approx(expected[inner], abs=1e-4)


def test_a_reduced_fit_approximates_the_full_filter() -> None:
    """The fast guided filter (He and Sun 2015), as `methods.refine` applies it."""
    rows, columns = torch.meshgrid(torch.linspace(0, 3, 96), torch.linspace(0, 3, 128), indexing="ij")
    guide = (0.5 + 0.5 * torch.sin(3 * rows + 2 * columns))[None, None]
    x = (0.4 + 0.3 * torch.cos(rows))[None, None]
    fast = fit_guide(block_mean(guide, 4), block_mean(x, 4), 4, 1e-3).apply(guide, 4)
    assert float((guided_filter(guide, x, 16, 1e-3) - fast).abs().max()) < 0.03


def test_the_output_has_the_edges_of_the_guide() -> None:
    guide = torch.zeros(1, 1, 40, 40)
    guide[..., 20:] = 1
    blurred = box_mean(0.2 + 0.6 * guide, 4)
    sharp = guided_filter(guide, blurred, 8, 1e-4)
    assert float(sharp[0, 0, 20, 20] - sharp[0, 0, 20, 19]) > 0.3
    assert float(blurred[0, 0, 20, 20] - blurred[0, 0, 20, 19]) < 0.1


def test_luminance_of_white_is_one() -> None:
    torch.testing.assert_close(luminance(torch.ones(1, 3, 2, 2)), torch.ones(1, 1, 2, 2))
