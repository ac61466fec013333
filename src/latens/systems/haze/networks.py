"""Networks of the learned methods: from settings, from model folders."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from latens.hub import load_network
from latens.systems.haze.baselines.dehazenet import DehazeNet
from latens.systems.haze.config import DehazeNetConfig, HazeModel, PhysicalConfig, TranslatorConfig
from latens.systems.haze.model import HazeTranslator
from latens.systems.haze.physical import PhysicalHaze


def read_folder(folder: Path) -> tuple[str, nn.Module]:
    """Hash and network of a model folder. Raises ModelMissing or ModelError."""
    found, model = load_network(folder, "haze", HazeModel, network)
    return found.sha256, model


def network(config: TranslatorConfig | PhysicalConfig | DehazeNetConfig) -> nn.Module:
    """An untrained network of these settings."""
    if isinstance(config, PhysicalConfig):
        return PhysicalHaze(config)
    return HazeTranslator(config) if isinstance(config, TranslatorConfig) else DehazeNet()


def kind_of(model: nn.Module) -> str:
    """The name of the method that a network implements."""
    return model.config.kind if isinstance(model, HazeTranslator | PhysicalHaze) else "dehazenet"


def recipe_for(kind: str) -> str:
    """The recipe that trains a learned method on a CPU."""
    return "cpu" if kind == "physical" else f"cpu_{kind}"
