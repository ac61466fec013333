"""The baselines of Table 1 of Li et al. 2019 on tiny inputs: He, Meng and DehazeNet against NumPy, UNIT and CycleGAN golden."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.paper_values import filled
from torch import nn

from latens.nn import filters
from latens.systems.haze import methods, recipes
from latens.systems.haze.baselines import boundary, dark_channel, dehazenet
from latens.systems.haze.baselines.boundary import BoundaryConfig
from latens.systems.haze.baselines.dark_channel import DarkChannelConfig, blocks_of
from latens.systems.haze.baselines.dehazenet import DehazeNet
from latens.systems.haze.config import DiscriminatorConfig, TranslationLossConfig, TranslatorConfig
from latens.systems.haze.model import Domain, HazeTranslator
from latens.systems.haze.objective import TranslationObjective

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def photograph(height: int = 18, width: int = 22) -> np.ndarray:
    """A seeded image (3, H, W) in [0.1, 0.95], brighter at the top."""
    noise = np.random.default_rng(3).random((3, height, width))
    return (0.1 + 0.5 * noise + 0.35 * np.linspace(1, 0, height)[:, None]).astype(np.float32)


def window_minimum(image: np.ndarray, radius: int) -> np.ndarray:
    """Minimum over a square window, cut off at the border, of (H, W)."""
    height, width = image.shape
    return np.array(
        [
            [image[max(r - radius, 0) : r + radius + 1, max(c - radius, 0) : c + radius + 1].min() for c in range(width)]
            for r in range(height)
        ]
    )


def window_mean(image: np.ndarray, radius: int) -> np.ndarray:
    """Mean over a square window of (H, W), whose edge samples are repeated."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(image, radius, mode="edge"), (2 * radius + 1,) * 2)
    found: np.ndarray = windows.mean((2, 3))
    return found


def test_he() -> None:
    """He et al. 2009: window 15, omega 0.95, airlight of the haziest pixel, guided filter of radius 30, t at least 0.1."""
    image = photograph()
    hazy = torch.from_numpy(image)[None]
    found = methods.refine(methods.dark_channel(blocks_of(hazy, 1), DarkChannelConfig()), hazy)
    dark = window_minimum(image.min(0), 7)
    haziest = image[:, np.isclose(dark, dark.max())].T  # equal minima leave a choice
    airlight = found.airlight[0].numpy()
    assert np.isclose(haziest, airlight, atol=1e-6).all(1).any()
    coarse = 1 - 0.95 * window_minimum((image / airlight[:, None, None]).min(0), 7)
    gray = np.tensordot(LUMA, image.astype(np.float64), 1)
    means = [window_mean(values, 30) for values in (gray, coarse, gray * gray, gray * coarse)]
    slope = (means[3] - means[0] * means[1]) / (means[2] - means[0] ** 2 + 1e-4)
    offset = means[1] - slope * means[0]
    t = np.clip(window_mean(slope, 30) * gray + window_mean(offset, 30), 1e-3, 1)
    np.testing.assert_allclose(found.transmission[0, 0].numpy(), t, atol=1e-4)
    clear = np.clip((image - airlight[:, None, None]) / np.maximum(t, 0.1) + airlight[:, None, None], 0, 1)
    np.testing.assert_allclose(found.clear(hazy)[0].numpy(), clear, atol=2e-3)
    assert (filters.LUMA, methods.SMALLEST, DarkChannelConfig().brightest) == (tuple(LUMA), 1e-3, 0.001)


def test_meng() -> None:
    """Meng et al. 2013: C0 = 20, C1 = 300 of 255, closing, half-quadratic splitting, t^0.85. With dense matrices."""
    image = photograph(7, 6).astype(np.float64)
    hazy = torch.from_numpy(image)[None]
    found, airlight = boundary.solve(hazy, BoundaryConfig())
    a = image.min((1, 2))  # the window of 15 is larger than the image
    assert airlight[0].tolist() == pytest.approx(a.tolist())
    below = (a[:, None, None] - image) / np.maximum(a[:, None, None] - 20 / 255, 1e-4)
    above = (image - a[:, None, None]) / (300 / 255 - a[:, None, None])
    bound = np.clip(np.maximum(below, above).max(0), 0, 1)
    closed = window_minimum(-window_minimum(-bound, 1), 1)
    smooth = np.abs(regularized(closed, image))
    expected = np.clip(smooth, 1e-4, 1) ** 0.85
    np.testing.assert_allclose(found[0, 0].numpy(), expected, rtol=1e-4, atol=1e-5)


def regularized(bound: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Minimizer of 1 |t - bound|^2 + sum_k |W_k D_k t|_1 by six rounds of shrinkage and a linear system."""
    shape = bound.shape
    ring = [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0)]
    masks = []
    for first in range(8):
        mask = np.full((3, 3), -3.0)
        mask[1, 1] = 0
        for step in range(3):
            mask[ring[(first + step) % 8]] = 5
        masks.append(mask / np.linalg.norm(mask))
    operators = [matrix_of(mask, shape) for mask in masks]
    weights = [np.exp(-sum((op @ color.ravel()) ** 2 for color in image) / (2 * 0.5)) for op in operators]
    t, beta = bound.ravel(), 1.0
    for _ in range(6):
        share = 2.0 / beta
        right, left = share * bound.ravel(), share * np.eye(bound.size)
        for op, weight in zip(operators, weights, strict=True):
            response = op @ t
            shrunk = np.sign(response) * np.maximum(np.abs(response) - weight / (8 * beta), 0)
            right, left = right + op.T @ shrunk, left + op.T @ op
        t, beta = np.linalg.solve(left, right), beta * 2 * np.sqrt(2)
    return t.reshape(shape)


def matrix_of(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Convolution with a 3 x 3 mask and circular borders, as a matrix."""
    height, width = shape
    found = np.zeros((height * width, height * width))
    for row in range(height):
        for column in range(width):
            for i in range(3):
                for j in range(3):
                    source = ((row - i + 1) % height) * width + (column - j + 1) % width
                    found[row * width + column, source] += mask[i, j]
    return found


def convolved(x: np.ndarray, layer: nn.Module, margin: int = 0) -> np.ndarray:
    """A convolution (C, h, w) -> (D, h', w') with zero padding."""
    assert isinstance(layer, nn.Conv2d)
    assert layer.bias is not None
    kernel = layer.weight.detach().double().numpy()
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(x, ((0, 0), (margin,) * 2, (margin,) * 2)), kernel.shape[2:], (1, 2)
    )
    found: np.ndarray = np.einsum("chwij,dcij->dhw", windows, kernel) + layer.bias.detach().double().numpy()[:, None, None]
    return found


def test_dehazenet() -> None:
    """Cai et al. 2016, Table 1: 5 x 5 filters with maxout of four, kernels 3, 5 and 7, a local maximum of 7 x 7, 6 x 6."""
    net = filled(DehazeNet())
    image = photograph(16, 17)
    x = convolved(image - 0.5, net.features)
    x = x.reshape(4, 4, *x.shape[1:]).max(1)
    several = [convolved(x, scale, side // 2) for scale, side in zip(net.scales, (3, 5, 7), strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(np.concatenate(several), (7, 7), (1, 2))
    expected = convolved(windows.max((3, 4)), net.head)
    found = net(torch.from_numpy(image)[None])[0].detach().numpy()
    assert found.shape == (1, 1, 2)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    # Airlight: the brightest pixel among the 1 % of smallest t.
    t = torch.arange(1.0, 0.0, -1 / 300).view(1, 1, 15, 20)
    hazy = torch.rand(1, 3, 15, 20, generator=torch.Generator().manual_seed(1))
    haziest = hazy.flatten(2)[0, :, -3:]
    brightest = np.tensordot(LUMA, haziest.numpy(), 1).argmax()
    assert torch.equal(net.airlight(hazy, t)[0], haziest[:, brightest].clamp_min(0.05))
    assert (dehazenet.REFINE_RADIUS, dehazenet.REFINE_EPSILON, dehazenet.FLOOR) == (50, 1e-3, 0.1)


def test_constants_of_the_classical_baselines() -> None:
    he = DarkChannelConfig()
    assert (he.patch, he.omega, he.brightest, he.floor) == (15, 0.95, 0.001, 0.1)  # He et al. 2009, sections 4.1 to 4.4
    assert (he.radius, he.epsilon, he.shrink) == (30, 1e-4, 1)  # ours
    assert dark_channel.GENTLE == DarkChannelConfig(patch=7, omega=0.6, epsilon=1e-3)  # ours
    assert BoundaryConfig() == BoundaryConfig(
        low=20 / 255, high=300 / 255, window=15, closing=3, sigma=0.5, strength=2.0, exponent=0.85
    )  # Meng et al. 2013, section 4, and their code
    assert boundary.ROUNDS == 6
    assert pytest.approx(2 * 2**0.5) == boundary.GROWTH
    assert (dehazenet.PATCH, dehazenet.GROUPS, dehazenet.HAZIEST) == (16, 4, 0.01)  # Cai et al. 2016


GOLDEN = {"unit": (1.01314, 17.49093), "cyclegan": (1.24478, 13.63773), "mmd": (1.01314, 17.43188)}
"""Losses of the discriminators and of the generators."""


@pytest.mark.parametrize("kind", GOLDEN)
def test_translators(kind: str) -> None:
    """Mean dehazed and hazed image, and both losses without noise, of networks with fixed weights; measured once."""
    config = {"unit": recipes.cpu_unit, "cyclegan": recipes.cpu_cyclegan, "mmd": recipes.cpu_mmd}[kind]()
    assert isinstance(config.model, TranslatorConfig)
    assert isinstance(config.objective, TranslationLossConfig)
    norm = config.model.discriminator.norm
    sizes = DiscriminatorConfig(channels=3, scales=1, layers=2, norm=norm)
    model = filled(HazeTranslator(TranslatorConfig(kind=config.model.kind, channels=3, blocks=1, discriminator=sizes)))
    hazy, clear = (torch.from_numpy(photograph(16, 16))[None] ** power for power in (0.5, 1.0))
    moves: list[tuple[torch.Tensor, Domain]] = [(hazy, "clear"), (clear, "hazy")]
    torch.manual_seed(0)
    with torch.no_grad():
        images = [float(model.translate(image, to).double().mean()) for image, to in moves]
    losses = [
        float(step.loss.detach()) for step in TranslationObjective(config.objective)(model, {"hazy": hazy, "clear": clear}, 0)
    ]
    assert images == pytest.approx([0.46316, 0.50958], rel=1e-3)
    assert losses == pytest.approx(GOLDEN[kind], rel=2e-3)


@torch.no_grad()
def test_windows_of_dehazenet() -> None:
    """Every pixel has a window of 16 x 16, seven before it and eight after; the output is limited to [0, 1]."""
    torch.manual_seed(0)
    net = DehazeNet().eval()
    for shape, mode in (((1, 3, 20, 24), "reflect"), ((1, 3, 8, 30), "replicate")):
        hazy = torch.rand(shape)
        padded = nn.functional.pad(hazy, (7, 8, 7, 8), mode=mode)
        torch.testing.assert_close(net.windows(hazy), net(padded).clamp(0, 1))
        assert net.windows(hazy).shape == (1, 1, *shape[2:])
    for bias, limit in ((9.0, 1.0), (-9.0, 0.0)):
        nn.init.constant_(net.head.bias, bias)  # type: ignore[arg-type]
        assert float(net.windows(torch.rand(1, 3, 20, 20)).mean()) == limit


def test_airlight_of_visible_pixels() -> None:
    """The brightest of the haziest one percent, at least one pixel; hidden pixels do not count, black ones give 0.05."""
    hazy, t = torch.full((1, 3, 20, 20), 0.5), torch.full((1, 1, 20, 20), 0.9)
    for place, (color, haze) in enumerate(((0.95, 0.1), (0.7, 0.2), (0.8, 0.3), (0.9, 0.4), (1.0, 0.5))):
        hazy[0, :, 0, place], t[0, 0, 0, place] = color, haze
    net = DehazeNet()
    assert net.airlight(hazy, t)[0].tolist() == pytest.approx([0.95] * 3)
    visible = torch.ones(1, 1, 20, 20, dtype=torch.bool)
    visible[0, 0, 0, 0] = False
    assert net.airlight(hazy, t, visible)[0].tolist() == pytest.approx([1.0] * 3)
    assert net.airlight(torch.zeros(1, 3, 4, 4), torch.ones(1, 1, 4, 4))[0].tolist() == pytest.approx([0.05] * 3)
