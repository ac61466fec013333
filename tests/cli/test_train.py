"""`latens train`: settings, data, `--show-config`, and `--resume`, which needs no option of the first command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

import latens
from latens.catalogue import recipe_of
from latens.cli.main import main
from latens.errors import UsageError
from latens.launch import SEEN, earlier_run, plan_training
from latens.settings import override, to_dict

Capture = pytest.CaptureFixture[str]


def put_run(folder: Path, **changes: object) -> None:
    config = to_dict(override(recipe_of("image_codec", "tiny"), {"run.steps": "3"}))
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    (folder / "environment.json").write_text(json.dumps({"data": ["photos", "hazy:fog"]}))


def test_an_earlier_run_is_read_back(tmp_path: Path) -> None:
    put_run(tmp_path)
    earlier = earlier_run(tmp_path, "image_codec", None)
    assert earlier.config == override(recipe_of("image_codec", "tiny"), {"run.steps": "3"})
    assert earlier.data == ("photos", "hazy:fog")
    with pytest.raises(UsageError, match="trains image_codec, not parts"):
        earlier_run(tmp_path, "parts", None)
    with pytest.raises(UsageError, match="recipe tiny"):
        earlier_run(tmp_path, "image_codec", "cpu")


def test_runs_of_earlier_versions_are_read_back(tmp_path: Path) -> None:
    """One class of optimizer settings, and a recipe named desk."""
    saved = {"lr": 5e-4, "beta1": 0.9, "muon_lr": 1.2e-3, "warmup": 200, "decay_share": 0.75, "clip": 1.0, "ema": 0.9995}
    put_run(tmp_path, recipe="desk", optim=saved)
    earlier = earlier_run(tmp_path, "image_codec", None)
    assert earlier.config.recipe == "cpu"
    assert earlier.config.optim == recipe_of("image_codec", "cpu").optim
    put_run(tmp_path, optim={**saved, "muon_lr": 0.0, "beta1": 0.5})
    earlier = earlier_run(tmp_path, "image_codec", "tiny")
    assert (earlier.config.optim.kind, earlier.config.optim.beta1) == ("adam", 0.5)


@pytest.mark.parametrize("made", [True, False])
def test_there_must_be_a_run_to_continue(made: bool, tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    if made:
        run.mkdir()
    assert main(["train", "image_codec", "--recipe", "tiny", "--resume", "-o", str(run)]) == 2
    shown = capsys.readouterr().err
    assert "no run to continue" in shown
    assert "-o" in shown
    assert run.exists() == made
    assert not made or not list(run.iterdir())


def test_a_run_keeps_its_data_and_its_weights_to_start_from(tmp_path: Path, capsys: Capture) -> None:
    put_run(tmp_path)
    words = ["train", "image_codec", "--resume", "-o", str(tmp_path)]
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert main([*words, "--data", "others"]) == 2
    assert "this run trains on photos hazy:fog" in capsys.readouterr().err
    assert main([*words, "--init", "image_codec"]) == 2
    assert "--init has no effect" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    plan = plan_training("image_codec", tmp_path, data=[Path("x/../photos"), "hazy:fog"], resume=True)
    assert plan.data == ("photos", "hazy:fog")


def test_an_unknown_recipe_of_a_run_is_that_of_its_file(tmp_path: Path, capsys: Capture) -> None:
    put_run(tmp_path, recipe="tinny")
    assert main(["train", "image_codec", "--resume", "-o", str(tmp_path)]) == 2
    shown = capsys.readouterr().err
    assert f"{tmp_path / 'config.json'}: image_codec has no recipe 'tinny'" in shown
    assert "--recipe" not in shown


@pytest.mark.parametrize("text", ["{", "[]", '{"system": "image_codec"}'])
def test_a_damaged_run_folder_is_reported(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UsageError, match="cannot be read"):
        earlier_run(tmp_path, "image_codec", None)


def test_train_stop_resume_and_use(album: Path, capsys: Capture) -> None:
    photos, run = album.parent / "photos", album.parent / "run"
    photos.mkdir()
    for number in range(2):
        Image.effect_noise((80, 70 + number), 40).save(photos / f"{number}.png")
    common = ["-o", str(run), "--device", "cpu"]
    words = ["train", "image_codec", "--recipe", "tiny", "--data", str(photos), "--set", "run.steps=4", *common]
    assert main([*words, "--set", "data.batch=1", "--max-time", "0s"]) == 0
    assert "--resume continues" in capsys.readouterr().out
    assert main(words) == 2
    assert main(["train", "image_codec", "--resume", *common]) == 0
    assert "finished" in capsys.readouterr().out
    assert main(["compress", str(photos / "0.png"), "--model", str(run / "best"), "-o", str(run / "0.ltn")]) == 0
    new = album.parent / "new"
    new.mkdir()
    shutil.copy(photos / "0.png", new)
    part = photos / "part"
    shutil.copytree(new, part)
    # A report on training images looked like one on held-out images.
    for data, seen in ((photos, True), (new, False), ([new, photos], True), (part, True)):
        report = latens.evaluate("image_codec", model=run / "best", data=data, settings={"qualities": "[1, 2]"})
        assert report.about.endswith(f"; {SEEN}") is seen


@pytest.mark.parametrize(
    ("system", "setting", "said"),
    [
        ("image_codec", "model.transforms=compcat", "did you mean 'compact'?"),
        ("haze", "objective.prior.kind=foo", "--set objective.prior.kind"),
        ("haze", "objective.adversarial=wgan", "did you mean 'lsgan'?"),
        ("haze", "objective.distance=l3", "--set objective.distance"),
        ("image_codec", "optim.lr=-1", "--set optim.lr"),
        ("image_codec", "optim.beta1=0.5", "no setting 'optim.beta1'"),
        ("image_codec", "data.batch=0", "--set data.batch"),
        ("image_codec", "run.validate_every=0", "--set run.validate_every"),
        ("image_codec", "run.checkpoint_every=0", "--set run.checkpoint_every"),
        ("amodal", "model.detector.nms=7", "--set model.detector.nms"),
        ("parts", "run.steps=1.5", "--set run.steps"),
    ],
)
def test_settings_without_effect_are_refused(system: str, setting: str, said: str, tmp_path: Path, capsys: Capture) -> None:
    recipe = "cpu_mmd" if system == "haze" else "tiny"
    assert main(["train", system, "--recipe", recipe, "--set", setting, "-o", str(tmp_path / "run")]) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert len(shown.err.splitlines()) <= 3
    assert not (tmp_path / "run").exists()


def test_show_config_prints_every_setting_with_its_meaning(tmp_path: Path, capsys: Capture) -> None:
    words = ["train", "image_codec", "--recipe", "tiny", "--set", "run.steps=1e3", "--show-config", "-o", str(tmp_path / "run")]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "run.steps = 1000  (int >= 0)  number of training steps" in text
    assert 'optim.kind = "muon"' in text
    assert main([*words, "--format", "json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"path", "value", "type", "meaning"} == set(records[0])
    assert all(record["meaning"] for record in records)
    assert not (tmp_path / "run").exists()


def test_recipes_are_listed_with_a_line_each(capsys: Capture) -> None:
    assert main(["recipes", "--format", "json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {record["system"] for record in records} >= {"image_codec", "amodal", "haze", "parts"}
    assert all(record["about"] for record in records)
    assert main(["recipes", "hase"]) == 2
    assert "did you mean 'haze'?" in capsys.readouterr().err
