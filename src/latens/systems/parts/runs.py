"""Members of the family, trained and probed for the tables of 004.

A run is a member trained from one seed; the laboratory keeps runs and probe results and finds them again by data, settings and
seed, so tables share them and a stopped command continues.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import torch

from latens.catalogue import recipe_of
from latens.data.labeled import LabeledSet, open_set
from latens.data.source import Source
from latens.data.squares import first_few
from latens.errors import UsageError
from latens.experiments.lab import Lab
from latens.experiments.probes import Probe, ProbeConfig, ProbeResult, Splits, cache_key, fingerprint, run_probe, split_sets
from latens.experiments.report import spread
from latens.hub import save_model
from latens.settings import Count, Natural, settings, to_dict
from latens.systems.parts.baselines import build_model
from latens.systems.parts.predict import Parts
from latens.systems.parts.recipes import PartsTraining
from latens.systems.parts.variants import Member, Variant

logger = logging.getLogger(__name__)

VALIDATIONS = 2  # at least, of a run that is shortened; the best weights are kept
UNTRAINED = "untrained"


@settings
class Scale:
    """Size of an experiment."""

    recipe: str = "small"  # of training; members of the family are put on top of it
    steps: Natural = 0  # of training; 0: as the recipe has it
    size: Natural = 0  # side of the images; 0: as the recipe has it
    images: Natural = 0  # of the training split that are used; 0: all
    epochs: Count = 15  # of the fine-tuning probes
    seeds: Count = 3  # of every row
    scenes: Count = 4000  # of the simulator, for `discovery`
    features: str = ""  # model whose encoder gives the space of the FID in table7
    shown: Natural = 0  # images of a figure; 0: at most 500
    rows: tuple[Member, ...] = ()  # of table1 and table2: train and probe these; the others are shown as far as they are done
    probes: tuple[Probe, ...] = ()  # of table1: run these; likewise


SCALES: Mapping[str, Scale] = MappingProxyType(
    {
        "tiny": Scale(recipe="tiny", steps=4, images=48, epochs=2, seeds=1, scenes=48, shown=6),
        "cpu": Scale(),
        "paper": Scale(recipe="paper", epochs=90),
    }
)
PartsLab: TypeAlias = Lab[Parts, Scale]


class Score(NamedTuple):
    """Accuracies of one probe over seeds, in percent."""

    top1: list[float]
    top5: list[float]

    def text(self) -> str:
        """Mean and standard deviation; the bare number of a single seed."""
        return spread(self.top1)


class Family:
    """The runs on one data set. Raises UsageError without one, UnreadableInput or InputError when it cannot be used."""

    def __init__(self, lab: PartsLab, source: Source | None = None) -> None:
        self.lab, self.scale = lab, lab.scale
        source = source or lab.one_source()
        if source is None:
            hint = "the paper used cifar100:PATH, indoor67:PATH, places205:PATH and imagenet:PATH"
            raise UsageError("this is measured on labeled images", where="--data", hint=hint)
        self.source = source
        self.base: PartsTraining = recipe_of("parts", lab.scale.recipe)
        self.train_set, self.test_set = open_set(str(source), "train"), open_set(str(source), "test")
        self._splits: dict[int, Splits] = {}

    @property
    def size(self) -> int:
        """Side of the images."""
        return self.scale.size or self.base.model.size

    # ------------------------------------------------------------------------------------------------------- results

    def score(self, variant: Variant, probe: Probe) -> Score:
        """One probe of one member of the family, over the seeds for which it has been run (see `run`)."""
        found = [self.lab.recorded(self.key(variant, seed, probe)) for seed in range(self.scale.seeds)]
        results = [ProbeResult(*result[0]) for result in found if result is not None]
        return Score([result.test for result in results], [result.top5 for result in results])

    def run(self, variants: Sequence[Variant], probes: Sequence[Probe]) -> None:
        """Trains and probes what is missing, seed by seed; without probes it trains only."""
        tasks: list[Callable[[], object]] = []
        for seed in range(self.scale.seeds):
            for variant in variants:
                tasks += [partial(self._probed, variant, seed, probe) for probe in probes]
                tasks += [] if probes else [partial(self.trained, variant, seed)]
        self.lab.complete(tasks)

    def _probed(self, variant: Variant, seed: int, probe: Probe) -> None:
        def work() -> list[object]:
            parts = self.model(variant, seed)
            size = parts.config.size
            if size not in self._splits:
                self._splits[size] = split_sets(self._limited(), self.test_set, size, self._schedule.validation_share)
            result = run_probe(probe, parts.model.encoder, self._splits[size], self._schedule, seed=seed)
            logger.info("%s, seed %d: %.2f %% (validation %.2f %%)", probe, seed, result.test, result.validation)
            return list(result)

        self.lab.once(self.key(variant, seed, probe), work)

    def key(self, variant: Variant, seed: int, probe: Probe) -> dict[str, object]:
        """All that decides a probe's result: the run, the images, the probe's schedule."""
        schedule = {**cache_key(probe, self._schedule), "probe": probe}
        return {"run": self.config(variant, seed), "data": list(self._fingerprints), "schedule": schedule}

    # ---------------------------------------------------------------------------------------------------------- runs

    def model(self, variant: Variant, seed: int) -> Parts:
        """The trained member: from its folder where it is there already."""
        return self.lab.open_model(self.trained(variant, seed))

    def trained(self, variant: Variant, seed: int) -> Path:
        """The model folder of a member."""
        config = self.config(variant, seed)
        if config.run.steps == 0:
            return self._untrained(config)
        identity = [self._fingerprints[0]]
        return self.lab.trained(config, name=f"{config.model.kind}-{seed}", sources=[self.source], identity=identity)

    def _untrained(self, config: PartsTraining) -> Path:
        """Random weights of a seed."""
        folder = (
            self.lab.folder / UNTRAINED / f"{config.model.kind}-{config.model.encoder}-{config.model.size}-{config.run.seed}"
        )
        if not (folder / "config.json").is_file():
            torch.manual_seed(config.run.seed)
            described = {"system": "parts", "model": to_dict(config.model)}
            save_model(folder, described, dict(build_model(config.model).state_dict()))
        return folder

    def config(self, variant: Variant, seed: int) -> PartsTraining:
        """The configuration of a run: the recipe at the scale's length and size, with a variant on top."""
        config, scale = self.base, self.scale
        if scale.steps:
            config = shortened(config, scale.steps)
        data = replace(config.data, limit=scale.images or config.data.limit)
        model = replace(config.model, size=scale.size or config.model.size)
        return variant(replace(config, model=model, data=data, run=replace(config.run, seed=seed)))

    def _limited(self) -> LabeledSet:
        if not self.scale.images:
            return self.train_set
        return self.train_set.subset(first_few(self.train_set, self.scale.images))

    @property
    def _schedule(self) -> ProbeConfig:
        return ProbeConfig(epochs=self.scale.epochs)

    @cached_property
    def _fingerprints(self) -> tuple[str, str]:
        return fingerprint(self.train_set), fingerprint(self.test_set)


def shortened(config: PartsTraining, steps: int) -> PartsTraining:
    """A run of another length than the recipe's, which ends at the same temperature and is validated twice or more."""
    run, law = config.run, config.objective.annealing
    if not law.compound:  # the compound schedule has no rate that does this
        law = replace(law, rate=law.rate * run.steps / steps)
    every = max(1, min(run.validate_every, steps // VALIDATIONS))
    return replace(
        config,
        objective=replace(config.objective, annealing=law),
        optim=replace(config.optim, warmup=min(config.optim.warmup, steps // 5)),
        run=replace(run, steps=steps, validate_every=every),
    )
