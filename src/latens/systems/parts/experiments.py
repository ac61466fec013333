"""Models trained and probed for the tables of 004: a data set, a scale, and a journal of what has been run.

A run is a member of the family, trained from one seed, in a folder of its own; it resumes where it was stopped. Probe results
are journalled. Both are found again by data, scale, settings and seed, so tables share them and a stopped command goes on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch

from latens.data.journal import Journal
from latens.hub import save_model
from latens.inference.reproduction import spread
from latens.systems.parts.predict import Parts, load
from latens.systems.parts.probes import ProbeConfig, ProbeResult, Splits, run_probe, split_sets
from latens.systems.parts.rivals import build_model
from latens.systems.parts.sources import PictureSet, open_set
from latens.systems.parts.trainable import check
from latens.training.config import override
from latens.training.run import recipe_of, train

RESULTS, RUNS = "results.jsonl", "runs"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large an experiment is."""

    recipe: str = "small"  # of training; settings of the family are put on top of it
    steps: int = 0  # of training; 0: as the recipe has it
    size: int = 0  # side of the pictures; 0: as the recipe has it
    pictures: int = 0  # of the training split that are used; 0: all
    epochs: int = 15  # of the fine-tuning probes
    seeds: int = 3
    scenes: int = 4000  # of the simulator, for `discovery`
    features: str = ""  # model whose encoder gives the space of the FID in table7


SCALES: Mapping[str, Scale] = MappingProxyType(
    {
        "tiny": Scale(recipe="tiny", steps=4, pictures=48, epochs=2, seeds=2, scenes=48),
        "desk": Scale(),
        "paper": Scale(recipe="paper", epochs=90),
    }
)


class Score(NamedTuple):
    """Accuracies of one probe over seeds, in percent."""

    top1: list[float]
    top5: list[float]

    def text(self) -> str:
        """Mean and standard deviation; the bare number of a single seed."""
        return spread(self.top1)


class Laboratory:
    """Raises UnreadableInput or InputError when the data set cannot be used."""

    def __init__(self, data: Path, scale: Scale, out: Path, tell: Callable[[str], None], device: str = "auto") -> None:
        self.data, self.scale, self.out, self.tell, self.device = data, scale, out, tell, device
        self.journal = Journal(out / RESULTS)
        self.train_set, self.test_set = open_set(data, "train"), open_set(data, "test")
        self._splits: dict[int, Splits] = {}

    @property
    def size(self) -> int:
        """Side of the pictures."""
        return self.scale.size or int(recipe_of("parts", self.scale.recipe).model.size)

    def score(self, settings: Mapping[str, str], probe: str) -> Score:
        """One probe of one member of the family over all seeds."""
        results = [self.probe(settings, probe, seed) for seed in range(self.scale.seeds)]
        return Score([result.test for result in results], [result.top5 for result in results])

    def probe(self, settings: Mapping[str, str], probe: str, seed: int) -> ProbeResult:
        key = self.key(settings, seed, probe, self.scale.epochs)
        for record in self.journal.read():
            if record.get("key") == key:
                return ProbeResult(*record["result"])
        model = self.model(settings, seed)
        schedule = ProbeConfig(epochs=self.scale.epochs)
        size = model.config.size
        if size not in self._splits:
            self._splits[size] = split_sets(self._limited(), self.test_set, size, schedule.validation_share)
        result = run_probe(probe, model.model.encoder, self._splits[size], schedule, seed=seed)
        self.tell(f"{probe}, seed {seed}, {named(settings)}: {result.test:.2f} % (validation {result.validation:.2f} %)")
        self.journal.append([{"key": key, "settings": dict(settings), "seed": seed, "probe": probe, "result": list(result)}])
        return result

    def model(self, settings: Mapping[str, str], seed: int) -> Parts:
        """The trained member: from its folder where it is there already."""
        folder = self.out / RUNS / self.key(settings, seed)
        if not (folder / "done").is_file():
            self._train(settings, seed, folder)
            (folder / "done").touch()
        return load(folder / "best", device=self.device)

    def _train(self, settings: Mapping[str, str], seed: int, folder: Path) -> None:
        self.tell(f"training, seed {seed}, {named(settings)}")
        changes = self._changes(settings, seed)
        if changes.get("run.steps") == "0":
            config = override(recipe_of("parts", self.scale.recipe), changes)
            check(config.model)
            torch.manual_seed(seed)
            described = {"system": "parts", "model": dataclasses.asdict(config.model)}
            save_model(folder / "best", described, dict(build_model(config.model).state_dict()))
            return
        resume = (folder / "checkpoints").is_dir()
        train(
            "parts",
            recipe=self.scale.recipe,
            data=[self.data],
            run_dir=folder,
            overrides=changes,
            resume=resume,
            device=self.device,
        )

    def _changes(self, settings: Mapping[str, str], seed: int) -> dict[str, str]:
        changes = {"run.seed": str(seed)}
        for name, value in (
            ("run.steps", self.scale.steps),
            ("model.size", self.scale.size),
            ("data.limit", self.scale.pictures),
        ):
            changes |= {name: str(value)} if value else {}
        return changes | dict(settings)

    def _limited(self) -> PictureSet:
        from latens.systems.parts.dataset import first_few

        if not self.scale.pictures:
            return self.train_set
        return self.train_set.subset(first_few(self.train_set, self.scale.pictures))

    def key(self, settings: Mapping[str, str], seed: int, *more: object) -> str:
        """Names a run by all that decides it: the whole configuration, the pictures, the seed."""
        config = dataclasses.asdict(override(recipe_of("parts", self.scale.recipe), self._changes(settings, seed)))
        pictures = hashlib.sha256("\n".join(self.train_set.keys).encode()).hexdigest()
        parts = [config, self.train_set.name, pictures, len(self.test_set), seed, *more]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def named(settings: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "PatchVAE"
