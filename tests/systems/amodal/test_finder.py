"""The search for an embryo that fills a part of the image, and the simulated surroundings that it is tested on."""

from __future__ import annotations

import numpy as np
import pytest

from latens.data.source import parse_source
from latens.errors import UsageError
from latens.systems.amodal.config import EmbryoConfig
from latens.systems.amodal.dataset import open_source
from latens.systems.amodal.finder import FILLED, Boxes, Window, centered, find_embryo, grouped, textured
from latens.systems.amodal.predict import AmodalSegmenter, load
from latens.systems.amodal.simulator.embryos import embryo
from latens.systems.amodal.simulator.surroundings import surrounded

TWO = ((0.2, 0.3, 0.5, 0.6), (0.4, 0.3, 0.7, 0.6))  # two cells that touch
SQUARE = (1.0, 1.0)


@pytest.fixture(scope="module")
def segmenter() -> AmodalSegmenter:
    found = load("embryo", device="cpu", threads=1)
    assert isinstance(found, AmodalSegmenter)
    return found


def boxes(*corners: tuple[float, ...], scores: float = 1.0) -> Boxes:
    return Boxes(np.array(corners).reshape(-1, 4), np.full(len(corners), scores), SQUARE)


def test_a_group_is_of_touching_cells() -> None:
    found = grouped(boxes(*TWO, (0.8, 0.8, 0.9, 0.9)))
    assert found is not None
    assert found.box == pytest.approx((0.2, 0.3, 0.7, 0.6))
    assert found.covered == pytest.approx(0.3 / 0.5, abs=0.02)
    assert not found.cut
    assert grouped(boxes(TWO[0], (0.8, 0.8, 0.9, 0.9))) is None
    assert grouped(boxes(*TWO, scores=0.4)) is None


def test_cells_at_the_border_and_gaps_lower_the_quality() -> None:
    inside, cut = grouped(boxes(*TWO)), grouped(boxes(*((x0 - 0.2, y0, x1 - 0.2, y1) for x0, y0, x1, y1 in TWO)))
    assert inside is not None
    assert cut is not None
    assert cut.quality < 0.5 * inside.quality
    gap = grouped(boxes((0.1, 0.1, 0.3, 0.2), (0.2, 0.1, 0.3, 0.8), (0.1, 0.7, 0.8, 0.8)))
    assert gap is not None
    assert gap.sound < inside.sound


def test_a_centered_window_is_filled_and_stays_in_the_image() -> None:
    group = grouped(boxes(*TWO))
    assert group is not None
    window = centered(Window(100, 50, 300, 250), group, (400, 500))
    side = window.right - window.left
    assert side == window.bottom - window.top == round(200 * 0.5 / FILLED)
    assert (window.left + window.right) / 2 == pytest.approx(100 + 200 * 0.45, abs=1)
    assert (window.top + window.bottom) / 2 == pytest.approx(50 + 200 * 0.45, abs=1)
    corner = centered(Window(0, 0, 200, 200), group._replace(box=(0.0, 0.0, 0.2, 0.2)), (400, 500))
    assert (corner.left, corner.top) == (0, 0)


def test_windows_are_on_texture_and_not_on_a_sharp_edge() -> None:
    rng = np.random.default_rng(0)
    pixels = np.full((200, 300, 3), 90, dtype=np.uint8)
    pixels[:, 20:40] = 255
    pixels[60:120, 200:260] = rng.integers(60, 120, (60, 60, 1))
    best = min(textured(pixels), key=lambda w: abs(w.left + w.right - 460) + abs(w.top + w.bottom - 180))
    assert best.left <= 205
    assert best.right >= 255
    tiny = textured(np.zeros((9, 12, 3), dtype=np.uint8))
    assert all(0 <= w.left < w.right <= 12 and 0 <= w.top < w.bottom <= 9 for w in tiny)


def test_without_cells_the_whole_image_is_used() -> None:
    empty = Boxes(np.zeros((0, 4)), np.zeros(0), SQUARE)
    assert find_embryo(np.zeros((64, 64, 3), dtype=np.uint8), empty, lambda parts: [empty] * len(parts)) is None


def test_an_embryo_at_a_part_of_the_image_is_found(segmenter: AmodalSegmenter) -> None:
    sample = surrounded(np.random.default_rng([1, 7]), 400, 0.35)
    found = segmenter.segment_pixels(sample.image)
    rows, columns = np.nonzero(np.logical_or.reduce(sample.layers.amodal))
    assert found.window is not None
    assert found.window.left <= columns.min() <= columns.max() <= found.window.right
    assert found.window.top <= rows.min() <= rows.max() <= found.window.bottom
    assert found.facts == {"window": found.window._asdict()}
    assert found.size == (400, 400)
    truth, union = sample.layers.amodal.any(axis=0), found.layers.amodal.any(axis=0)
    assert (truth & union).sum() > 0.9 * (truth | union).sum()


def test_an_embryo_that_fills_the_image_is_not_searched(segmenter: AmodalSegmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    image = embryo(np.random.default_rng(5), EmbryoConfig(size=256)).image
    found = segmenter.segment_pixels(image)
    assert found.window is None
    assert found.facts == {}
    monkeypatch.setattr(segmenter, "searches", False)
    same = segmenter.segment_pixels(image)
    assert np.array_equal(same.layers.amodal, found.layers.amodal)


def test_surroundings_are_reproducible_and_not_annotated() -> None:
    for share in (0.25, 0.5, 1.0):
        one, two = (surrounded(np.random.default_rng([3, 1]), 128, share) for _ in range(2))
        assert np.array_equal(one.image, two.image)
        assert one.image.shape == (128, 128, 3)
        covered = np.logical_or.reduce(one.layers.amodal)
        rows, columns = np.nonzero(covered)
        assert max(np.ptp(rows), np.ptp(columns)) <= share * 128
        assert np.array_equal(one.layers.visible.any(axis=0), covered)
    with pytest.raises(ValueError, match="between"):
        surrounded(np.random.default_rng(0), 64, 0.1)


def test_the_share_is_a_source_of_data() -> None:
    held_out = open_source(parse_source("simulated:0.5")).held_out("test", 2, 64)
    assert len(held_out) == 2
    assert held_out[0].image.shape == (64, 64, 3)
    with pytest.raises(UsageError, match=r"0\.2 to 1"):
        open_source(parse_source("simulated:3"))
