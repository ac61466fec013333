"""Table 1 on simulated streets and on a folder: baselines, references, missing rows, the journal, trained rows."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latens.data.source import Source
from latens.errors import InputError, UnreadableInput, UsageError
from latens.experiments.lab import ExperimentRunner
from latens.settings import SettingsError, override
from latens.systems.haze import artifacts
from latens.systems.haze import evaluate as evaluation
from latens.systems.haze.artifacts import SCALES, HazeLab, row_configs, trained_elsewhere, with_all_methods
from latens.systems.haze.config import LEARNED, PhysicalConfig
from latens.systems.haze.evaluate import PAPER, evaluate, measure
from latens.systems.haze.networks import network
from latens.systems.haze.predict import Haze
from latens.systems.haze.protocol import AS_DEHAZE, DEHAZE, SYNTHESIS, HazeRow, Protocol, hazy_scene, removal_rows, rows_of
from latens.systems.haze.recipes import HazeTraining
from latens.systems.haze.scenes import Scene, find_scenes, load_scene
from latens.systems.haze.simulator.streets import street
from latens.systems.haze.system import build
from latens.training.config import Adam

SMALL = Protocol(side=64, draws=2, scenes=2, max_depth=120.0)


@pytest.fixture(scope="module")
def haze() -> Haze:
    torch.manual_seed(0)
    model = network(PhysicalConfig(channels=8, short_side=64))
    return Haze({"physical": model}, name="tiny", sha256="0" * 64, device=torch.device("cpu"))


def folder_source(folder: Path) -> list[Source]:
    return [Source("", str(folder))]


def save_scene(folder: Path, name: str, depth: np.ndarray, image: np.ndarray | None = None) -> None:
    seed = sum(name.encode())  # each scene is another: copies are counted once
    drawn = np.random.default_rng(seed).integers(0, 256, (*depth.shape, 3), dtype=np.uint8)
    Image.fromarray(drawn if image is None else image).save(folder / f"{name}.png")
    Image.fromarray(depth.astype(np.uint8)).save(folder / f"{name}_depth.png")


RAMP = np.linspace(1, 200, 48)[:, None].repeat(64, 1)


def test_rows_baselines_and_references(haze: Haze) -> None:
    found = measure(haze, None, SMALL)
    means = found.means()
    removal = {method for task, method in means if task == DEHAZE}
    assert removal >= {"do nothing", "dcp", "dcp, full size", "dcp, gentle", "bccr", "physical"}
    assert {method for task, method in means if task == SYNTHESIS} >= {"do nothing", "ramp for depth, mean haze", "physical"}
    assert means[DEHAZE, "do nothing"][0] == pytest.approx(means[SYNTHESIS, "do nothing"][0])
    assert means[DEHAZE, "true transmission and airlight"][0] > 40  # the only loss is rounding to 8 bits
    assert means[DEHAZE, "true depth, mean haze"][0] > means[DEHAZE, "do nothing"][0]
    assert means[SYNTHESIS, "true depth, mean haze"][0] > means[SYNTHESIS, "ramp for depth, mean haze"][0]
    assert len(found.rows) == 2 * 2 * len(means)
    assert set(found.missing) == {kind for kind in LEARNED if not haze.has(kind)} == {"unit", "cyclegan"}
    made = evaluate(haze, [], SMALL, None)
    text = made.table()
    assert made.facts["training"]["physical"].startswith("model tiny, weights 000000000000; supervised")
    assert "bundled model haze_mmd, weights of step" in made.facts["training"]["mmd"]
    assert made.facts["training"]["mmd"] in text
    assert "d / 120 m" in text
    assert "there are no weights: unit, cyclegan" in text
    assert f"{PAPER['dcp, full size'][3]:g}" in text


def test_rows_are_as_published_and_as_dehaze_runs_them(haze: Haze) -> None:
    made = street(0, (48, 64))
    sample = hazy_scene(Scene("s", made.image, made.depth), 0, 0, SMALL)
    pixels = sample.hazy[0].permute(1, 2, 0).mul(255).round().byte().numpy()
    rows = dict(removal_rows(haze, ["physical"], sample))
    for method in ("dcp", "bccr", "physical"):
        assert np.array_equal(rows[f"{method}{AS_DEHAZE}"], np.asarray(haze.dehaze(pixels, method=method))), method
        assert np.array_equal(rows[method], haze.published_pixels(pixels, method)), method
    assert not np.array_equal(rows["dcp"], rows["dcp, full size"])


def test_the_same_scene_has_the_same_haze(haze: Haze) -> None:
    made = street(0, (48, 64))
    scene = Scene("s", made.image, made.depth)
    first, again, other = (hazy_scene(scene, 0, draw, SMALL) for draw in (0, 0, 1))
    assert torch.equal(first.hazy, again.hazy)
    assert not torch.equal(first.hazy, other.hazy)


def test_a_folder_with_a_bad_scene(haze: Haze, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_scene(tmp_path, "good", RAMP)
    save_scene(tmp_path, "bad", 0 * RAMP)
    report = evaluate(haze, folder_source(tmp_path), Protocol(side=48, draws=1), None)
    assert {row["scene"] for row in report.rows} == {"good"}
    assert "empty" in report.failures[0]
    assert "left out: bad" in caplog.text
    assert report.exit_status == 3
    with pytest.raises(UnreadableInput):
        evaluate(haze, folder_source(tmp_path / "nothing"), Protocol(), None)
    for sources in (folder_source(tmp_path) * 2, [Source("hazy", str(tmp_path))]):
        with pytest.raises(UsageError, match="--data"):
            evaluate(haze, sources, Protocol(), None)


def test_a_white_frame_is_removed(haze: Haze, tmp_path: Path) -> None:
    framed = np.full((60, 80, 3), 255, np.uint8)
    framed[6:-6, 6:-6] = 100
    save_scene(tmp_path, "a", np.linspace(1, 200, 60)[:, None].repeat(80, 1), framed)
    protocol = override(Protocol(draws=1), {"border": "6"})
    assert "a border of 6 pixels removed" in measure(haze, tmp_path, protocol).setting()
    assert float(hazy_scene(load_scene(find_scenes(tmp_path)[0], border=6), 0, 0, protocol).clear.max()) < 0.5
    with pytest.raises(InputError, match="border of 30"):
        measure(haze, tmp_path, replace(protocol, border=30))
    for wrong in ({"draws": "0"}, {"border": "-1"}, {"borders": "1"}):
        with pytest.raises(SettingsError):
            override(Protocol(), wrong)


def test_an_interrupted_evaluation_continues(haze: Haze, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored rows are reused only for the same files, protocol and weights."""
    data, out, protocol = tmp_path / "data", tmp_path / "out", Protocol(side=48, draws=1)
    data.mkdir()
    for name in ("a", "b"):
        save_scene(data, name, RAMP)
    measured: list[str] = []

    def watched(*arguments: object) -> list[HazeRow]:
        scene = arguments[2]
        assert isinstance(scene, Scene)
        if scene.name == "b" and not measured[1:]:
            measured.append("b")
            raise KeyboardInterrupt
        measured.append(scene.name)
        return rows_of(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluation, "rows_of", watched)
    with pytest.raises(KeyboardInterrupt):
        measure(haze, data, protocol, out)
    assert measured == ["a", "b"]
    found = measure(haze, data, protocol, out)
    assert measured == ["a", "b", "b"]
    assert measure(haze, data, protocol, out) == found == measure(haze, data, protocol)
    measured[3:] = []
    os.utime(data / "a.png", ns=(0, 0))
    measure(haze, data, protocol, out)
    assert measured[3:] == ["a"]
    measure(haze, data, replace(protocol, side=40), out)
    other = Haze(haze.learned, name="other", sha256="1" * 64, device=haze.device)
    measure(other, data, protocol, out)
    assert measured[4:] == ["a", "b", "a", "b"]


def test_every_scale_reaches_every_row_of_table_1() -> None:
    for name, scale in SCALES.items():
        configs = row_configs(scale)
        assert [config.model.kind for config in configs.values()] == list(configs)
        assert len({repr((config.model, config.objective)) for config in configs.values()}) == len(configs) == len(LEARNED)
        changed = row_configs(replace(scale, steps=7, border=3, streets=0))
        assert {(config.run.steps, config.data.border, config.data.scenes) for config in changed.values()} == {(7, 3, 0)}, name
        assert all(config.optim.warmup <= 1 for config in changed.values()), name
    assert {config.data.scenes for config in row_configs(SCALES["tiny"]).values()} == {2}
    assert {config.data.scenes for config in row_configs(SCALES["cpu"]).values()} == {400}
    published = row_configs(SCALES["paper"]).values()
    assert {(config.recipe, config.run.steps, config.optim, config.data.side) for config in published} == {
        ("paper", 250_000, Adam(lr=1e-4, warmup=0, decay_share=0.0, clip=1e6, ema=0.0, beta1=0.5), 256)
    }
    assert all(config.data.scenes == 0 for config in row_configs(replace(SCALES["paper"], train="apollo:a")).values())


def test_rows_are_trained_given_or_found(haze: Haze, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--model, a run of `latens train` that was copied to OUT/runs, and trainings of this command; each row tells which."""
    elsewhere, own = tmp_path / "runs" / "far" / "best", tmp_path / "runs" / "mmd-1" / "best"
    for folder, recipe, kind in ((elsewhere, "cpu_unit", "unit"), (own, "cpu_mmd", "mmd")):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"system": "haze", "model": {"kind": kind}, "scores": {"step": 5}}))
        settings = {"recipe": recipe, "run": {"steps": 9000}, "data": {"batch": 16, "scenes": 0}}
        (folder.parent / "config.json").write_text(json.dumps(settings))
        (folder.parent / "metrics.jsonl").write_text('{"kind": "train", "step": 6000}\n')
        (folder.parent / "environment.json").write_text('{"data": ["rgbd:/far/nyu"]}')
    (own.parent / "run.json").write_text("{}")
    assert trained_elsewhere(tmp_path / "runs", "mmd") is None
    asked: list[tuple[str, int]] = []
    added: list[Path] = []

    def train(lab: HazeLab, config: HazeTraining, name: str) -> Path:
        asked.append((name, config.run.steps))
        return own

    monkeypatch.setattr(artifacts, "trained", train)
    monkeypatch.setattr(haze, "add", added.append)
    scale = replace(SCALES["cpu"], steps=300, train="nyu")
    lab = ExperimentRunner(
        build=build, open_model=lambda place: haze, sources=[], scale=scale, recipe="cpu", folder=tmp_path, device="cpu"
    )
    _, trainings = with_all_methods(lab)
    assert asked == [("cyclegan", 300), ("dehazenet", 300), ("mmd", 300)]
    assert added == [elsewhere, own, own, own]
    assert trainings["physical"].startswith("--model tiny, weights 000000000000; supervised")
    assert trainings["unit"] == "cpu_unit, 6,000 of 9,000 steps of 16; nyu; unpaired crops"
