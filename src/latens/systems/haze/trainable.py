"""Puts model, objective and data of a training configuration together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from latens.errors import UnreadableInput, UsageError
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
    """`data` are folders of scenes with depth, or of real pictures (see `is_unpaired`); none: simulated streets.

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


def is_unpaired(source: Path) -> bool:
    """Whether it names real pictures: a folder that holds hazy/ and clear/, or hazy:FOLDER and clear:FOLDER."""
    return domain_of(source) is not None or ((source / "hazy").is_dir() and (source / "clear").is_dir())


def domain_of(source: Path) -> tuple[str, Path] | None:
    """("hazy" or "clear", folder) of such a word, or None."""
    domain, colon, folder = str(source).partition(":")
    return (domain, Path(folder)) if colon and domain in ("hazy", "clear") else None


def _pictures(config: TrainConfig, data: Sequence[Path]) -> Any:
    unpaired = [source for source in data if is_unpaired(source)]
    if not unpaired:
        return SceneData(data, config.data, config.run.seed)
    if len(unpaired) < len(data):
        raise UsageError("unpaired folders and folders with depth are not mixed", where="--data", hint="give one kind")
    folders: dict[str, list[Path]] = {"hazy": [], "clear": []}
    for source in unpaired:
        named = domain_of(source)
        for domain, folder in [named] if named else [(name, source / name) for name in folders]:
            folders[domain].append(folder)
    for domain, found in folders.items():
        if not found:
            raise UsageError(f"there are no {domain} pictures", where="--data", hint="give hazy:FOLDER and clear:FOLDER")
        for folder in found:
            if not folder.is_dir():
                raise UnreadableInput("not a folder", where=str(folder), hint=f"give the folder of {domain} pictures")
    return UnpairedData(folders["hazy"], folders["clear"], config.data, config.run.seed)
