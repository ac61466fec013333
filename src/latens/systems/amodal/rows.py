"""One row of a table of 000: a variant trained from one seed and measured on the test images; mask codes shared by rows."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

from latens.catalogue import recipe_of
from latens.data.instances import check_classes
from latens.data.source import Source, parse_sources
from latens.experiments.lab import Lab
from latens.hub import load_model
from latens.settings import Count, Natural, settings
from latens.systems.amodal.build import common_classes
from latens.systems.amodal.config import STRIDE
from latens.systems.amodal.evaluate import digest, frozen_images, measure
from latens.systems.amodal.predict import AmodalSegmenter
from latens.systems.amodal.recipes import AmodalTraining
from latens.systems.amodal.sources import Annotated, HeldOut, ImageSource, Nuclei, source_of, together
from latens.systems.amodal.variants import Variant, configured, is_coded, parameters

logger = logging.getLogger(__name__)

CODE_SEED = 0
VALIDATIONS = 4  # of a run of the pipeline; the best weights are kept
FINGERPRINT_SIZE = 96  # pixels of the held-out image that tells data sets, and versions of a simulator, apart
EMBRYOS, DIVERSE = ("simulated",), ("simulated", "simulated:opaque")


@settings
class Scale:
    """Size of an experiment. 0 and "" leave a value to the recipe or the data."""

    recipe: str = "cpu"  # of training; variants are put on top of it
    code_recipe: str = "cpu_code"  # of the mask code, which is trained beforehand, once for all rows
    steps: Natural = 1500  # of the pipeline
    code_steps: Natural = 0  # of the mask code
    code_from: str = ""  # a model folder whose mask code is taken instead
    size: Natural = 128  # longer side of training images, pixels
    batch: Natural = 8  # images
    seeds: Count = 3  # of every row
    code_seeds: Count = 5  # for `codebook`
    images: Count = 500  # test images, at most
    side: Count = 256  # their longer side, pixels
    test: str = ""  # another data set that is tested on, whole; a word as for --data
    rows: tuple[Variant, ...] = ()  # train and measure these variants only; the others are shown as far as they are done


SCALES: Mapping[str, Scale] = {
    "tiny": Scale(
        recipe="tiny",
        code_recipe="tiny",
        steps=3,
        code_steps=6,
        size=64,
        batch=2,
        seeds=2,
        code_seeds=2,
        images=3,
        side=64,
    ),
    "cpu": Scale(),
    "paper": Scale(recipe="paper", code_recipe="paper", steps=0, size=0, batch=0, images=10_000, side=500),
}
AmodalLab: TypeAlias = Lab[AmodalSegmenter, Scale]


class Result(NamedTuple):
    """One variant trained from one seed. `numbers` are those of a `Measurement`; `seconds` is the time of training."""

    variant: Variant
    seed: int
    numbers: Mapping[str, float]
    parameters: int
    seconds: float
    digest: str  # of the test images


class Experiment:
    """The data, configurations and test images of a table. Raises UsageError or InputError when the data cannot be used."""

    def __init__(self, lab: AmodalLab, words: Sequence[str] = EMBRYOS) -> None:
        self.lab, self.scale = lab, lab.scale
        self.words = [str(source) for source in lab.sources] or list(words)
        self.sources: list[ImageSource] = [source_of(word) for word in self.words]
        self.base, self.code_base = self._of_these_classes(lab.scale.recipe), self._of_these_classes(lab.scale.code_recipe)
        self.test = together(self._test_sets())

    def _of_these_classes(self, recipe: str) -> AmodalTraining:
        config: AmodalTraining = recipe_of("amodal", recipe)
        return replace(config, model=replace(config.model, classes=common_classes(self.sources, config.model.classes)))

    def _test_sets(self) -> list[HeldOut]:
        """The images that are tested on; a data set that was also trained on gives those that were not."""
        scale = self.scale
        if not scale.test:
            share = -(-scale.images // len(self.sources))
            return [source.held_out("test", share, scale.side) for source in self.sources]
        source = source_of(scale.test)
        if len(self.base.model.classes) > 1 or len(source.classes) > 1:
            check_classes(self.base.model.classes, source.classes, scale.test)
        return [frozen_images(source, scale.images, scale.side)]

    # ------------------------------------------------------------------------------------------------------- results

    def results(self, variants: Sequence[Variant]) -> list[Result]:
        """What the scale asks for of these variants, trained and measured where it is missing; by variant and seed."""
        wanted = [variant for variant in variants if not self.scale.rows or variant in self.scale.rows]
        jobs = [(variant, seed) for seed in range(self.scale.seeds) for variant in wanted]
        self.lab.complete([partial(self._measured, variant, seed) for variant, seed in jobs])
        every = [self._recorded(variant, seed) for variant in variants for seed in range(self.scale.seeds)]
        return [result for result in every if result is not None]

    def _measured(self, variant: Variant, seed: int) -> None:
        def work() -> dict[str, object]:
            best = self.lab.trained(
                self.row_config(variant, seed),
                name=f"{variant}-{seed}",
                sources=self.data,
                identity=self.identity,
            )
            logger.info("%s, seed %d: measuring on %d images", variant, seed, len(self.test))
            found = measure(self.lab.open_model(best), self.test_name, self.test, best.parent / "report")
            logger.info("%s, seed %d: AP %.2f %%", variant, seed, 100 * found.numbers["AP"])
            size = parameters(configured(variant, self.base.model))
            return Result(variant, seed, found.numbers, size, seconds_of(best.parent), found.digest)._asdict()

        self.lab.once(self.key(variant, seed), work)

    def _recorded(self, variant: Variant, seed: int) -> Result | None:
        found = self.lab.recorded(self.key(variant, seed))
        return None if found is None else Result(**found[0])

    def key(self, variant: Variant, seed: int) -> dict[str, object]:
        """All that decides a result: the run, and the test images."""
        code = self.code_identity if is_coded(variant) else ""
        config = replace(self.row_config(variant, seed, code=False), recipe=self.base.recipe)
        test = [self.test_name, len(self.test), self.scale.side, self.test_digest]
        return {"run": config, "data": [*self.words, *self.identity], "code": code, "test": test}

    # ---------------------------------------------------------------------------------------------------------- runs

    @cached_property
    def shared_code(self) -> Path:
        """The folder whose mask code all rows take: that of the setting, or one that is trained now or was before."""
        return Path(self.scale.code_from) if self.scale.code_from else self.code(CODE_SEED)

    @cached_property
    def code_identity(self) -> str | AmodalTraining:
        """Names the shared mask code without training it."""
        return load_model(self.shared_code).sha256 if self.scale.code_from else self.code_config(CODE_SEED)

    def code(self, seed: int) -> Path:
        """The model folder of a mask code trained on this data from a seed."""
        waits, self.lab.waits = self.lab.waits, True  # every row needs it
        try:
            return self.lab.trained(self.code_config(seed), name=f"code-{seed}", sources=self.data, identity=self.identity)
        finally:
            self.lab.waits = waits

    def row_config(self, variant: Variant, seed: int, *, code: bool = True) -> AmodalTraining:
        """The run of a row; with `code` its mask code is trained if need be."""
        steps = self.scale.steps or self.base.run.steps - self.base.objective.code_steps
        config = self._shortened(self.base, steps, seed, max(1, steps // VALIDATIONS))
        config = replace(config, model=replace(configured(variant, config.model), classes=self.base.model.classes))
        if code and is_coded(variant):
            config = replace(config, objective=replace(config.objective, code_from=str(self.shared_code)))
        return config

    def code_config(self, seed: int) -> AmodalTraining:
        """A run that trains a mask code alone."""
        steps = self.scale.code_steps or self.code_base.objective.code_steps
        config = self._shortened(self.code_base, steps, seed, min(self.code_base.run.validate_every, steps))
        return replace(config, objective=replace(config.objective, code_steps=steps))

    def _shortened(self, base: AmodalTraining, steps: int, seed: int, every: int) -> AmodalTraining:
        """A recipe with the length, seed and sizes of the scale, validated every so many steps."""
        run = replace(base.run, steps=steps, seed=seed, validate_every=every, keep=1)
        run = replace(run, checkpoint_every=min(base.run.checkpoint_every, every))
        model = replace(base.model, size=self.scale.size or base.model.size)
        data = replace(base.data, batch=self.scale.batch or base.data.batch)
        optim = replace(base.optim, warmup=min(base.optim.warmup, steps // 5))
        return replace(base, model=model, data=data, optim=optim, run=run)

    # ---------------------------------------------------------------------------------------------------------- names

    @cached_property
    def data(self) -> list[Source]:
        return parse_sources(self.words)

    @cached_property
    def identity(self) -> list[str]:
        return [identity(source) for source in self.sources]

    @property
    def test_name(self) -> str:
        """The words of the test images."""
        return self.scale.test or " ".join(self.words)

    @cached_property
    def test_digest(self) -> str:
        """Tells test sets of one name apart by their first image."""
        return digest([self.test[0]])


def identity(source: ImageSource) -> str:
    """Tells data sets of one name apart, before and after images were added, say, and versions of a simulator."""
    parts = [digest(source.held_out("validation", 1, FINGERPRINT_SIZE))]
    if isinstance(source, Annotated):
        parts.append(hashlib.sha256(repr(source.collection.scenes).encode()).hexdigest())
    if isinstance(source, Nuclei):
        parts += [each.name for each in source.train]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]


def seconds_of(run: Path) -> float:
    """Time of a whole run at the pace of its last session, validations included."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [record for record in records if record["kind"] == "train"][-1]
    return float(last["step"] / last["steps_per_second"])


def multiple_of_stride(size: int) -> int:
    """The largest size that the network takes and that is not above this one."""
    return size - size % STRIDE
