"""Regions: mask files, pairing by time, shapes, tracking, noise."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from clip_maker import HEIGHT, WIDTH, make_clip

from latens.data.clips.reader import open_clip
from latens.data.regions.masks import MaskReader, box_of, draw
from latens.data.regions.noise import PerlinMasks, perlin_masks, perlin_noise
from latens.data.regions.pairing import open_regions
from latens.data.regions.track import Tracker, histogram
from latens.data.regions.words import Shape, parse_ids, parse_region
from latens.errors import InputError, UsageError


def mask_file(path: Path, values: np.ndarray, *, palette: bool = False) -> Path:
    image = Image.fromarray(values)
    if palette:
        image = Image.frombytes("P", image.size, values.tobytes())
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] + [7] * 756)
    image.save(path)
    return path


def squares(**values: int) -> np.ndarray:
    """Two squares: a on the left, b on the right."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[8:24, 8:24], mask[30:50, 60:80] = values["a"], values["b"]
    return mask


def read(
    path: Path, ids: frozenset[int] | None = None, size: tuple[int, int] = (HEIGHT, WIDTH)
) -> tuple[np.ndarray, list[str]]:
    notes: list[str] = []
    return MaskReader(size, ids, notes.append).read(path), notes


@pytest.mark.parametrize("palette", [True, False])
def test_palettes_and_small_gray_values_are_ids(palette: bool, tmp_path: Path) -> None:
    path = mask_file(tmp_path / "m.png", squares(a=2, b=3), palette=palette)
    assert np.array_equal(read(path, frozenset({3}))[0], squares(a=0, b=255))
    both, notes = read(path)
    assert np.array_equal(both, squares(a=255, b=255))
    assert "all ids of the masks (2, 3)" in notes[0]


def test_binary_and_soft_masks(tmp_path: Path) -> None:
    assert np.array_equal(read(mask_file(tmp_path / "b.png", squares(a=255, b=255)))[0], squares(a=255, b=255))
    assert np.array_equal(read(mask_file(tmp_path / "s.png", squares(a=100, b=255)))[0], squares(a=100, b=255))
    with pytest.raises(InputError, match="soft mask without instance ids"):
        read(tmp_path / "s.png", frozenset({2}))
    large = np.zeros((HEIGHT, WIDTH), np.uint16)
    large[:5] = 4000
    assert read(mask_file(tmp_path / "l.png", large), frozenset({4000}))[0].sum() == 255 * 5 * WIDTH


def test_a_clip_stays_soft(tmp_path: Path) -> None:
    notes: list[str] = []
    reader = MaskReader((HEIGHT, WIDTH), None, notes.append)
    reader.read(mask_file(tmp_path / "a.png", squares(a=100, b=0)))
    assert reader.read(mask_file(tmp_path / "b.png", squares(a=20, b=0))).max() == 20


def test_colored_masks_are_noted_and_void_is_background(tmp_path: Path) -> None:
    colored = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    colored[:4, :, 0] = 128
    found, notes = read(mask_file(tmp_path / "c.png", colored))
    assert found.sum() == 255 * 4 * WIDTH
    assert "colored" in notes[0]
    found, notes = read(mask_file(tmp_path / "v.png", squares(a=1, b=255), palette=True))
    assert np.array_equal(found, squares(a=255, b=0))
    assert "void" in notes[0]


def test_other_sizes_are_scaled_and_other_aspect_ratios_refused(tmp_path: Path) -> None:
    path = mask_file(tmp_path / "m.png", squares(a=2, b=9))
    found, notes = read(path, size=(2 * HEIGHT, 2 * WIDTH))
    assert np.array_equal(found, squares(a=255, b=255).repeat(2, 0).repeat(2, 1))
    assert any("scaled" in note for note in notes)
    with pytest.raises(InputError, match="aspect ratio"):
        read(path, size=(WIDTH, HEIGHT))


def test_parsed_values() -> None:
    assert parse_region("box:1,2,3.5,4") == Shape("box", 1, 2, 3.5, 4)
    assert parse_region("masks/a.png") == Path("masks/a.png")
    for wrong in ("box:1,2,3", "box:5,5,2,9", "ellipse:a,b,c,d"):
        with pytest.raises(UsageError):
            parse_region(wrong)
    with pytest.raises(UsageError, match="no shape") as caught:
        parse_region("1,2,3,4")
    assert "box:1,2,3,4" in str(caught.value.hint)
    with pytest.raises(UsageError, match="outside"):
        draw(Shape("box", 500, 2, 900, 40), WIDTH, HEIGHT)
    assert box_of(draw(Shape("box", 10, 5, 30, 20), WIDTH, HEIGHT)) == (10, 5, 30, 20)
    share = draw(Shape("ellipse", 10, 5, 50, 55), WIDTH, HEIGHT).sum() / 255 / (40 * 50)
    assert share == pytest.approx(np.pi / 4, abs=0.01)
    assert parse_ids("2,5") == frozenset({2, 5})
    with pytest.raises(UsageError):
        parse_ids("2,x")


def moving(number: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    mask[20:40, 4 * number : 4 * number + 12] = 255
    return mask


def regions_of(clip_path: Path, region: Path | Shape, **options: object) -> tuple[list[np.ndarray], list[str]]:
    with open_clip(clip_path) as clip, open_regions(region, clip, **options) as regions:  # type: ignore[arg-type]
        found = [regions.of(frame).copy() for frame in clip.frames()]
        regions.finish(len(found))
    return found, regions.notes


@pytest.mark.parametrize(
    ("base", "times", "expected"),
    [
        (Fraction(1001, 24000), range(16), range(16)),  # as the clip
        (Fraction(125, 2997), range(16), range(16)),  # 23.976, as decimals round it
        (Fraction(1, 1000), [0, 42, 83, 167, 209, 250, 292, 334, 375, 417, 459, 500, 542, 584, 626],
         [0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]),  # the frame at 125 ms is lost: 167 is nearer than 83
        (Fraction(1001, 12000), range(8), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]),  # half the rate
    ],
)  # fmt: skip
def test_mask_videos_are_paired_by_time(base: Fraction, times: list[int], expected: list[int], tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", base=Fraction(1001, 24000), times=range(16))
    masks = [moving(number) for number in range(len(times))]
    video = make_clip(tmp_path / "masks.mkv", base=base, times=times, images=masks)
    found, _ = regions_of(clip, video)
    places = [int(np.flatnonzero((mask > 127).any(axis=0))[0]) / 4 for mask in found]
    halfway = 1 if base == Fraction(1001, 12000) else 0  # a mask halfway between two frames may go to either
    assert all(abs(place - want) <= halfway + 0.3 for place, want in zip(places, expected, strict=True))


def test_a_mask_video_that_is_too_short_is_refused(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", times=range(40))
    short = make_clip(tmp_path / "masks.mkv", times=range(10), images=[moving(number) for number in range(10)])
    with pytest.raises(InputError, match="ends at"):
        regions_of(clip, short)
    black = make_clip(tmp_path / "black.mkv", times=range(40), images=[moving(0) * 0] * 40)
    with pytest.raises(InputError, match="empty in every frame"):
        regions_of(clip, black)


def test_mask_folders_are_paired_by_name_or_order(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", times=range(3))
    (tmp_path / "m").mkdir()
    for number in range(3):
        mask_file(tmp_path / "m" / f"{number}.png", moving(number)[..., 0])
    found, _ = regions_of(clip, tmp_path / "m")
    assert [np.array_equal(mask, moving(number)[..., 0]) for number, mask in enumerate(found)] == [True] * 3
    (tmp_path / "m" / "1.png").unlink()
    with pytest.raises(InputError, match="2 masks for 3 frames"):
        regions_of(clip, tmp_path / "m")
    (tmp_path / "f").mkdir()
    for number in (0, 2):  # frames of the same names
        Image.fromarray(moving(number)).save(tmp_path / "f" / f"{number}.jpg")
    found, _ = regions_of(tmp_path / "f", tmp_path / "m")
    assert np.array_equal(found[1], moving(2)[..., 0])


def test_an_unreadable_frame_does_not_shift_masks(tmp_path: Path) -> None:
    for folder in ("frames", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(4):
        Image.fromarray(moving(number)).save(tmp_path / "frames" / f"f{number}.png")
        mask_file(tmp_path / "masks" / f"m{number}.png", moving(number)[..., 0])
    (tmp_path / "frames" / "f1.png").write_text("no image")
    with open_clip(tmp_path / "frames", fps=25) as clip, open_regions(tmp_path / "masks", clip) as regions:
        found = {frame.number: regions.of(frame) for frame in clip.frames()}
    assert sorted(found) == [0, 2, 3]
    assert all(np.array_equal(mask, moving(number)[..., 0]) for number, mask in found.items())
    assert "f1.png is unreadable and skipped" in clip.notes


def test_empty_masks_and_wrong_ids_are_refused(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", times=range(2))
    with pytest.raises(InputError, match="empty"):
        regions_of(clip, mask_file(tmp_path / "e.png", squares(a=0, b=0)), track=True)
    with pytest.raises(InputError, match=r"ids \[7\]; the masks have the ids \[1, 2\]"):
        regions_of(clip, mask_file(tmp_path / "i.png", squares(a=1, b=2)), ids=frozenset({7}))
    with pytest.raises(UsageError, match="no ids"):
        regions_of(clip, Shape("box", 0, 0, 9, 9), ids=frozenset({7}))


def scene(x: int, *, visible: bool = True) -> np.ndarray:
    """A textured green disc in front of gray texture."""
    rng = np.random.default_rng(0)
    noise = np.kron(rng.integers(60, 140, (30, 40), dtype=np.uint8), np.ones((8, 8), np.uint8))
    pixels = np.repeat(noise[..., None], 3, axis=2)
    rows, columns = np.mgrid[0:240, 0:320]
    disc = (rows - 120) ** 2 + (columns - x) ** 2 < 40**2
    if visible:
        texture = np.kron(rng.integers(120, 250, (60, 80), dtype=np.uint8), np.ones((4, 4), np.uint8))
        pixels[disc] = 20
        pixels[disc, 1] = np.roll(texture, x, axis=1)[disc]
    return pixels


def test_tracking_follows_a_box() -> None:
    tracker = Tracker(draw(Shape("box", 40, 80, 120, 160), 320, 240), is_box=True)
    for x in range(80, 200, 6):
        found = tracker.next(scene(x))
        assert found.weights is not None
        box = box_of(found.weights)
        assert box is not None
        assert np.abs(np.array(box) - (x - 40, 80, x + 40, 160)).max() <= 8


def test_tracking_reports_a_vanished_object() -> None:
    tracker = Tracker(draw(Shape("ellipse", 40, 80, 120, 160), 320, 240), is_box=False)
    for x in (80, 84, 88):
        assert tracker.next(scene(x)).weights is not None
    after = [tracker.next(scene(88, visible=False)) for _ in range(1)]
    assert after[0].weights is None
    assert after[0].reason


def test_tracking_reports_a_region_like_its_surroundings() -> None:
    tracker = Tracker(draw(Shape("ellipse", 40, 80, 120, 160), 320, 240), is_box=False)
    assert tracker.next(scene(80)).weights is not None
    assert tracker.next(scene(84)).weights is not None
    gray = scene(84, visible=False)[::4, ::4][:, :, :3]
    small = np.ascontiguousarray(np.kron(gray, np.ones((2, 2, 1), np.uint8)))
    tracker._mask = np.zeros(small.shape[:2], np.float32)
    tracker._mask[40:100, 60:110] = 1
    tracker._area = float(tracker._mask.sum())
    tracker._first_inside = 0.5 * tracker._first_inside + 0.5 * histogram(small, 1 - tracker._mask)  # alike enough to go on
    assert "the surroundings" in tracker._check(small)


def test_perlin_masks_are_smooth_and_reproducible() -> None:
    masks = perlin_masks(16, 64, 96, seed=4)
    assert masks.shape == (16, 64, 96)
    assert np.array_equal(masks, perlin_masks(16, 64, 96, seed=4))
    assert not np.array_equal(masks, perlin_masks(16, 64, 96, seed=5))
    config = PerlinMasks()
    assert config.least - 1e-3 <= masks.mean() <= config.most + 1e-3
    changed = (masks[1:] != masks[:-1]).mean()
    assert 0 < changed < 0.2 * masks.mean()
    whole = np.arange(3.0, dtype=np.float32)
    assert np.abs(perlin_noise(whole[:, None, None], whole[None, :, None], whole[None, None], 1)).max() < 1e-6
