"""Grids of simulated trays against their truth; refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latens.data.images import read_image
from latens.errors import InputError
from latens.systems.seedlings.foreground import find_leaves
from latens.systems.seedlings.lattice import NoLattice, from_corners
from latens.systems.seedlings.reading import TrayReading, draw_overlay, read_tray, read_trays
from latens.systems.seedlings.reference import Reference
from latens.systems.seedlings.rim import common_rim, find_rim, rim_of
from latens.systems.seedlings.simulator.photograph import Camera, TrayPhotograph, photograph
from latens.systems.seedlings.thesis_grid import starting_coordinates, thesis_lattice


def error_of(reading: TrayReading, made: TrayPhotograph) -> np.ndarray:
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


def test_errors_have_hints(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 60, (600, 800), dtype=np.uint8)
    for pixels in (noise, np.full((600, 800), 40, np.uint8)):
        with pytest.raises(InputError, match="too few") as caught:
            read_tray(pixels)
        assert "--corners" in (caught.value.hint or "")
    made = photograph(8, 5, 6, rows=4, cols=6)
    more = read_tray(made.pixels, rows=3, cols=6)
    assert any("more than the requested 3 x 6" in note for note in more.notes)


def test_staggered_rows_are_refused() -> None:
    """Every second row is shifted by half a cell: a square grid would be a quarter of a cell off everywhere."""
    image = np.full((1000, 1200), 30, np.uint8)
    for row in range(10):
        for col in range(12):
            x, y = 100 + 80 * col + 40 * (row % 2), 100 + 80 * row
            image[y - 9 : y + 10, x - 9 : x + 10] = 180
    reference = read_tray(photograph(8, 30, 6, rows=10, cols=12, preset="easy").pixels, rows=10, cols=12).lattice
    for given in (None, Reference(reference, None)):  # the grid of another photograph does not help
        with pytest.raises(InputError, match=r"grid|shifted") as caught:
            read_tray(image, rows=10, cols=12, reference=given)
        assert "--corners" in (caught.value.hint or "")


def side_by_side(gap: float, *, rows: int = 5, cols: int = 6, day: int = 6) -> tuple[np.ndarray, list[np.ndarray]]:
    """Two simulated trays in one image, `gap` cells of bench between them; pixels and the centers of each."""
    camera = Camera(pitch=70, rotation=0.8)
    parts = [photograph(12, tray, day, rows=rows, cols=cols, camera=camera) for tray in (0, 1)]
    half = round(35 * (cols + gap)), round(35 * (rows + 1))
    left, top = 640 - half[0], 512 - half[1]
    pixels = [part.pixels[top : 512 + half[1], left : 640 + half[0]] for part in parts]
    centers = [part.centers - [left, top] + [2 * half[0] * k, 0] for k, part in enumerate(parts)]
    return np.concatenate(pixels, axis=1), centers


@pytest.mark.parametrize("gap", [0.25, 0.5, 1.2])
def test_two_trays_are_found_and_never_mixed(gap: float) -> None:
    pixels, centers = side_by_side(gap)
    found = read_trays(pixels, rows=5, cols=6, trays=2)
    assert len(found) == 2
    for reading, truth in zip(found, centers, strict=True):
        assert np.linalg.norm(reading.lattice.centers() - truth, axis=-1).max() < 16
    second = read_trays(pixels, rows=5, cols=6, tray=2)
    assert len(second) == 1
    assert np.array_equal(second[0].crops, found[1].crops)
    with pytest.raises(InputError, match=r"2 trays were found: #1 .* 1 tray was requested") as caught:
        read_tray(pixels, rows=5, cols=6)
    assert "--trays 2" in (caught.value.hint or "")
    with pytest.raises(InputError, match="3 trays were requested"):
        read_trays(pixels, rows=5, cols=6, trays=3)
    with pytest.raises(InputError, match="tray 3 was requested"):
        read_trays(pixels, rows=5, cols=6, tray=3)


def test_a_tray_at_the_image_border_has_its_visible_rows() -> None:
    pixels, centers = side_by_side(0.6)
    cut = round(centers[0][0, 3, 0]) + 35  # columns 1 to 4 of the left tray are out of view
    first, second = read_trays(pixels[:, cut:], rows=5, cols=6, trays=2)
    assert (first.lattice.rows, first.lattice.cols) == (5, 2)
    assert np.linalg.norm(first.lattice.centers() - (centers[0][:, 4:] - [cut, 0]), axis=-1).max() < 16
    assert any("2 of 6 columns" in note for note in first.notes)
    assert second.lattice.cols == 6


def blocks(
    rows: int, cols: int, *, gap_after: tuple[int, int], gap: int = 30, missing: frozenset[tuple[int, int]]
) -> np.ndarray:
    """Square plants 90 pixels apart, with `gap` more after the given row and column; `missing` cells are empty."""
    image = np.full((140 + 90 * rows + gap, 140 + 90 * cols + gap), 30, np.uint8)
    rng = np.random.default_rng(1)
    for row, col in np.ndindex(rows, cols):
        x = 100 + 90 * col + gap * (col >= gap_after[1] > 0) + rng.integers(-4, 5)
        y = 60 + 90 * row + gap * (row >= gap_after[0] > 0) + rng.integers(-4, 5)
        if (row, col) not in missing:
            image[y - 9 : y + 10, x - 9 : x + 10] = 180
    return image


def test_trays_with_other_rows_than_requested_are_refused() -> None:
    """Two trays of 4 rows, requested 8: a gap runs through every lattice."""
    image = blocks(8, 8, gap_after=(4, 0), missing=frozenset())
    with pytest.raises(InputError, match="more than one tray"):
        read_tray(image, rows=8, cols=8)
    assert len(read_trays(image, rows=4, cols=8, trays=2)) == 2


@pytest.mark.parametrize("gap_after", [(1, 0), (3, 0), (0, 2), (0, 3)])
def test_blocks_of_different_sizes_are_one_tray(gap_after: tuple[int, int]) -> None:
    """Two trays of one kind would have equal numbers of rows and columns."""
    reading = read_tray(blocks(4, 5, gap_after=gap_after, missing=frozenset({(1, 3)})), rows=4, cols=5)
    assert [note for note in reading.notes if "blocks of one tray" in note]
    assert np.flatnonzero(reading.areas == 0).tolist() == [8]


@pytest.mark.parametrize("empty", [(1, None), (None, 2), (None, 1)])
def test_an_empty_row_or_column_is_no_gap(empty: tuple[int | None, int | None]) -> None:
    missing = frozenset((row, col) for row, col in np.ndindex(4, 5) if row == empty[0] or col == empty[1])
    reading = read_tray(blocks(4, 5, gap_after=(0, 0), missing=missing), rows=4, cols=5)
    assert {divmod(int(cell), 5) for cell in np.flatnonzero(reading.areas == 0)} == missing


def test_the_rim_places_the_grid_of_an_empty_tray() -> None:
    """Where the cells lie inside the rim is learned from two trays with plants."""
    rims = []
    for tray in (0, 1):
        reading = read_tray(photograph(8, 20 + tray, 6).pixels)
        rims.append(rim_of(reading.lattice, reading.foreground))
    rim = common_rim([rim for rim in rims if rim is not None])
    assert rim is not None
    bare = photograph(8, 22, 4, keep=np.zeros((10, 15), bool))
    found = read_tray(bare.pixels, reference=Reference(None, rim))
    assert error_of(found, bare).max() < 16
    assert any("by the rim as on the other trays" in note for note in found.notes)
    with pytest.raises(InputError, match="grid"):
        read_tray(bare.pixels)
    wall = np.full((600, 800), 120, np.uint8)
    assert find_rim(wall, np.zeros(wall.shape, bool)) is None
    with pytest.raises(InputError, match="no rim"):
        read_tray(wall, reference=Reference(None, rim))


def test_corners_skip_the_fit() -> None:
    made = photograph(8, 6, 4, rows=4, cols=6, keep=np.zeros((4, 6), bool))
    corners = [made.centers[i, j] for i, j in ((0, 0), (0, -1), (-1, -1), (-1, 0))]
    reading = read_tray(made.pixels, rows=4, cols=6, corners=np.concatenate(corners).tolist())
    assert error_of(reading, made).max() < 4
    with pytest.raises(NoLattice, match="clockwise"):
        from_corners(np.array([[0, 0], [0, 9], [9, 9], [9, 0.0]]), 2, 2)


def test_the_grid_of_another_day_is_transferred() -> None:
    """A tray with nine plants takes the grid of a later day, moved onto these plants."""
    camera = Camera(pitch=70, rotation=1.0)
    keep = np.zeros((10, 15), bool)
    keep[[1, 2, 4, 5, 6, 7, 8, 8, 3], [2, 9, 4, 13, 7, 1, 10, 5, 6]] = True
    later = read_tray(photograph(8, 7, 6, camera=camera).pixels)
    early = photograph(8, 7, 6, keep=keep, camera=camera._replace(shift=(14.0, -9.0), rotation=0.5))
    reading = read_tray(early.pixels, reference=Reference(later.lattice, None))
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


def test_the_simulator_is_deterministic_and_consistent_with_its_truth() -> None:
    first, again = (photograph(1, 2, 5, rows=3, cols=4) for _ in range(2))
    assert np.array_equal(first.pixels, again.pixels)
    assert first.pixels.shape == (1024, 1280)
    later = photograph(1, 2, 7, rows=3, cols=4)
    assert np.array_equal(first.plants.grade, later.plants.grade)  # the same plants
    assert (later.seen >= first.seen).all()  # no plant goes back into the soil
    assert set(np.unique(first.owner[first.owner >= 0])) <= set(np.flatnonzero(first.seen.ravel()))
    leaves = find_leaves(read_image(later.pixels)).mask
    assert leaves[later.owner >= 0].mean() > 0.85


def test_success_shifts_the_grades() -> None:
    good = [photograph(1, tray, 5, success=share).plants.success.mean() for tray in range(3) for share in (0.95,)]
    poor = [photograph(1, tray, 5, success=share).plants.success.mean() for tray in range(3) for share in (0.6,)]
    assert np.mean(good) > 0.9
    assert np.mean(poor) < 0.7
