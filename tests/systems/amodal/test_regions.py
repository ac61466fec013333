"""Region features equal those of torchvision."""

from __future__ import annotations

import torch
from torchvision.ops import roi_align

from latens.systems.amodal.heads import align, pool_regions


def test_dense_pooling_equals_roi_align_and_so_do_its_gradients() -> None:
    torch.manual_seed(0)
    features = torch.randn(3, 8, 20, 30, requires_grad=True)
    corners = torch.rand(40, 2) * 120 - 20  # some boxes lie partly or wholly outside
    boxes = torch.cat((torch.randint(3, (40, 1)).sort(dim=0)[0], corners, corners + torch.rand(40, 2) * 80), dim=1)
    found, expected = align(features, boxes, 7, 0.25), roi_align(features, boxes, 7, 0.25, 2, aligned=True)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    upstream = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad((out * upstream).sum(), features)[0] for out in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_every_region_uses_the_level_of_its_size_and_order_is_kept() -> None:
    pyramid = [torch.full((2, 1, 128 // 2**level, 128 // 2**level), float(level)) for level in range(4)]
    sides = (16.0, 500.0, 112.0, 250.0)
    boxes = [torch.tensor([[0, 0, side, side] for side in sides]), torch.tensor([[0.0, 0.0, 20.0, 20.0]])]
    found = pool_regions(pyramid, (4, 8, 16, 32), boxes, 2)
    assert found.mean(dim=(1, 2, 3)).tolist() == [0.0, 3.0, 1.0, 2.0, 0.0]


def test_zero_regions_are_accepted() -> None:
    assert pool_regions([torch.zeros(1, 5, 8, 8)], (4,), [torch.zeros(0, 4)], 7).shape == (0, 5, 7, 7)
