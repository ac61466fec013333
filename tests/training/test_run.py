"""Training runs: a resumed run gives the same bits, also after a kill, and bad requests are refused.

That every system's `tiny` recipe learns and resumes is in tests/contracts.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import latens
from latens.catalogue import folder_of, recipe_of
from latens.contract import open_system
from latens.data.source import Source, parse_sources
from latens.errors import Diverged, ModelError, OutputExists, UnreadableInput, UsageError
from latens.launch import located_source
from latens.settings import override
from latens.training.checkpoint import load_latest
from latens.training.log import RunLog
from latens.training.loop import Loop
from latens.training.objective import Step
from latens.training.origin import data_state
from latens.training.run import LOCK, RunResult, refuse_folder, train

SHORT = {
    "run.steps": "6",
    "run.checkpoint_every": "2",
    "run.validate_every": "3",
    "run.log_every": "1",
    "data.batch": "2",
}


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index in range(4):
        coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
        coarse.resize((112, 96), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder


def start(photos: Path, folder: Path, changes: dict[str, str], **more: Any) -> RunResult:
    config = override(recipe_of("image_codec", "tiny"), changes)
    return train(open_system("image_codec").build, config, parse_sources([photos]), folder, device="cpu", **more)


def weights_hash(run: Path) -> str:
    newest = sorted(run.glob("checkpoints/step-*"))[-1]
    return hashlib.sha256(b"".join((newest / f"{part}.safetensors").read_bytes() for part in ("model", "average"))).hexdigest()


def test_a_run_writes_its_environment_and_samples(photos: Path, tmp_path: Path) -> None:
    result = start(photos, tmp_path / "run", SHORT)
    assert (result.ended, result.step) == ("finished", 6)
    assert (result.folder / "environment.json").is_file()
    assert list((result.folder / "samples").glob("reconstructions-*.png"))
    codec = open_system("image_codec").load(result.folder / "best", device="cpu")
    assert codec.decompress(codec.compress(photos / "0.png", quality=1)).size == (112, 96)


def test_a_run_is_not_overwritten(photos: Path, tmp_path: Path) -> None:
    start(photos, tmp_path, SHORT, max_time=0)
    with pytest.raises(OutputExists):
        start(photos, tmp_path, SHORT)


@pytest.mark.parametrize("name", ["config.json", "best", "samples", "metrics.jsonl"])
def test_files_of_a_run_or_of_the_user_are_not_replaced(name: str, photos: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputExists, match=name):
        start(photos, tmp_path, SHORT)
    assert (tmp_path / name).read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_two_processes_do_not_train_in_one_folder(photos: Path, tmp_path: Path) -> None:
    """The lock ends with its process, also after a kill."""
    start(photos, tmp_path, SHORT, max_time=0)
    script = "import fcntl, sys; s = open(sys.argv[1], 'w'); fcntl.flock(s, fcntl.LOCK_EX); print(flush=True); input()"
    words = [sys.executable, "-c", script, str(tmp_path / LOCK)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(OutputExists, match="another process trains"):
            start(photos, tmp_path, SHORT, resume=True)
        other.kill()
    assert start(photos, tmp_path, SHORT, resume=True).ended == "finished"


@pytest.mark.parametrize("changes", [{"model.hidden": "8"}, {"optim.kind": "adam"}])
def test_settings_that_do_not_fit_the_checkpoint_are_not_saved(changes: dict[str, str], photos: Path, tmp_path: Path) -> None:
    assert start(photos, tmp_path, SHORT, max_time=0).step == 1
    before = {path: path.read_bytes() for path in tmp_path.glob("*.json")}
    with pytest.raises(UsageError, match="do not fit the checkpoint of step 1") as caught:
        start(photos, tmp_path, {**SHORT, **changes}, resume=True)
    assert len(str(caught.value)) < 600
    assert {path: path.read_bytes() for path in tmp_path.glob("*.json")} == before


SCRIPT = """
import sys, torch
from pathlib import Path
from latens.catalogue import recipe_of
from latens.contract import open_system
from latens.data.source import Source
from latens.settings import override
from latens.training.run import train
torch.set_num_threads(1)
config = override(recipe_of("image_codec", "tiny"), dict(item.split("=") for item in sys.argv[3:]))
train(open_system("image_codec").build, config, [Source("", sys.argv[1])], Path(sys.argv[2]), device="cpu", resume=True)
"""


@pytest.mark.slow
def test_killed_at_random_steps_it_ends_with_the_same_weights(photos: Path, tmp_path: Path) -> None:
    settings = ["run.steps=40", "run.checkpoint_every=1", "run.validate_every=40", "run.log_every=1", "data.batch=1"]

    def launch(run: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", SCRIPT, str(photos), str(run), *settings])

    assert launch(tmp_path / "calm").wait() == 0
    rng = random.Random(1)
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        process = launch(tmp_path / "stormy")
        metrics = tmp_path / "stormy" / "metrics.jsonl"
        before = len(metrics.read_text().splitlines()) if metrics.exists() else 0
        wanted = before + rng.randrange(3, 15)
        while process.poll() is None and (not metrics.exists() or len(metrics.read_text().splitlines()) < wanted):
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait() != 0
    assert launch(tmp_path / "stormy").wait() == 0
    assert weights_hash(tmp_path / "calm") == weights_hash(tmp_path / "stormy")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_between_steps_with_its_product(
    number: signal.Signals, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step of the signal is finished, validated and saved, and earlier signal handlers are restored."""
    step = Loop.apply

    def interrupted(loop: Loop, update: Step, factor: float) -> bool:
        if loop.step == 1:
            signal.raise_signal(number)
        return step(loop, update, factor)

    before = signal.getsignal(number)
    monkeypatch.setattr(Loop, "apply", interrupted)
    with pytest.raises(KeyboardInterrupt):
        start(photos, tmp_path, {**SHORT, "run.validate_every": "6"})
    assert signal.getsignal(number) is before
    found = load_latest(tmp_path / "checkpoints")
    assert found is not None
    assert found.step == 2
    assert json.loads((tmp_path / "best" / "config.json").read_text())["scores"]["step"] == 2


def test_the_second_signal_stops_at_once(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latens.training.loop.ONE_REQUEST", -1.0)

    def twice(loop: Loop, log: RunLog) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Loop, "validate", twice)
    with pytest.raises(KeyboardInterrupt):
        start(photos, tmp_path, {**SHORT, "run.validate_every": "3"})
    found = load_latest(tmp_path / "checkpoints")
    assert found is not None
    assert found.step == 2


def test_lost_best_weights_are_made_again(photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    start(photos, tmp_path, SHORT, max_time=0)
    shutil.rmtree(tmp_path / "best")
    start(photos, tmp_path, SHORT, resume=True)
    assert "best weights so far are missing" in caplog.text
    assert (tmp_path / "best" / "config.json").is_file()


def test_gradients_that_are_not_finite_stop_the_run_before_any_update(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="not finite"):
        start(photos, tmp_path, {**SHORT, "run.steps": "30", "optim.lr": "1e-3", "model.lambdas": "[1e38, 1e39]"})


def test_a_run_can_start_from_weights(photos: Path, tmp_path: Path) -> None:
    still = {**SHORT, "run.steps": "1", "run.validate_every": "1", "optim.lr": "1e-12", "optim.muon_lr": "1e-12"}
    first = start(photos, tmp_path / "a", SHORT)
    again = start(photos, tmp_path / "b", still, init=first.folder / "best")
    # Hardly a step: the same loss, but for the float16 that models are shipped in.
    assert again.best == pytest.approx(first.best, abs=0.01)
    with pytest.raises(ModelError, match="do not fit"):
        start(photos, tmp_path / "c", {**still, "model.hidden": "8"}, init=first.folder / "best")
    with pytest.raises(ModelError, match="a model of amodal rcnn; the recipe trains one of image_codec hyperprior") as caught:
        start(photos, tmp_path / "c", still, init=folder_of("amodal"))
    assert "bias" not in str(caught.value)
    assert not (tmp_path / "c").exists()


def test_bad_requests_are_explained(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no recipe 'tinny'") as caught:
        recipe_of("image_codec", "tinny")
    assert "did you mean 'tiny'?" in str(caught.value)
    build, config = open_system("image_codec").build, recipe_of("image_codec", "tiny")
    with pytest.raises(UsageError, match="trains on photographs"):
        build(config, [])
    with pytest.raises(UnreadableInput, match="not a folder"):
        build(config, [Source("", str(tmp_path / "absent"))])
    with pytest.raises(UnreadableInput, match="no photograph"):
        build(config, [Source("", str(tmp_path))])


def test_a_batch_depends_on_seed_step_and_rank_alone(photos: Path) -> None:
    build, config = open_system("image_codec").build, recipe_of("image_codec", "tiny")
    first, second = (build(config, parse_sources([photos])).data for _ in range(2))
    assert torch.equal(first.batch(7, 0)["image"], second.batch(7, 0)["image"])
    assert not torch.equal(first.batch(7, 0)["image"], first.batch(8, 0)["image"])
    assert not torch.equal(first.batch(7, 0)["image"], first.batch(7, 1)["image"])


# ----------------------------------------------------------------------------------------------------------- branches

TRUNK = {**SHORT, "run.steps": "100", "optim.decay_share": "0.0", "optim.warmup": "1"}


@pytest.fixture(scope="module")
def trunk(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run at a constant learning rate that was stopped after its first step."""
    folder = tmp_path_factory.mktemp("trunk") / "run"
    latens.train("image_codec", recipe="context_tiny", data=[photos], out=folder, settings=TRUNK, max_time=0, device="cpu")
    return folder


def test_a_decay_branches_off_a_trunk(trunk: Path, photos: Path, tmp_path: Path) -> None:
    """A branch has the settings, data and state of its trunk; it ends after its steps, at a learning rate near zero."""
    before = weights_hash(trunk)
    whole = latens.train("image_codec", branch=trunk, decay=4, out=tmp_path / "whole", device="cpu")
    assert (whole.ended, whole.step) == ("finished", 5)
    assert weights_hash(trunk) == before
    config = json.loads((whole.folder / "config.json").read_text())
    assert (config["recipe"], config["run"]["steps"], config["optim"]["decay_share"]) == ("context_tiny", 5, 0.8)
    assert json.loads((whole.folder / "environment.json").read_text())["data"] == [str(photos)]
    assert (whole.folder / "best" / "config.json").is_file()


def test_a_branch_that_is_stopped_and_continued_has_the_same_bits(trunk: Path, tmp_path: Path) -> None:
    whole = latens.train("image_codec", branch=trunk, decay=4, out=tmp_path / "whole", device="cpu")
    latens.train("image_codec", branch=trunk, decay=4, out=tmp_path / "parts", max_time=0, device="cpu")
    result = latens.train("image_codec", out=tmp_path / "parts", resume=True, device="cpu")
    assert result.ended == "finished"
    assert weights_hash(result.folder) == weights_hash(whole.folder)


def test_a_branch_without_decay_continues_with_other_settings(trunk: Path, tmp_path: Path) -> None:
    result = latens.train(
        "image_codec", branch=trunk, settings={"data.batch": "1"}, out=tmp_path / "a", max_time=0, device="cpu"
    )
    assert (result.ended, result.step) == ("time", 2)
    config = json.loads((result.folder / "config.json").read_text())
    assert (config["data"]["batch"], config["run"]["steps"]) == (1, 100)


def test_impossible_branches_are_refused(trunk: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "new"
    for arguments in (
        {"decay": 4},
        {"branch": trunk, "decay": 0},
        {"branch": trunk, "recipe": "tiny"},
        {"branch": trunk, "resume": True},
        {"branch": trunk, "init": "image_codec"},
        {"branch": trunk, "data": [tmp_path]},
        {"branch": tmp_path},
    ):
        with pytest.raises(UsageError):
            latens.train("image_codec", out=out, device="cpu", **arguments)
    (tmp_path / "empty").mkdir()
    for name in ("config.json", "environment.json"):
        shutil.copy(trunk / name, tmp_path / "empty" / name)
    for decay in (None, 4):
        with pytest.raises(UsageError, match="no checkpoint"):
            latens.train("image_codec", branch=tmp_path / "empty", decay=decay, out=out, device="cpu")
    assert not out.exists()


def test_a_killed_start_of_a_branch_is_not_a_run(trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the first checkpoint of a branch and its settings, --resume must not start from random weights."""

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("latens.training.run.describe_run", killed)
    with pytest.raises(KeyboardInterrupt):
        latens.train("image_codec", branch=trunk, decay=4, out=tmp_path / "run", device="cpu")
    monkeypatch.undo()
    with pytest.raises(UsageError):
        latens.train("image_codec", out=tmp_path / "run", resume=True, device="cpu")


def test_a_run_that_was_killed_before_it_began_is_started_again(tmp_path: Path) -> None:
    (tmp_path / "environment.json").write_text('{"command": [], "data": [], "init": null, "torch": "2"}')
    refuse_folder(tmp_path, resume=False)
    (tmp_path / "environment.json").write_text('{"mine": 1}')
    with pytest.raises(OutputExists, match="would replace files"):
        refuse_folder(tmp_path, resume=False)


@pytest.fixture
def in_folder_a(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of the folder a, which the current folder is, with relative paths; the folder b has other images of one name."""
    for name in ("a", "b"):
        shutil.copytree(photos, tmp_path / name / "photos")
    next((tmp_path / "b" / "photos").iterdir()).unlink()
    monkeypatch.chdir(tmp_path / "a")
    latens.train("image_codec", recipe="context_tiny", data="photos", out="run", settings=TRUNK, max_time=0, device="cpu")
    return tmp_path


def test_a_run_is_continued_on_its_data_from_another_folder(in_folder_a: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(in_folder_a / "b")
    run = Path("..") / "a" / "run"
    kinds: list[dict[str, Any]] = [{"out": run, "resume": True}, {"out": "branch", "branch": run}]
    for arguments in kinds:
        result = latens.train("image_codec", max_time=0, device="cpu", **arguments)
        noted = json.loads((result.folder / "environment.json").read_text())
        assert noted["data"] == [str(in_folder_a / "a" / "photos")]
    with pytest.raises(UsageError, match="this run trains on"):
        latens.train("image_codec", data="photos", out=run, resume=True, device="cpu")


def test_data_that_moved_are_found_in_the_current_folder(
    in_folder_a: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A run folder that was copied to another machine is continued next to its data; other files there are reported."""
    shutil.move(in_folder_a / "a" / "run", in_folder_a / "b" / "run")
    shutil.rmtree(in_folder_a / "a" / "photos")
    monkeypatch.chdir(in_folder_a / "b")
    latens.train("image_codec", out="run", resume=True, max_time=0, device="cpu")
    assert caplog.text.count("taken from the current folder") == 1
    assert "the data have changed since this run last started" in caplog.text
    caplog.clear()
    latens.train("image_codec", out="run", resume=True, max_time=0, device="cpu")
    assert "changed" not in caplog.text


def test_exchanged_data_are_reported(in_folder_a: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, other = sorted(Path("photos").iterdir())[:2]
    one.write_bytes(other.read_bytes())
    kinds: list[dict[str, Any]] = [{"out": "branch", "branch": "run"}, {"out": "run", "resume": True}]
    for arguments in kinds:
        caplog.clear()
        latens.train("image_codec", max_time=0, device="cpu", **arguments)
        assert "the data have changed since this run last started" in caplog.text


def test_the_state_of_data_does_not_depend_on_the_run(tmp_path: Path) -> None:
    """The folder of the run may be among the data."""
    (tmp_path / "run").mkdir()
    (tmp_path / "image.png").write_bytes(b"123")
    before = data_state([Source("", str(tmp_path))], tmp_path / "run")
    (tmp_path / "run" / "best.png").write_bytes(b"1")
    assert data_state([Source("", str(tmp_path))], tmp_path / "run") == before
    assert before[:2] == (1, 3)
    (tmp_path / "image.png").rename(tmp_path / "other.png")
    assert data_state([Source("", str(tmp_path))], tmp_path / "run") != before


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("photos", "{}/photos"),
        ("labelme:drawn/,photos", "labelme:{0}/drawn/,{0}/photos"),
        ("labels:drawn,auto", "labels:{}/drawn,auto"),
        ("a,b", "{}/a,b"),
        ("/elsewhere", "/elsewhere"),
        ("rings", "rings"),
    ],
)
def test_places_of_a_run_in_another_folder(tmp_path: Path, word: str, expected: str) -> None:
    for name in ("photos", "drawn", "a,b"):
        (tmp_path / name).mkdir()
    assert located_source(word, str(tmp_path)) == expected.format(tmp_path)
