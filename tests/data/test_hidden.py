"""Colors under alpha 0 are filled from their visible neighbors."""

from __future__ import annotations

import numpy as np
import pytest

from latens.data import hidden
from latens.data.hidden import fill_hidden, visible
from latens.data.image_arrays import LoadedImage, Pixels

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (70, 91, 3), dtype=np.uint8)


def loaded(pixels: Pixels, alpha: Pixels | None) -> LoadedImage:
    return LoadedImage(pixels, alpha, False, ())


def test_visible_pixels_stay_and_hidden_noise_disappears() -> None:
    alpha = np.zeros((70, 91), np.uint8)
    alpha[20:40, 30:60] = 255
    alpha[25, 25] = 1
    pixels = NOISE.copy()
    pixels[alpha > 0] = (200, 100, 50)
    filled = fill_hidden(loaded(pixels, alpha))
    assert (filled.pixels == (200, 100, 50)).all()
    assert filled.alpha is alpha
    assert not (pixels == (200, 100, 50)).all()  # the source is not changed


def test_a_hidden_region_between_two_colors_is_a_ramp() -> None:
    alpha = np.full((32, 64), 255, np.uint8)
    alpha[:, 8:56] = 0
    pixels = NOISE[:32, :64].copy()
    pixels[:, :8], pixels[:, 56:] = 40, 200
    row = fill_hidden(loaded(pixels, alpha)).pixels[16, :, 1].astype(int)
    assert (row >= 40).all()
    assert (row <= 200).all()
    assert (np.diff(row) >= -3).all()
    assert row[8] < 60
    assert row[55] > 180


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (3, 5), (33, 64), (70, 91)])
def test_every_size_is_filled_in_the_range_of_the_visible_colors(size: tuple[int, int]) -> None:
    alpha = np.where(RNG.random(size) < 0.3, RNG.integers(1, 256, size), 0).astype(np.uint8)
    alpha.flat[0] = 255
    pixels = NOISE[: size[0], : size[1]].copy()
    pixels[alpha > 0] = pixels[alpha > 0] // 4 + 100
    filled = fill_hidden(loaded(pixels, alpha)).pixels
    assert np.array_equal(filled[alpha > 0], pixels[alpha > 0])
    shown = pixels[alpha > 0]
    assert filled.min() >= shown.min()
    assert filled.max() <= shown.max()


def test_row_blocks_give_the_same_result_as_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    alpha = np.where(RNG.random((70, 91)) < 0.01, 255, 0).astype(np.uint8)
    whole = fill_hidden(loaded(NOISE, alpha)).pixels
    for rows in (2, 16, 64):
        monkeypatch.setattr(hidden, "ROW_BLOCK", rows)
        assert np.array_equal(fill_hidden(loaded(NOISE, alpha)).pixels, whole)


def test_images_that_hide_nothing_stay_and_those_that_hide_everything_are_gray() -> None:
    for alpha in (None, np.full((70, 91), 7, np.uint8)):
        image = loaded(NOISE, alpha)
        assert fill_hidden(image) is image
        assert (visible(image) is None) == (alpha is None)
    unseen = loaded(NOISE, np.zeros((70, 91), np.uint8))
    assert len(np.unique(fill_hidden(unseen).pixels)) == 1
    assert visible(unseen) is None
