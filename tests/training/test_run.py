"""Training as `latens train` runs it: it learns, it continues to the same bits, and it survives being killed."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latens.errors import Diverged, ModelError, OutputExists, UnreadableInput, UsageError
from latens.systems.image_codec.predict import load
from latens.training.run import train

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


def weights_hash(run: Path) -> str:
    newest = sorted(run.glob("checkpoints/step-*"))[-1]
    return hashlib.sha256(b"".join((newest / f"{part}.safetensors").read_bytes() for part in ("model", "average"))).hexdigest()


def test_tiny_training_lowers_its_loss_and_leaves_a_model(photos: Path, tmp_path: Path) -> None:
    result = train("image_codec", recipe="tiny", data=[photos], run_dir=tmp_path / "run", overrides={}, device="cpu")
    assert (result.ended, result.step) == ("finished", 60)
    lines = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "validation"]
    assert len(losses) == 2
    assert losses[1] < losses[0]
    assert (result.folder / "environment.json").is_file()
    assert list((result.folder / "samples").glob("reconstructions-*.png"))
    codec = load(result.folder / "best", device="cpu")
    assert codec.decompress(codec.compress(photos / "0.png", quality=1)).size == (112, 96)


def test_resuming_gives_the_same_weights(photos: Path, tmp_path: Path) -> None:
    whole = train("image_codec", recipe="tiny", data=[photos], run_dir=tmp_path / "a", overrides=SHORT, device="cpu")
    halted = train(
        "image_codec", recipe="tiny", data=[photos], run_dir=tmp_path / "b", overrides=SHORT, device="cpu", max_time=0
    )
    assert (halted.ended, halted.step) == ("time", 1)
    with pytest.raises(OutputExists):
        train("image_codec", recipe="tiny", data=[photos], run_dir=tmp_path / "b", overrides=SHORT, device="cpu")
    resumed = train(
        "image_codec", recipe="tiny", data=[photos], run_dir=tmp_path / "b", overrides=SHORT, device="cpu", resume=True
    )
    assert (whole.ended, resumed.ended) == ("finished", "finished")
    assert weights_hash(whole.folder) == weights_hash(resumed.folder)


SCRIPT = """
import sys, torch
from pathlib import Path
from latens.training.run import train
torch.set_num_threads(1)
settings = dict(item.split("=") for item in sys.argv[3:])
train("image_codec", recipe="tiny", data=[Path(sys.argv[1])], run_dir=Path(sys.argv[2]), overrides=settings,
      device="cpu", resume=True)
"""


@pytest.mark.slow
def test_killed_at_random_steps_it_ends_with_the_same_weights(photos: Path, tmp_path: Path) -> None:
    settings = ["run.steps=40", "run.checkpoint_every=1", "run.validate_every=40", "run.log_every=1", "data.batch=1"]

    def start(run: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", SCRIPT, str(photos), str(run), *settings])

    assert start(tmp_path / "calm").wait() == 0
    rng = random.Random(1)
    for _ in range(2):
        process = start(tmp_path / "stormy")
        metrics = tmp_path / "stormy" / "metrics.jsonl"
        before = len(metrics.read_text().splitlines()) if metrics.exists() else 0
        wanted = before + rng.randrange(3, 15)
        while process.poll() is None and (not metrics.exists() or len(metrics.read_text().splitlines()) < wanted):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert start(tmp_path / "stormy").wait() == 0
    assert weights_hash(tmp_path / "calm") == weights_hash(tmp_path / "stormy")


def test_gradients_that_are_not_finite_stop_the_run_before_any_update(photos: Path, tmp_path: Path) -> None:
    settings = {**SHORT, "run.steps": "30", "optim.lr": "1e-3", "model.lambdas": "[1e38, 1e39]"}
    with pytest.raises(Diverged, match="not finite"):
        train("image_codec", recipe="tiny", data=[photos], run_dir=tmp_path / "run", overrides=settings, device="cpu")


def test_a_run_can_start_from_weights(photos: Path, tmp_path: Path) -> None:
    settings = {**SHORT, "run.steps": "1", "run.validate_every": "1", "optim.lr": "0", "optim.muon_lr": "0"}
    first = train("image_codec", recipe="tiny", data=[photos], run_dir=tmp_path / "a", overrides=SHORT, device="cpu")
    again = train(
        "image_codec",
        recipe="tiny",
        data=[photos],
        run_dir=tmp_path / "b",
        overrides=settings,
        device="cpu",
        init=first.folder / "best",
    )
    # A rate of zero changes nothing: the same loss, but for the float16 that models are shipped in.
    assert again.best == pytest.approx(first.best, abs=0.01)
    with pytest.raises(ModelError, match="do not fit"):
        train(
            "image_codec",
            recipe="tiny",
            data=[photos],
            run_dir=tmp_path / "c",
            overrides={**settings, "model.hidden": "8"},
            device="cpu",
            init=first.folder / "best",
        )


def test_bad_requests_are_explained(photos: Path, tmp_path: Path) -> None:
    def start(**changes: object) -> None:
        request = {"recipe": "tiny", "data": [photos], "overrides": SHORT, **changes}
        train("image_codec", run_dir=tmp_path / "run", device="cpu", **request)  # type: ignore[arg-type]

    with pytest.raises(UsageError, match="no recipe 'huge'"):
        start(recipe="huge")
    with pytest.raises(UsageError, match="trains on photographs"):
        start(data=[])
    with pytest.raises(UnreadableInput, match="not a folder"):
        start(data=[tmp_path / "absent"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnreadableInput, match="no photograph"):
        start(data=[tmp_path / "empty"])


def test_a_batch_depends_on_seed_step_and_rank_alone(photos: Path) -> None:
    from latens.systems.image_codec.config import CropConfig
    from latens.systems.image_codec.dataset import CropData

    config = CropConfig(crop=32, batch=2)
    first, second = (CropData([photos], config, seed=5) for _ in range(2))
    assert torch.equal(first.batch(7, 0)["image"], second.batch(7, 0)["image"])
    assert not torch.equal(first.batch(7, 0)["image"], first.batch(8, 0)["image"])
    assert not torch.equal(first.batch(7, 0)["image"], first.batch(7, 1)["image"])


BARE = """
import sys
for name in ("jaxtyping", "constriction", "cyclopts", "rich", "tensorboard", "torchmetrics", "einops", "matplotlib", "jinja2",
             "cv2", "skimage", "sklearn", "av", "bjontegaard"):
    sys.modules[name] = None
from pathlib import Path
from latens.training.run import train
settings = {"run.steps": "1", "run.validate_every": "1", "data.batch": "1"}
train("image_codec", recipe="tiny", data=[Path(sys.argv[1])], run_dir=Path(sys.argv[2]), overrides=settings, device="cpu")
"""


@pytest.mark.slow
def test_training_needs_few_packages(photos: Path, tmp_path: Path) -> None:
    # A GPU machine may have torch, torchvision, accelerate, numpy, pillow and safetensors, and nothing else.
    subprocess.run([sys.executable, "-c", BARE, str(photos), str(tmp_path / "run")], check=True, timeout=200)
    weights = list((tmp_path / "run" / "best").glob("model*.safetensors"))
    assert weights
    assert not list((tmp_path / "run" / "best").glob("entropy*"))
