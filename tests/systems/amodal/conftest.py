"""A tiny untrained segmenter in a model folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from latens.hub import save_model
from latens.settings import to_dict
from latens.systems.amodal.config import AmodalConfig
from latens.systems.amodal.pipeline import AmodalRCNN
from latens.systems.amodal.predict import AmodalSegmenter, load
from latens.systems.amodal.recipes import tiny


def tiny_config() -> AmodalConfig:
    return dataclasses.replace(tiny().model, classes=("cell",))


@pytest.fixture(scope="session")
def amodal_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seeded, untrained weights with raised scores, so that objects are detected."""
    torch.manual_seed(0)
    model = AmodalRCNN(tiny_config())
    with torch.no_grad():
        model.box_scores.bias.copy_(torch.tensor([-1.0, 1.0]))
    folder = tmp_path_factory.mktemp("amodal") / "tiny"
    save_model(folder, {"system": "amodal", "model": to_dict(model.config)}, model.state_dict())
    return folder


@pytest.fixture(scope="session")
def segmenter(amodal_folder: Path) -> AmodalSegmenter:
    found = load(amodal_folder, device="cpu")
    assert isinstance(found, AmodalSegmenter)
    return found
