"""Grids of simulated trays against their truth; refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latens.data.images import read_picture
from latens.errors import InputError
from latens.systems.seedlings.foreground import find_leaves
from latens.systems.seedlings.lattice import NoLattice, from_corners
from latens.systems.seedlings.reading import Reading, draw_overlay, read_tray
from latens.systems.seedlings.simulator.photograph import Camera, TrayPhotograph, photograph
from latens.systems.seedlings.thesis_grid import starting_coordinates, thesis_lattice


def error_of(reading: Reading, made: TrayPhotograph) -> np.ndarray:
    found: np.ndarray = np.linalg.norm(reading.lattice.centers() - made.centers, axis=-1)
    return found


@pytest.mark.parametrize(("day", "tray"), [(4, 0), (5, 1), (7, 2)])
def test_centers_with_missing_border_plants(day: int, tray: int) -> None:
    """Rotated trays with 40 % of the border cells empty: all centers within 16 pixels, no row or column off by one."""
    rng = np.random.default_rng(tray)
    keep = np.ones((10, 15), bool)
    border = np.ones((10, 15), bool)
    border[1:-1, 1:-1] = False
    keep[border & (rng.random((10, 15)) < 0.4)] = False
    made = photograph(8, tray, day, keep=keep)
    found = error_of(read_tray(made.pixels), made)
    assert found.mean() < 4
    assert found.max() < 16


def test_color_16_bits_and_dark_plants(tmp_path: Path) -> None:
    made = photograph(8, 3, 6, rows=5, cols=7, color=True)
    reading = read_tray(made.pixels, rows=5, cols=7)
    assert reading.foreground.kind == "color"
    assert reading.crops.shape == (35, 64, 64, 3)
    assert error_of(reading, made).max() < 16
    gray = photograph(8, 3, 6, rows=5, cols=7)
    Image.fromarray(gray.pixels.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    deep = read_tray(tmp_path / "deep.png", rows=5, cols=7)
    assert error_of(deep, gray).max() < 16
    assert any("16-bit" in note for note in deep.notes)
    dark = read_tray(255 - gray.pixels, rows=5, cols=7)
    assert dark.foreground.kind == "dark"
    assert error_of(dark, gray).max() < 16


def test_areas_are_those_of_the_leaves() -> None:
    made = photograph(8, 4, 5, rows=4, cols=6, preset="easy")
    reading = read_tray(made.pixels, rows=4, cols=6)
    true = np.bincount(made.owner[made.owner >= 0], minlength=24)
    assert np.corrcoef(reading.areas, true)[0, 1] > 0.97
    assert reading.areas.sum() == pytest.approx(true.sum(), rel=0.2)


def test_refusals_say_what_to_do(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 60, (600, 800), dtype=np.uint8)
    for pixels in (noise, np.full((600, 800), 40, np.uint8)):
        with pytest.raises(InputError, match="too few") as caught:
            read_tray(pixels)
        assert "--corners" in (caught.value.hint or "")
    made = photograph(8, 5, 6, rows=4, cols=6)
    more = read_tray(made.pixels, rows=3, cols=6)
    assert any("more than the 3 x 6" in note for note in more.notes)


def test_staggered_rows_are_refused() -> None:
    """Every second row is shifted by half a cell: a square grid would be a quarter of a cell off everywhere."""
    image = np.full((1000, 1200), 30, np.uint8)
    for row in range(10):
        for col in range(12):
            x, y = 100 + 80 * col + 40 * (row % 2), 100 + 80 * row
            image[y - 9 : y + 10, x - 9 : x + 10] = 180
    with pytest.raises(InputError, match=r"grid|shifted"):
        read_tray(image, rows=10, cols=12)


def test_two_trays_are_not_one_lattice() -> None:
    image = np.full((1000, 1000), 30, np.uint8)
    rng = np.random.default_rng(1)
    for row in range(8):
        for col in range(8):
            x, y = (100 + 90 * col + rng.integers(-4, 5), 60 + 90 * row + 30 * (row > 3) + rng.integers(-4, 5))
            image[y - 9 : y + 10, x - 9 : x + 10] = 180
    with pytest.raises(InputError, match="more than one tray"):
        read_tray(image, rows=8, cols=8)


def test_corners_skip_the_fit() -> None:
    made = photograph(8, 6, 4, rows=4, cols=6, keep=np.zeros((4, 6), bool))
    corners = [made.centers[i, j] for i, j in ((0, 0), (0, -1), (-1, -1), (-1, 0))]
    reading = read_tray(made.pixels, rows=4, cols=6, corners=np.concatenate(corners).tolist())
    assert error_of(reading, made).max() < 4
    with pytest.raises(NoLattice, match="clockwise"):
        from_corners(np.array([[0, 0], [0, 9], [9, 9], [9, 0.0]]), 2, 2)


def test_another_day_gives_the_grid() -> None:
    """A tray with nine plants takes the grid of a later day, moved onto these plants."""
    camera = Camera(pitch=70, rotation=1.0)
    keep = np.zeros((10, 15), bool)
    keep[[1, 2, 4, 5, 6, 7, 8, 8, 3], [2, 9, 4, 13, 7, 1, 10, 5, 6]] = True
    later = read_tray(photograph(8, 7, 6, camera=camera).pixels)
    early = photograph(8, 7, 6, keep=keep, camera=camera._replace(shift=(14.0, -9.0), rotation=0.5))
    reading = read_tray(early.pixels, reference=later.lattice)
    assert error_of(reading, early).max() < 16


def test_algorithm_1_finds_the_outermost_lines() -> None:
    mask = np.zeros((100, 120), bool)
    mask[20:80, 30:110] = True
    assert starting_coordinates(mask, 20) == (20, 79, 30, 109)
    assert thesis_lattice(mask, 3, 4, 6).centers()[0, 0] == pytest.approx((40, 30))
    wide = thesis_lattice(mask, 3, 4, 4)  # widened by 17 and 20 pixels on day 4
    assert wide.corners()[0] == pytest.approx((10, 3))
    with pytest.raises(NoLattice):
        starting_coordinates(mask[:, :20], 20)


def test_an_overlay_marks_cells_by_probability() -> None:
    made = photograph(8, 8, 6, rows=4, cols=6)
    reading = read_tray(made.pixels, rows=4, cols=6)
    plain, graded = draw_overlay(reading), draw_overlay(reading, np.linspace(0, 1, 24), np.zeros(24, bool))
    assert plain.shape == graded.shape
    assert plain.dtype == np.uint8
    assert not np.array_equal(plain, graded)


def test_the_simulator_is_deterministic_and_tells_the_truth() -> None:
    first, again = (photograph(1, 2, 5, rows=3, cols=4) for _ in range(2))
    assert np.array_equal(first.pixels, again.pixels)
    assert first.pixels.shape == (1024, 1280)
    later = photograph(1, 2, 7, rows=3, cols=4)
    assert np.array_equal(first.plants.grade, later.plants.grade)  # the same plants
    assert (later.seen >= first.seen).all()  # no plant goes back into the soil
    assert set(np.unique(first.owner[first.owner >= 0])) <= set(np.flatnonzero(first.seen.ravel()))
    leaves = find_leaves(read_picture(later.pixels)).mask
    assert leaves[later.owner >= 0].mean() > 0.85


def test_success_shifts_the_grades() -> None:
    good = [photograph(1, tray, 5, success=share).plants.success.mean() for tray in range(3) for share in (0.95,)]
    poor = [photograph(1, tray, 5, success=share).plants.success.mean() for tray in range(3) for share in (0.6,)]
    assert np.mean(good) > 0.9
    assert np.mean(poor) < 0.7
