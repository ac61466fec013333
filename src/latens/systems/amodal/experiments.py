"""Models trained and measured for the tables of 000: data, a scale, and a journal of what has been done.

A run is a variant trained from one seed, in a folder of its own; it resumes where it was stopped. What was measured is
journalled. Both are found again by all that decides them, so tables share them and a stopped command goes on. Several
processes may work on one folder: each claims what it does, and a claim ends with its process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from latens.data.instances import check_classes
from latens.errors import UsageError
from latens.experiments.journal import Journal, claim
from latens.hub import load_model
from latens.systems.amodal.evaluate import digest, frozen_pictures, measure
from latens.systems.amodal.predict import AmodalSegmenter, load
from latens.systems.amodal.sources import Annotated, HeldOut, Nuclei, Source, source_of, together
from latens.systems.amodal.trainable import common_classes
from latens.systems.amodal.variants import VARIANTS, coded, configured, parameters, settings_of
from latens.training.config import TrainConfig, override
from latens.training.run import recipe_of, train

RESULTS, RUNS = "results.jsonl", "runs"
CODE_SEED = 0
VALIDATIONS = 4  # of a run of the pipeline; the best weights are kept
FINGERPRINT_SIZE = 96  # pixels of the held-out picture that tells data sets, and versions of a simulator, apart


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large an experiment is. 0 and "" leave a value to the recipe or the data."""

    recipe: str = "desk"  # of training; variants are put on top of it
    code_recipe: str = "desk_code"  # of the mask code, which is trained beforehand, once for all rows
    steps: int = 1500  # of the pipeline
    code_steps: int = 0  # of the mask code
    code_from: str = ""  # a model folder whose mask code is taken instead
    size: int = 128  # longer side of training pictures, pixels
    batch: int = 8
    seeds: int = 3
    code_seeds: int = 5  # for `codebook`
    pictures: int = 500  # test pictures, at most
    side: int = 256  # their longer side, pixels
    test: str = ""  # another data set that is tested on, whole; a word as for --data
    rows: tuple[str, ...] = ()  # train and measure these variants only; the others are shown as far as they are done


SCALES: Mapping[str, Scale] = MappingProxyType(
    {
        "tiny": Scale(
            recipe="tiny",
            code_recipe="tiny",
            steps=3,
            code_steps=6,
            size=64,
            batch=2,
            seeds=2,
            code_seeds=2,
            pictures=3,
            side=64,
        ),
        "desk": Scale(),
        "paper": Scale(recipe="paper", code_recipe="paper", steps=0, size=0, batch=0, pictures=10_000, side=500),
    }
)


class Result(NamedTuple):
    """One variant trained from one seed. `numbers` are those of an `EvaluationReport`; `seconds` is the time of training."""

    variant: str
    seed: int
    numbers: Mapping[str, float]
    parameters: int
    seconds: float
    digest: str  # of the test pictures


class Laboratory:
    """Raises UsageError or InputError when the data cannot be used, or a row is not known."""

    def __init__(
        self, words: Sequence[str], scale: Scale, out: Path, tell: Callable[[str], None], device: str = "auto"
    ) -> None:
        strange = sorted(set(scale.rows) - set(VARIANTS))
        if strange:
            raise UsageError(f"no row '{strange[0]}'", where="--set rows", hint=f"known: {', '.join(VARIANTS)}")
        if scale.seeds < 1 or scale.code_seeds < 1 or scale.pictures < 1:
            raise UsageError("seeds, code_seeds and pictures are at least 1", where="--set")
        self.words, self.scale, self.out, self.tell, self.device = list(words), scale, out, tell, device
        self.sources: list[Source] = [source_of(word) for word in words]
        self.journal = Journal(out / RESULTS)
        self.done: list[Result] = []  # what `results` has given
        self.base, self.code_base = self._of_these_classes(scale.recipe), self._of_these_classes(scale.code_recipe)
        self.test = together(self._test_sets())
        self.fingerprint = [*self.words, *map(identity, self.sources)]

    def _of_these_classes(self, recipe: str) -> TrainConfig:
        config = recipe_of("amodal", recipe)
        return replace(config, model=replace(config.model, classes=common_classes(self.sources, config.model.classes)))

    def _test_sets(self) -> list[HeldOut]:
        """The pictures that are tested on; a data set that was also trained on gives those that were not."""
        scale = self.scale
        if not scale.test:
            share = -(-scale.pictures // len(self.sources))
            return [source.held_out("test", share, scale.side) for source in self.sources]
        source = source_of(scale.test)
        if len(self.base.model.classes) > 1 or len(source.classes) > 1:
            check_classes(self.base.model.classes, source.classes, scale.test)
        return [frozen_pictures(source, scale.pictures, scale.side)]

    # ------------------------------------------------------------------------------------------------------- results

    def results(self, variants: Sequence[str]) -> list[Result]:
        """What the scale asks for of these variants, trained and measured where it is missing; by variant and seed.

        Work that another process has claimed is waited for at the end; if that process dies, it is done here.
        """
        wanted = [variant for variant in variants if not self.scale.rows or variant in self.scale.rows]
        jobs = [(variant, seed) for seed in range(self.scale.seeds) for variant in wanted]
        for wait in (False, True):
            for variant, seed in jobs:
                self._complete(variant, seed, wait=wait)
        every = [self._recorded(self.key(variant, seed)) for variant in variants for seed in range(self.scale.seeds)]
        self.done = [result for result in every if result is not None]
        return self.done

    def _complete(self, variant: str, seed: int, *, wait: bool) -> None:
        key = self.key(variant, seed)
        if self._recorded(key) is not None:
            return
        folder = self.run_folder(variant, seed)
        with claim(folder, wait=wait) as ours:
            if not ours or self._recorded(key) is not None:
                return
            self._train(folder, self.scale.recipe, self.settings(variant, seed), f"{variant}, seed {seed}")
            self.tell(f"{variant}, seed {seed}: measuring on {len(self.test)} pictures")
            report = measure(self.model(folder), self.test_name, self.test, folder / "report", progress=self.tell)
            found = Result(variant, seed, report.numbers, self.parameters(variant), seconds_of(folder), report.digest)
            self.tell(f"{variant}, seed {seed}: AP {100 * report.numbers['AP']:.2f} %")
            self.journal.append([{"key": key, **found._asdict()}])

    def _recorded(self, key: str) -> Result | None:
        for record in self.journal.read():  # read anew: another process may have done this meanwhile
            if record.get("key") == key:
                return Result(*(record[name] for name in Result._fields))
        return None

    # ---------------------------------------------------------------------------------------------------------- runs

    @cached_property
    def shared_code(self) -> Path:
        """The folder whose mask code all rows take: that of the setting, or one that is trained now or was before."""
        return Path(self.scale.code_from) if self.scale.code_from else self.code(CODE_SEED)

    @cached_property
    def code_identity(self) -> str:
        """Names the shared mask code without training it."""
        return load_model(self.shared_code).sha256 if self.scale.code_from else _hash(self._code_parts(CODE_SEED))

    def code(self, seed: int) -> Path:
        """The folder of a mask code trained on the data of this laboratory from a seed."""
        folder = self.out / RUNS / f"code-{seed}-{_hash(self._code_parts(seed))[:8]}"
        with claim(folder, wait=True):
            self._train(folder, self.scale.code_recipe, self.code_settings(seed), f"mask code, seed {seed}")
        return folder / "best"

    def model(self, folder: Path) -> AmodalSegmenter:
        """The trained model of a run's folder."""
        return load(folder / "best", device=self.device)

    def _train(self, folder: Path, recipe: str, settings: Mapping[str, str], name: str) -> None:
        """Starts or continues a run; what is finished stays as it is."""
        if (folder / "done").is_file():
            return
        self.tell(f"training {name}")
        train(
            "amodal",
            recipe=recipe,
            data=[Path(word) for word in self.words],
            run_dir=folder,
            overrides=dict(settings),
            resume=(folder / "checkpoints").is_dir(),
            device=self.device,
        )
        (folder / "done").touch()
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # several times as large as what is kept

    def settings(self, variant: str, seed: int) -> dict[str, str]:
        """All that makes the recipe of the scale the run of a row. Trains the shared mask code if the row needs it."""
        code = {"objective.code_from": str(self.shared_code)} if coded(variant) else {}
        return self._row_settings(variant, seed) | code

    def _row_settings(self, variant: str, seed: int) -> dict[str, str]:
        steps = self.scale.steps or self.base.run.steps - self.base.objective.code_steps
        return self._common(self.base, steps, seed, max(1, steps // VALIDATIONS)) | self.head(variant)

    def code_settings(self, seed: int) -> dict[str, str]:
        """Of a run that trains a mask code alone."""
        steps = self.scale.code_steps or self.code_base.objective.code_steps
        every = min(self.code_base.run.validate_every, steps)
        return self._common(self.code_base, steps, seed, every) | {"objective.code_steps": str(steps)}

    def _common(self, base: TrainConfig, steps: int, seed: int, every: int) -> dict[str, str]:
        """What the scale changes of a recipe: length, seed, steps between validations, sizes."""
        settings = {
            "run.steps": str(steps),
            "run.seed": str(seed),
            "run.validate_every": str(every),
            "run.checkpoint_every": str(min(base.run.checkpoint_every, every)),
            "run.keep": "1",
            "optim.warmup": str(min(base.optim.warmup, steps // 5)),
        }
        for name, value in (("model.size", self.scale.size), ("data.batch", self.scale.batch)):
            settings |= {name: str(value)} if value else {}
        return settings

    def head(self, variant: str) -> dict[str, str]:
        """The settings of a variant at this scale."""
        return settings_of(variant, self.base.model)

    def parameters(self, variant: str) -> int:
        """Parameters of a variant, those of its mask code included."""
        return parameters(configured(self.head(variant), self.base.model))

    def run_folder(self, variant: str, seed: int) -> Path:
        return self.out / RUNS / f"{variant}-{seed}-{_hash(self._run_parts(variant, seed))[:8]}"

    # ---------------------------------------------------------------------------------------------------------- names

    @property
    def test_name(self) -> str:
        """The words of the test pictures."""
        return self.scale.test or " ".join(self.words)

    @cached_property
    def test_digest(self) -> str:
        """Tells test sets of one name apart by their first picture."""
        return digest([self.test[0]])

    def key(self, variant: str, seed: int) -> str:
        """Names a result by all that decides it: the run, and the test pictures."""
        test = [self.test_name, len(self.test), self.scale.side, self.test_digest]
        return _hash([self._run_parts(variant, seed), *test])

    def _run_parts(self, variant: str, seed: int) -> list[object]:
        config = dataclasses.asdict(override(self.base, self._row_settings(variant, seed)))
        return [config, self.fingerprint, self.code_identity if coded(variant) else ""]

    def _code_parts(self, seed: int) -> list[object]:
        return [dataclasses.asdict(override(self.code_base, self.code_settings(seed))), self.fingerprint]


def identity(source: Source) -> str:
    """Tells data sets of one name apart, before and after pictures were added, say, and versions of a simulator."""
    example = source.held_out("validation", 1, FINGERPRINT_SIZE)
    parts = [digest(example)]
    if isinstance(source, Annotated):
        parts.append(hashlib.sha256(repr(source.collection.scenes).encode()).hexdigest())
    if isinstance(source, Nuclei):
        parts += [each.name for each in source.train]
    return _hash(parts)


def seconds_of(run: Path) -> float:
    """Time of a whole run at the pace of its last session, validations included."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [record for record in records if record["kind"] == "train"][-1]
    return float(last["step"] / last["steps_per_second"])


def _hash(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]
