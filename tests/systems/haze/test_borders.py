"""Borders, frames, round fields and the corners of rotated photographs are no scene."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from latens.data.images import read_image
from latens.systems.haze.borders import SteadyBorders, content_box
from latens.systems.haze.field import SteadyField, field_of_view
from latens.systems.haze.predict import Haze
from latens.systems.haze.round_field import round_field
from latens.systems.haze.simulator.streets import street

from .conftest import METHODS


def test_a_plain_sky_is_no_border() -> None:
    """Black and white skies over roofs, spires and trees; the first content row is mostly sky."""
    rng = np.random.default_rng(0)
    for color in (0, 255):
        skyline = np.repeat(rng.integers(30, 90, 24), 10)
        image = rng.integers(40, 200, (180, 240, 3), dtype=np.uint8)
        image[np.arange(180)[:, None] < skyline] = color
        assert content_box(image) == (0, 180, 0, 240)
    sea = rng.integers(40, 200, (180, 240, 3), dtype=np.uint8)
    sea[:40] = np.rint(rng.normal(140, 1.5, (40, 240, 1)))  # a straight horizon, and neither black nor white
    assert content_box(sea) == (0, 180, 0, 240)
    sea[:40] = np.linspace(120, 150, 40)[:, None, None]  # without noise, but brighter toward the horizon
    assert content_box(sea) == (0, 180, 0, 240)
    fog = np.full((180, 240, 3), 190, np.uint8)
    fog[60:] = np.maximum(sea[60:], np.linspace(190, 0, 120)[:, None, None]).astype(np.uint8)  # no sharp edge
    assert content_box(fog) == (0, 180, 0, 240)
    assert content_box(np.zeros((40, 60, 3), np.uint8)) == (0, 40, 0, 60)


def test_frames_of_any_color_and_borders_with_text() -> None:
    """A mat of any color surrounds the image; captions, subtitles and dates lie in borders of constant color."""
    content = np.random.default_rng(0).integers(40, 200, (120, 160, 3), dtype=np.uint8)
    for color in ((128, 128, 128), (20, 60, 160), (245, 240, 225), (255, 0, 0)):
        framed = np.empty((146, 180, 3), np.uint8)
        framed[:] = color
        framed[10:130, 8:168] = content
        assert content_box(framed) == (10, 130, 8, 168)
        assert content_box(framed[10:]) == (0, 120, 8, 168)
        wall = framed[10:].astype(float) + np.random.default_rng(1).normal(0, 2, framed[10:].shape)
        assert content_box(wall.clip(0, 255).astype(np.uint8)) == (0, 136, 0, 180)  # three sides with noise
        barred = np.pad(framed, ((20, 20), (0, 0), (0, 0)))
        assert content_box(barred) == (30, 150, 8, 168)
    for level, ink in ((0, 255), (255, 20)):
        bars = Image.fromarray(np.pad(content, ((30, 40), (0, 0), (0, 0)), constant_values=level))
        draw = ImageDraw.Draw(bars)
        draw.text((20, 8), "day 3, camera 2", fill=(ink,) * 3)
        draw.text((20, 165), "words of a subtitle", fill=(ink,) * 3)
        assert content_box(np.asarray(bars)) == (30, 150, 0, 160)


@pytest.mark.parametrize("side", range(4))
@pytest.mark.parametrize("quality", [None, 80])
def test_a_band_of_one_color_on_one_side(side: int, quality: int | None) -> None:
    """A logo strip or the background of a scan."""
    content = street(3, (180, 240)).image
    pads = [((24, 0), (0, 0)), ((0, 24), (0, 0)), ((0, 0), (24, 0)), ((0, 0), (0, 24))]
    banded = np.pad(content, (*pads[side], (0, 0)))
    mask = np.pad(np.ones(content.shape[:2], bool), pads[side])
    banded[~mask] = (20, 60, 160)
    if quality is not None:
        buffer = io.BytesIO()
        Image.fromarray(banded).save(buffer, "JPEG", quality=quality)
        banded = read_image(buffer.getvalue()).pixels
    box = content_box(banded)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    true = np.array([rows[0], rows[-1] + 1, columns[0], columns[-1] + 1])
    assert np.abs(np.array(box) - true).max() <= (0 if quality is None else 2)


def test_a_white_frame_next_to_a_white_sky() -> None:
    content = np.random.default_rng(0).integers(40, 200, (120, 160, 3), dtype=np.uint8)
    skyline = np.repeat(np.random.default_rng(1).integers(20, 60, 16), 10)
    content[np.arange(120)[:, None] < skyline] = 255
    for turn in range(4):
        framed = np.rot90(np.pad(content, ((10, 10), (10, 10), (0, 0)), constant_values=255), turn)
        height, width = framed.shape[:2]
        assert content_box(np.ascontiguousarray(framed)) == (10, height - 10, 10, width - 10)
    two_sides = np.pad(content, ((0, 0), (10, 10), (0, 0)), constant_values=255)
    assert content_box(two_sides) == (0, 120, 10, 170)  # the sky itself stays


def test_an_image_without_visible_pixels_stays(haze: Haze, hazy: np.ndarray) -> None:
    unseen = np.dstack([hazy, np.zeros(hazy.shape[:2], np.uint8)])
    for method in METHODS:
        assert np.array_equal(np.asarray(haze.dehaze(Image.fromarray(unseen), method=method)), unseen)


def fisheye(scene: np.ndarray, share: float = 1.0) -> np.ndarray:
    """The scene in a circle of `share` of its shorter side, with noise around it."""
    height, width = scene.shape[:2]
    rows, columns = np.ogrid[:height, :width]
    distance = np.hypot(rows - height / 2 + 2, columns - width / 2 - 3)
    inside = np.clip((share * min(height, width) - 2 * distance) / 4 + 0.5, 0, 1)[..., None]
    noise = np.abs(np.random.default_rng(0).normal(0, 2, scene.shape))
    mixed: np.ndarray = np.rint(scene * inside + noise * (1 - inside)).clip(0, 255).astype(np.uint8)
    return mixed


@pytest.mark.parametrize("share", [0.95, 1.15])
def test_black_corners_of_a_round_field_are_no_scene(share: float, haze: Haze, hazy: np.ndarray) -> None:
    scene = fisheye(hazy, share)
    field = round_field(scene)
    assert field is not None
    assert scene[field].max(-1).min() > 8
    for method in METHODS:
        found = haze.remove(scene, method=method)
        made = np.asarray(found.image)
        assert np.array_equal(made[~field], scene[~field])
        assert "black corners left as they are" in found.notes
        cut_out = haze.dehaze(Image.fromarray(np.dstack([scene, 255 * field.astype(np.uint8)])), method=method)
        assert np.abs(made[field].astype(int) - np.asarray(cut_out)[field][:, :3].astype(int)).mean() < 1
    notes: list[str] = []
    frames = list(haze.dehaze_clip(iter([scene, scene]), method="dcp", notes=notes))
    assert np.array_equal(frames[1][~field], scene[~field])
    assert notes == ["black corners left as they are"]


def test_dark_corners_of_photographs_are_scene() -> None:
    """Night, vignettes, dark fields with bright objects, and bars end neither in a circle nor in a tilted rectangle."""
    rng = np.random.default_rng(0)
    day = rng.integers(60, 200, (180, 240, 3), dtype=np.uint8)
    rows, columns = np.ogrid[:180, :240]
    distance = np.hypot(rows - 90, columns - 120)[..., None]
    night = rng.integers(0, 6, (180, 240, 3), dtype=np.uint8)
    night[60:150, 40:200] = np.where(rng.random((90, 160, 1)) < 0.3, day[60:150, 40:200], night[60:150, 40:200])
    cells = rng.integers(0, 6, (180, 240, 3), dtype=np.uint8)
    for row, column in rng.integers(20, 160, (30, 2)):
        cells[np.hypot(rows - row, columns - column) < 8] = 180
    vignette = (day * np.clip(1.1 - (distance / 140) ** 2, 0, 1)).astype(np.uint8)
    bars = np.pad(day[30:150], ((30, 30), (0, 0), (0, 0)))
    box = np.pad(day[20:160, 30:210], ((20, 20), (30, 30), (0, 0)))
    for image in (day, night, cells, vignette, bars, box, np.zeros_like(day), day // 20, 255 - night, 255 - cells):
        assert field_of_view(image) is None


def tilted(scene: np.ndarray, degrees: float, *, color: int = 0, expand: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A rotated photograph with corners of a color, and True where it is."""
    image, fill = Image.fromarray(scene), (color,) * 3
    rotated = image.rotate(degrees, Image.Resampling.BICUBIC, expand=expand, fillcolor=fill)
    covered = Image.new("L", image.size, 255).rotate(degrees, expand=expand)
    return np.asarray(rotated), np.asarray(covered) > 0


@pytest.mark.parametrize("degrees", [-20, 3, 40])
def test_corners_of_a_rotated_photograph_are_no_scene(degrees: float) -> None:
    scene = street(3, (180, 240)).image
    for color in (0, 255):
        for expand in (True, False):
            image, covered = tilted(scene, degrees, color=color, expand=expand)
            for quality in (None, 85):
                if quality is not None:
                    buffer = io.BytesIO()
                    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
                    image = read_image(buffer.getvalue()).pixels
                field = field_of_view(image)
                assert field is not None, (color, expand, quality)
                assert not (field & ~covered).any()
                assert (covered & ~field).mean() < 0.09  # four pixels along the edge


def test_dehazing_leaves_the_corners_of_a_rotated_photograph(haze: Haze, hazy: np.ndarray) -> None:
    for color, word in ((0, "black"), (255, "white")):
        image, covered = tilted(hazy, 5, color=color)
        found = haze.remove(image)
        assert np.array_equal(np.asarray(found.image)[~covered], image[~covered])
        assert found.notes[-1] == f"{word} corners left as they are"
        plain, kept = np.asarray(haze.remove(hazy).image).astype(float), np.asarray(found.image)[field_of_view(image)]
        assert abs(plain.mean() - kept.mean()) < 6  # hardly changed by the corners
    image, covered = tilted(hazy, 5)
    frames = list(haze.dehaze_clip(iter([image, image]), method="dcp"))
    assert np.array_equal(frames[1][~covered], image[~covered])


def test_a_round_field_of_a_clip_is_given_up() -> None:
    scene = np.random.default_rng(0).integers(60, 200, (120, 160, 3), dtype=np.uint8)
    fields = SteadyField()
    assert fields.of(fisheye(scene)) is not None
    assert fields.of(scene) is None
    assert fields.of(fisheye(scene)) is None


def test_bars_survive_jpeg() -> None:
    image = np.pad(street(3, (180, 240)).image, ((29, 29), (0, 0), (0, 0)))
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=75)
    box = content_box(read_image(buffer.getvalue()).pixels)
    assert abs(box.top - 29) <= 2
    assert abs(box.bottom - 209) <= 2
    assert (box.left, box.right) == (0, 240)


def test_borders_of_a_clip_are_steady(haze: Haze) -> None:
    """A fade from black, and a dark frame whose content looks like a border, do not move the borders."""
    rng = np.random.default_rng(0)
    content = rng.integers(60, 200, (60, 120, 3), dtype=np.uint8)
    dark = content.copy()
    dark[:20] = 0
    frames = [np.pad(part, ((12, 12), (0, 0), (0, 0))) for part in (content // 100, content, dark, content)]
    borders = SteadyBorders()
    found = [borders.of(frame) for frame in frames]
    assert [(box.top, box.bottom) for box in found] == [(0, 84), (12, 72), (12, 72), (12, 72)]
    late = SteadyBorders()
    assert [late.of(frame).top for frame in (frames[2], frames[1], frames[2])] == [32, 12, 12]
    notes: list[str] = []
    made = list(haze.dehaze_clip(iter(frames[1:]), method="dcp", notes=notes))
    assert all(not frame[:12].any() and not frame[72:].any() for frame in made)
    assert notes == ["border left as it is (top 12, bottom 12 pixels)"]
