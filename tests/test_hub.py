"""Model folders are restored as saved, or their damage is described."""

from __future__ import annotations

import json
import re
import resource
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import latens
from latens import hub
from latens.catalogue import folder_of
from latens.data.files import write_atomic
from latens.errors import ModelError, ModelMissing
from latens.hub import CONFIG
from latens.int8 import changes, to_int8
from latens.systems.flow.pack.packer import load as load_packer


def test_round_trip_in_one_file_and_in_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {name: torch.full((100,), float(index)) for index, name in enumerate("abcd")}
    coding = {"table": torch.arange(5, dtype=torch.int32)}
    hub.save_model(tmp_path, {"system": "x"}, tensors, coding)
    whole = hub.load_model(tmp_path)
    monkeypatch.setattr(hub, "SHARD", 900)
    hub.save_model(tmp_path, {"system": "x"}, tensors, coding)
    names = [path.name for path in tmp_path.glob("*.safetensors")]
    assert sorted(re.sub("-[0-9a-f]{8}", "", name) for name in names) == [
        "entropy.safetensors",
        "model-1.safetensors",
        "model-2.safetensors",
    ]
    split = hub.load_model(tmp_path)
    for found in (whole, split):
        assert all(torch.equal(found.weights[name], tensor) for name, tensor in tensors.items())
        assert torch.equal(found.coding["table"], coding["table"])
    assert whole.sha256 != split.sha256  # the hash is that of the files


def test_the_hash_follows_every_tensor(tmp_path: Path) -> None:
    hashes = set()
    for weight, entry in ((1.0, 1), (2.0, 1), (1.0, 2)):
        hub.save_model(tmp_path, {"system": "x"}, {"w": torch.tensor([weight])}, {"t": torch.tensor([entry])})
        hashes.add(hub.load_model(tmp_path).sha256)
    assert len(hashes) == 3


@pytest.mark.parametrize(
    "damage", ["no config", "bad json", "does not name its system", "no files", "weights gone", "weights cut", "outside"]
)
def test_damage_is_described(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "model"
    hub.save_model(folder, {"system": "x"}, {"w": torch.ones(3)})
    config, weights = folder / "config.json", folder / "model.safetensors"
    error: type[Exception] = ModelError
    if damage == "no config":
        config.unlink()
        error = ModelMissing
    elif damage == "bad json":
        config.write_text("{")
    elif damage == "does not name its system":
        config.write_text("{}")
    elif damage == "no files":
        config.write_text('{"system": "x"}')
    elif damage == "weights gone":
        weights.unlink()
        error = ModelMissing
    elif damage == "weights cut":
        weights.write_bytes(weights.read_bytes()[:-3])
    else:
        (tmp_path / "secret.safetensors").write_bytes(weights.read_bytes())
        config.write_text('{"system": "x", "files": {"model": ["../secret.safetensors"], "entropy": []}}')
        error = ModelMissing
    with pytest.raises(error):
        hub.load_model(folder)


def test_only_the_prefix_uses_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled

    asked: list[tuple[str, str | None]] = []

    def fetch(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        assert not any("py" in pattern or "bin" in pattern for pattern in allow_patterns)
        assert are_progress_bars_disabled()
        asked.append((name, revision))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    with pytest.raises(ModelMissing, match="no model or folder of this name"):
        hub.locate("owner/name")
    assert hub.locate(tmp_path) == tmp_path
    assert asked == []
    assert hub.locate("hub:owner/name") == hub.locate("hub:owner/name@v2") == tmp_path
    assert asked == [("owner/name", None), ("owner/name", "v2")]
    assert not are_progress_bars_disabled()


@pytest.mark.parametrize("name", ["hub:owner/name", "hub:", "hub:a/b/c"])
def test_a_failed_download_is_a_missing_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelMissing, match="hub:"):
        hub.locate(name)


def test_saving_removes_files_of_an_earlier_model_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.safetensors").write_bytes(b"of the user")
    monkeypatch.setattr(hub, "SHARD", 4)
    hub.save_model(tmp_path, {"system": "x"}, {name: torch.ones(1) for name in "abc"})
    assert (tmp_path / "model-3.safetensors").is_file()
    monkeypatch.undo()
    hub.save_model(tmp_path, {"system": "x"}, {"a": torch.ones(1)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "mine.safetensors", "model.safetensors"]


def test_a_killed_save_leaves_the_old_model_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every write of a second save fails in turn."""
    old, new = ({"w": torch.full((3,), value)} for value in (1.0, 2.0))
    tables = [{"t": torch.tensor([entry])} for entry in (1, 2)]
    hub.save_model(tmp_path, {"system": "x"}, old, tables[0])
    whole = hub.load_model(tmp_path)
    write, calls = write_atomic, 0

    def failing(path: Path, data: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls == dies_at:
            raise OSError("no space")
        write(path, data)

    monkeypatch.setattr(hub, "write_atomic", failing)
    for dies_at in (1, 2, 3):  # noqa: B007
        calls = 0
        with pytest.raises(OSError, match="no space"):
            hub.save_model(tmp_path, {"system": "x"}, new, tables[1])
        assert hub.load_model(tmp_path).sha256 == whole.sha256
    dies_at = 0
    hub.save_model(tmp_path, {"system": "x"}, new, tables[1])
    found = hub.load_model(tmp_path)
    assert float(found.weights["w"][0]) == 2.0
    assert int(found.coding["t"][0]) == 2
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_files_of_two_models_do_not_load_as_one(tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", 2.0)):
        hub.save_model(tmp_path / name, {"system": "x"}, {"w": torch.full((3,), value)})
    (tmp_path / "a" / "model.safetensors").write_bytes((tmp_path / "b" / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match=r"differs from that in config\.json"):
        hub.load_model(tmp_path / "a")


def test_a_model_without_hashes_loads(tmp_path: Path) -> None:
    """Models of earlier versions have none."""
    hub.save_model(tmp_path, {"system": "x"}, {"w": torch.ones(3)})
    config = json.loads((tmp_path / "config.json").read_text())
    assert list(config.pop("sha256")) == ["model.safetensors"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert hub.load_model(tmp_path).config == config


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    network = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="bias is not finite"):
        hub.load_weights(network, {"weight": torch.ones(2, 2), "bias": torch.tensor([0.0, value])})


def test_a_folder_with_a_base_holds_what_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tensors replace those of the base; its hash depends on both; eight-bit copies stand alone."""
    base, folder = tmp_path / "base", tmp_path / "own"
    hub.save_model(base, {"system": "x"}, {"a": torch.ones(2), "b": torch.ones(3)}, {"t": torch.arange(3)})
    monkeypatch.setattr(hub, "folder_of", lambda name: {"first": base}[name])

    def described() -> dict[str, object]:
        return {"system": "x", "base": {"name": "first", "sha256": hub.load_model(base).sha256}}

    hub.save_model(folder, described(), {"b": torch.zeros(3), "c": torch.zeros(1)}, {"u": torch.arange(2)})
    found = hub.load_model(folder)
    assert {name: value.tolist() for name, value in found.weights.items()} == {"a": [1, 1], "b": [0, 0, 0], "c": [0]}
    assert set(found.coding) == {"t", "u"}
    hub.int8_model(folder, tmp_path / "small")
    assert "base" not in hub.load_model(tmp_path / "small").config
    assert set(hub.load_model(tmp_path / "small").weights) == {"a", "b", "c"}

    hub.save_model(base, {"system": "x"}, {"a": torch.zeros(2), "b": torch.ones(3)}, {"t": torch.arange(3)})
    with pytest.raises(ModelError, match="it needs the model first"):
        hub.load_model(folder)
    hub.save_model(folder, described(), {"b": torch.zeros(3), "c": torch.zeros(1)}, {"u": torch.arange(2)})
    assert hub.load_model(folder).sha256 != found.sha256


def test_changes_in_eight_bits_are_added_to_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    base, folder = tmp_path / "base", tmp_path / "own"
    first = {"a.weight": torch.randn(64, 80), "a.bias": torch.randn(64)}
    wanted = {name: value + 0.01 * torch.randn_like(value) for name, value in first.items()}
    hub.save_model(base, {"system": "x"}, first)
    monkeypatch.setattr(hub, "folder_of", lambda name: base)
    described = {"system": "x", "base": {"name": "first", "sha256": hub.load_model(base).sha256}}
    hub.save_model(folder, described, to_int8(changes(wanted, first)))
    stored = load_file(folder / "model.safetensors")
    assert stored["a.weight#change#int8"].dtype == torch.int8
    found = hub.load_model(folder).weights
    assert set(found) == set(wanted)
    torch.testing.assert_close(found["a.bias"], wanted["a.bias"])
    largest = (wanted["a.weight"] - first["a.weight"]).abs().max()
    torch.testing.assert_close(found["a.weight"], wanted["a.weight"], rtol=0, atol=float(largest) / 127)
    for wrong in ({"b.weight#change": torch.ones(2)}, {"a.bias#change": torch.ones(3)}):
        hub.save_model(folder, described, wrong)
        with pytest.raises(ModelError, match="the base has no"):
            hub.load_model(folder)


@pytest.mark.parametrize("base", ["first", {"name": "image_codec"}, {"sha256": "0"}, {"name": 3, "sha256": "0"}, None])
def test_a_base_that_cannot_be_read_is_described(base: object, tmp_path: Path) -> None:
    hub.save_model(tmp_path, {"system": "x", "base": base}, {"a": torch.ones(2)})
    with pytest.raises((ModelError, ModelMissing)):
        hub.load_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "keys", "value"),
    [
        ("flow", ("reference", "precision"), [[1.0], [1.0, 2.0]]),
        ("flow", ("reference", "mean"), [1.0, 2.0, 3.0]),
        ("flow", ("terms",), []),
        ("seedlings", ("rates",), []),
        ("seedlings", ("rates",), None),
        ("seedlings", ("calibration",), {"x": 1}),
        ("video_codec", ("coding", "decoders"), {}),
        ("video_codec", ("coding",), None),
        ("image_codec", ("coding",), []),
        ("flow_pack", ("coding",), 5),
        ("amodal", ("model",), 5),
        ("haze_physical", ("model",), []),
        ("parts", ("model",), None),
    ],
)
def test_settings_of_a_model_that_cannot_be_used(tmp_path: Path, name: str, keys: tuple[str, ...], value: object) -> None:
    """A damaged config.json is one clear error when the model is loaded, in every system."""
    folder = tmp_path / "model"
    shutil.copytree(folder_of(name), folder)
    (folder / CONFIG).chmod(0o644)
    config = json.loads((folder / CONFIG).read_text())
    inner = config
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    (folder / CONFIG).write_text(json.dumps(config))
    opened = load_packer if name == "flow_pack" else latens.load
    with pytest.raises(ModelError):
        opened(folder)


def test_a_network_of_another_size_than_its_weights_takes_no_memory(tmp_path: Path) -> None:
    shutil.copytree(folder_of("image_codec"), tmp_path / "large")
    config = json.loads((tmp_path / "large" / CONFIG).read_text())
    config["model"]["hidden"] = 4000
    (tmp_path / "large" / CONFIG).write_text(json.dumps(config))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match="larger than the weights"):
        latens.load(tmp_path / "large")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB; it would take 14 GiB
    latens.load("image_codec")  # the limit ends with the network that it was for
    assert torch.nn.Linear(5000, 5000).weight.numel() == 25_000_000
