"""The start of recipe `cpu_fine`: kernels of blocks of 4 x 4 pixels on images of half the size."""

from __future__ import annotations

import runpy
from pathlib import Path

import torch
import torch.nn.functional as F

from latens.systems.haze.simulator.streets import street

START = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "haze_start.py"))


def test_kernels_of_half_the_size_respond_alike() -> None:
    image = torch.from_numpy(street(0, (192, 256)).image).permute(2, 0, 1)[None].float() / 255
    image = F.avg_pool2d(image, 5, 1, 2)  # a kernel of half the size sees no detail of two pixels
    trained = torch.randn(16, 48, 3, 3, generator=torch.Generator().manual_seed(0)) / 20
    before = F.conv2d(F.pixel_unshuffle(image, 4), trained, padding=1)
    after = F.conv2d(F.pixel_unshuffle(F.avg_pool2d(image, 2), 2), START["finer"](trained), padding=1)
    assert before.shape == after.shape
    before, after = before[:, :, 1:-1, 1:-1], after[:, :, 1:-1, 1:-1]
    assert (before - after).square().mean() < 0.05 * before.square().mean()


def test_the_last_layer_gives_the_mean_of_its_former_samples() -> None:
    bias = torch.arange(16.0)
    samples = F.pixel_shuffle(bias[None, :, None, None], 4)
    assert torch.equal(F.pixel_shuffle(START["merged"](bias)[None, :, None, None], 2), F.avg_pool2d(samples, 2))
