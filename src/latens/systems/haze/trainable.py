"""Puts model, objective and data of a training configuration together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from latens.errors import UsageError
from latens.systems.haze.baselines.dehazenet import DehazeNet, PatchObjective
from latens.systems.haze.config import LEARNED, TRANSLATORS
from latens.systems.haze.dataset import PatchData, SceneData, UnpairedData
from latens.systems.haze.model import HazeTranslator
from latens.systems.haze.objective import TranslationObjective
from latens.systems.haze.physical import PhysicalHaze
from latens.systems.haze.physical_objective import PhysicalObjective
from latens.training.config import TrainConfig
from latens.training.objective import Trainable


def build(config: TrainConfig, data: Sequence[Path]) -> Trainable:
    """`data` are folders of scenes with depth, or one that holds the folders hazy/ and clear/; none: simulated streets.

    Raises UsageError for an unknown kind of model, for unpaired data where depth is needed, and for several processes: the
    adversarial pair is trained in one.
    """
    kind = config.model.kind
    if kind not in LEARNED:
        raise UsageError(f"no model '{kind}'", where="--set model.kind", hint=f"known: {', '.join(LEARNED)}")
    if kind in TRANSLATORS:
        if torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            raise UsageError("translators are trained by one process", hint="start it without torchrun or accelerate launch")
        model = HazeTranslator(config.model, config.data.crop)
        return Trainable(model, TranslationObjective(config.objective), _pictures(config, data))
    if any(is_unpaired(folder) for folder in data):
        raise UsageError(f"{kind} is trained on scenes with depth", where="--data", hint="give RGB-D folders or none")
    scenes = SceneData(data, config.data, config.run.seed)
    if kind == "physical":
        return Trainable(PhysicalHaze(config.model), PhysicalObjective(config.objective), scenes)
    return Trainable(DehazeNet(), PatchObjective(config.objective), PatchData(scenes, config.data.batch))


def is_unpaired(folder: Path) -> bool:
    """Whether the folder holds real hazy and real clear pictures."""
    return (folder / "hazy").is_dir() and (folder / "clear").is_dir()


def _pictures(config: TrainConfig, data: Sequence[Path]) -> Any:
    unpaired = [folder for folder in data if is_unpaired(folder)]
    if not unpaired:
        return SceneData(data, config.data, config.run.seed)
    if len(unpaired) < len(data):
        raise UsageError("unpaired folders and folders with depth are not mixed", where="--data", hint="give one kind")
    hazy, clear = ([folder / domain for folder in unpaired] for domain in ("hazy", "clear"))
    return UnpairedData(hazy, clear, config.data, config.run.seed)
