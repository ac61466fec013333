"""`latens export`: graphs that agree with the model, their description, and requests that are refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import latens
from latens.cli.main import main
from latens.errors import ModelError
from latens.inference import onnx
from latens.inference.onnx import Graph, export

Capture = pytest.CaptureFixture[str]

pytest.importorskip("onnxruntime")


def test_the_classifier_of_seedlings(tmp_path: Path, capsys: Capture) -> None:
    import onnxruntime

    out = tmp_path / "graphs"
    assert main(["export", "seedlings", "-o", str(out), "--format", "json"]) == 0
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert row["difference"] <= 1e-4
    assert len(row["compared"]) == 3
    described = json.loads((out / "graphs.json").read_text())
    data = (out / "classifier.onnx").read_bytes()
    assert described["graphs"][0]["sha256"] == hashlib.sha256(data).hexdigest()
    # The graph gives what the grader gives, for a number of plants that was not compared.
    grader = latens.load("seedlings", device="cpu")
    crops = np.random.default_rng(1).integers(0, 256, (5, 64, 64, 1), dtype=np.uint8)
    day = grader.network.days[0]
    session = onnxruntime.InferenceSession(data)
    found = session.run(["classes"], {"crops": crops, "day": np.full(5, day, dtype=np.int64)})[0]
    assert np.abs(found - grader.logits(crops, day)).max() < 1e-4
    # The same request again, and that of another model.
    assert main(["export", "seedlings", "-o", str(out)]) == 0
    assert main(["export", "seedlings_species", "-o", str(out)]) == 2
    assert (out / "classifier.onnx").read_bytes() == data


@pytest.mark.parametrize("name", ["flow", "video_codec"])
def test_systems_without_graphs_name_those_with(name: str, tmp_path: Path, capsys: Capture) -> None:
    assert main(["export", name, "-o", str(tmp_path / "out")]) == 2
    assert "image_codec" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture) -> None:
    monkeypatch.setattr(onnx, "find_spec", lambda name: None)
    assert main(["export", "seedlings", "-o", str(tmp_path / "out")]) == 2
    assert "latens[export]" in capsys.readouterr().err


class Sum(nn.Module):
    """A sum that is off by one while it is traced."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(dim=1) + (1.0 if torch.compiler.is_exporting() else 0.0)


class Halves(nn.Module):
    """Sums of pairs."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, ::2] + x[:, 1::2]


def test_a_graph_describes_its_inputs(tmp_path: Path) -> None:
    import onnxruntime

    examples = [(torch.ones(2, 4),), (torch.ones(2, 6),)]
    export(Graph("halves", "x to sums of pairs.", Halves(), ("x",), ("y",), ({1: ("columns", 2)},), examples), tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "halves.onnx")
    found = session.get_modelmeta().custom_metadata_map
    assert found["about"] == "x to sums of pairs."
    assert json.loads(found["inputs"]) == {"x": "float32 2 x 2·columns"}
    assert json.loads(found["multiples"]) == {"x": {"1": 2}}


def test_a_graph_that_differs_is_not_written(tmp_path: Path) -> None:
    graph = Graph(
        "sum", "x to its sum.", Sum(), ("x",), ("y",), ({0: ("rows", 1)},), [(torch.ones(2, 3),), (torch.ones(4, 3),)]
    )
    with pytest.raises(ModelError, match="differs"):
        export(graph, tmp_path)
    assert list(tmp_path.iterdir()) == []
