"""Scenes and batches; invalid sources, settings and sizes are refused; skipped files cause a warning."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latens.data.source import Source, parse_sources
from latens.errors import InputError, UnreadableInput, UsageError
from latens.legacy import upgrade_run
from latens.settings import SettingsError, decode_like, override, to_dict
from latens.systems.haze import recipes
from latens.systems.haze.config import HazeDataConfig, PhysicalConfig, TranslationLossConfig
from latens.systems.haze.dataset import SceneData, UnpairedData, jitter_camera
from latens.systems.haze.formation import add_haze, transmission
from latens.systems.haze.physical import PhysicalHaze, consistency
from latens.systems.haze.scenes import below, find_labeled, find_scenes, load_scene, split
from latens.systems.haze.street_labels import street_depth
from latens.systems.haze.system import build
from latens.training.config import Adam
from latens.training.run import train


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture(scope="module")
def rgbd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with depth, under the file names of their data sets."""
    folder, rng = tmp_path_factory.mktemp("rgbd"), np.random.default_rng(0)
    image = rng.integers(0, 256, (80, 96, 3), dtype=np.uint8)
    ramp = np.linspace(4, 60, 80)[:, None].repeat(96, 1)
    for index in range(6):
        save(folder / "nyu" / f"{index:04}.png", np.roll(image, index, 1))
        save(folder / "nyu" / f"{index:04}_depth.png", ramp.astype(np.uint8))
    save(folder / "kitti" / "a_left.png", image)
    save(folder / "kitti" / "a_depth256.png", (ramp * 256).astype(np.uint16))
    save(folder / "apollo" / "ColorImage" / "road" / "x.png", image)
    save(folder / "apollo" / "Depth" / "road" / "x.png", (ramp * 200).astype(np.uint16))
    save(folder / "cityscapes" / "b_leftImg8bit.png", image)
    save(folder / "cityscapes" / "b_disparity.png", (256 * 400 / ramp + 1).astype(np.uint16))
    camera = {"intrinsic": {"fx": 2000}, "extrinsic": {"baseline": 0.2}}
    (folder / "cityscapes" / "b_camera.json").write_text(json.dumps(camera))
    return folder


def test_scenes_are_found_by_their_file_names(rgbd: Path) -> None:
    found = {scene.name: scene for scene in find_scenes(rgbd)}
    assert len(found) == 9
    ramp = np.linspace(4, 60, 80)
    for name in ("kitti/a_left", "apollo/ColorImage/road/x", "cityscapes/b_leftImg8bit"):
        scene = load_scene(found[name])
        assert scene.depth[:, 5] == pytest.approx(ramp, abs=0.2)  # meters
    small = load_scene(found["nyu/0003"], side=40, border=4)
    assert small.image.shape == (40, 49, 3)
    assert small.depth.shape == (40, 49)


def test_neighboring_frames_are_in_one_split(rgbd: Path) -> None:
    nyu = find_scenes(rgbd / "nyu")
    train_part, held = split(nyu, 1 / 3)
    assert [scene.name for scene in train_part] == ["0000", "0001"]
    assert [scene.name for scene in held] == ["0004", "0005"]
    assert split(nyu[:1], 0.1) == (nyu[:1], nyu[:1])


def test_missing_and_wrong_depth_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableInput, match="not a folder"):
        find_scenes(tmp_path / "missing")
    save(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UnreadableInput, match="depth"):
        find_scenes(tmp_path)
    save(tmp_path / "a_depth.png", np.ones((4, 8), np.uint8))
    with pytest.raises(InputError, match="8 x 4"):
        load_scene(find_scenes(tmp_path)[0])


def test_batches_are_seeded_and_follow_equation_1(rgbd: Path) -> None:
    config = HazeDataConfig(side=64, crop=32, batch=3, scenes=2, draws=1)
    data = SceneData([rgbd / "nyu"], config, seed=5)
    batch, again = data.batch(3, 0), SceneData([rgbd / "nyu"], config, seed=5).batch(3, 0)
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    assert not torch.equal(batch["hazy"], data.batch(4, 0)["hazy"])
    hazy = add_haze(batch["truth"], transmission(batch["depth"], batch["beta"]), batch["airlight"])
    assert float((hazy - batch["hazy"]).abs().max()) <= 0.5 / 255 + 1e-6
    assert batch["clear"].shape == batch["hazy"].shape == (3, 3, 32, 32)
    airlights = {tuple(w.tolist()) for step in range(20) for w in data.batch(step, 0)["airlight"]}
    assert len(airlights) <= len(data.train)  # one draw per image
    assert all(size % 32 == 0 for b in data.validation() for size in b["hazy"].shape[2:])


def test_disjoint_halves_have_no_common_scene() -> None:
    data = SceneData([], HazeDataConfig(side=48, crop=48, batch=8, scenes=4, disjoint=True), seed=0)
    data.train = [scene._replace(image=np.full_like(scene.image, 40 * i)) for i, scene in enumerate(data.train)]
    batches = [data.batch(step, 0) for step in range(6)]
    assert max(float(b["truth"].max()) for b in batches) < 0.2
    assert min(float(b["clear"].min()) for b in batches) > 0.3


def test_real_folders_are_unpaired(tmp_path: Path) -> None:
    for index in range(4):
        save(tmp_path / "hazy" / f"{index}.png", np.full((70, 80, 3), 200 + index, np.uint8))
        save(tmp_path / "clear" / f"{index}.png", np.full((70, 80, 3), 50 + index, np.uint8))
    config = replace(recipes.tiny_mmd(), data=HazeDataConfig(side=64, crop=64, batch=2))
    parts = build(config, parse_sources([tmp_path]))
    assert isinstance(parts.data, UnpairedData)
    batch = parts.data.batch(0, 0)
    assert float(batch["hazy"].min()) > 0.75
    assert float(batch["clear"].max()) < 0.25
    assert "cycle_psnr" in parts.objective.validate(parts.model.eval(), parts.data.validation()[:1])
    with pytest.raises(UsageError, match="depth"):
        build(recipes.tiny(), parse_sources([tmp_path]))
    with pytest.raises(UnreadableInput, match="depth"):  # `rgbd:` requires scenes with depth
        build(config, [Source("rgbd", str(tmp_path))])
    with pytest.raises(UsageError, match="'hazi:"):
        build(config, [Source("hazi", str(tmp_path))])


def test_real_images_may_have_any_orientation(tmp_path: Path) -> None:
    save(tmp_path / "hazy" / "upright.png", np.full((120, 70, 3), 200, np.uint8))
    save(tmp_path / "clear" / "wide.png", np.full((70, 100, 3), 50, np.uint8))
    parts = build(replace(recipes.tiny_mmd(), data=HazeDataConfig(side=64, crop=64, batch=1)), parse_sources([tmp_path]))
    model, held_out = parts.model.eval(), parts.data.validation()
    assert "cycle_psnr" in parts.objective.validate(model, held_out)
    for view in parts.objective.images(model, held_out).values():
        assert view.shape[1] > 64 + 64 + 64  # four images, scaled to the lower height


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective.prior.positions": "1"}, "positions"),
        ({"model.shared_blocks": "9"}, "shared_blocks .9. must be at most blocks .1."),
        ({"data.crop": "65"}, "crops of 65 pixels"),
        ({"data.side": "8"}, "data.side"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        override(recipes.tiny_mmd(), settings)


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ("tiny", {"data.crop": "50"}, "multiple of 32"),
        ("tiny_mmd", {"data.crop": "50"}, "multiple of 4"),
        ("tiny_mmd", {"model.discriminator.layers": "9"}, "too small for a discriminator of 2 scales and 9 layers"),
        ("tiny", {"data.side": "400", "data.crop": "384", "data.scenes": "0"}, "at least 384"),
    ],
)
def test_invalid_sizes_are_refused_before_training(recipe: str, settings: dict[str, str], message: str) -> None:
    config = override(recipes.RECIPES[recipe](), {"data.scenes": "1", **settings})
    with pytest.raises(UsageError, match=message):
        build(config, [])


def test_losses_of_another_model_are_refused() -> None:
    with pytest.raises(UsageError, match="does not belong to the model 'physical'"):
        build(replace(recipes.tiny(), objective=TranslationLossConfig()), [])


def test_skipped_scenes_cause_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ramp = np.linspace(4, 60, 80)[:, None].repeat(96, 1).astype(np.uint8)
    for name in "abcdef":  # d and e lie between training and held-out scenes
        side = 40 if name == "b" else 80
        save(tmp_path / f"{name}.png", np.full((side, 96, 3), 90, np.uint8))
        save(tmp_path / f"{name}_depth.png", ramp[:side] * (name != "a"))
    save(tmp_path / "plain.png", np.zeros((80, 96, 3), np.uint8))
    data = SceneData([tmp_path], HazeDataConfig(side=64, crop=64, scenes=0), seed=0)
    assert (len(data.train), len(data.held_out)) == (1, 1)
    assert "1 images without a depth map, the first is plain.png" in caplog.text
    assert "left out" in caplog.text  # a: no measurement
    assert "skipped for training: 1 scenes with a side below 64" in caplog.text


def test_a_single_scene_is_used_for_both_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "a.png", np.full((80, 96, 3), 90, np.uint8))
    save(tmp_path / "a_depth.png", np.linspace(4, 60, 80)[:, None].repeat(96, 1).astype(np.uint8))
    data = SceneData([tmp_path], HazeDataConfig(side=64, crop=64, scenes=0), seed=0)
    assert len(data.train) == len(data.held_out) == 1
    assert "1 scene used for both training and validation" in caplog.text


def test_recipe_paper_has_the_settings_of_the_paper() -> None:
    config = recipes.paper()
    assert isinstance(config.optim, Adam)
    assert (config.optim.lr, config.optim.beta1, config.run.steps, config.data.batch) == (1e-4, 0.5, 250_000, 1)
    loss = config.objective
    assert isinstance(loss, TranslationLossConfig)
    assert (loss.prior.weight, loss.adversarial_weight, loss.reconstruction_weight, loss.cycle_weight) == (0.01, 1, 10, 10)


def test_real_images_may_be_in_two_folders(tmp_path: Path) -> None:
    for index in range(3):
        save(tmp_path / "fog" / f"{index}.png", np.full((70, 80, 3), 200 + index, np.uint8))
        save(tmp_path / "sun" / f"{index}.png", np.full((70, 80, 3), 50 + index, np.uint8))
    config = replace(recipes.tiny_mmd(), data=HazeDataConfig(side=64, crop=64, batch=1))
    batch = build(config, parse_sources([f"hazy:{tmp_path}/fog", f"clear:{tmp_path}/sun"])).data.batch(0, 0)
    assert float(batch["hazy"].min()) > 0.75
    assert float(batch["clear"].max()) < 0.25
    with pytest.raises(UsageError, match="no clear images"):
        build(config, parse_sources([f"hazy:{tmp_path}/fog"]))
    with pytest.raises(UnreadableInput, match="not a folder"):
        build(config, parse_sources([f"hazy:{tmp_path}/fog", "clear:/missing"]))


def test_the_depth_of_a_crop_is_relative_to_the_crop() -> None:
    data = SceneData([], HazeDataConfig(side=96, crop=64, batch=8, scenes=3), seed=1)
    depth = data.batch(0, 0)["depth"]
    assert depth.amax((1, 2, 3)).tolist() == pytest.approx([1.0] * 8)  # the farthest point


def test_a_scene_is_hazed_whole_and_then_cropped(tmp_path: Path) -> None:
    """Columns of a scene have the depths 1 to 100 m. Those of a crop keep their share of the 100 m, as its columns tell."""
    meters = np.linspace(1, 100, 96, dtype=np.float32)[None].repeat(96, 0)
    shown = np.rint(255 * meters / 100).astype(np.uint8)[..., None].repeat(3, 2)
    save(tmp_path / "a.png", shown)
    np.save(tmp_path / "a_depth.npy", meters)
    sizes = HazeDataConfig(side=96, crop=48, batch=8, scenes=0, farthest_of="scene")
    batch = SceneData([tmp_path], sizes, seed=1).batch(0, 0)
    assert torch.allclose(batch["depth"], batch["truth"][:, :1], atol=0.03)
    assert float(batch["depth"].amax((1, 2, 3)).min()) < 0.9


def test_jitter_of_strength_zero_changes_nothing() -> None:
    rng, image = np.random.default_rng(0), np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert np.array_equal(jitter_camera(image, rng, 0.0), image)
    assert not np.array_equal(jitter_camera(image, rng, 1.0), image)


def test_a_model_with_an_image_pool_can_initialize_a_run(tmp_path: Path) -> None:
    settings = {"data.scenes": "2", "run.steps": "2", "model.kind": "cyclegan", "model.discriminator.pool": "3"}
    config = override(recipes.tiny_mmd(), {**settings, "objective.prior.kind": "none"})
    first = train(build, config, [], tmp_path / "a", device="cpu")
    again = train(build, config, [], tmp_path / "b", init=first.folder / "best", device="cpu")
    assert again.ended == "finished"


def test_runs_of_earlier_versions_load() -> None:
    """Saved settings from before each model had its own class and the current names."""
    config = recipes.tiny_mmd()
    old = to_dict(config)
    old["model"]["judge"] = old["model"].pop("discriminator")
    old["model"]["work"] = 240
    old["objective"]["prior"]["twice"] = old["objective"]["prior"].pop("double_first_prior_term")
    old["data"]["tones"] = old["data"].pop("color_jitter")
    assert decode_like(config, upgrade_run(old)) == config
    physical = recipes.tiny()
    old = to_dict(physical)
    old["model"] |= {"work": old["model"].pop("short_side"), "blocks": 4, "shared_blocks": 0, "code_channels": 0, "judge": {}}
    old["objective"]["weather_weight"] = old["objective"].pop("parameters_weight")
    assert decode_like(physical, upgrade_run(old)) == physical


# ----------------------------------------------------------------------------------------- photographs: recipe cpu_fine


def test_numbered_scenes_are_left_for_tests_in_every_folder(rgbd: Path, caplog: pytest.LogCaptureFixture) -> None:
    nyu, kitti = find_scenes(rgbd / "nyu"), find_scenes(rgbd / "kitti")
    assert [scene.number for scene in below(nyu, 3)] == [0, 1, 2]
    assert below(nyu, 0) == below(nyu, 1000) == nyu
    assert kitti[0].number is None
    assert below(kitti, 3) == kitti
    caplog.set_level(logging.INFO)
    data = SceneData([rgbd / "nyu"], HazeDataConfig(side=64, crop=32, scenes=0, held_out_from=4), seed=0)
    assert (len(data.train), len(data.held_out)) == (1, 1)  # of four, two lie between
    assert f"{rgbd / 'nyu'}: 2 scenes from number 4 on are left for tests" in caplog.messages
    assert "1 scene for training, 1 for validation; 2 between them left out" in caplog.text
    SceneData([rgbd / "kitti"], HazeDataConfig(side=64, crop=32, scenes=2, held_out_from=4), seed=0)
    assert any("the scenes have no numbers" in line for line in caplog.messages)


def test_a_folder_whose_scenes_are_all_left_for_tests_is_refused(rgbd: Path, tmp_path: Path) -> None:
    for path in (rgbd / "nyu").glob("000[345]*"):
        shutil.copy(path, tmp_path)
    with pytest.raises(UsageError, match=r"all 3 scenes have the number 1 or more"):
        SceneData([tmp_path], HazeDataConfig(side=64, crop=32, held_out_from=1), seed=0)


def test_borders_are_one_per_folder(rgbd: Path) -> None:
    folders = [rgbd / "nyu", rgbd / "kitti"]
    config = HazeDataConfig(side=64, crop=32, scenes=2, borders=(8, 0))
    data = SceneData(folders, config, 0)
    assert {scene.image.shape[:2] for scene in data.held_out[:2]} == {(64, 80), (64, 77)}
    with pytest.raises(UsageError, match="1 borders for 2 folders"):
        SceneData(folders, replace(config, borders=(8,)), 0)


def test_the_sky_of_lidar_depth_is_far(tmp_path: Path) -> None:
    """Bright holes above the returns are sky; a dark bridge there and holes below are not."""
    image = np.full((60, 120, 3), 90, np.uint8)
    image[:24] = 240
    image[8:14, :60] = 20
    depth = np.zeros((60, 120), np.uint16)
    depth[30::2, ::3] = 256 * 10
    save(tmp_path / "a.png", image)
    save(tmp_path / "a_sparsedepth256.png", depth)
    found = load_scene(find_scenes(tmp_path)[0]).depth
    assert np.isinf(found[:4]).all()
    assert np.isinf(found[:18, 70:]).all()
    assert found[8:14, :50] == pytest.approx(10)
    assert found[30:] == pytest.approx(10)


def test_labels_of_streets_give_depth(tmp_path: Path) -> None:
    """A road below a sky, with a car, a house behind it, a sign without a foot, and the hood of the camera's car."""
    labels = np.zeros((100, 160), np.uint8)
    labels[50:] = 3
    labels[40:70, 20:50] = 8
    labels[10:56, 20:120] = np.where(labels[10:56, 20:120] == 8, 8, 1)
    labels[4:8, 130:140] = 6
    labels[95:] = 11
    found = street_depth(labels)
    assert np.isinf(found[:4]).all()
    assert np.isfinite(found[50:]).all()
    road = found[70:95, 150]
    assert (np.diff(road) < 0).all()  # nearer further down
    assert road == pytest.approx(160 * 1.5 / (np.arange(70, 95) - 49), rel=0.05)
    assert found[45, 30] == pytest.approx(found[70, 150], rel=0.05)  # the car stands on the road
    assert found[20, 100] == pytest.approx(found[56, 150], rel=0.05)  # the house too
    assert found[20, 30] == pytest.approx(found[20, 100], rel=0.05)  # although the car hides its foot here
    assert found[98, 80] <= found[94, 80]
    save(tmp_path / "a.png", np.zeros((100, 160, 3), np.uint8))
    save(tmp_path / "a_label.png", labels)
    assert np.array_equal(load_scene(find_labeled(tmp_path)[0]).depth, found)
    built = build(override(recipes.tiny(), {"data.scenes": "2"}), parse_sources([f"camvid:{tmp_path}"]))
    assert len(built.data.train) == 3  # type: ignore[attr-defined]
    for wrong in (np.zeros((8, 8), np.uint8), np.full((8, 8), 20, np.uint8)):
        with pytest.raises(InputError, match="labels of a street"):
            street_depth(wrong)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnreadableInput, match="no image in this folder has labels"):
        find_labeled(tmp_path / "empty")


def test_gray_airlight_and_dim_crops_follow_equation_1() -> None:
    config = HazeDataConfig(side=64, crop=64, batch=16, scenes=4, gray_airlight=1.0, dimming=0.5)
    batch = SceneData([], config, 0).batch(0, 0)
    airlight = batch["airlight"]
    assert float((airlight.amax(1) - airlight.amin(1)).max()) < 0.05
    assert 0.4 <= float(airlight.min()) < 0.75
    again = add_haze(batch["truth"], transmission(batch["depth"], batch["beta"]), airlight)
    assert float((again - batch["hazy"]).abs().max()) <= 0.5 / 255 + 1e-6
    colorful = SceneData([], replace(config, gray_airlight=0.0, dimming=0.0), 0).batch(0, 0)["airlight"]
    assert float((colorful.amax(1) - colorful.amin(1)).max()) > 0.1


def test_the_fine_model_learns_and_is_consistent(tmp_path: Path) -> None:
    config = recipes.cpu_fine()
    assert isinstance(config.model, PhysicalConfig)
    assert sum(p.numel() for p in PhysicalHaze(config.model).parameters()) < 1.5e6
    small = replace(
        recipes.tiny(),
        model=replace(config.model, channels=8, short_side=64),
        data=replace(config.data, side=64, crop=64, batch=4, scenes=6),
        objective=config.objective,
    )
    train(build, small, [], tmp_path / "run", device="cpu")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line for line in lines if line["kind"] == "train"]
    assert losses[-1]["loss"] < losses[0]["loss"]
    assert losses[-1]["consistency"] > 0


def test_consistency_is_zero_for_images_that_blur_does_not_change() -> None:
    torch.manual_seed(0)
    model = PhysicalHaze(PhysicalConfig(channels=8, short_side=64, fold=2))
    noise = torch.rand(1, 3, 64, 64)
    flat = torch.full_like(noise, 0.6)
    with torch.no_grad():
        assert float(consistency(model, flat, model(flat, flat))) < 1e-5
        assert float(consistency(model, noise, model(noise, noise))) > 1e-4
