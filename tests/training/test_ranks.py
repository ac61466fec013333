"""Training in two processes gives the weights of one process with the same global batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate import Accelerator
from safetensors.torch import load_file
from tests.training.two_ranks import NAMES, RANKS, sources_of, trained

from latens.contract import open_system

TOLERANCE = 1e-3  # of the change of the weights; rounding gives 1e-7 to 3e-4
PROGRAM = Path(__file__).with_name("two_ranks.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example data, and the weights after training in two processes."""
    made = tmp_path_factory.mktemp("ranks")
    for system in ("amodal", "parts", "flow", "image_codec", "video_codec"):
        open_system(system).example(made / system)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, str(PROGRAM), str(made)], env=environment, capture_output=True, text=True, timeout=900)
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
