"""Weights in eight bits are restored within a known error, other tensors exactly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from latens import hub
from latens.errors import ModelError
from latens.int8 import MAX_INT8, from_int8, to_int8


def a_model() -> dict[str, Tensor]:
    """Large weights of three shapes and types, and everything that must stay exact."""
    torch.manual_seed(0)
    rows = torch.randn(64, 32, 3, 3) * torch.logspace(-6, 3, 64)[:, None, None, None]
    rows[5] = 0
    return {
        "conv.weight": rows.half(),
        "up.weight": torch.randn(64, 16, 4, 4),
        "dense.weight": torch.distributions.StudentT(2.0).sample((100, 300)),
        "conv.bias": torch.randn(9000),
        "norm.weight": torch.randn(9000),
        "small.weight": torch.randn(8, 8),
        "quantizer.codebook": torch.randn(128, 64),
        "table.weight": torch.arange(8192).view(64, 128),
    }


LARGE = ("conv.weight", "up.weight", "dense.weight")


def test_rows_are_at_least_as_close_as_with_plain_rounding() -> None:
    tensors = a_model()
    found = from_int8(to_int8(tensors))
    for name in LARGE:
        wanted, given = tensors[name].double().flatten(1), found[name].double().flatten(1)
        assert found[name].dtype == torch.float32
        assert found[name].shape == tensors[name].shape
        # A row that is not cut errs by at most half a step, largest / 127 / 2; another is chosen only where it errs less.
        bound = wanted.abs().amax(1) / MAX_INT8 / 2
        assert bool(((wanted - given).square().mean(1).sqrt() <= bound * (1 + 1e-4) + 1e-37).all())
    assert bool((found["conv.weight"][5] == 0).all())


def test_a_row_with_one_outlier_is_clipped_if_that_is_closer() -> None:
    torch.manual_seed(0)
    row = torch.randn(1, 40_000)
    row[0, 0] = 1.5 * row.abs().max()
    (given,) = from_int8(to_int8({"x.weight": row})).values()
    plain = (row / (row.abs().max() / MAX_INT8)).round() * (row.abs().max() / MAX_INT8)
    assert (given - row).square().sum() < (plain - row).square().sum()


def test_all_else_stays_exact() -> None:
    tensors = a_model()
    stored = to_int8(tensors)
    assert {name for name in stored if "#" in name} == {f"{name}#{part}" for name in LARGE for part in ("int8", "scale")}
    for name in set(tensors) - set(LARGE):
        assert stored[name].dtype == tensors[name].dtype
        assert torch.equal(stored[name], tensors[name])
    assert set(from_int8(stored)) == set(tensors)


def test_a_folder_in_eight_bits_is_read_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, coding = a_model(), {"table": torch.arange(9000, dtype=torch.int32)}
    monkeypatch.setattr(hub, "SHARD", 60_000)
    hub.save_model(tmp_path / "full", {"system": "x", "model": 1}, tensors, coding)
    hub.int8_model(tmp_path / "full", tmp_path / "small")
    full, small = hub.load_model(tmp_path / "full"), hub.load_model(tmp_path / "small")
    assert all(torch.equal(full.weights[name], tensors[name]) for name in tensors)  # a plain folder, as it always was
    assert set(small.weights) == set(tensors)
    assert small.config["model"] == 1
    assert torch.equal(small.coding["table"], coding["table"])
    assert small.sha256 != full.sha256
    sizes = [sum(path.stat().st_size for path in (tmp_path / name).glob("model-*")) for name in ("full", "small")]
    saved = sum(tensors[name].numel() * (tensors[name].element_size() - 1) for name in LARGE)
    assert 0.95 * saved < sizes[0] - sizes[1] < saved  # scales and headers cost little
    again = tmp_path / "full"
    hub.int8_model(again, again)
    assert hub.load_model(again).sha256 == small.sha256


@pytest.mark.parametrize("damage", ["no scale", "no numbers", "rows", "numbers", "scale", "nan"])
def test_a_damaged_folder_is_one_clear_error(tmp_path: Path, damage: str) -> None:
    hub.save_model(tmp_path, {"system": "x"}, to_int8({"a.weight": torch.randn(64, 64), "a.bias": torch.randn(64)}))
    path = tmp_path / "model.safetensors"
    held = load_file(path)
    if damage == "no scale":
        del held["a.weight#scale"]
    elif damage == "no numbers":
        del held["a.weight#int8"]
    elif damage == "rows":
        held["a.weight#scale"] = held["a.weight#scale"][:-1].clone()
    elif damage == "numbers":
        held["a.weight#int8"] = held["a.weight#int8"].float()
    elif damage == "scale":
        held["a.weight#scale"] = held["a.weight#scale"].half()
    else:
        held["a.weight#scale"][3] = torch.nan
    save_file(held, path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "sha256": {}}))
    with pytest.raises(ModelError, match=r"a\.weight") as caught:
        hub.load_model(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    hub.save_model(tmp_path, {"system": "x"}, {"a.weight": torch.full((64, 64), torch.inf)})
    before = json.loads((tmp_path / "config.json").read_text())
    with pytest.raises(ModelError, match="not finite"):
        hub.int8_model(tmp_path, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == before
