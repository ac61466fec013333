"""Training in two processes gives the weights of one process with the same global batch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from accelerate import Accelerator
from safetensors.torch import load_file
from tests.training.two_ranks import NAMES, RANKS, sources_of, trained

from latens.contract import open_system
from latens.hub import CONFIG
from latens.training.checkpoint import load_latest

LAUNCH = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS))
TOLERANCE = 1e-3  # of the change of the weights; rounding gives 1e-7 to 3e-4
PROGRAM = Path(__file__).with_name("two_ranks.py")
SLOW = """
import sys, time
import latens.training.loop as loop
from latens.__main__ import main

validate = loop.Loop.validate
loop.Loop.validate = lambda self, log: (time.sleep(5 * self.accelerator.is_main_process), validate(self, log))
loop.ONE_REQUEST = 0  # as after a step that takes longer than a second
sys.exit(main())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example data, and the weights after training in two processes."""
    made = tmp_path_factory.mktemp("ranks")
    for system in ("amodal", "parts", "flow", "image_codec", "video_codec"):
        open_system(system).example(made / system)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*LAUNCH, str(PROGRAM), str(made)], env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return made


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_train_as_one_with_the_whole_batch(name: str, folder: Path) -> None:
    two = load_file(folder / f"{name}-2.safetensors")
    one = trained(name, sources_of(name, folder), Accelerator(cpu=True))
    changed = difference = 0.0
    for key in [key for key in one if not key.startswith("after.")]:
        assert one[key].equal(two[key]), key  # the first process gives its weights to the second
        after, other = one[f"after.{key}"].double(), two[f"after.{key}"].double()
        if key.startswith("pools."):  # generated images, of all processes
            assert (after - other).abs().max() < 1e-3
        else:
            changed += float((after - one[key].double()).square().sum())
            difference += float((after - other).square().sum())
    assert difference**0.5 < TOLERANCE * changed**0.5


def test_a_signal_to_all_processes_saves_and_validates(folder: Path, tmp_path: Path) -> None:
    """Those that have nothing to save wait for the first: torchrun stops the others when one has ended."""
    run = tmp_path / "run"
    metrics = run / "metrics.jsonl"
    program = tmp_path / "slow.py"
    program.write_text(SLOW)
    rare = {"run.steps": 99999, "run.validate_every": 99999, "run.checkpoint_every": 99999, "run.log_every": 1, "data.batch": 1}
    changes = [word for name, value in rare.items() for word in ("--set", f"{name}={value}")]
    data = str(folder / "image_codec")
    train = [str(program), "train", "image_codec", "--recipe", "tiny", "--data", data, "-o", str(run)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*LAUNCH, *train, *changes], env=environment, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and (not metrics.exists() or metrics.read_text().count("\n") < 3):
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    found = load_latest(run / "checkpoints")
    assert found is not None, errors[-3000:]
    assert found.step >= 3
    assert json.loads((run / "best" / CONFIG).read_text())["scores"]["step"] == found.step
