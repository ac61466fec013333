"""Patches and averages of parts: position, image and size, for images of every type."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latens.inference.sheet import boxed
from latens.systems.parts.drawing import MARK, OUTSIDE, average, marked
from latens.systems.parts.gallery import (
    PRESENT,
    Occurrence,
    PartGallery,
    cut,
    cut_galleries,
    one_per_image,
    peaks,
    surroundings,
    within_image,
)
from latens.systems.parts.predict import Parts, read_all


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("album")
    rng = np.random.default_rng(1)
    for i, (height, width) in enumerate(((40, 61), (33, 32), (64, 20))):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return sorted(folder.glob("*.png"))


def coded(*maps: np.ndarray) -> list[np.ndarray]:
    """Occurrence maps of a single part."""
    return [one[None].astype(np.float32) for one in maps]


def grids(maps: Sequence[np.ndarray]) -> list[tuple[int, ...]]:
    return [one.shape[1:] for one in maps]


def test_galleries_are_sorted_and_cut_from_the_image(parts: Parts, album: list[Path]) -> None:
    galleries, codes = parts.gallery(album, most=2), parts.encode(album)
    assert galleries
    for gallery in galleries:
        scores = [patch.score for patch in gallery.patches]
        assert scores == sorted(scores, reverse=True)
        assert all(score > 0.5 for score in scores)
        assert len({patch.image for patch in gallery.patches}) == len(gallery.patches) <= 2
        for patch in gallery.patches:
            assert patch.score == codes[patch.image].occurrence[gallery.part].max()
            pixels = next(read_all(album[patch.image]))
            assert any(
                np.array_equal(patch.pixels, pixels[top : top + patch.pixels.shape[0], left : left + patch.pixels.shape[1]])
                for top in range(pixels.shape[0])
                for left in range(pixels.shape[1])
            )
    counts = [sum(code.occurrence[g.part].max() > 0.5 for code in codes) for g in galleries]
    assert counts == sorted(counts, reverse=True)
    assert counts == [gallery.occurrences for gallery in galleries]


def test_one_image_of_every_type_has_a_gallery(parts: Parts, album: list[Path]) -> None:
    pixels = next(read_all(album[0]))
    (expected, *_) = parts.gallery([album[0]])
    for form in (album[0], str(album[0]), Image.open(album[0]), pixels, pixels[None], [[pixels]]):
        (found, *_) = parts.gallery(form)
        assert np.array_equal(found.patches[0].pixels, expected.patches[0].pixels)
        assert np.array_equal(found.mean, expected.mean)


def test_the_box_is_the_cell() -> None:
    pixels = np.zeros((80, 120, 3), np.uint8)
    for row in range(8):
        for column in range(12):
            pixels[10 * row : 10 * row + 10, 10 * column : 10 * column + 10] = (row, column, 0)
    for cell in ((4, 5), (0, 0), (7, 11), (0, 6)):
        patch = cut(pixels, (8, 12), Occurrence(0, cell, 1.0))
        left, top, right, bottom = patch.box
        assert (right - left, bottom - top) == (10, 10)
        assert (patch.pixels[top:bottom, left:right] == (*cell, 0)).all()
    assert cut(pixels, (8, 12), Occurrence(0, (4, 5), 1.0)).pixels.shape == (50, 50, 3)
    assert cut(pixels, (8, 12), Occurrence(0, (0, 0), 1.0)).pixels.shape == (30, 30, 3)  # cropped at the corner
    assert cut(pixels[:1, :1], (2, 2), Occurrence(0, (1, 1), 1.0)).pixels.shape == (1, 1, 3)


def test_patches_of_large_images_are_small() -> None:
    pixels = np.zeros((800, 1200, 3), np.uint8)
    pixels[400:500, 500:600] = 200
    for cell, shape, box in (((4, 5), (160, 160), (64, 64, 96, 96)), ((0, 0), (96, 96), (0, 0, 32, 32))):
        patch = cut(pixels, (8, 12), Occurrence(0, cell, 1.0))
        assert patch.pixels.shape == (*shape, 3)
        assert patch.box == box
    inside = cut(pixels, (8, 12), Occurrence(0, (4, 5), 1.0)).pixels.copy()
    assert inside[67:93, 67:93].min() > 190
    inside[61:99, 61:99] = 0
    assert inside.max() < 10


def test_a_drawn_patch_has_its_cell_at_the_center_even_at_the_border() -> None:
    pixels = np.full((80, 80, 3), 90, np.uint8)
    pixels[:10, :10] = 200
    tile = marked(cut(pixels, (8, 8), Occurrence(0, (0, 0), 1.0)), 100)
    assert tile.shape == (100, 100, 3)
    assert (tile[43:57, 43:57] == 200).all()
    assert (tile[40, 40:60] == MARK).all()
    assert (tile[:38] == OUTSIDE).all()
    assert (tile[65:, 65:] == 90).all()


def test_averages_are_of_aligned_cells() -> None:
    dark, bright = np.zeros((80, 80, 3), np.uint8), np.zeros((80, 80, 3), np.uint8)
    dark[20:30, 30:40], bright[70:, :10] = 100, 200
    maps = np.zeros((2, 8, 8))
    maps[0, 2, 3], maps[1, 7, 0] = 0.9, 0.8
    (gallery,) = cut_galleries([one_per_image(codes := coded(*maps), 0)], grids(codes), [dark, bright].__getitem__, most=1)
    assert (gallery.occurrences, len(gallery.patches)) == (2, 1)
    assert gallery.mean.shape == (24, 24, 3)
    assert (gallery.mean[8:16, 8:16] == 150).all()
    assert gallery.mean[:8].max() == 0
    assert (gallery.mean[8:16, 16:] == 0).all()
    assert (gallery.mean[8:16, :8] == 100).all()  # the border of the second image is replicated


def test_an_average_uses_several_cells_of_an_image_but_shows_one() -> None:
    probability = np.full((6, 6), 0.1)
    probability[0, 0], probability[3, 3] = 0.7, 0.9
    occurrences = one_per_image(coded(probability), 0)
    assert [found.cell for found in occurrences.shown] == [(3, 3)]
    assert [found.cell for found in occurrences.averaged] == [(3, 3), (0, 0)]
    assert [found.cell for found in within_image(coded(probability)[0], 0).shown] == [(3, 3), (0, 0)]


def test_explained_is_the_share_of_variance_of_the_average() -> None:
    black, white = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)
    maps = np.zeros((4, 2, 4, 4), np.float32)
    maps[[0, 1], 0, 1, 1] = maps[[2, 3], 1, 1, 1] = 0.9
    codes = list(maps)
    images_of = [black, black, black, white]
    first, second = cut_galleries([one_per_image(codes, part) for part in (0, 1)], grids(codes), images_of.__getitem__, most=1)
    # Means 0 and 127.5, middle 63.75. Windows of part 0 equal their mean; those of part 1 are 63.75 and 191.25 from the middle.
    assert first.explained == pytest.approx(1)
    assert second.explained == pytest.approx(63.75**2 / ((63.75**2 + 191.25**2) / 2))


def test_a_boxed_image_fits() -> None:
    for size in ((10, 300), (300, 10), (96, 144), (1, 1)):
        tile = boxed(np.zeros((*size, 3), np.uint8), 144, 96)
        assert tile.shape == (96, 144, 3)
        dark = np.argwhere(tile[..., 0] == 0)
        assert (np.ptp(dark, axis=0) + 1).max() >= 96


def test_images_are_read_once_and_only_those_with_parts() -> None:
    maps = np.full((3, 4, 4), 0.2)
    maps[0, 1, 1], maps[2, 2, 2] = 0.9, 0.8
    codes, read = coded(*maps), []

    def reader(image: int) -> np.ndarray:
        read.append(image)
        return np.zeros((16, 16, 3), np.uint8)

    cut_galleries([one_per_image(codes, 0)] * 2, grids(codes), reader, most=9)
    assert read == [0, 2]


def test_contrast_of_an_average_is_raised_threefold_at_most() -> None:
    mean = np.full((24, 24, 3), 100, np.uint8)
    mean[:12] = 120
    drawn = average(PartGallery(0, [], 1, mean, 0.0), 24)
    assert (int(drawn.min()), int(drawn.max())) == (80, 140)
    flat = average(PartGallery(0, [], 1, np.full((24, 24, 3), 9, np.uint8), 0.0), 24)
    assert (flat == 9).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (7, 7)])
def test_surroundings_of_tiny_images(size: tuple[int, int]) -> None:
    pixels = np.full((*size, 3), 77, np.uint8)
    for cell in ((0, 0), (1, 1)):
        assert (surroundings(pixels, (2, 2), cell) == 77).all()


def test_peaks_are_not_adjacent() -> None:
    probability = np.full((5, 6), 0.1)
    probability[0, 0], probability[0, 1], probability[0, 2], probability[4, 5] = 0.9, 0.8, 0.7, 0.95
    assert peaks(probability, 9) == [((4, 5), 0.95), ((0, 0), 0.9), ((0, 2), 0.7)]
    assert peaks(probability, 2) == [((4, 5), 0.95), ((0, 0), 0.9)]
    assert peaks(np.full((2, 2), PRESENT), 9) == []
