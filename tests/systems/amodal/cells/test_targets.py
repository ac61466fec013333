"""Training targets: rays against geometry, overlaps, the border of the image, the split by field."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from latens.data.splits import place_of
from latens.errors import InputError
from latens.systems.amodal.cells.batches import CellsData, Material, chosen
from latens.systems.amodal.cells.compose import MARGIN, real_canvas
from latens.systems.amodal.cells.config import STRIDE, CropConfig
from latens.systems.amodal.cells.fields import Split, contrast_of, of_split, read_fields, split_of
from latens.systems.amodal.cells.simulate import empty_canvas, empty_images, flat_canvas, outline, simulated_canvas
from latens.systems.amodal.cells.targets import Thing, directions, targets_of
from latens.systems.amodal.cells.training import read_photographs

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def disc(radius: int) -> np.ndarray:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(x * x + y * y <= (radius + 0.5) ** 2)


def test_rays_of_a_disc_are_its_chords() -> None:
    found = targets_of([Thing(20, 24, disc(16))], 96, 96, 32)
    middle = (36, 40)
    at = (slice(None), middle[0] // STRIDE, middle[1] // STRIDE)
    assert np.abs(found.rays[at] - 16.5).max() < 1
    assert found.ray_weight[at].all()
    assert found.center[at[1:]] == 1
    y, x = 30, 40  # six rows above the center: |p + t u| = 16.5
    expected = [6 * u[0] + np.sqrt((6 * u[0]) ** 2 + 16.5**2 - 36) for u in directions(32)]
    assert np.abs(found.rays[:, y // STRIDE, x // STRIDE] - expected).max() < 1.2


def test_overlapping_objects_keep_their_whole_outlines() -> None:
    first, second = Thing(30, 20, disc(14)), Thing(30, 38, disc(14))
    found = targets_of([first, second], 96, 96, 32)
    left = found.rays[:, 44 // STRIDE, 28 // STRIDE]  # in the first, left of the overlap
    assert left[0] > 18  # to the right, through the overlap up to the border at 48.5
    assert found.overlap[44 // STRIDE, 42 // STRIDE] == 1
    assert found.center[44 // STRIDE, 42 // STRIDE] == 0  # belongs to neither
    assert found.foreground[44, 42] == 1
    hidden = targets_of([first, second._replace(front=True)], 96, 96, 32)
    assert hidden.center[44 // STRIDE, 42 // STRIDE] > 0  # the object in front owns its pixels


def test_touching_objects_are_in_contact_and_distant_ones_are_not() -> None:
    square = np.ones((12, 12), dtype=bool)
    touching = targets_of([Thing(20, 20, square), Thing(20, 32, square)], 64, 64, 16)
    assert touching.contact[26, 30:34].all()
    assert not touching.contact[:, :28].any()
    assert not targets_of([Thing(20, 20, square), Thing(20, 40, square)], 64, 64, 16).contact.any()


def test_rays_that_leave_the_image_have_no_weight() -> None:
    found = targets_of([Thing(0, 30, disc(10)[6:])], 64, 64, 32)
    upward = 24  # ray 24 of 32 points to smaller rows
    at = (4 // STRIDE, 40 // STRIDE)
    assert found.ray_weight[upward, *at] == 0
    assert found.ray_weight[8, *at] == 1


def test_canvases_have_whole_outlines_inside() -> None:
    rng = np.random.default_rng(0)
    canvas = simulated_canvas(rng, 64)
    assert canvas.pixels.shape == (64 + 2 * MARGIN, 64 + 2 * MARGIN, 3)
    assert canvas.things
    size = outline(rng, 40.0, 1.0, 0.0).sum()
    assert size == pytest.approx(np.pi * 20.5**2, rel=0.03)  # pixels that the outline touches belong to it
    assert all(image.shape == (384, 384, 3) for image in empty_images(rng, 2))


def test_flat_canvases_have_two_grays_and_separate_objects() -> None:
    lighter = set()
    for seed in range(8):
        canvas = flat_canvas(np.random.default_rng(seed), 64)
        inside = np.zeros(canvas.pixels.shape[:2], dtype=np.uint8)
        for thing in canvas.things:
            inside[thing.top : thing.top + thing.mask.shape[0], thing.left : thing.left + thing.mask.shape[1]] += thing.mask
        assert inside.max() == 1
        ground, ink = (np.median(canvas.pixels[inside == value]) for value in (0, 1))
        away = cv2.dilate(inside, np.ones((9, 9))) == 0  # the blur of a border does not reach farther
        assert np.ptp(canvas.pixels[away]) < 1e-5
        assert abs(ink - ground) > 0.2
        lighter.add(bool(ink > ground))
    assert lighter == {True, False}


def write_fields(folder: Path, count: int) -> None:
    """Images of two squares each; images 2 k and 2 k + 1 are one field."""
    rng = np.random.default_rng(0)
    lines = ["name,field"]
    for number in range(count):
        pixels = rng.integers(0, 30, (60, 70), dtype=np.uint8)
        labels = np.zeros((60, 70), dtype=np.uint16)
        for value, (y, x) in enumerate(rng.integers(5, 40, (2, 2)), start=7):
            pixels[y : y + 14, x : x + 14] = 180
            labels[y : y + 14, x : x + 14] = value
        Image.fromarray(pixels).save(folder / f"n{number}_img.png")
        Image.fromarray(labels).save(folder / f"n{number}_lab.png")
        lines.append(f"n{number},{number // 2}")
    (folder / "fields.csv").write_text("\n".join(lines) + "\n")


def test_no_field_is_on_two_sides_of_the_split(tmp_path: Path) -> None:
    write_fields(tmp_path, 24)
    everything = read_fields(tmp_path)
    splits = {split: of_split(everything, split, "") for split in SPLITS}
    fields = {split: {image.field for image in images} for split, images in splits.items()}
    assert len(fields["train"] | fields["validation"] | fields["test"]) == 12
    assert sum(len(each) for each in fields.values()) == 12
    assert (len(fields["test"]), len(fields["validation"])) == (3, 2)
    assert len(everything) == 24
    assert set(split_of(everything).values()) == {"train", "validation", "test"}
    assert all(image.kind == "fluorescent" and image.labels.max() <= 2 for image in everything)


def test_unusable_tables_of_fields_are_refused(tmp_path: Path) -> None:
    write_fields(tmp_path, 2)
    (tmp_path / "fields.csv").write_text("name,tile\nn0,1\n")
    with pytest.raises(InputError, match="no column 'field'"):
        read_fields(tmp_path)
    (tmp_path / "fields.csv").write_text("name,field\nn0,1\n")
    with pytest.raises(InputError, match="n1 first"):
        read_fields(tmp_path)


def test_batches_are_functions_of_the_step(tmp_path: Path) -> None:
    write_fields(tmp_path, 8)
    images = read_fields(tmp_path)
    material = Material(images, [np.full((80, 90, 3), 99, dtype=np.uint8)])
    data = CellsData(material, material, CropConfig(batch=3, crop=64, validation=4), 16, 0)
    one, two = data.batch(5, 0), data.batch(5, 0)
    assert all(one[name].equal(two[name]) for name in one)
    assert one["image"].shape == (3, 3, 64, 64)
    assert one["rays"].shape == (3, 16, 32, 32)
    assert len(data.validation()) == 1
    assert chosen(np.random.default_rng(0), images).name.startswith("n")


def test_scaled_crops_keep_objects_where_their_pixels_are(tmp_path: Path) -> None:
    write_fields(tmp_path, 2)
    image = read_fields(tmp_path)[0]
    for seed in range(8):
        canvas = real_canvas(np.random.default_rng(seed), image, 64, paste=False)
        for thing in canvas.things:
            window = canvas.pixels[thing.top : thing.top + thing.mask.shape[0], thing.left : thing.left + thing.mask.shape[1]]
            assert window[thing.mask].mean() > 0.7  # the squares are bright, the background is near 0


def test_noise_is_not_stretched_to_full_contrast() -> None:
    rng = np.random.default_rng(0)
    empty = rng.integers(100, 103, (64, 64, 3)).astype(np.uint8)
    assert np.ptp(contrast_of(empty).apply(empty)) < 0.2


def test_a_partly_hidden_object_has_a_peak_of_its_own() -> None:
    """The deepest pixel that two equal translucent objects do not share has the object probability of a free object."""
    shift = 10  # of a disc of radius 14: a crescent of at most 10 pixels remains of each
    found = targets_of([Thing(30, 20, disc(14)), Thing(30, 20 + shift, disc(14))], 96, 96, 16)
    left, right = found.center[:, : (34 + shift // 2) // STRIDE], found.center[:, (34 + shift // 2) // STRIDE :]
    assert min(left.max(), right.max()) > 0.9  # the deepest pixel may lie between those of the coarse grid
    sliver = targets_of([Thing(30, 20, disc(14)), Thing(30, 22, disc(14), front=True)], 96, 96, 16)
    assert 0 < sliver.center[:, : 22 // STRIDE].max() < 0.5  # two columns at the border of the object behind


def test_scenes_without_cells_have_photographs_at_every_scale_and_text() -> None:
    photograph = np.random.default_rng(0).integers(0, 256, (40, 300, 3)).astype(np.uint8)
    kinds = set()
    for seed in range(60):
        canvas = empty_canvas(np.random.default_rng(seed), [photograph], 64)
        assert canvas.pixels.shape == (64 + 2 * MARGIN, 64 + 2 * MARGIN, 3)
        assert not canvas.things
        assert np.isfinite(canvas.pixels).all()
        kinds.add(len(np.unique(canvas.pixels.reshape(-1, 3), axis=0)) < 2000)  # flat paper and ink, or detail everywhere
    assert kinds == {True, False}


def test_held_out_photographs_do_not_depend_on_the_folder(tmp_path: Path) -> None:
    for number in range(40):
        Image.fromarray(np.full((600, 700, 3), number, dtype=np.uint8)).save(tmp_path / f"{number}.png")
    found = read_photographs(tmp_path)
    assert len(found.train) + len(found.held_out) == 40
    assert {int(each[0, 0, 0]) for each in found.held_out} == {n for n in range(40) if place_of(f"{n}.png") < 0.1}
    assert found.held_out[0].shape == (512, 597, 3)
    both = found.joined(found)
    assert len(both.train) == 2 * len(found.train)
