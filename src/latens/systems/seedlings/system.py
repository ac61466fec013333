"""Record of the seedling system: training parts, example data, application to one input, benchmark cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from latens.contract import Evaluation, Example, System
from latens.data.image_output import write_image
from latens.data.images import read_image
from latens.data.source import Source
from latens.experiments.bench import Case
from latens.systems.seedlings.artifacts import ARTIFACTS
from latens.systems.seedlings.dataset import CropBatches, open_crops
from latens.systems.seedlings.demo import section
from latens.systems.seedlings.evaluate import GradingEvaluation, evaluate
from latens.systems.seedlings.foreground import find_leaves
from latens.systems.seedlings.graphs import graphs
from latens.systems.seedlings.model import GRADES
from latens.systems.seedlings.networks import grader as build_grader
from latens.systems.seedlings.objective import GradingObjective
from latens.systems.seedlings.predict import SeedlingGrader, load
from latens.systems.seedlings.recipes import RECIPES, SeedlingTraining
from latens.systems.seedlings.simulator.photograph import photograph
from latens.training.objective import Trainable


def build(config: SeedlingTraining, sources: Sequence[Source]) -> Trainable:
    """Parts of a training run on graded trays, class folders, packs of crops, or simulated trays (without sources)."""
    crops = open_crops(sources, config.model, config.data)
    data = CropBatches(crops, config.data, config.run.seed)
    model = build_grader(config.model, len(crops.classes))
    return Trainable(model, GradingObjective(config.objective, data), data)


def example(folder: Path) -> Example:
    """Simulated trays as data, and a photograph of one tray."""
    made = photograph(5, 0, 6, rows=10, cols=15, preset="easy")
    path = folder / "tray_day6.png"
    write_image(path, Image.fromarray(made.pixels))
    light = {"data.trays": "4", "data.method": "truth", "data.rows": "4", "data.cols": "5"}
    source = Source("simulated", "easy")
    return Example("image", [source], [path], [source], light=light)


def apply(grader: SeedlingGrader, path: Path) -> Mapping[str, np.ndarray]:
    """Class probabilities, outlier score and emergence of the whole image as one crop."""
    prediction = grader.predict_crops(grader.crop_of(path), None)
    found = {"classes": prediction.classes, "strange": prediction.outlier_score}
    return found if prediction.seen is None else {**found, "seen": prediction.seen}


def cases(grader: SeedlingGrader) -> Sequence[Case]:
    """Benchmark cases: one tray from photograph to grades, and the network on its crops."""
    size, channels = grader.settings.size, grader.settings.channels
    crops = np.zeros((150, size, size, channels), np.uint8)
    timed_crops = Case("150 crops", partial(grader.predict_crops, crops, 6), 150, "plants")
    if grader.classes != GRADES:
        return [timed_crops]
    pixels = photograph(5, 0, 6).pixels
    image = read_image(pixels)
    return [
        Case("tray, 1280 x 1024", partial(grader.grade, pixels, day=6), 150, "plants"),
        timed_crops,
        Case("leaf area of the tray", partial(find_leaves, image), 150, "plants", None, True),
    ]


SYSTEM = System[SeedlingTraining, SeedlingGrader](
    name="seedlings",
    title="Seedling trays, from photograph to graded lot",
    recipes=RECIPES,
    example=example,
    build=build,
    load=load,
    apply=apply,
    evaluation=Evaluation(
        options=GradingEvaluation(),
        run=evaluate,
        quick=GradingEvaluation(trays=2, rows=4, cols=6, days=(5, 6), preset="easy", method="truth"),
    ),
    cases=cases,
    artifacts=ARTIFACTS,
    graphs=graphs,
    demo=section,
)
