"""Runs behind the tables of Jang et al. 2020: variants of a recipe, trained from several seeds, evaluated on one test set.

All variants with a shape code share one mask code. `latens.experiments.lab` stores runs and measurements, so that tables reuse
them and an interrupted command continues.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias

from latens.catalogue import recipe_of
from latens.data.instances import check_classes
from latens.data.source import Source, parse_source
from latens.errors import counted
from latens.experiments.journal import digest
from latens.experiments.lab import ExperimentRunner
from latens.hub import load_model
from latens.settings import Count, Natural, Share, settings, to_dict
from latens.systems.amodal.dataset import (
    HeldOut,
    SampleSource,
    common_classes,
    concatenate,
    open_source,
)
from latens.systems.amodal.evaluate import digest as image_digest
from latens.systems.amodal.evaluate import measure
from latens.systems.amodal.official import official
from latens.systems.amodal.predict import NAME, AmodalSegmenter
from latens.systems.amodal.recipes import AmodalTraining
from latens.systems.amodal.variants import Variant, has_code, parameters, with_variant
from latens.training.config import shortened

logger = logging.getLogger(__name__)

CODE_SEED = 0
VALIDATIONS = 4  # number of validations in a pipeline run, which keeps the best weights
FINGERPRINT_SIZE = 96  # side in pixels of the held-out image whose hash identifies a data set or simulator version

Recipe = Literal["tiny", "cpu", "cpu_code", "cpu_fcn", "gpu", "paper"]


@settings
class AmodalScale:
    """Size of an experiment. 0 and "" mean the default of the recipe or the data."""

    recipe: Recipe = "cpu"  # training recipe, from which the variants derive
    code_recipe: Recipe = "cpu_code"  # recipe of the mask code that all rows share
    steps: Natural = 1500  # training steps of the pipeline
    code_steps: Natural = 0  # training steps of the mask code
    code_from: str = ""  # model folder with a trained mask code
    size: Natural = 128  # longer side of training images, pixels
    batch: Natural = 8  # images per training step
    seeds: Count = 3  # seeds per row
    code_seeds: Count = 5  # seeds of the mask code, in `codebook`
    images: Count = 500  # largest number of test images
    side: Natural = 256  # longer side of test images, pixels; 0: their own size, with all objects
    validation_share: Share = 0.02  # of the training file of a published data set (kins:FOLDER, cocoa:, d2sa:)
    backbone_from: str = ""  # file with pretrained weights of ResNet-50, for a recipe with this backbone
    test: str = ""  # separate test set (a value of --data), used whole; default: held-out images of the training data
    rows: tuple[Variant, ...] = ()  # variants to train and evaluate; variants that are finished already are shown too


AmodalLab: TypeAlias = ExperimentRunner[AmodalSegmenter, AmodalScale]

SCALES: Mapping[str, AmodalScale] = MappingProxyType(
    {
        "tiny": AmodalScale(
            recipe="tiny",
            code_recipe="tiny",
            steps=3,
            code_steps=6,
            size=64,
            batch=2,
            seeds=1,
            code_seeds=1,
            images=3,
            side=64,
        ),
        "cpu": AmodalScale(),
        "paper": AmodalScale(recipe="paper", code_recipe="paper", steps=0, size=0, batch=0, images=10_000, side=0),
    }
)


def row_config(scale: AmodalScale, base: AmodalTraining, variant: Variant, seed: int) -> AmodalTraining:
    """The training configuration of a row, from the recipe `base` with the classes of the data."""
    steps = scale.steps or base.run.steps - base.objective.code_steps
    return with_variant(_scaled(scale, base, steps, seed, max(1, steps // VALIDATIONS)), variant)


def code_config(scale: AmodalScale, base: AmodalTraining, seed: int) -> AmodalTraining:
    """The configuration of a run that trains only a mask code."""
    steps = scale.code_steps or base.objective.code_steps
    config = _scaled(scale, base, steps, seed, min(base.run.validate_every, steps))
    return replace(config, objective=replace(config.objective, code_steps=steps))


def _scaled(scale: AmodalScale, base: AmodalTraining, steps: int, seed: int, every: int) -> AmodalTraining:
    """A configuration with the steps, seed, sizes and validation interval of the scale."""
    checkpoint = min(base.run.checkpoint_every, every)
    model, objective = base.model, base.objective
    if scale.size:
        model = replace(model, size=scale.size, short_side=0)
    if scale.backbone_from:
        model = replace(model, backbone=replace(model.backbone, norm="frozen"))
        objective = replace(objective, backbone_from=scale.backbone_from)
    return replace(
        base,
        model=model,
        objective=objective,
        data=replace(base.data, batch=scale.batch or base.data.batch),
        optim=shortened(base.optim, steps),
        run=replace(base.run, steps=steps, seed=seed, validate_every=every, checkpoint_every=checkpoint, keep=1),
    )


def trainings(variants: Mapping[str, Variant], scale: AmodalScale) -> dict[str, AmodalTraining]:
    """The training configurations of the rows that are trained, by name, and that of the mask code which they share."""
    base: AmodalTraining = recipe_of(NAME, scale.recipe)
    chosen = {name: variant for name, variant in variants.items() if not scale.rows or variant in scale.rows}
    plan = {name: row_config(scale, base, variant, 0) for name, variant in chosen.items()}
    return plan if scale.code_from or not any(map(has_code, chosen.values())) else {**shared_code(scale), **plan}


def shared_code(scale: AmodalScale) -> dict[str, AmodalTraining]:
    """The training configuration of the mask code."""
    return {"mask code": code_config(scale, recipe_of(NAME, scale.code_recipe), CODE_SEED)}


class Result(NamedTuple):
    """Evaluation of one variant trained from one seed."""

    variant: str
    seed: int
    numbers: Mapping[str, float]
    parameters: int
    seconds: float  # of training
    digest: str  # of the test images


class Comparison:
    """Runs and measurements of variants, on the data and at the scale of a `ExperimentRunner`.

    `default` are the sources without `--data`, and `values` those of this comparison instead of all. Raises UsageError or
    InputError for unusable data.
    """

    def __init__(
        self, lab: AmodalLab, default: Sequence[Source], scale: AmodalScale | None = None, *, values: Sequence[Source] = ()
    ) -> None:
        self.lab, self.scale = lab, scale or lab.scale
        self.values = list(values or lab.sources or default)
        self.tests = [test for value in self.values if (test := official(value).test) is not None]
        self.sources = [open_source(official(value).train) for value in self.values]
        self.base, self.code_base = self._with_classes(self.scale.recipe), self._with_classes(self.scale.code_recipe)
        self.test = concatenate(self._test_sets())
        self.identity = [identity(source) for source in self.sources]

    def _with_classes(self, recipe: str) -> AmodalTraining:
        config: AmodalTraining = recipe_of(NAME, recipe)
        if self.tests:
            config = replace(config, data=replace(config.data, validation_share=self.scale.validation_share))
        return replace(config, model=replace(config.model, classes=common_classes(self.sources, config.model.classes)))

    def _test_sets(self) -> list[HeldOut]:
        """The test files of published data sets, all of `scale.test`, or held-out images of the training data."""
        scale = self.scale
        if self.tests:
            return [open_source(test).held_out("all", scale.images, scale.side) for test in self.tests]
        if not scale.test:
            share = -(-scale.images // len(self.sources))
            return [source.held_out("test", share, scale.side) for source in self.sources]
        source = open_source(parse_source(scale.test))
        if len(self.base.model.classes) > 1 or len(source.classes) > 1:
            check_classes(self.base.model.classes, source.classes, scale.test)
        return [source.held_out("all", scale.images, scale.side)]

    @property
    def test_name(self) -> str:
        """The test images as values of `--data`."""
        return " ".join(map(str, self.tests)) or self.scale.test or " ".join(map(str, self.values))

    def results(self, variants: Sequence[Variant]) -> list[Result]:
        """Results of these variants by variant and seed; missing ones are trained and measured.

        Variants that `scale.rows` excludes are included if they were measured before.
        """
        wanted = [variant for variant in variants if not self.scale.rows or variant in self.scale.rows]
        seeds = range(self.scale.seeds)
        self.lab.complete([partial(self._result, variant, seed) for seed in seeds for variant in wanted])
        recorded = [self.lab.recorded(self.key(variant, seed)) for variant in variants for seed in seeds]
        return [Result(**found[0]) for found in recorded if found is not None]

    def key(self, variant: Variant, seed: int) -> dict[str, Any]:
        """The key of a result: its run and its test images."""
        return {
            "config": self.config(variant, seed),
            "variant": variant,
            "seed": seed,
            "data": [*map(str, self.values), *self.identity],
            "code": self.code_identity if has_code(variant) else "",
            "test": [self.test_name, len(self.test), self.scale.side, self._first_digest],
        }

    @cached_property
    def _first_digest(self) -> str:
        """Hash of the first test image, which distinguishes test sets with the same name."""
        return image_digest([self.test[0]])

    def _result(self, variant: Variant, seed: int) -> Any:
        return self.lab.once(self.key(variant, seed), partial(self._measure, variant, seed))

    def _measure(self, variant: Variant, seed: int) -> dict[str, Any]:
        config = self.config(variant, seed)
        if has_code(variant):
            config = replace(config, objective=replace(config.objective, code_from=str(self.shared_code())))
        folder = self._train(config, f"{variant}-{seed}", [self.code_identity] if has_code(variant) else [])
        logger.info("%s, seed %d: evaluating on %d images", variant, seed, len(self.test))
        found = measure(self.lab.open_model(folder), self.test, folder.parent / "report")
        logger.info("%s, seed %d: AP %.2f %%", variant, seed, 100 * found.numbers["AP"])
        size = parameters(config.model)
        return Result(variant, seed, dict(found.numbers), size, seconds_of(folder.parent), found.digest)._asdict()

    def config(self, variant: Variant, seed: int) -> AmodalTraining:
        """The training configuration of a row, without the folder of the shared mask code."""
        return row_config(self.scale, self.base, variant, seed)

    def code_config(self, seed: int) -> AmodalTraining:
        """The configuration of a run that trains only a mask code."""
        return code_config(self.scale, self.code_base, seed)

    # ---------------------------------------------------------------------------------------------------- mask codes

    def shared_code(self) -> Path:
        """Model folder of the mask code that all rows share: `scale.code_from`, or a code trained here."""
        return Path(self.scale.code_from) if self.scale.code_from else self.code(CODE_SEED)

    @cached_property
    def code_identity(self) -> str:
        """Identifies the shared mask code without training it."""
        if self.scale.code_from:
            return load_model(Path(self.scale.code_from)).sha256
        return digest({"config": self.code_config(CODE_SEED), "data": [*map(str, self.values), *self.identity]})

    def code(self, seed: int) -> Path:
        """The model folder of a mask code trained from a seed."""
        return self._train(self.code_config(seed), f"code-{seed}", [])

    def _train(self, config: AmodalTraining, name: str, identity: Sequence[str]) -> Path:
        return self.lab.trained(config, name=name, sources=self.values, identity=[*self.identity, *identity])

    def facts(self, results: Sequence[Result] = ()) -> dict[str, Any]:
        """Data, scale and results as JSON-able values."""
        runs = [result._asdict() for result in results]
        return {"data": [*map(str, self.values)], "recipe": self.lab.recipe, "scale": to_dict(self.scale), "runs": runs}

    def about(self, results: Sequence[Result] = ()) -> str:
        """Two clauses for a page: data and recipe of the training, and the test images with the hash of their set."""
        model = self.config("vq", 0).model
        size = f"{model.short_side} pixels at the shorter side" if model.short_side else f"{model.size} pixels"
        side = f"{self.scale.side} pixels" if self.scale.side else "their own size"
        share = f", of which {100 * self.scale.validation_share:g} % are for validation" if self.tests else ""
        start = f", ResNet-50 from {self.scale.backbone_from}" if self.scale.backbone_from else ""
        digests = {result.digest[:12] for result in results}
        named = f" (test set {', '.join(sorted(digests))})" if digests else ""
        return (
            f"Trained on {' and '.join(map(str, self.values))} with recipe {self.scale.recipe}, images of {size}"
            f"{share}{start}; tested on {counted(len(self.test), 'image')} of {side} of {self.test_name}{named}."
        )


def identity(source: SampleSource) -> str:
    """A hash of data that changes with the images of a folder or the version of a simulator."""
    parts = [image_digest(source.held_out("validation", 1, FINGERPRINT_SIZE)), *source.contents()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]


def seconds_of(run: Path) -> float:
    """Seconds of a whole run at the speed of its last session, including validation."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [record for record in records if record["kind"] == "train"][-1]
    return float(last["step"] / last["steps_per_second"])
