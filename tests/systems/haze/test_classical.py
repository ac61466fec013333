"""Dark channel prior and boundary constraint against slow NumPy versions and the published full-size forms."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from latens.systems.haze import bands, methods
from latens.systems.haze.baselines.boundary import (
    GROWTH,
    ROUNDS,
    BoundaryConfig,
    boundary,
    kirsch_filters,
    regularize,
)
from latens.systems.haze.baselines.dark_channel import (
    FAST,
    GENTLE,
    DarkChannelConfig,
    airlight_of,
    blocks_of,
    coarse_transmission,
    dark_channel,
)
from latens.systems.haze.formation import HazeEstimate, add_haze
from latens.systems.haze.methods import refine

from .oracles import boundary_constraint, dark_channel_prior


def dcp(hazy: torch.Tensor, config: DarkChannelConfig = FAST) -> HazeEstimate:
    return refine(methods.dark_channel(blocks_of(hazy, config.shrink), config), hazy)


def bccr(hazy: torch.Tensor) -> HazeEstimate:
    return refine(methods.boundary(hazy, BoundaryConfig()), hazy)


def scene(height: int = 60, width: int = 80, *, beta: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Colored tiles on a plane that recedes upwards: hazy, clear, transmission."""
    generator = torch.Generator().manual_seed(0)
    tiles = torch.rand(1, 3, height // 5 + 1, width // 5 + 1, generator=generator)
    clear = tiles.repeat_interleave(5, 2).repeat_interleave(5, 3)[:, :, :height, :width]
    clear[:, :, : height // 6] = 1.0  # sky
    depth = torch.linspace(2, 0, height).clamp_min(0)[None, None, :, None].expand(1, 1, height, width)
    t = torch.exp(-beta * depth)
    t[:, :, : height // 6] = 0.01
    return add_haze(clear, t, torch.full((1, 3), 0.9)), clear, t


def test_dark_channel_window_by_window() -> None:
    hazy, _, _ = scene()
    image = np.pad(hazy[0].numpy(), ((0, 0), (2, 2), (2, 2)), mode="reflect")
    slow = np.array([[image[:, r : r + 5, c : c + 5].min() for c in range(80)] for r in range(60)])
    assert np.array_equal(dark_channel(hazy, 2)[0, 0].numpy(), slow)


def test_airlight_is_the_mean_of_the_haziest_pixels() -> None:
    hazy, _, _ = scene()
    dark = dark_channel(hazy, 7)
    chosen = np.argsort(dark[0, 0].numpy().ravel(), kind="stable")[::-1][:4]
    darkest_chosen = dark[0, 0].numpy().ravel()[chosen].min()
    found = airlight_of(hazy, dark, 0.001)[0].numpy()
    assert found == pytest.approx(0.9, abs=0.01)
    assert darkest_chosen == pytest.approx(0.9, abs=0.01)


def test_coarse_transmission_is_one_minus_omega_dark() -> None:
    hazy, _, _ = scene()
    t, airlight = coarse_transmission(blocks_of(hazy, 1), DarkChannelConfig())
    expected = 1 - 0.95 * dark_channel(hazy / airlight[:, :, None, None], 7)
    torch.testing.assert_close(t, expected)


@pytest.mark.parametrize("method", [dark_channel_prior, boundary_constraint, bccr])
def test_haze_is_removed(method: Callable[[torch.Tensor], HazeEstimate]) -> None:
    hazy, clear, t = scene()
    found = method(hazy)
    below = slice(20, None)  # the tiles, without the sky
    before = (hazy - clear)[:, :, below].abs().mean()
    after = (found.clear(hazy) - clear)[:, :, below].abs().mean()
    assert after < 0.55 * before
    assert np.corrcoef(found.transmission[0, 0, below].flatten(), t[0, 0, below].flatten())[0, 1] > 0.7


def test_boundary_keeps_the_clear_image_in_range() -> None:
    hazy, _, _ = scene()
    config = BoundaryConfig()
    airlight = torch.full((1, 3), 0.95)
    t = boundary(hazy, airlight, config)
    clear = (hazy - 0.95) / t.clamp_min(1e-6) + 0.95
    free = (t > 1e-6) & (t < 1)
    assert float(clear.amin(1, keepdim=True)[free].min()) > config.low - 1e-4
    assert float(clear.amax(1, keepdim=True)[free].max()) < config.high + 1e-4


def test_kirsch_masks_are_eight_directions_of_unit_norm() -> None:
    masks = kirsch_filters()
    assert torch.allclose(masks.flatten(1).norm(dim=1), torch.ones(8))
    assert torch.allclose(masks.sum((1, 2, 3)), torch.zeros(8), atol=1e-6)
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 8


def slow_regularize(bound: np.ndarray, hazy: np.ndarray, config: BoundaryConfig) -> np.ndarray:
    """The same minimization with explicit matrices: circular convolutions, and a direct solution of the quadratic step."""
    height, width = bound.shape
    masks = kirsch_filters()[:, 0].double().numpy()
    matrices = []
    for mask in masks:
        matrix = np.zeros((height * width, height * width))
        for row in range(height):
            for column in range(width):
                for i in range(3):
                    for j in range(3):
                        source = ((row - (i - 1)) % height) * width + (column - (j - 1)) % width
                        matrix[row * width + column, source] += mask[i, j]
        matrices.append(matrix)
    weights = [np.exp(-sum((m @ c.ravel()) ** 2 for c in hazy) / (2 * config.sigma)) for m in matrices]
    t, beta = bound.ravel(), 1.0
    for _ in range(ROUNDS):
        right = config.strength / beta * bound.ravel()
        left = config.strength / beta * np.eye(height * width)
        for matrix, weight in zip(matrices, weights, strict=True):
            response = matrix @ t
            u = np.sign(response) * np.maximum(np.abs(response) - weight / (beta * 8), 0)
            right, left = right + matrix.T @ u, left + matrix.T @ matrix
        t, beta = np.linalg.solve(left, right), beta * GROWTH
    result: np.ndarray = np.abs(t).reshape(height, width)
    return result


def test_regularization_equals_a_direct_solver() -> None:
    generator = torch.Generator().manual_seed(1)
    bound = torch.rand(1, 1, 9, 8, generator=generator).double()
    hazy = torch.rand(1, 3, 9, 8, generator=generator).double()
    expected = slow_regularize(bound[0, 0].numpy(), hazy[0].numpy(), BoundaryConfig())
    assert regularize(bound, hazy, BoundaryConfig())[0, 0].numpy() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 3), (33, 50)])
@pytest.mark.parametrize("value", [None, 0.0, 1.0])
def test_any_size_and_constant_images_give_finite_results(
    size: tuple[int, int], value: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    hazy = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    if value is not None:
        hazy[:] = value
    estimates = [dcp(hazy), dcp(hazy, DarkChannelConfig()), bccr(hazy)]
    monkeypatch.setattr(methods, "FULL_SIDE", 12)  # larger images are reduced
    for found in (*estimates, bccr(hazy)):
        clear = found.clear(hazy)
        assert clear.shape == hazy.shape
        assert bool(clear.isfinite().all())
        assert 0 <= float(clear.min()) <= float(clear.max()) <= 1


def test_images_of_a_batch_are_independent() -> None:
    first, _, _ = scene()
    second = scene(beta=0.4)[0].flip(3)
    for method in (dcp, bccr):
        together, alone = method(torch.cat([first, second])), method(second)
        torch.testing.assert_close(together.transmission[1:], alone.transmission, atol=1e-5, rtol=0)
        torch.testing.assert_close(together.airlight[1:], alone.airlight)


def test_full_size_rows_of_table_1_equal_the_published_forms() -> None:
    hazy, _, _ = scene(120, 160)
    for config in (DarkChannelConfig(), GENTLE):
        torch.testing.assert_close(dcp(hazy, config).clear(hazy), dark_channel_prior(hazy, config).clear(hazy))
    torch.testing.assert_close(bccr(hazy).transmission, boundary_constraint(hazy).transmission.clamp_min(methods.SMALLEST))


def test_reduced_images_change_the_result_little(monkeypatch: pytest.MonkeyPatch) -> None:
    hazy, _, _ = scene(120, 160)
    assert float((dark_channel_prior(hazy).transmission - dcp(hazy).transmission).abs().mean()) < 0.12
    whole = bccr(hazy)
    monkeypatch.setattr(methods, "FULL_SIDE", 80)
    assert 0 < float((whole.transmission - bccr(hazy).transmission).abs().mean()) < 0.12


def test_a_perfect_estimate_gives_the_clear_image() -> None:
    hazy, clear, t = scene()
    found = HazeEstimate(t, torch.full((1, 3), 0.9), floor=0.05).clear(hazy)
    torch.testing.assert_close(found[:, :, 15:], clear[:, :, 15:], atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (17, 33), (90, 130), (3, 3000)])
def test_bands_give_the_same_bytes_as_the_whole_image(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "BAND_PIXELS", 2**10)  # several bands
    pixels = torch.randint(0, 256, (*size, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    tensor = pixels.permute(2, 0, 1)[None].float() / 255
    whole = dcp(tensor).clear(tensor)[0].mul(255).round().byte().permute(1, 2, 0)
    made = bands.dark_channel_pixels(pixels)
    assert int((made.int() - whole.int()).abs().max()) <= 1  # one rounds, the other adds 0.5 and truncates
