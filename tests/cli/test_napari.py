"""The manifest for napari names a function that exists, and the function labels images and stacks."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

import latens
from latens import napari
from latens.systems.amodal.predict import load

MANIFEST = Path(latens.__file__).with_name("napari.yaml")


@pytest.mark.filterwarnings("ignore")  # of npe2 about pydantic
def test_the_manifest_is_valid() -> None:
    npe2 = pytest.importorskip("npe2")
    manifest = npe2.PluginManifest.from_file(MANIFEST)
    assert [widget.display_name for widget in manifest.contributions.widgets] == ["Segment cells"]


def test_the_function_of_the_manifest_exists() -> None:
    (line,) = (line for line in MANIFEST.read_text().splitlines() if "python_name" in line)
    module, _, name = line.split(": ")[1].partition(":")
    assert getattr(importlib.import_module(module), name) is napari.segment


@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 3), (2, 40, 60), (2, 40, 60, 3)])
def test_every_plane_gets_labels(shape: tuple[int, ...], cell_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(napari, "_loaded", lambda model: load(cell_model, device="cpu"))
    labels = napari.segment(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    assert labels.shape == (shape[:-1] if shape[-1] == 3 else shape)
    assert labels.dtype.kind == "u"
