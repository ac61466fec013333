"""`latens train --resume` needs none of the first command's options again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from latens.catalogue import SYSTEMS, import_part
from latens.cli.main import main
from latens.cli.train import earlier_run, flat, haze_sources
from latens.errors import UsageError
from latens.training.config import TrainConfig, override, to_dict


def recipes(system: str) -> list[TrainConfig]:
    module = import_part(system, "recipes")
    made = [value for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    return [recipe() for recipe in made if callable(recipe)]


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_settings_of_a_run_rebuild_its_configuration(system: str) -> None:
    every = recipes(system)
    assert len(every) >= 2
    for config in every:
        changed = override(config, {"run.steps": "7", "optim.lr": "0.5"})
        plain = to_dict(changed)
        del plain["system"], plain["recipe"]
        assert override(config, flat(plain)) == changed
        assert changed == replace(config, run=changed.run, optim=changed.optim)


def test_an_earlier_run_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"system": "s", "recipe": "tiny", "run": {"steps": 3}}))
    (tmp_path / "environment.json").write_text(json.dumps({"data": ["photos"]}))
    earlier = earlier_run(tmp_path, "s")
    assert (earlier.recipe, earlier.data, dict(earlier.settings)) == ("tiny", [Path("photos")], {"run.steps": "3"})
    with pytest.raises(UsageError, match="trains s, not t"):
        earlier_run(tmp_path, "t")


def test_a_new_folder_has_no_earlier_run(tmp_path: Path) -> None:
    assert earlier_run(tmp_path / "new", "s").recipe is None


def test_a_damaged_run_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        earlier_run(tmp_path, "s")


def test_train_stop_resume_and_use(album: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos, run = album.parent / "photos", album.parent / "run"
    photos.mkdir()
    for number in range(2):
        Image.effect_noise((80, 70 + number), 40).save(photos / f"{number}.png")
    command = ["train", "image_codec", "-o", str(run), "--format", "json", "--device", "cpu"]
    steps = ["--set", "run.validate_every=2", "--set", "run.checkpoint_every=1"]
    assert main([*command, "--recipe", "tiny", "--data", str(photos), "--set", "run.steps=2", *steps]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 2
    assert main([*command, "--recipe", "tiny", "--data", str(photos)]) == 2  # the folder holds a run
    assert main([*command, "--resume", "--set", "run.steps=3"]) == 0
    ended = json.loads(capsys.readouterr().out)
    assert (ended["step"], ended["ended"]) == (3, "finished")
    config = json.loads((run / "config.json").read_text())
    assert (config["recipe"], config["run"]["checkpoint_every"]) == ("tiny", 1)
    assert main(["compress", str(album / "a.png"), "--model", str(run / "best")]) == 0


def test_real_pictures_of_haze_come_in_pairs_of_folders() -> None:
    found = haze_sources("haze", hazy=Path("fog"), clear=Path("sun"), rgbd=None, apollo=None)
    assert found == [Path("hazy:fog"), Path("clear:sun")]
    assert haze_sources("haze", hazy=None, clear=None, rgbd=Path("a"), apollo=Path("b")) == [Path("a"), Path("b")]
    with pytest.raises(UsageError, match="belong together"):
        haze_sources("haze", hazy=Path("fog"), clear=None, rgbd=None, apollo=None)
    with pytest.raises(UsageError, match="for haze"):
        haze_sources("parts", hazy=None, clear=None, rgbd=Path("a"), apollo=None)
