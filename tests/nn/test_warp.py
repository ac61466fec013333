import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import correlate1d

from latens.nn.warp import gaussian_blur, match_blocks, scale_space_volume, search_motion, warp, warp_volume


def test_blur_equals_a_direct_sum() -> None:
    image = torch.rand(1, 2, 9, 14, generator=torch.Generator().manual_seed(0))
    places = np.arange(-5, 6)
    kernel = np.exp(-0.5 * (places / 1.5) ** 2)
    kernel /= kernel.sum()
    expected = correlate1d(
        correlate1d(image[0].numpy().astype(np.float64), kernel, 1, mode="nearest"), kernel, 2, mode="nearest"
    )
    np.testing.assert_allclose(gaussian_blur(image, 1.5)[0].numpy(), expected, atol=1e-6)


def test_volume_goes_from_sharp_to_blurred() -> None:
    image = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    volume = torch.stack(scale_space_volume(image, 4), dim=1)
    assert volume.shape == (2, 5, 3, 32, 48)
    assert torch.equal(volume[:, 0], image)
    torch.testing.assert_close(volume[:, 1], gaussian_blur(image, 1.5))
    half = gaussian_blur(F.avg_pool2d(volume[:, 1], 2), 1.5)
    torch.testing.assert_close(volume[:, 2], F.interpolate(half, scale_factor=2.0, mode="bilinear", align_corners=False))
    spread = volume.var((0, 2, 3, 4))
    assert bool((spread[1:] < spread[:-1]).all())
    constant = torch.stack(scale_space_volume(torch.full((1, 3, 16, 16), 0.3), 3))
    torch.testing.assert_close(constant, torch.full_like(constant, 0.3))


def trilinear(volume: np.ndarray, x: float, y: float, s: float) -> np.ndarray:
    """Sample of the volume (K, C, H, W) at a point with replicated borders: the sum over the eight corners."""
    levels, _, height, width = volume.shape
    x, y, s = min(max(x, 0), width - 1), min(max(y, 0), height - 1), min(max(s, 0), levels - 1)
    total = np.zeros(volume.shape[1])
    for k in (math.floor(s), math.floor(s) + 1):
        for i in (math.floor(y), math.floor(y) + 1):
            for j in (math.floor(x), math.floor(x) + 1):
                weight = (1 - abs(s - k)) * (1 - abs(y - i)) * (1 - abs(x - j))
                total += weight * volume[min(k, levels - 1), :, min(i, height - 1), min(j, width - 1)]
    return total


def test_warp_equals_a_loop_over_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    volume = torch.rand(2, 4, 3, 7, 9, generator=generator)
    flow = 3 * torch.randn(2, 2, 7, 9, generator=generator)
    scale = 1.5 + 2 * torch.randn(2, 1, 7, 9, generator=generator)
    found = warp_volume(volume.unbind(1), flow, scale).numpy()
    for b in range(2):
        for row in range(7):
            for column in range(9):
                dx, dy = flow[b, :, row, column].tolist()
                expected = trilinear(volume[b].numpy(), column + dx, row + dy, float(scale[b, 0, row, column]))
                np.testing.assert_allclose(found[b, :, row, column], expected, atol=2e-5)


def test_no_motion_at_scale_zero_is_the_identity() -> None:
    image = torch.rand(1, 3, 16, 24)
    still = torch.zeros(1, 3, 16, 24)
    torch.testing.assert_close(warp_volume(scale_space_volume(image, 3), still[:, :2], still[:, 2:]), image)


def test_scale_returns_from_outside_its_range() -> None:
    volume = scale_space_volume(torch.rand(1, 3, 16, 16), 2)
    for start in (-1.0, 3.0):
        scale = torch.full((1, 1, 16, 16), start, requires_grad=True)
        target = volume[1]
        (warp_volume(volume, torch.zeros(1, 2, 16, 16), scale) - target).square().sum().backward()
        assert scale.grad is not None
        assert bool((scale.grad * (start - 1) > 0).any())


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (3, -2), (-4, 4)])
def test_block_matching_finds_a_shift(dx: int, dy: int) -> None:
    rng = np.random.default_rng(0)
    scene = gaussian_blur(torch.from_numpy(rng.random((1, 3, 60, 60))).float(), 1.0)
    reference, current = scene[:, :, 10:50, 10:50], scene[:, :, 10 + dy : 50 + dy, 10 + dx : 50 + dx]
    found = match_blocks(current, reference, 4)[:, :, 8:-8, 8:-8]
    torch.testing.assert_close(found.round(), torch.tensor([dx, dy]).float()[:, None, None].expand_as(found[0])[None])


def test_block_matching_finds_fractions() -> None:
    scene = gaussian_blur(torch.rand(1, 1, 48, 48, generator=torch.Generator().manual_seed(1)), 1.5)
    flow = torch.tensor([1.3, -0.6])[None, :, None, None].expand(1, 2, 48, 48)
    found = match_blocks(warp(scene, flow), scene, 3)[:, :, 8:-8, 8:-8]
    error = (found - flow[:, :, 8:-8, 8:-8]).abs().mean((0, 2, 3))
    assert float(error.max()) < 0.2  # whole pixels would be off by 0.3 and 0.4


def test_search_from_coarse_to_fine_finds_a_long_shift() -> None:
    scene = gaussian_blur(torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(2)), 3.0)
    reference, current = scene[:, :, 32:128, 32:128], scene[:, :, 15:111, 53:149]
    found = search_motion(current, reference, 4)[:, :, 16:-16, 16:-16]
    assert found.shape == (1, 2, 16, 16)
    error = (found - torch.tensor([21.0, -17.0])[:, None, None]).abs()
    assert float(error.median()) < 0.5


def test_flat_areas_have_zero_flow() -> None:
    assert not bool(match_blocks(torch.full((1, 3, 12, 12), 0.5), torch.full((1, 3, 12, 12), 0.5), 3).any())


def test_gradients_reach_every_image_of_a_batch_and_every_level() -> None:
    """Scales beyond the first blurred image, in more than one image."""
    torch.manual_seed(0)
    volume = [torch.rand(2, 3, 6, 7, requires_grad=True) for _ in range(4)]
    flow = torch.rand(2, 2, 6, 7, requires_grad=True)
    scale = torch.linspace(0.1, 2.9, 42).reshape(1, 1, 6, 7).repeat(2, 1, 1, 1).requires_grad_()
    warp_volume(volume, flow, scale).square().sum().backward()
    for tensor in (*volume, flow, scale):
        assert tensor.grad is not None
        assert bool(tensor.grad.flatten(1).any(1).all())
