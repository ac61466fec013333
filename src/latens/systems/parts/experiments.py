"""Models trained and probed for the tables of 004: a data set, a scale, and a journal of what has been run.

A run is a member of the family, trained from one seed, in a folder of its own; it resumes where it was stopped. Probe results
are journalled. Both are found again by data, scale, settings and seed, so tables share them and a stopped command goes on.
Several processes may work on one folder: each claims what it does, and a claim ends with its process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch

from latens.errors import UsageError
from latens.experiments.journal import Journal, claim
from latens.hub import save_model
from latens.inference.reproduction import spread
from latens.systems.parts.predict import Parts, load
from latens.systems.parts.probes import PROBES, ProbeConfig, ProbeResult, Splits, decisive, fingerprint, run_probe, split_sets
from latens.systems.parts.rivals import build_model
from latens.systems.parts.sources import PictureSet, open_set
from latens.systems.parts.trainable import check
from latens.systems.parts.variants import EVERY
from latens.training.config import override
from latens.training.run import recipe_of, train

RESULTS, RUNS, DONE = "results.jsonl", "runs", "done"
VALIDATIONS = 2  # at least, of a run that is shortened; the best weights are kept


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
    rows: tuple[str, ...] = ()  # of table1 and table2: train and probe these only; the others are shown as far as they are done
    probes: tuple[str, ...] = ()  # of table1: run these only; likewise


SCALES: Mapping[str, Scale] = MappingProxyType(
    {
        "tiny": Scale(recipe="tiny", steps=4, pictures=48, epochs=2, seeds=2, scenes=48),
        "desk": Scale(),
        "paper": Scale(recipe="paper", epochs=90),
    }
)

ONLY: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"rows": ("table1", "table2"), "probes": ("table1",), "features": ("table7",), "scenes": ("discovery",)}
)
"""Settings that not every table knows, and those that do."""


class Score(NamedTuple):
    """Accuracies of one probe over seeds, in percent."""

    top1: list[float]
    top5: list[float]

    def text(self) -> str:
        """Mean and standard deviation; the bare number of a single seed."""
        return spread(self.top1)


class Laboratory:
    """Raises UnreadableInput or InputError when the data cannot be used."""

    def __init__(self, data: Path, scale: Scale, out: Path, tell: Callable[[str], None], device: str = "auto") -> None:
        self.data, self.scale, self.out, self.tell, self.device = data, scale, out, tell, device
        self.base = recipe_of("parts", scale.recipe)
        self.journal = Journal(out / RESULTS)
        self.train_set, self.test_set = open_set(data, "train"), open_set(data, "test")
        self._splits: dict[int, Splits] = {}

    @property
    def size(self) -> int:
        """Side of the pictures."""
        return self.scale.size or int(self.base.model.size)

    # ------------------------------------------------------------------------------------------------------- results

    def score(self, settings: Mapping[str, str], probe: str) -> Score:
        """One probe of one member of the family, over the seeds for which it has been run (see `run`)."""
        found = [self._recorded(settings, seed, probe) for seed in range(self.scale.seeds)]
        results = [result for result in found if result is not None]
        return Score([result.test for result in results], [result.top5 for result in results])

    def run(self, members: Sequence[Mapping[str, str]], probes: Sequence[str]) -> None:
        """Trains and probes what is missing, seed by seed; without probes it trains only.

        Work that another process has claimed is waited for at the end; if that process dies, it is done here.
        """
        for wait in (False, True):
            for seed in range(self.scale.seeds):
                for settings in members:
                    self._complete(settings, seed, probes, wait=wait)

    def _complete(self, settings: Mapping[str, str], seed: int, probes: Sequence[str], *, wait: bool) -> None:
        folder = self._folder(settings, seed)
        missing = [probe for probe in probes if self._recorded(settings, seed, probe) is None]
        if not missing and (probes or (folder / DONE).is_file()):
            return
        with claim(folder, wait=wait) as ours:
            if not ours:
                return
            parts = self._trained(settings, seed, folder)
            for probe in missing:
                if self._recorded(settings, seed, probe) is None:  # nor done before the claim was ours
                    self._probe(parts, settings, seed, probe)

    def _probe(self, parts: Parts, settings: Mapping[str, str], seed: int, probe: str) -> None:
        schedule, size = self._schedule, parts.config.size
        if size not in self._splits:
            self._splits[size] = split_sets(self._limited(), self.test_set, size, schedule.validation_share, self.tell)
        result = run_probe(probe, parts.model.encoder, self._splits[size], schedule, seed=seed)
        self.tell(f"{probe}, seed {seed}, {named(settings)}: {result.test:.2f} % (validation {result.validation:.2f} %)")
        key = self._probe_key(settings, seed, probe)
        self.journal.append([{"key": key, "settings": dict(settings), "seed": seed, "probe": probe, "result": list(result)}])

    def _recorded(self, settings: Mapping[str, str], seed: int, probe: str) -> ProbeResult | None:
        key = self._probe_key(settings, seed, probe)
        for record in self.journal.read():  # read anew: another process may have done this meanwhile
            if record.get("key") == key:
                return ProbeResult(*record["result"])
        return None

    # ---------------------------------------------------------------------------------------------------------- runs

    def model(self, settings: Mapping[str, str], seed: int) -> Parts:
        """The trained member: from its folder where it is there already."""
        folder = self._folder(settings, seed)
        with claim(folder, wait=True):
            return self._trained(settings, seed, folder)

    def _folder(self, settings: Mapping[str, str], seed: int) -> Path:
        return self.out / RUNS / self.key(settings, seed)

    def _trained(self, settings: Mapping[str, str], seed: int, folder: Path) -> Parts:
        if not (folder / DONE).is_file():
            self._train(settings, seed, folder)
            (folder / DONE).touch()
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # several times as large as what is kept
        return load(folder / "best", device=self.device)

    def _train(self, settings: Mapping[str, str], seed: int, folder: Path) -> None:
        self.tell(f"training, seed {seed}, {named(settings)}")
        changes = self._changes(settings, seed)
        if changes.get("run.steps") == "0":
            config = override(self.base, changes)
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
        if self.scale.steps:
            changes |= self._shortened(self.scale.steps)
        for name, value in (("model.size", self.scale.size), ("data.limit", self.scale.pictures)):
            changes |= {name: str(value)} if value else {}
        return changes | dict(settings)

    def _shortened(self, steps: int) -> dict[str, str]:
        """A run of another length than the recipe's ends at the same temperature and is validated twice or more."""
        run, law = self.base.run, self.base.objective.annealing
        changes = {"run.steps": str(steps), "run.validate_every": str(max(1, min(run.validate_every, steps // VALIDATIONS)))}
        changes["optim.warmup"] = str(min(self.base.optim.warmup, steps // 5))
        if not law.compound:  # the compound schedule has no rate that does this
            changes["objective.annealing.rate"] = str(law.rate * run.steps / steps)
        return changes

    def _limited(self) -> PictureSet:
        from latens.systems.parts.dataset import first_few

        if not self.scale.pictures:
            return self.train_set
        return self.train_set.subset(first_few(self.train_set, self.scale.pictures))

    def key(self, settings: Mapping[str, str], seed: int, *more: object) -> str:
        """Names a run by all that decides it: the whole configuration, the training pictures, the seed."""
        config = dataclasses.asdict(override(self.base, self._changes(settings, seed)))
        parts = [config, self._fingerprints[0], seed, *more]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]

    def _probe_key(self, settings: Mapping[str, str], seed: int, probe: str) -> str:
        return self.key(settings, seed, probe, decisive(probe, self._schedule), self._fingerprints[1])

    @property
    def _schedule(self) -> ProbeConfig:
        return ProbeConfig(epochs=self.scale.epochs)

    @cached_property
    def _fingerprints(self) -> tuple[str, str]:
        return fingerprint(self.train_set), fingerprint(self.test_set)


def check_scale(scale: Scale) -> None:
    """Raises UsageError for counts that are too small, and for rows and probes that are not known."""
    smallest = {"steps": 0, "size": 0, "pictures": 0, "epochs": 1, "seeds": 1, "scenes": 1}
    for setting, least in smallest.items():
        if getattr(scale, setting) < least:
            raise UsageError(f"{setting} are {least} or more", where=f"--set {setting}", hint="leave it out for the default")
    check_names(scale.rows, EVERY, "rows")
    check_names(scale.probes, PROBES, "probes")


def check_applies(name: str, settings: Collection[str]) -> None:
    """Raises UsageError for settings of a scale that mean nothing for this table or figure."""
    for setting in settings:
        if setting in ONLY and name not in ONLY[setting]:
            raise UsageError(f"{name} has no {setting}", where=f"--set {setting}", hint=f"for {' and '.join(ONLY[setting])}")


def check_names(given: Sequence[str], known: Collection[str], setting: str) -> None:
    """Raises UsageError for a name that is not known."""
    strange = [name for name in given if not isinstance(name, str) or name not in known]
    if strange:
        raise UsageError(f"{setting} have no '{strange[0]}'", where=f"--set {setting}", hint=f"known: {', '.join(known)}")


def named(settings: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "PatchVAE"
