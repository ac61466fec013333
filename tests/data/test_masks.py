"""Exact crops, round trips of pastes, and COCO's run-length codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latens.data import masks as masks_module
from latens.data.masks import (
    area,
    boxes_of,
    complement,
    corner_box,
    crop,
    decode,
    encode,
    intersection,
    overlapping_pairs,
    overlaps,
    paste,
    read_segmentation,
    window_of,
)
from latens.errors import InputError, LimitExceeded


def blobs(n: int, size: int, seed: int) -> np.ndarray:
    """(n, size, size) bool: wavy discs of various sizes and positions."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:size, 0:size] + 0.5
    masks = []
    for _ in range(n):
        cy, cx = rng.uniform(0.3, 0.7, 2) * size
        radius = rng.uniform(0.12, 0.28) * size
        angle = np.arctan2(rows - cy, columns - cx)
        outline = radius * (1 + 0.15 * np.cos(3 * angle + rng.uniform(0, 6)) + 0.1 * np.cos(2 * angle + rng.uniform(0, 6)))
        masks.append(np.hypot(rows - cy, columns - cx) < outline)
    return np.stack(masks)


def test_crop_is_exact_area_coverage() -> None:
    # A 4 x 4 mask with the left half filled; cells of 1.5 x 2 pixels.
    mask = torch.zeros(1, 4, 4)
    mask[0, :, :2] = 1
    found = crop(mask, torch.tensor([[1.0, 0.0, 4.0, 4.0]]), 2)
    # First column of cells covers x in [1, 2.5): one of 1.5 pixels is filled.
    torch.testing.assert_close(found, torch.tensor([[[1 / 1.5, 0.0], [1 / 1.5, 0.0]]]))


def test_crop_equals_a_brute_force_mean() -> None:
    rng = np.random.default_rng(0)
    mask = torch.from_numpy(rng.random((1, 12, 12)) > 0.5).float()
    fine = mask.repeat_interleave(60, 1).repeat_interleave(60, 2)  # 60 samples per pixel
    box = torch.tensor([[1.5, 2.0, 9.0, 11.0]])
    rows, columns = slice(2 * 60, 11 * 60), slice(90, 9 * 60)
    expected = fine[0, rows, columns].reshape(6, 90, 6, 75).mean((1, 3))
    torch.testing.assert_close(crop(mask, box, 6)[0], expected)


def test_outside_the_image_is_empty() -> None:
    found = crop(torch.ones(1, 4, 4), torch.tensor([[-4.0, 0.0, 4.0, 4.0]]), 2)
    torch.testing.assert_close(found, torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]))


@pytest.mark.parametrize(("size", "least"), [(28, 0.985), (56, 0.993)])
def test_crop_and_paste_round_trip(size: int, least: float) -> None:
    masks = torch.from_numpy(blobs(12, 300, seed=1))
    boxes = boxes_of(masks)
    jitter = torch.empty_like(boxes).uniform_(-9.7, 9.7, generator=torch.Generator().manual_seed(0)).abs()
    boxes = boxes + jitter * torch.tensor([-1.0, -1.0, 1.0, 1.0])
    back = paste(crop(masks, boxes, size), boxes, (300, 300)) > 0.5
    iou = (back & masks).sum((1, 2)) / (back | masks).sum((1, 2))
    assert float(iou.min()) > least
    # No shift: the centroids stay within a tenth of a pixel.
    axis = torch.arange(300.0)
    for a, b in zip(masks.float(), back.float(), strict=True):
        for dim in (0, 1):
            moved = (a.sum(dim) * axis).sum() / a.sum() - (b.sum(dim) * axis).sum() / b.sum()
            assert abs(float(moved)) < 0.1


def test_windows_are_tight() -> None:
    for mask in blobs(4, 40, 0):
        window = window_of(mask)
        assert mask[window].sum() == mask.sum()
        assert all(line.any() for edges in (mask[window], mask[window].T) for line in (edges[0], edges[-1]))
    assert window_of(np.zeros((3, 4), dtype=bool)) == (slice(0, 1), slice(0, 1))


def test_boxes_are_tight() -> None:
    masks = torch.zeros(3, 5, 7)
    masks[0, 1:4, 2:6] = 1
    masks[1, 4, 6] = 1
    assert boxes_of(masks).tolist() == [[2, 1, 6, 4], [6, 4, 7, 5], [0, 0, 0, 0]]


def test_run_length_codes_are_lossless() -> None:
    masks = blobs(3, 60, seed=2)
    codes = [encode(mask) for mask in masks]
    assert all(np.array_equal(decode(code), mask) for code, mask in zip(codes, masks, strict=True))
    assert [area(code) for code in codes] == masks.sum((1, 2)).tolist()
    x, y, width, height = corner_box(codes[0])
    assert boxes_of(torch.from_numpy(masks))[0].tolist() == [x, y, x + width, y + height]
    expected = (masks[:, None] & masks[None]).sum((2, 3)) / (masks[:, None] | masks[None]).sum((2, 3))
    np.testing.assert_allclose(overlaps(codes, codes), expected)
    assert overlaps([], codes).shape == (0, 3)


def test_differences_and_pairs_equal_those_of_dense_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = blobs(6, 60, seed=4)
    masks = np.concatenate([masks, np.zeros_like(masks[:1]), np.ones_like(masks[:1])])
    codes = [encode(mask) for mask in masks]
    for front, code in zip(masks, codes, strict=True):
        assert complement(code) == encode(~front)
        assert intersection(codes[0], complement(code)) == encode(masks[0] & ~front)
    zeros = encode(np.zeros((4, 5), bool)) | {"counts": "000d0"}  # runs of 0 pixels before the one of 20
    assert np.array_equal(decode(complement(zeros)), ~decode(zeros))
    pairs = [(a, b) for a in range(8) for b in range(a + 1, 8) if (masks[a] & masks[b]).any()]
    assert list(overlapping_pairs(codes)) == pairs
    assert 0 < len(pairs) < 28
    assert list(overlapping_pairs([])) == []
    monkeypatch.setattr(masks_module, "MAX_OVERLAPS", len(pairs) - 1)
    with pytest.raises(LimitExceeded, match="overlap in one image"):
        list(overlapping_pairs(codes))


def test_all_forms_of_segmentation_are_read() -> None:
    square = np.zeros((8, 9), dtype=bool)
    square[2:6, 3:7] = True
    flat = [3.0, 2.0, 7.0, 2.0, 7.0, 6.0, 3.0, 6.0]
    unpacked = {"size": [8, 9], "counts": [26, 4, 4, 4, 4, 4, 4, 4, 18]}
    for value in (flat, [flat], encode(square), unpacked):
        assert np.array_equal(decode(read_segmentation(value, (8, 9))), square)
    assert area(read_segmentation([], (8, 9))) == 0


@pytest.mark.parametrize(
    "value", ["text", [[1.0, 2.0]], 3, {"size": [9, 8], "counts": "abc"}, {"size": [8, 9], "counts": "abc"}]
)
def test_other_segmentations_are_refused(value: object) -> None:
    with pytest.raises(InputError):
        read_segmentation(value, (8, 9))
