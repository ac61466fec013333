"""Networks of the learned methods: from settings, from model folders, and the bundled ones when they are needed."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from latens.catalogue import MODELS
from latens.errors import ModelMissing, UsageError
from latens.hub import load_network
from latens.inference.device import in_plain_torch
from latens.systems.haze.baselines.dehazenet import DehazeNet
from latens.systems.haze.config import CLASSICAL, LEARNED, DehazeNetConfig, HazeModel, PhysicalConfig, TranslatorConfig
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


class UsedModel(NamedTuple):
    """Model and device of a method, for `latens.launch.announce`; `model_id` is empty for a method without weights."""

    name: str
    model_id: str
    device: torch.device
    precision: str


@in_plain_torch
class HazeModels:
    """Methods by name: "dcp" and "bccr" need no weights, the others have those of a model folder or of a bundled model."""

    def __init__(self, loaded: dict[str, nn.Module], *, name: str, sha256: str, device: torch.device) -> None:
        self.learned = {kind: model.to(device).eval().requires_grad_(False) for kind, model in loaded.items()}
        self.hashes = dict.fromkeys(loaded, sha256)
        self.name = name
        self.model_id = sha256
        self.device = device
        self.precision = "float32"
        self.default_method = next(iter(loaded), "physical")
        self.given = frozenset(loaded)  # methods of the model folder that was loaded; bundled models are not among them

    def __repr__(self) -> str:
        weights = f"weights {self.model_id[:12]}, " if self.model_id else ""
        return f"Haze({self.name}, {weights}{self.device}, method {self.default_method})"

    def has(self, method: str) -> bool:
        """True if the method is available. Raises UsageError for an unknown method."""
        known = (*CLASSICAL, *LEARNED)
        if method not in known:
            raise UsageError(f"there is no method '{method}'", where="--method", hint=f"known: {', '.join(known)}")
        return method in CLASSICAL or method in self.learned or f"haze_{method}" in MODELS

    def model(self, kind: str) -> nn.Module:
        """The network of a learned method. Raises ModelMissing if there are no weights."""
        if kind not in self.learned:
            if not self.has(kind):
                what = f"there are no weights for the method {kind}"
                hint = f"use --method dcp or bccr, or train it: latens train haze --recipe {recipe_for(kind)}, then --model"
                raise ModelMissing(what, where=self.name, hint=hint)
            self.add(MODELS[f"haze_{kind}"].folder)
        return self.learned[kind]

    def add(self, folder: Path) -> None:
        """Load the model of a folder; it replaces another model of the same kind. Raises ModelMissing or ModelError."""
        digest, model = read_folder(folder)
        kind = kind_of(model)
        self.learned[kind] = model.to(self.device).eval().requires_grad_(False)
        self.hashes[kind] = digest

    def hash_of(self, kind: str) -> str:
        """Hash of the weights of an available learned method."""
        return self.hashes[kind] if kind in self.hashes else MODELS[f"haze_{kind}"].sha256

    def used(self, method: str | None) -> UsedModel:
        """Name and hash of the model of a method; None means haze synthesis from given depth, which needs no weights."""
        if method is None or method in CLASSICAL:
            return UsedModel(method or "haze of given depth", "", self.device, self.precision)
        own = method in self.hashes and self.hashes[method] == self.model_id
        return UsedModel(self.name if own else f"haze_{method}", self.hash_of(method), self.device, self.precision)
