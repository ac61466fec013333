"""Simulated scenes and part IoU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latens.errors import UsageError
from latens.systems.parts.discovery import (
    Discovery,
    best_thresholds,
    discover,
    intersections,
    mean_iou,
    part_iou,
    shift_and_interleave,
)
from latens.systems.parts.predict import Parts
from latens.systems.parts.simulator import COLORS, KINDS, simulate_scenes
from latens.systems.parts.statistics import Tally


def test_scenes_are_a_function_of_seed_and_number() -> None:
    few, more = simulate_scenes(2, size=32, seed=3), simulate_scenes(4, size=32, seed=3)
    assert np.array_equal(few.images, more.images[:2])
    assert np.array_equal(few.masks, more.masks[:2])
    assert not np.array_equal(few.images, simulate_scenes(2, size=32, seed=4).images)
    assert not np.array_equal(more.images[0], more.images[1])


def test_motifs_have_their_color_and_do_not_overlap() -> None:
    scenes = simulate_scenes(60, size=48, kinds=len(KINDS), seed=0)
    assert scenes.masks.any((1, 2, 3)).all()
    assert scenes.masks.sum(1).max() == 1
    for kind, color in enumerate(COLORS):
        inside = scenes.images.transpose(0, 3, 1, 2)[:, :, :, :].swapaxes(0, 1)[:, scenes.masks[:, kind]] / 255
        bright = inside[:, inside.max(0) > 0.5].mean(1)
        assert np.abs(bright - color).max() < 0.15, KINDS[kind]


@pytest.mark.parametrize(("kinds", "size"), [(0, 64), (7, 64), (3, 8)])
def test_impossible_scenes_are_refused(kinds: int, size: int) -> None:
    with pytest.raises(UsageError):
        simulate_scenes(1, size=size, kinds=kinds)


def test_part_iou_uses_areas_and_one_part_per_kind() -> None:
    known = np.zeros((2, 2, 4, 4), bool)
    known[0, 0, :2, :2] = True  # four pixels
    known[1, 1, 2:, :] = True  # eight pixels
    found = np.zeros((2, 3, 4, 4), bool)
    found[0, 2, :2, :3] = True  # six pixels: four of kind 0
    found[1, 0, 3:, :] = True  # four pixels, all of kind 1
    found[1, 1, 2:, :2] = True  # four pixels of kind 1, which is matched with the better part
    found[0, 1, 0, 0] = True
    matches = part_iou(found, known)
    assert [match.kind for match in matches] == [0, 1]
    assert [match.iou for match in matches] == pytest.approx([4 / 6, 4 / 8])
    assert [match.purity for match in matches] == pytest.approx([4 / 6, 1])
    assert mean_iou(matches, 2) == pytest.approx((4 / 6 + 1 / 2) / 2)
    assert mean_iou(matches, 4) == pytest.approx((4 / 6 + 1 / 2) / 4)


def test_thresholds_maximize_the_iou_of_each_part() -> None:
    masks = np.zeros((1, 1, 8, 8), bool)
    masks[0, 0, 2:6, 2:6] = True
    maps = np.where(masks, 0.75, 0.45).astype(np.float32)
    weak = np.where(masks, 0.35, 0.25).astype(np.float32)
    thresholds = best_thresholds(np.concatenate([maps, weak], axis=1), masks)
    assert 0.45 <= thresholds[0] < 0.75
    assert 0.25 <= thresholds[1] < 0.35


@pytest.mark.parametrize("stride", [4, 8])
def test_interleaved_cells_are_at_their_positions(stride: int) -> None:
    row, column = torch.meshgrid(torch.arange(32.0), torch.arange(24.0), indexing="ij")
    positions = torch.stack([row, column, row + column])[None]
    found = shift_and_interleave(lambda image: torch.nn.functional.avg_pool2d(image, stride), positions, stride)
    assert found.shape == (1, 3, 64 // stride, 48 // stride)
    middles = torch.arange(32 // (stride // 2)) * stride / 2 + stride / 4 - 0.5
    inner = slice(1, -1)  # border cells include the reflection
    assert torch.allclose(found[0, 0, inner, 2], middles[inner])
    assert torch.allclose(found[0, 1, 2, inner], middles[: 48 // stride][inner])


def test_discovery_of_both_kinds_of_model(parts: Parts, vae: Parts) -> None:
    tuning, scored = simulate_scenes(12, size=16, kinds=2, seed=1), simulate_scenes(12, size=16, kinds=2, seed=2)
    for model in (parts, vae):
        found = discover(model, tuning, scored)
        assert len(found.matches) == 2
        assert 0 <= found.iou <= 1
        assert 0 <= found.purity <= 1
        assert found.matches == discover(model, tuning, scored).matches


def test_perfect_maps_score_one() -> None:
    scored = simulate_scenes(6, size=16, kinds=3, seed=2)
    found = Discovery.of(part_iou(scored.masks[:, ::-1], scored.masks), 3)
    assert found.iou == found.purity == 1
    assert [match.part for match in found.matches] == [2, 1, 0]


def test_tally_counts_active_parts() -> None:
    q = torch.zeros(4, 3, 2, 2)
    q[0, 0, 0, 0] = 0.9
    q[:, 1] = 0.25
    tally = Tally()
    tally.add(q, torch.ones(4, 3), torch.full((4, 3), 2.0))
    tally.add(q, torch.ones(4, 3), torch.full((4, 3), 4.0))
    found = tally.statistics()
    assert found.share == [0.25, 0, 0]
    assert found.occupancy == pytest.approx([0.9 / 16, 0.25, 0])
    assert (found.active, found.kl_app[0], found.kl_occ[2]) == (1, 1, 3)
    with pytest.raises(ValueError, match="no images"):
        Tally().statistics()


def test_part_iou_by_hand() -> None:
    """Two parts and three kinds over two images: areas are summed, the mean is largest, one kind is unmatched."""
    known, found = np.zeros((2, 3, 4, 4), bool), np.zeros((2, 2, 4, 4), bool)
    known[0, 0, :2], known[1, 0, :1] = True, True  # 12 pixels
    known[0, 1, 2:] = True  # 8
    known[1, 2, 3:] = True  # 4
    found[0, 0, 2:], found[1, 0, 3:] = True, True  # 12: all of kind 1 and of kind 2
    found[0, 1, :1], found[1, 1, :2] = True, True  # 12: 8 of kind 0
    overlap, of_parts, of_kinds = intersections(found, known)
    assert overlap.tolist() == [[0, 8, 4], [8, 0, 0]]
    assert (of_parts.tolist(), of_kinds.tolist()) == ([12, 12], [12, 8, 4])
    matches = part_iou(found, known)
    assert [(match.kind, match.part) for match in matches] == [(0, 1), (1, 0)]
    assert [match.iou for match in matches] == pytest.approx([8 / 16, 8 / 12])
    assert [match.purity for match in matches] == pytest.approx([8 / 12, 8 / 12])
    whole = Discovery.of(matches, 3)
    assert (whole.iou, whole.purity) == pytest.approx(((8 / 16 + 8 / 12) / 3, 8 / 12))
    assert Discovery.of([], 3)[1:] == (0, 0)


def test_thresholds_by_hand() -> None:
    """The largest IoU with any kind; among equal ones the smallest threshold, and 0.1 for a part without overlap."""
    masks = np.zeros((1, 2, 2, 4), bool)
    masks[0, 0, 0], masks[0, 1, 1, :2] = True, True
    maps = np.zeros((1, 3, 2, 4), np.float32)
    maps[0, 0] = [[0.75, 0.75, 0.55, 0.55], [0.52, 0, 0, 0]]  # 4 of 5 up to 0.5, then 2 of 4
    maps[0, 1] = [[0.3, 0, 0, 0], [0.97, 0.96, 0, 0]]
    assert best_thresholds(maps, masks).tolist() == pytest.approx([0.1, 0.3, 0.1])
    maps[0, 0, 1, 0] = 0.45
    maps[0, 1, 0, 0] = 0.95
    assert best_thresholds(maps, masks).tolist() == pytest.approx([0.5, 0.95, 0.1])
