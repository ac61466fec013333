"""Training and probing of models from several seeds on one data set. Tables share runs and journal of a `ExperimentRunner`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeVar

import torch

from latens.data.labeled import open_labeled
from latens.data.source import Source
from latens.data.squares import Squares, readable
from latens.errors import counted
from latens.experiments.journal import digest
from latens.experiments.lab import ExperimentRunner
from latens.experiments.probes import (
    Probe,
    ProbeConfig,
    ProbeResult,
    Splits,
    cache_key,
    check_labels,
    run_probe,
    split_sets,
)
from latens.inference.device import choose_device
from latens.settings import Count, Natural, settings
from latens.systems.parts.baselines import build_model
from latens.systems.parts.config import PatchVAELoss
from latens.systems.parts.evaluate import warn_left_out
from latens.systems.parts.predict import Parts
from latens.systems.parts.recipes import RECIPES, PartsTraining, Row, Variant
from latens.training.config import shortened

VALIDATIONS = 2  # smallest number of validations in a shortened run, which selects the best weights


RecipeName = Literal["tiny", "cpu", "small", "gpu", "paper", "paper_indoor67", "paper_places205", "paper_imagenet"]


@settings
class TableScale:
    """Size of the experiments of a table."""

    recipe: RecipeName = "small"  # training recipe, from which the rows derive
    steps: Natural = 0  # training steps; 0: those of the recipe
    size: Natural = 0  # side of the images; 0: that of the recipe
    images: Natural = 0  # number of training images, chosen by name; 0: all
    epochs: Count = 15  # epochs of the fine-tuning probes
    seeds: Count = 3  # seeds per row


@settings
class Table1Scale(TableScale):
    """Scale of Table 1. Rows and probes can be measured one at a time; missing results are shown as "-"."""

    rows: tuple[Row, ...] = ()  # rows to train and probe; empty: all
    probes: tuple[Probe, ...] = ()  # probes to run; empty: all


Table2Row = Literal["beta-VAE", "PatchVAE", "beta-VAE + L_w", "PatchVAE + L_w", "supervised"]


@settings
class Table2Scale(TableScale):
    """Scale of Table 2."""

    rows: tuple[Table2Row, ...] = ()  # rows to train and probe; empty: all


@settings
class Table7Scale(TableScale):
    """Scale of Table 7."""

    features: str | None = None  # model whose encoder computes the features of the FID


@settings
class DiscoveryScale(TableScale):
    """Scale of the part IoU table."""

    scenes: Count = 4000  # number of simulated training scenes


S = TypeVar("S", bound=TableScale)


def probing(scale: TableScale) -> str:
    """The schedule of the fine-tuning probes as text."""
    return f"probes of {counted(scale.epochs, 'epoch')}, the epoch chosen on validation images"


def scales_of(cls: type[S]) -> Mapping[str, S]:
    """The scales of a table by recipe name."""
    tiny = cls(recipe="tiny", steps=2, images=48, epochs=1, seeds=1)
    return MappingProxyType({"tiny": tiny, "cpu": cls(), "paper": cls(recipe="paper", epochs=90)})


class Score(NamedTuple):
    """Accuracies of one probe over seeds, in percent; empty if not measured."""

    top1: list[float]
    top5: list[float]


def row_training(scale: TableScale, variant: Variant, seed: int) -> PartsTraining:
    """The training configuration of a row. A run with another number of steps ends at the same temperature."""
    base = RECIPES[scale.recipe]()
    run, optim, objective = replace(base.run, seed=seed), base.optim, base.objective
    if scale.steps:
        validate_every = max(1, min(run.validate_every, scale.steps // VALIDATIONS))
        run = replace(run, steps=scale.steps, validate_every=validate_every)
        optim = shortened(optim, scale.steps)
        # For the compound schedule no rate ends at the same temperature.
        if isinstance(objective, PatchVAELoss) and not objective.annealing.compound:
            rate = objective.annealing.rate * base.run.steps / scale.steps
            objective = replace(objective, annealing=replace(objective.annealing, rate=rate))
    data = replace(base.data, limit=scale.images or base.data.limit)
    model = replace(base.model, size=scale.size or base.model.size)
    return variant(replace(base, model=model, data=data, objective=objective, optim=optim, run=run))


class Trials:
    """Models trained from several seeds on one data set, and their probes. Raises InputError for unusable data."""

    def __init__(self, lab: ExperimentRunner[Parts, Any], source: Source) -> None:
        self.lab, self.source = lab, source
        self.scale: TableScale = lab.scale
        self.schedule = ProbeConfig(epochs=self.scale.epochs)
        self.train, self.test = open_labeled(source, "train"), open_labeled(source, "test")
        self.identity = self.train.fingerprint(), self.test.fingerprint()
        self.rows: list[dict[str, Any]] = []  # measurements per seed, for the report
        self.left_out: dict[str, None] = {}
        self._splits: dict[int, Splits] = {}

    def config(self, variant: Variant, seed: int) -> PartsTraining:
        """The training configuration of a row."""
        return row_training(self.scale, variant, seed)

    def model(self, variant: Variant, seed: int) -> Parts:
        """The trained model; a finished run is reused."""
        config = self.config(variant, seed)
        if not config.run.steps:
            torch.manual_seed(seed)
            device = choose_device(self.lab.device, None)
            return Parts(build_model(config.model), name="untrained", sha256=digest({"config": config}), device=device)
        name = f"{config.model.kind}-seed{seed}"
        return self.lab.open_model(self.lab.trained(config, name=name, sources=[self.source], identity=self.identity[:1]))

    def probe(self, variant: Variant, seed: int, probe: Probe) -> ProbeResult:
        """The result of a probe, measured now or read from the journal."""
        return ProbeResult(*self.lab.once(self._key(variant, seed, probe), lambda: self._measure(variant, seed, probe)))

    def score(self, row: str, variant: Variant, probe: Probe) -> Score:
        """The results of a probe that have been measured."""
        found = [self.lab.recorded(self._key(variant, seed, probe)) for seed in range(self.scale.seeds)]
        results = {seed: ProbeResult(*record[0]) for seed, record in enumerate(found) if record is not None}
        self.rows += [{"model": row, "seed": seed, **result._asdict()} for seed, result in results.items()]
        return Score([result.test for result in results.values()], [result.top5 for result in results.values()])

    def complete(self, variants: Iterable[Variant], probes: Sequence[Probe] = ()) -> None:
        """Train missing models and run missing probes, seed by seed; without `probes` only train."""
        every = [(variant, seed) for seed in range(self.scale.seeds) for variant in variants]
        if probes:
            check_labels(self.train, self.test)
            self.lab.complete(partial(self.probe, *one, probe) for one in every for probe in probes)
        else:
            self.lab.complete(partial(self.model, *one) for one in every)

    def squares(self, size: int) -> Squares:
        """The readable test images."""
        found = readable(self.test, size)
        self._record_skipped(found.left_out)
        return found.squares

    def _measure(self, variant: Variant, seed: int, probe: Probe) -> list[Any]:
        parts = self.model(variant, seed)
        size = parts.config.size
        if size not in self._splits:
            train = self.train.first_few(self.scale.images) if self.scale.images else self.train
            self._splits[size] = split_sets(train, self.test, size, self.schedule.validation_share)
            self._record_skipped(self._splits[size].left_out)
        return list(run_probe(probe, parts.model.encoder, self._splits[size], self.schedule, seed=seed))

    def _key(self, variant: Variant, seed: int, probe: Probe) -> dict[str, Any]:
        config, schedule = self.config(variant, seed), cache_key(probe, self.schedule)
        return {"config": config, "images": list(self.identity), "probe": probe, "schedule": schedule}

    def _record_skipped(self, lines: Iterable[str]) -> None:
        fresh = [line for line in lines if line not in self.left_out]
        warn_left_out(fresh)
        self.left_out |= dict.fromkeys(fresh)
