"""The record of the haze system: training, application, evaluation, timing, tables and demo."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from latens.contract import Evaluation, Example, System
from latens.data.image_output import write_image
from latens.data.source import Source
from latens.errors import UnreadableInput, UsageError
from latens.experiments.bench import Case
from latens.systems.haze.artifacts import TABLES
from latens.systems.haze.baselines.dehazenet import DehazeNet
from latens.systems.haze.config import (
    CLASSICAL,
    LEARNED,
    DehazeNetConfig,
    HazeDataConfig,
    PatchLossConfig,
    PhysicalConfig,
    PhysicalLossConfig,
    TranslationLossConfig,
    TranslatorConfig,
)
from latens.systems.haze.dataset import PatchData, SceneData, UnpairedData
from latens.systems.haze.demo import section
from latens.systems.haze.evaluate import evaluate
from latens.systems.haze.figures import FIGURES
from latens.systems.haze.graphs import graphs
from latens.systems.haze.model import HazeTranslator
from latens.systems.haze.objective import PatchObjective, PhysicalObjective, TranslationObjective
from latens.systems.haze.physical import LEVELS, PhysicalHaze
from latens.systems.haze.predict import Haze, load
from latens.systems.haze.protocol import Protocol
from latens.systems.haze.recipes import RECIPES, HazeTraining
from latens.systems.haze.scenes import DEPTH_KINDS, LABEL_KIND
from latens.systems.haze.simulator.streets import street
from latens.training.data import StepData
from latens.training.objective import Trainable

logger = logging.getLogger(__name__)

BENCH_SIZES = ((640, 480), (1920, 1080))  # width and height
DOMAINS = ("hazy", "clear")


def build(config: HazeTraining, sources: Sequence[Source]) -> Trainable:
    """Model, objective and data of a run.

    Sources are folders of scenes with depth, or folders of real images (see `is_unpaired`); without sources, streets are
    simulated. Raises UsageError for losses of another model, crop sizes that do not fit the model, and unpaired data where
    depth is needed.
    """
    for source in sources:
        if source.kind not in (*DEPTH_KINDS, LABEL_KIND, *DOMAINS):
            hint = "give a folder, rgbd:FOLDER, apollo:FOLDER, camvid:FOLDER, or hazy:FOLDER and clear:FOLDER"
            raise UsageError(f"unknown data source '{source}'", where="--data", hint=hint)
    loss = config.objective
    if isinstance(config.model, TranslatorConfig) and isinstance(loss, TranslationLossConfig):
        model = HazeTranslator(config.model, config.data.crop)
        return Trainable(model, TranslationObjective(loss), _images(config, sources))
    if any(is_unpaired(source) for source in sources):
        what = f"{config.model.kind} needs scenes with depth"
        hint = "give RGB-D folders, or no --data; hazy: and clear: images train translators, such as --recipe tiny_mmd"
        raise UsageError(what, where="--data", hint=hint)
    if isinstance(config.model, PhysicalConfig) and isinstance(loss, PhysicalLossConfig):
        stride = LEVELS * config.model.fold
        if config.data.crop % stride:
            what = f"data.crop must be a multiple of {stride} for the physical model, not {config.data.crop}"
            nearest = max(config.data.crop // stride, 1) * stride
            raise UsageError(what, where="--set data.crop", hint=f"set data.crop={nearest}")
        return Trainable(PhysicalHaze(config.model), PhysicalObjective(loss), _scenes(config, sources))
    if isinstance(config.model, DehazeNetConfig) and isinstance(loss, PatchLossConfig):
        _warn_unused(config.data, ("color_jitter", "draws", "disjoint"), "patches of DehazeNet")
        return Trainable(DehazeNet(), PatchObjective(loss), PatchData(_scenes(config, sources), config.data.batch))
    what = f"{type(loss).__name__} does not belong to the model '{config.model.kind}'"
    raise UsageError(what, where="objective", hint="start from a recipe of that model, see `latens recipes haze`")


def _scenes(config: HazeTraining, sources: Sequence[Source]) -> SceneData:
    labeled = [source.path for source in sources if source.kind == LABEL_KIND]
    return SceneData([s.path for s in sources if s.kind != LABEL_KIND], config.data, config.run.seed, labeled)


def _warn_unused(data: HazeDataConfig, names: Sequence[str], what: str) -> None:
    """Warn of changed settings that have no effect on this kind of data."""
    changed = [f"data.{name}" for name in names if getattr(data, name) != getattr(HazeDataConfig(), name)]
    if changed:
        logger.warning("no effect on %s: %s", what, ", ".join(changed))


def is_unpaired(source: Source) -> bool:
    """True for unpaired real images: hazy:FOLDER, clear:FOLDER, or a folder with subfolders hazy and clear."""
    return source.kind in DOMAINS or (not source.kind and all((source.path / domain).is_dir() for domain in DOMAINS))


def _images(config: HazeTraining, sources: Sequence[Source]) -> StepData:
    unpaired = [source for source in sources if is_unpaired(source)]
    if not unpaired:
        return _scenes(config, sources)
    if len(unpaired) < len(sources):
        raise UsageError("unpaired folders and folders with depth cannot be mixed", where="--data", hint="give only one kind")
    folders: dict[str, list[Path]] = {domain: [] for domain in DOMAINS}
    for source in unpaired:
        for domain in [source.kind] if source.kind else DOMAINS:
            folders[domain].append(source.path if source.kind else source.path / domain)
    for domain, found in folders.items():
        if not found:
            raise UsageError(f"no {domain} images given", where="--data", hint="give hazy:FOLDER and clear:FOLDER")
        for folder in found:
            if not folder.is_dir():
                raise UnreadableInput("not a folder", where=str(folder), hint=f"give the folder of {domain} images")
    _warn_unused(config.data, ("color_jitter", "draws", "disjoint", "max_depth", "border"), "unpaired images")
    return UnpairedData(folders["hazy"], folders["clear"], config.data, config.run.seed)


def example(folder: Path) -> Example:
    """Two simulated streets with depth as data; the image of the first is the input."""
    for seed in range(2):
        made = street(seed, (96, 128))
        write_image(folder / f"street{seed}.png", Image.fromarray(made.image))
        np.save(folder / f"street{seed}_depth.npy", made.depth)
    source = Source("", str(folder))
    return Example("image", [source], [folder / "street0.png"], [source], light={"data.scenes": "3"})


def apply(haze: Haze, path: Path) -> Mapping[str, np.ndarray]:
    """The image dehazed by the default method."""
    return {"dehazed": np.asarray(haze.dehaze(path))}


def cases(haze: Haze) -> Sequence[Case]:
    """Every available method on a simulated street of two sizes; the classical ones are peers."""
    made = []
    for width, height in BENCH_SIZES:
        pixels = np.asarray(Image.fromarray(street(0, (240, 320)).image).resize((width, height)))
        for method in (*CLASSICAL, *LEARNED):
            if haze.has(method):
                act = partial(haze.dehaze_pixels, pixels, method)
                made.append(Case(f"{method}, {width} x {height}", act, width * height / 1e6, "Mpx", None, method in CLASSICAL))
    return made


SYSTEM = System[HazeTraining, Haze](
    name="haze",
    title="Haze removal and synthesis",
    recipes=RECIPES,
    example=example,
    build=build,
    load=load,
    apply=apply,
    evaluation=Evaluation(
        options=Protocol(), run=evaluate, quick=Protocol(side=96, draws=1, scenes=1), name="table1", files=("journal.jsonl",)
    ),
    cases=cases,
    artifacts={**TABLES, **FIGURES},
    graphs=graphs,
    demo=section,
)
