"""Small labeled images, and untrained models in folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latens.data.source import Source
from latens.hub import save_model
from latens.settings import to_dict
from latens.systems.parts.baselines import build_model
from latens.systems.parts.config import BetaVAEConfig, PartsConfig, PatchVAEConfig
from latens.systems.parts.model import PatchVAE
from latens.systems.parts.predict import Parts, load

SIZES = PatchVAEConfig(size=16, encoder="local", parts=4, appearance=3)


def save_untrained(folder: Path, config: PartsConfig) -> Path:
    """A model with seeded weights; the occurrence head of a PatchVAE is scaled so that parts occur."""
    torch.manual_seed(0)
    model = build_model(config)
    if isinstance(model, PatchVAE):
        with torch.no_grad():
            model.occurrence.weight.mul_(4)
    save_model(folder, {"system": "parts", "model": to_dict(model.config)}, dict(model.state_dict()))
    return folder


@pytest.fixture(scope="session")
def parts_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_untrained(tmp_path_factory.mktemp("models") / "tiny-parts", SIZES)


@pytest.fixture(scope="session")
def parts(parts_folder: Path) -> Parts:
    return load(parts_folder, device="cpu")


@pytest.fixture(scope="session")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return load(
        save_untrained(
            tmp_path_factory.mktemp("models") / "tiny-vae", BetaVAEConfig(size=16, encoder="local", parts=4, appearance=3)
        ),
        device="cpu",
    )


@pytest.fixture(scope="session")
def labeled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of small images: squares on a bright and discs on a dark background."""
    folder = tmp_path_factory.mktemp("labeled")
    rng = np.random.default_rng(0)
    row, column = np.mgrid[0:16, 0:16]
    for i in range(24):
        ground = rng.integers(20, 60, 3) if i % 2 else rng.integers(150, 220, 3)
        pixels = np.tile(ground.astype(np.uint8), (16, 16, 1))
        top, left = rng.integers(2, 8, 2)
        inside = (
            (row - top - 3) ** 2 + (column - left - 3) ** 2 < 12
            if i % 2
            else (abs(row - top - 3) < 3) & (abs(column - left - 3) < 3)
        )
        pixels[inside] = (230, 120, 40)
        (folder / "ab"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / "ab"[i % 2] / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def labeled_source(labeled: Path) -> Source:
    return Source("", str(labeled))
