"""Checkpoints are restored completely or not at all."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from latens.errors import UsageError
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
def test_a_damaged_checkpoint_is_skipped_with_a_warning(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
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
    assert "step-00000002; training continues from step 1 and repeats 1 step" in caplog.text


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '"name"'])
def test_when_every_checkpoint_is_damaged_nothing_starts_over(tmp_path: Path, manifest: str) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    for path in tmp_path.glob("step-*/MANIFEST.json"):
        path.write_text(manifest)
    with pytest.raises(UsageError, match="every checkpoint is damaged or incomplete: step-00000002, step-00000001"):
        load_latest(tmp_path)


def test_a_checkpoint_after_a_damaged_one_is_kept(tmp_path: Path) -> None:
    for step in (1, 4):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    (tmp_path / "step-00000004" / "state.json").unlink()
    save_checkpoint(tmp_path, checkpoint(2), keep=1)
    found = load_latest(tmp_path)
    assert found is not None
    assert found.step == 2


def test_a_checkpoint_of_the_same_step_replaces_the_earlier_one_when_it_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, checkpoint(1), keep=1)
    again = checkpoint(1)._replace(state={"best": 0.5})
    with monkeypatch.context() as patched:
        patched.setattr("latens.training.checkpoint.hashlib.sha256", failing)
        with pytest.raises(MemoryError):
            save_checkpoint(tmp_path, again, keep=1)
    found = load_latest(tmp_path)
    assert found is not None
    assert found.state == {"best": 1.5}
    save_checkpoint(tmp_path, again, keep=1)
    found = load_latest(tmp_path)
    assert found is not None
    assert found.state == {"best": 0.5}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000001"]


def failing(blob: bytes) -> None:
    raise MemoryError


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
    other = torch.optim.Adam([second], 0.1)
    join_optimizer(other, {name: tensor.clone() for name, tensor in tensors.items()}, plain)
    after(2, (first, optimizer))
    after(2, (second, other))
    assert torch.equal(first, second)
    with pytest.raises(ValueError, match="is Adam, not SGD"):
        join_optimizer(torch.optim.SGD([second], 0.1), tensors, plain)


def test_settings_of_the_optimizer_are_not_those_of_the_checkpoint() -> None:
    """`--resume --set optim.beta1=...` has an effect."""
    parameter = torch.nn.Parameter(torch.ones(2))
    tensors, plain = split_optimizer(torch.optim.Adam([parameter], 0.1, betas=(0.9, 0.999)))
    other = torch.optim.Adam([parameter], 0.1, betas=(0.5, 0.999))
    join_optimizer(other, tensors, plain)
    assert other.param_groups[0]["betas"] == (0.5, 0.999)


def test_an_unfinished_first_checkpoint_is_none(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1), keep=2)
    (tmp_path / "latest").unlink()
    assert load_latest(tmp_path) is not None  # complete, although the process died before it wrote the pointer
    (tmp_path / "step-00000001" / "MANIFEST.json").unlink()
    assert load_latest(tmp_path) is None
