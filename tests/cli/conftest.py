"""Model folders of a tiny untrained codec and a tiny untrained segmenter, and images to run the verbs on."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from latens.hub import save_model
    from latens.systems.image_codec.config import HyperpriorConfig
    from latens.systems.image_codec.model import MeanScaleHyperprior
    from latens.systems.image_codec.objective import frozen_coding

    torch.manual_seed(0)
    config = HyperpriorConfig(hidden=16, latent=24, lambdas=(0.005, 0.02))
    model = MeanScaleHyperprior(config).eval()
    coding = frozen_coding(model, [torch.rand(1, 3, 128, 128)])
    folder = tmp_path_factory.mktemp("models") / "tiny"
    described = {"system": "image_codec", "model": asdict(config), "coding": coding.spec()}
    save_model(folder, described, model.state_dict(), coding.tensors())
    return folder


@pytest.fixture(scope="session")
def cell_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from latens.hub import save_model
    from latens.systems.amodal.pipeline import AmodalRCNN
    from latens.systems.amodal.recipes import tiny

    torch.manual_seed(0)
    model = AmodalRCNN(replace(tiny().model, classes=("cell",)))
    target = tmp_path_factory.mktemp("model") / "cells"
    save_model(target, {"system": "amodal", "model": asdict(model.config)}, model.state_dict())
    return target


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Two images in two folders; a third file is no image although its name says so."""
    folder = tmp_path / "album"
    (folder / "trip").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (40, 70)), ("trip/b.jpg", (65, 33))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    (folder / "c.jpg").write_text("not an image")
    return folder
