"""Checkpoints come back whole or not at all."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from latens.training.checkpoint import (
    Checkpoint,
    join_optimizer,
    load_latest,
    random_states,
    restore_random_states,
    save_checkpoint,
    split_optimizer,
)


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(step, {"model": {"w": torch.full((3,), float(step))}}, {"best": 1.5})


def test_round_trip_and_keep(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00000002", "step-00000003"]
    found = load_latest(tmp_path)
    assert found is not None
    assert (found.step, found.state) == (3, {"best": 1.5})
    assert found.tensors["model"]["w"].tolist() == [3.0, 3.0, 3.0]


@pytest.mark.parametrize("damage", ["flip", "truncate", "no manifest"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    victim = tmp_path / "step-00000002" / "model.safetensors"
    blob = bytearray(victim.read_bytes())
    if damage == "flip":
        blob[-1] ^= 1
        victim.write_bytes(blob)
    elif damage == "truncate":
        victim.write_bytes(blob[:-4])
    else:
        (tmp_path / "step-00000002" / "MANIFEST.json").unlink()
    found = load_latest(tmp_path)
    assert found is not None
    assert found.step == 1


def test_nothing_to_load(tmp_path: Path) -> None:
    assert load_latest(tmp_path / "absent") is None


def test_random_states_come_back() -> None:
    states = random_states()
    drawn = (random.random(), np.random.random(), torch.rand(3).tolist())  # noqa: NPY002
    restore_random_states(states)
    assert (random.random(), np.random.random(), torch.rand(3).tolist()) == drawn  # noqa: NPY002


def test_optimizer_state_comes_back() -> None:
    def after(steps: int, start: tuple[torch.nn.Parameter, torch.optim.Optimizer]) -> None:
        parameter, optimizer = start
        for step in range(steps):
            parameter.grad = torch.full((2,), float(step + 1))
            optimizer.step()

    first = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([first], 0.1)
    after(3, (first, optimizer))
    tensors, plain = split_optimizer(optimizer)
    second = torch.nn.Parameter(first.detach().clone())
    other = torch.optim.Adam([second], 0.5)
    join_optimizer(other, {name: tensor.clone() for name, tensor in tensors.items()}, plain)
    after(2, (first, optimizer))
    after(2, (second, other))
    assert torch.equal(first, second)
