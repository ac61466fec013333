"""`Haze`: every method on every kind of image, visibility, tiles, clips, errors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import latens
from latens.catalogue import MODELS
from latens.data.depth import DepthFormat
from latens.errors import InputError, ModelError, ModelMissing, UsageError
from latens.hub import save_model
from latens.settings import to_dict
from latens.systems.haze import translation
from latens.systems.haze.config import DehazeNetConfig, DiscriminatorConfig, PhysicalConfig, TranslatorConfig
from latens.systems.haze.formation import beta_of_visibility
from latens.systems.haze.networks import network
from latens.systems.haze.objective import half_weights
from latens.systems.haze.predict import Haze, load
from latens.systems.haze.protocol import Protocol, hazy_scene
from latens.systems.haze.scenes import Scene as DepthScene
from latens.systems.haze.simulator.streets import street
from latens.systems.haze.temporal import motion_between

from .oracles import measure_beta

TINY: dict[str, TranslatorConfig | PhysicalConfig | DehazeNetConfig] = {
    "physical": PhysicalConfig(channels=8, short_side=64),
    "mmd": TranslatorConfig(channels=4, blocks=1, discriminator=DiscriminatorConfig(channels=4, scales=1, layers=2)),
    "dehazenet": DehazeNetConfig(),
}

Scene = tuple[np.ndarray, np.ndarray]  # a street and its depth


def untrained(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return network(TINY[kind])


@pytest.fixture(scope="module")
def haze() -> Haze:
    """Every kind of method; learned methods have seeded, untrained weights."""
    return Haze({kind: untrained(kind) for kind in TINY}, name="tiny", sha256="0" * 64, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def scene() -> Scene:
    made = street(3, (96, 144))
    return made.image, made.depth


@pytest.mark.parametrize("method", ["dcp", "bccr", *TINY])
@pytest.mark.parametrize("size", [(1, 1), (3, 200), (37, 50)])
def test_size_and_mode_are_preserved(method: str, size: tuple[int, int], haze: Haze) -> None:
    rng = np.random.default_rng(0)
    for mode, channels in (("L", ()), ("RGB", (3,)), ("RGBA", (4,))):
        image = Image.fromarray(rng.integers(0, 256, (*size, *channels), dtype=np.uint8), mode)
        found = haze.dehaze(image, method=method)
        assert found.size == image.size
        assert found.mode == mode
        if mode == "RGBA":
            assert np.array_equal(np.asarray(found)[..., 3], np.asarray(image)[..., 3])
    deep = np.linspace(0, 65535, size[0] * size[1]).reshape(size).astype(np.uint16)
    made = haze.dehaze(deep, method=method)
    assert (made.shape, made.dtype) == (size, np.uint16)


@pytest.mark.parametrize("method", ["dcp", "bccr", "physical", "dehazenet"])
@pytest.mark.parametrize("value", [0, 255])
def test_constant_images_stay_constant(method: str, value: int, haze: Haze) -> None:
    found = np.asarray(haze.dehaze(np.full((40, 60, 3), value, np.uint8), method=method)).astype(int)
    assert np.ptp(found, axis=(0, 1)).max() <= 1


def test_invalid_images_are_refused(haze: Haze, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_text("no image")
    for source in (tmp_path / "x.jpg", np.full((4, 4, 3), np.nan), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(InputError):
            haze.dehaze(source)


def test_without_weights_classical_methods_work_and_others_raise(scene: Scene) -> None:
    bare = load("haze", device="cpu")
    for method in ("dcp", "bccr"):
        assert bare.dehaze(scene[0], method=method).shape == (96, 144, 3)
    for method in ("mmd", "unit", "cyclegan", "dehazenet", "physical"):
        if f"haze_{method}" not in MODELS:
            with pytest.raises(ModelMissing, match=rf"{method}\nuse --method dcp or bccr.*--recipe cpu"):
                bare.dehaze(scene[0], method=method)
    with pytest.raises(UsageError, match="dcp, bccr"):
        bare.dehaze(scene[0], method="magic")
    assert type(latens.load("haze", device="cpu")) is Haze


@pytest.mark.parametrize("kind", TINY)
def test_a_model_folder_gives_the_same_image(kind: str, scene: Scene, tmp_path: Path) -> None:
    model = untrained(kind)
    config = to_dict(TINY[kind])
    save_model(tmp_path / "m", {"system": "haze", "model": config}, half_weights(model))
    loaded = latens.load(tmp_path / "m", device="cpu")
    assert loaded.default_method == kind
    halved = untrained(kind)
    halved.load_state_dict({name: tensor.half().float() for name, tensor in model.state_dict().items()})
    same = Haze({kind: halved}, name="", sha256="", device=torch.device("cpu"))
    assert np.array_equal(np.asarray(loaded.dehaze(scene[0])), np.asarray(same.dehaze(scene[0])))


def test_invalid_model_folders_are_refused(tmp_path: Path) -> None:
    config = to_dict(TINY["physical"])
    save_model(tmp_path / "m", {"system": "haze", "model": config | {"channels": 16}}, half_weights(untrained("physical")))
    with pytest.raises(ModelError, match="do not fit"):
        load(tmp_path / "m", device="cpu")
    save_model(tmp_path / "o", {"system": "image_codec", "model": {}}, {})
    with pytest.raises(ModelError, match="image_codec"):
        load(tmp_path / "o", device="cpu")


def test_visibility_is_accurate_and_monotone(haze: Haze, scene: Scene) -> None:
    image, depth = scene
    clear = torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255
    means, color = [], torch.tensor([0.95, 0.92, 0.9])
    for visibility in np.geomspace(60, 1500, 20):
        made = haze.haze(image, visibility=visibility, depth=depth, airlight=(0.95, 0.92, 0.9))
        hazy = torch.from_numpy(np.array(made)).permute(2, 0, 1).float() / 255
        found = measure_beta(hazy, clear, torch.from_numpy(depth)[None], color)
        assert found == pytest.approx(beta_of_visibility(visibility), rel=0.05)
        means.append(found)
    assert means == sorted(means, reverse=True)


def test_beta_is_accurate_with_predicted_depth(haze: Haze, scene: Scene) -> None:
    image = scene[0]
    clear = torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255
    meters = torch.from_numpy(haze.depth(image, max_depth=100))[None]
    made = haze.haze(image, beta=0.01, max_depth=100)
    hazy = torch.from_numpy(np.array(made)).permute(2, 0, 1).float() / 255
    assert measure_beta(hazy, clear, meters, torch.tensor([0.9, 0.9, 0.9])) == pytest.approx(0.01, rel=0.05)


def test_invalid_depth_and_conflicting_options_are_refused(haze: Haze, scene: Scene) -> None:
    image, depth = scene
    cases = {
        "144 x 90, its image 144 x 96": depth[:90],
        "empty": np.zeros_like(depth),
        "NaN": np.full_like(depth, np.nan),
        "negative": -np.ones_like(depth),
    }
    for message, wrong in cases.items():
        with pytest.raises(InputError, match=message):
            haze.haze(image, visibility=100, depth=wrong)
    for settings in ({"visibility": 100, "beta": 0.1}, {"visibility": -1}, {"beta": math.nan}, {"max_depth": 0}):
        with pytest.raises(UsageError):
            haze.haze(image, depth=depth, **settings)
    with pytest.raises(UsageError, match="cannot add haze"):
        haze.haze(image, method="dcp", visibility=100, depth=depth)
    with pytest.raises(UsageError, match="cannot be set"):
        haze.haze(image, method="mmd", visibility=100)


def test_relative_depth_and_learned_haze(haze: Haze, scene: Scene) -> None:
    image, depth = scene
    meters = np.minimum(depth, 100)
    stored = np.rint(meters / 100 * 255).astype(np.uint8)
    stored[0, 0] = 255
    by_meters = np.asarray(haze.haze(image, visibility=150, depth=meters)).astype(int)
    relative = DepthFormat(relative=True, hole=None)
    by_share = np.asarray(haze.haze(image, visibility=150, depth=stored, depth_format=relative, max_depth=100)).astype(int)
    assert np.abs(by_meters - by_share)[1:].max() <= 2
    floats = (meters / 7).astype(np.float32)  # relative depth in an arbitrary unit, as networks predict it
    by_floats = np.asarray(haze.haze(image, visibility=150, depth=floats, depth_format=relative, max_depth=100)).astype(int)
    assert np.abs(by_meters - by_floats).max() <= 1
    refined = np.asarray(haze.haze(image, visibility=150, depth=meters, refine_depth=True)).astype(int)
    assert 0 < np.abs(refined - by_meters).mean() < 16
    assert haze.haze(image, method="mmd").shape == (96, 144, 3)


def test_tiles_of_large_images_equal_the_whole_image(haze: Haze, monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.rand(1, 3, 203, 310, generator=torch.Generator().manual_seed(0))
    image[:, :, 100:] *= 0.3
    monkeypatch.setattr(translation, "WHOLE_PIXELS", 4000)
    tiled: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        for side in (64, 512):
            monkeypatch.setattr(translation, "TILE", side)
            tiled[side] = haze.translate(image, "mmd", "clear")
    assert tiled[64].shape == image.shape
    assert float((tiled[64] - tiled[512]).abs().max()) < 1 / 255


def panning(frames: int = 8, step: int = 3) -> tuple[list[np.ndarray], int]:
    """A camera that pans over a hazy image with a little noise; columns move left by `step` pixels per frame."""
    made = street(5, (96, 200))
    t = np.exp(-np.minimum(made.depth, 200) / 80)[..., None]
    hazy = made.image * t + 225 * (1 - t)
    rng = np.random.default_rng(0)
    views = [hazy[:, i * step : i * step + 160] + rng.normal(0, 2, (96, 160, 3)) for i in range(frames)]
    return [np.clip(np.rint(view), 0, 255).astype(np.uint8) for view in views], step


def flicker(frames: list[np.ndarray], step: int) -> float:
    """Mean difference of consecutive frames along the known motion, relative to the contrast of the clip."""
    errors = [np.abs(a[:, step:].astype(float) - b[:, :-step]).mean() for a, b in itertools.pairwise(frames)]
    return float(np.mean(errors) / np.mean([frame.std() for frame in frames]))


@pytest.mark.parametrize("method", ["dcp", "physical"])
def test_a_clip_does_not_flicker(method: str, haze: Haze) -> None:
    frames, step = panning()
    steady = list(haze.dehaze_clip(iter(frames), method=method))
    alone = [np.asarray(haze.dehaze(frame, method=method)) for frame in frames]
    assert len(steady) == len(frames)
    assert np.array_equal(steady[0], alone[0])
    assert flicker(steady, step) < flicker(alone, step)
    assert flicker(steady, step) <= 1.1 * flicker(frames, step)


def test_a_cut_resets_the_filter_and_translators_refuse_clips(haze: Haze) -> None:
    first, second = street(1, (64, 96)).image, street(2, (64, 96)).image
    made = list(haze.dehaze_clip(iter([first, first, second]), method="dcp"))
    assert np.array_equal(made[2], np.asarray(haze.dehaze(second, method="dcp")))

    def frames() -> Iterator[np.ndarray]:
        yield first

    with pytest.raises(UsageError, match="translates"):
        list(haze.dehaze_clip(frames(), method="mmd"))


def test_a_noisy_sky_has_the_motion_of_its_surroundings() -> None:
    rng = np.random.default_rng(0)
    wide = np.full((96, 170), 0.8)
    wide[60:] = cv2.GaussianBlur(rng.random((36, 170)), (0, 0), 2) * 2 - 0.5
    before, now = (wide[:, i : i + 160] + rng.normal(0, 0.01, (96, 160)) for i in (0, 3))
    motion = motion_between(before.astype(np.float32), now.astype(np.float32))
    moved = motion.columns - np.arange(160)
    assert float(np.abs(moved[10:40, 10:-10] - 3).mean()) < 0.5  # flow of noise would be random
    assert float(np.abs(moved[70:90, 10:-10] - 3).mean()) < 0.3


@pytest.mark.parametrize("stops", [1, 2, 3])
def test_dim_images_lose_their_haze_and_not_their_light(stops: int) -> None:
    """A photograph at a half, a quarter and an eighth of its brightness, by the bundled model."""
    bundled = load("haze", device="cpu")
    scene = street(3)
    hazy = np.asarray(
        hazy_scene(DepthScene("street", scene.image, scene.depth), 0, 0, Protocol(max_depth=120.0)).hazy[0].permute(1, 2, 0)
    )
    full = np.asarray(bundled.dehaze((255 * hazy).round().astype(np.uint8))).astype(float)
    dim = np.asarray(bundled.dehaze((255 * hazy / 2**stops).round().astype(np.uint8))).astype(float) * 2**stops
    assert (full.mean(), full.std()) == pytest.approx((dim.mean(), dim.std()), rel=0.15)
    assert (dim.max(axis=2) == 0).mean() < 0.05
