"""A grader with random weights, and simulated trays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from latens.hub import save_model
from latens.settings import to_dict
from latens.systems.seedlings.predict import SeedlingGrader, load
from latens.systems.seedlings.recipes import RECIPES
from latens.systems.seedlings.simulator.photograph import photograph
from latens.systems.seedlings.system import build


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model of the small network with both outputs, calibrated on a few crops."""
    torch.manual_seed(0)
    recipe = RECIPES["tiny"]()
    config = replace(recipe, data=replace(recipe.data, trays=4, days=(5, 6)))
    parts = build(config, [])
    made = parts.objective.export(parts.model.eval(), list(parts.data.validation()))
    folder = tmp_path_factory.mktemp("model") / "untrained"
    save_model(folder, {"system": "seedlings", "model": to_dict(config.model), **made.config}, made.weights)
    return folder


@pytest.fixture(scope="session")
def grader(model_folder: Path) -> SeedlingGrader:
    return load(model_folder, device="cpu")


@pytest.fixture(scope="session")
def trays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trays of 4 x 6 on days 5 and 6."""
    folder = tmp_path_factory.mktemp("trays")
    for tray in range(2):
        for day in (5, 6):
            made = photograph(3, tray, day, rows=4, cols=6, preset="easy")
            Image.fromarray(made.pixels).save(folder / f"T{tray}_day{day}.png")
    return folder
