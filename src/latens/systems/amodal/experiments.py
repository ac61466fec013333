"""Models of the tables of 000: variants of a recipe, trained from several seeds and measured on one test set.

All variants with a shape code share one mask code. `latens.experiments.lab` keeps runs and measurements, so tables share them
and a stopped command continues.
"""

from __future__ import annotations

import hashlib
import json
import logging
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias

from latens.catalogue import recipe_of
from latens.data.instances import check_classes
from latens.data.source import Source, parse_source
from latens.errors import counted
from latens.experiments.journal import digest
from latens.experiments.lab import Lab
from latens.hub import load_model
from latens.settings import Count, Natural, settings, to_dict
from latens.systems.amodal.config import AmodalConfig, HeadConfig
from latens.systems.amodal.dataset import (
    HeldOut,
    SampleSource,
    common_classes,
    concatenate,
    open_source,
)
from latens.systems.amodal.evaluate import digest as image_digest
from latens.systems.amodal.evaluate import measure
from latens.systems.amodal.pipeline import AmodalRCNN
from latens.systems.amodal.predict import NAME, AmodalSegmenter
from latens.systems.amodal.recipes import AmodalTraining

logger = logging.getLogger(__name__)

CODE_SEED = 0
VALIDATIONS = 4  # number of validations in a pipeline run, which keeps the best weights
FINGERPRINT_SIZE = 96  # side in pixels of the held-out image whose hash identifies a data set or simulator version
WIDEST = 1024

Recipe = Literal["tiny", "cpu", "cpu_code", "cpu_fcn", "gpu", "paper"]
Variant = Literal["fcn", "fcn-plain", "fcn-wide", "vq", "asn-fcn", "asn-vq", "vq-alone", "vq-refined"]


@settings
class AmodalScale:
    """Size of an experiment. 0 and "" leave a value to the recipe or the data."""

    recipe: Recipe = "cpu"  # of training, which variants change
    code_recipe: Recipe = "cpu_code"  # of the mask code, which is trained first, once for all rows
    steps: Natural = 1500  # of the pipeline
    code_steps: Natural = 0  # of the mask code
    code_from: str = ""  # model folder with a trained mask code
    size: Natural = 128  # longer side of training images, pixels
    batch: Natural = 8  # images of a training step
    seeds: Count = 3  # of every row
    code_seeds: Count = 5  # of the mask code, for `codebook`
    images: Count = 500  # largest number of test images
    side: Count = 256  # their longer side, pixels
    test: str = ""  # another data set, all of which is used for testing; a value as for --data
    rows: tuple[Variant, ...] = ()  # train and measure only these variants; finished others are shown too


AmodalLab: TypeAlias = Lab[AmodalSegmenter, AmodalScale]

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
        "paper": AmodalScale(recipe="paper", code_recipe="paper", steps=0, size=0, batch=0, images=10_000, side=500),
    }
)

# ----------------------------------------------------------------------------------------------------------- variants

VARIANTS: Mapping[Variant, Callable[[HeadConfig], HeadConfig]] = MappingProxyType(
    {
        "fcn": partial(replace, mask="fcn", occlusion=False),
        "fcn-plain": partial(replace, mask="fcn", occlusion=False, dense=0),
        "fcn-wide": partial(replace, mask="fcn", occlusion=False, dense=0),
        "vq": replace,
        "asn-fcn": partial(replace, mask="fcn", occlusion=False, asn=True),
        "asn-vq": partial(replace, asn=True),
        "vq-alone": partial(replace, refine=False, occlusion=False),
        "vq-refined": partial(replace, occlusion=False),
    }
)
BASELINES: Mapping[Variant, tuple[Variant, Literal["dense", "channels"]]] = MappingProxyType(
    {"fcn": ("vq", "dense"), "fcn-wide": ("vq", "channels"), "asn-fcn": ("asn-vq", "dense")}
)
"""Baselines, the variant that each equals in parameters, and the setting of its head that is widened for that."""


def with_variant(config: AmodalTraining, variant: Variant) -> AmodalTraining:
    """The training configuration of a variant. Baselines get as many parameters as the variant they are compared with."""
    base = replace(config.model, classes=config.model.classes or ("object",))
    model = _with_head(base, VARIANTS[variant])
    if variant in BASELINES:
        other, name = BASELINES[variant]
        wanted = parameters(_with_head(base, VARIANTS[other]))
        width = equal_width(model, name, wanted)
        model = replace(model, head=_widened(model.head, name, width))
    return replace(config, model=replace(model, classes=config.model.classes))


def has_code(variant: Variant) -> bool:
    """Whether a variant has a mask code."""
    return VARIANTS[variant](HeadConfig()).mask == "vq"


def equal_width(baseline: AmodalConfig, name: Literal["dense", "channels"], wanted: int) -> int:
    """The value (up to `WIDEST`) of a width setting of the baseline's head that brings its parameters nearest to `wanted`."""

    def size(width: int) -> int:
        return parameters(replace(baseline, head=_widened(baseline.head, name, width)))

    above = bisect_left(range(1, WIDEST), wanted, key=size) + 1
    return min((max(above - 1, 1), above), key=lambda width: abs(size(width) - wanted))


def _widened(head: HeadConfig, name: Literal["dense", "channels"], width: int) -> HeadConfig:
    return replace(head, dense=width) if name == "dense" else replace(head, channels=width)


def _with_head(model: AmodalConfig, change: Callable[[HeadConfig], HeadConfig]) -> AmodalConfig:
    return replace(model, head=change(model.head))


@lru_cache(maxsize=256)
def parameters(config: AmodalConfig) -> int:
    """Number of parameters of a model, including its frozen mask code; without classes, one class is assumed."""
    sizes = replace(config, classes=config.classes or ("object",))
    return sum(parameter.numel() for parameter in AmodalRCNN(sizes).parameters())


# --------------------------------------------------------------------------------------------------------------- runs


class Result(NamedTuple):
    """One variant trained from one seed."""

    variant: str
    seed: int
    numbers: Mapping[str, float]  # of its evaluation
    parameters: int
    seconds: float  # of training
    digest: str  # of the test images


class Comparison:
    """Runs and measurements of variants on the data and at the scale of a laboratory.

    `default` are the sources without `--data`. Raises UsageError or InputError when the data cannot be used.
    """

    def __init__(self, lab: AmodalLab, default: Sequence[Source], scale: AmodalScale | None = None) -> None:
        self.lab, self.scale = lab, scale or lab.scale
        self.words = list(lab.sources or default)
        self.sources = [open_source(word) for word in self.words]
        self.base, self.code_base = self._of_these_classes(self.scale.recipe), self._of_these_classes(self.scale.code_recipe)
        self.test = concatenate(self._test_sets())
        self.identity = [identity(source) for source in self.sources]

    def _of_these_classes(self, recipe: str) -> AmodalTraining:
        config: AmodalTraining = recipe_of(NAME, recipe)
        return replace(config, model=replace(config.model, classes=common_classes(self.sources, config.model.classes)))

    def _test_sets(self) -> list[HeldOut]:
        """The test images. For a data set that is also used in training, these are its held-out images."""
        scale = self.scale
        if not scale.test:
            share = -(-scale.images // len(self.sources))
            return [source.held_out("test", share, scale.side) for source in self.sources]
        source = open_source(parse_source(scale.test))
        if len(self.base.model.classes) > 1 or len(source.classes) > 1:
            check_classes(self.base.model.classes, source.classes, scale.test)
        return [source.held_out("all", scale.images, scale.side)]

    @property
    def test_name(self) -> str:
        """The values of `--data` of the test images."""
        return self.scale.test or " ".join(map(str, self.words))

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
            "data": [*map(str, self.words), *self.identity],
            "code": self.code_identity if has_code(variant) else "",
            "test": [self.test_name, len(self.test), self.scale.side, self._first_digest],
        }

    @cached_property
    def _first_digest(self) -> str:
        """Hash of the first test image, which distinguishes test sets of one name."""
        return image_digest([self.test[0]])

    def _result(self, variant: Variant, seed: int) -> Any:
        return self.lab.once(self.key(variant, seed), partial(self._measure, variant, seed))

    def _measure(self, variant: Variant, seed: int) -> dict[str, Any]:
        config = self.config(variant, seed)
        if has_code(variant):
            config = replace(config, objective=replace(config.objective, code_from=str(self.shared_code())))
        folder = self._train(config, f"{variant}-{seed}", [self.code_identity] if has_code(variant) else [])
        logger.info("%s, seed %d: measuring on %d images", variant, seed, len(self.test))
        found = measure(self.lab.open_model(folder), self.test, folder.parent / "report")
        logger.info("%s, seed %d: AP %.2f %%", variant, seed, 100 * found.numbers["AP"])
        size = parameters(config.model)
        return Result(variant, seed, dict(found.numbers), size, seconds_of(folder.parent), found.digest)._asdict()

    def config(self, variant: Variant, seed: int) -> AmodalTraining:
        """The training configuration of a row, without the folder of the shared mask code."""
        steps = self.scale.steps or self.base.run.steps - self.base.objective.code_steps
        return with_variant(self._scaled(self.base, steps, seed, max(1, steps // VALIDATIONS)), variant)

    def code_config(self, seed: int) -> AmodalTraining:
        """The configuration of a run that trains only a mask code."""
        steps = self.scale.code_steps or self.code_base.objective.code_steps
        config = self._scaled(self.code_base, steps, seed, min(self.code_base.run.validate_every, steps))
        return replace(config, objective=replace(config.objective, code_steps=steps))

    def _scaled(self, base: AmodalTraining, steps: int, seed: int, every: int) -> AmodalTraining:
        """A configuration with the steps, seed, sizes and validation interval of the scale."""
        checkpoint = min(base.run.checkpoint_every, every)
        return replace(
            base,
            model=replace(base.model, size=self.scale.size or base.model.size),
            data=replace(base.data, batch=self.scale.batch or base.data.batch),
            optim=replace(base.optim, warmup=min(base.optim.warmup, steps // 5)),
            run=replace(base.run, steps=steps, seed=seed, validate_every=every, checkpoint_every=checkpoint, keep=1),
        )

    # ---------------------------------------------------------------------------------------------------- mask codes

    def shared_code(self) -> Path:
        """The model folder whose mask code all rows use: `scale.code_from`, or one that is trained here."""
        return Path(self.scale.code_from) if self.scale.code_from else self.code(CODE_SEED)

    @cached_property
    def code_identity(self) -> str:
        """Identifies the shared mask code without training it."""
        if self.scale.code_from:
            return load_model(Path(self.scale.code_from)).sha256
        return digest({"config": self.code_config(CODE_SEED), "data": [*map(str, self.words), *self.identity]})

    def code(self, seed: int) -> Path:
        """The model folder of a mask code trained from a seed."""
        return self._train(self.code_config(seed), f"code-{seed}", [])

    def _train(self, config: AmodalTraining, name: str, identity: Sequence[str]) -> Path:
        return self.lab.trained(config, name=name, sources=self.words, identity=[*self.identity, *identity])

    def facts(self, results: Sequence[Result] = ()) -> dict[str, Any]:
        """Data, scale and results as JSON-able values."""
        runs = [result._asdict() for result in results]
        return {"data": [*map(str, self.words)], "recipe": self.lab.recipe, "scale": to_dict(self.scale), "runs": runs}

    def about(self, results: Sequence[Result] = ()) -> str:
        """A sentence on data and scale."""
        size = self.scale.size or self.base.model.size
        digests = {result.digest[:12] for result in results}
        named = f" (test set {', '.join(sorted(digests))})" if digests else ""
        return (
            f"Trained on {' and '.join(map(str, self.words))} by recipe {self.scale.recipe}, images of {size} pixels; "
            f"tested on {counted(len(self.test), 'image')} of {self.scale.side} pixels of {self.test_name}{named}."
        )


def identity(source: SampleSource) -> str:
    """A hash that distinguishes data sets of one name (such as before and after adding images) and simulator versions."""
    parts = [image_digest(source.held_out("validation", 1, FINGERPRINT_SIZE)), *source.contents()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]


def seconds_of(run: Path) -> float:
    """Seconds of a whole run at the speed of its last session, including validation."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [record for record in records if record["kind"] == "train"][-1]
    return float(last["step"] / last["steps_per_second"])
