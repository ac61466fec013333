"""Rules of `Haze.dehaze`, swept over all methods: dim images, borders, transparency, strength, metadata, size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from latens.cli.main import main
from latens.errors import UsageError
from latens.systems.haze import removal
from latens.systems.haze.borders import whole
from latens.systems.haze.config import TRANSLATORS, PhysicalConfig
from latens.systems.haze.methods import Coarse
from latens.systems.haze.physical import PhysicalHaze
from latens.systems.haze.predict import Haze
from latens.systems.haze.readers import read
from latens.systems.haze.removal import Content, Method
from latens.systems.haze.rules import WORKING_SIDE, Controls, Working, exposure_of, working_image, working_size
from latens.systems.haze.simulator.streets import street

from .conftest import ESTIMATORS, METHODS


def dehazed(haze: Haze, image: np.ndarray, method: str, **settings: Any) -> np.ndarray:
    made: np.ndarray = np.asarray(haze.dehaze(image, method=method, **settings)).astype(float)
    return made


# -------------------------------------------------------------------------------- every rule, every method that it is for


@pytest.mark.parametrize("method", ESTIMATORS)
@pytest.mark.parametrize("brightness", [1 / 2, 1 / 4, 1 / 8])
def test_dim_images_are_dehazed_like_bright_ones(method: str, brightness: float, haze: Haze, hazy: np.ndarray) -> None:
    full = dehazed(haze, hazy, method)
    dim = dehazed(haze, np.rint(hazy * brightness).astype(np.uint8), method) / brightness
    assert np.abs(full - dim).mean() < 8  # of 255; rounding of the input alone costs about 1 / t / brightness / 4
    assert dim.mean() == pytest.approx(full.mean(), rel=0.1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("color", [0, 255])
@pytest.mark.parametrize("sides", [(24, 24, 0, 0), (0, 0, 30, 30), (9, 9, 9, 9), (20, 0, 0, 0)])
def test_borders_change_nothing(method: str, color: int, sides: tuple[int, ...], haze: Haze, hazy: np.ndarray) -> None:
    bordered = np.pad(hazy, (sides[:2], sides[2:], (0, 0)), constant_values=color)
    height, width = hazy.shape[:2]
    inner = (slice(sides[0], sides[0] + height), slice(sides[2], sides[2] + width))
    found = haze.remove(bordered, method=method)
    made = np.array(found.image)
    assert np.array_equal(made[inner], np.asarray(haze.dehaze(hazy, method=method)))
    made[inner] = bordered[inner]
    assert np.array_equal(made, bordered)
    assert any("border left as it is" in note for note in found.notes)


@pytest.mark.parametrize("method", METHODS)
def test_transparent_pixels_count_in_no_statistic(method: str, haze: Haze, hazy: np.ndarray) -> None:
    alpha = np.full(hazy.shape[:2], 255, np.uint8)
    alpha[40:140, 30:110] = 0
    alpha[:, 200:] = 0
    made = []
    for under in (np.full_like(hazy, 255), np.random.default_rng(0).integers(0, 256, hazy.shape, dtype=np.uint8)):
        image = np.dstack([np.where(alpha[..., None] > 0, hazy, under), alpha])
        made.append(np.asarray(haze.dehaze(image, method=method)))
        assert np.array_equal(made[-1][alpha == 0], image[alpha == 0])
    assert np.array_equal(made[0][alpha > 0], made[1][alpha > 0])
    assert not np.array_equal(made[0][alpha > 0][:, :3], hazy[alpha > 0])


@pytest.mark.parametrize("method", METHODS)
def test_strength_0_returns_the_same_pixels(method: str, haze: Haze, hazy: np.ndarray) -> None:
    """Images of every mode, and clips."""
    rgba = np.dstack([hazy, np.where(np.arange(240) < 60, 0, 255).astype(np.uint8)[None].repeat(180, 0)])
    for image in (hazy, hazy[..., 1], rgba, np.pad(hazy, ((9, 9), (0, 0), (0, 0)))):
        for keep in (0.0, 1.0):
            made = haze.dehaze(image, method=method, strength=0, keep_brightness=keep)
            assert np.array_equal(np.asarray(made), image)
    if method not in TRANSLATORS:
        frames = [hazy, hazy[::-1].copy(), hazy]
        clip = list(haze.dehaze_clip(iter(frames), method=method, strength=0))
        assert len(clip) == 3
        assert all(np.array_equal(a, b) for a, b in zip(clip, frames, strict=True))
        assert not any(np.shares_memory(a, b) for a, b in zip(clip, frames, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_strength_is_monotone_and_ends_at_the_default(method: str, haze: Haze, hazy: np.ndarray) -> None:
    change = [np.abs(dehazed(haze, hazy, method, strength=s) - hazy).mean() for s in (0.01, 0.25, 0.5, 0.75, 1.0)]
    assert change == sorted(change)
    assert change[0] < 0.05 * change[-1] + 0.5
    assert np.array_equal(dehazed(haze, hazy, method, strength=1.0), dehazed(haze, hazy, method))
    if method not in TRANSLATORS:
        clip = list(haze.dehaze_clip(iter([hazy]), method=method, strength=0.5))
        assert np.array_equal(clip[0], dehazed(haze, hazy, method, strength=0.5))


@pytest.mark.parametrize("method", ESTIMATORS)
def test_brightness_is_kept_as_asked(method: str, haze: Haze, hazy: np.ndarray) -> None:
    for scale in (1.0, 0.4):
        image = np.rint(hazy * scale).astype(np.uint8)
        means = [dehazed(haze, image, method, keep_brightness=keep).mean() for keep in (0.0, 0.5, 1.0)]
        assert means == sorted(means)
        assert means[2] == pytest.approx(image.mean(), rel=0.06)
        assert means[1] == pytest.approx((means[0] * means[2]) ** 0.5, rel=0.06)


@pytest.mark.parametrize("method", ESTIMATORS)
def test_few_colors_fall_to_black(method: str, haze: Haze, hazy: np.ndarray) -> None:
    made = dehazed(haze, hazy, method)
    assert ((made.min(2) == 0) & (hazy.min(2) > 0)).mean() < 0.1


@pytest.mark.parametrize("method", ESTIMATORS)
def test_a_reduced_photograph_is_dehazed_alike(method: str, haze: Haze) -> None:
    made = street(3, (480, 640))
    t = np.exp(-np.minimum(made.depth, 400) / 90)[..., None]
    large = Image.fromarray(np.rint(made.image * t + 225 * (1 - t)).astype(np.uint8))
    size = (160, 120)
    small = large.resize(size, Image.Resampling.BOX)
    results = [haze.dehaze(image, method=method).resize(size, Image.Resampling.BOX) for image in (large, small)]
    assert np.abs(np.asarray(results[0]).astype(float) - np.asarray(results[1])).mean() < 5


@pytest.mark.parametrize("name", ["strength", "keep_brightness"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_controls_are_in_0_to_1(name: str, value: float, haze: Haze, hazy: np.ndarray) -> None:
    settings: dict[str, Any] = {name: value}
    with pytest.raises(UsageError, match=rf"{name} is in 0\.\.1|{name}: nan is not a number"):
        haze.dehaze(hazy, method="dcp", **settings)
    with pytest.raises(UsageError, match=rf"{name} is in 0\.\.1|{name}: nan is not a number"):
        list(haze.dehaze_clip(iter([hazy]), method="dcp", **settings))


# ------------------------------------------------------------------------------------------------------ working image


def test_working_sizes() -> None:
    assert working_size(1080, 1920) == (WORKING_SIDE, round(WORKING_SIDE * 1920 / 1080))
    assert working_size(1, 1) == (4, 4)
    assert max(working_size(3, 3000)) == 4 * WORKING_SIDE
    assert working_size(600, 600, 128) == (128, 128)


def test_a_network_works_at_its_short_side(monkeypatch: pytest.MonkeyPatch, hazy: np.ndarray) -> None:
    networks = {side: PhysicalHaze(PhysicalConfig(channels=8, short_side=side)).eval() for side in (64, 240)}
    device = torch.device("cpu")
    sizes: list[int] = []

    def noted(working: Working, name: str, model: nn.Module | None) -> Coarse:
        sizes.append(min(working.image.shape[2:]))
        return read(working, name, model)

    monkeypatch.setattr(removal, "read", noted)
    methods = [Method("physical", networks[64], device), Method("physical", networks[240], device), Method("dcp", None, device)]
    for method in methods:
        removal.dehazed(Content(hazy, None, hazy.copy(), whole(hazy), ""), method, Controls())
        list(removal.dehazed_clip(iter([hazy]), method, Controls(), None))
    assert sizes == [64, 64, WORKING_SIDE, WORKING_SIDE, WORKING_SIDE, WORKING_SIDE]


def test_exposure_ignores_lamps_and_hidden_pixels() -> None:
    dark = torch.full((200, 200, 3), 40, dtype=torch.uint8)
    plain = working_image(dark).exposure
    assert plain == pytest.approx(40 / 255 / 0.95)
    lamp = dark.clone()
    lamp[:10, :10] = 255
    assert working_image(lamp).exposure == pytest.approx(plain)
    half = dark.clone()
    half[:100] = 255
    visible = torch.ones(200, 200, dtype=torch.bool)
    visible[:101] = False
    assert working_image(half, visible).exposure == pytest.approx(plain, rel=0.02)
    assert exposure_of(torch.zeros(1, 3, 8, 8), None) > 0
    assert exposure_of(torch.ones(1, 3, 8, 8), None) == 1


# ----------------------------------------------------------------------------------------------------------- metadata


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("verb", [["dehaze", "--method", "dcp"], ["haze"]])
def test_exif_is_carried_with_its_orientation_applied(verb: list[str], ending: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0110], exif[0x0112] = "Camera", 6
    Image.fromarray(street(3, (40, 60)).image).save(tmp_path / "a.jpg", exif=exif)
    for extra, model in (([], "Camera"), (["--strip"], None)):
        out = tmp_path / f"out{len(extra)}{ending}"
        assert main([*verb, str(tmp_path / "a.jpg"), "-o", str(out), "--device", "cpu", *extra]) == 0
        with Image.open(out) as made:
            assert made.size == (40, 60)  # turned
            assert made.getexif().get(0x0110) == model
            assert made.getexif().get(0x0112, 1) == 1
