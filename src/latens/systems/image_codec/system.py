"""The record of the image codec: training, application, evaluation, timing, tables, figures and demo."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image
from torch import nn

from latens.contract import Artifact, Evaluation, Example, System
from latens.data.image_output import write_image
from latens.data.images import read_image
from latens.data.samples import photographs
from latens.data.source import Source
from latens.errors import UsageError
from latens.experiments.report import Report
from latens.inference.page import Block, Figure
from latens.systems.image_codec import figures, tables
from latens.systems.image_codec.bench import cases
from latens.systems.image_codec.config import HyperpriorConfig
from latens.systems.image_codec.context_hyperprior import freeze_hyperprior
from latens.systems.image_codec.dataset import CropData
from latens.systems.image_codec.demo import section
from latens.systems.image_codec.evaluate import CodecEvaluation, evaluate
from latens.systems.image_codec.graphs import graphs
from latens.systems.image_codec.networks import build_network
from latens.systems.image_codec.objective import RateDistortion
from latens.systems.image_codec.predict import ImageCodec, load
from latens.systems.image_codec.recipes import RECIPES, CodecTraining
from latens.systems.image_codec.runs import SCALES, CodecLab, CodecScale, Study
from latens.training.objective import Trainable

LEARN_ENCODER = ("analysis.", "hyper_analysis.", "synthesis.", "gains.")  # all but the entropy model
LEARN_HARD = ("synthesis.", "hyper_synthesis.", "context.", "gains.log_inverse")  # the other modules determine the symbols


def build(config: CodecTraining, sources: Sequence[Source]) -> Trainable:
    """Model, objective and data of a training run. Raises UsageError without a folder of photographs."""
    if not sources:
        raise UsageError("the image codec trains on photographs", where="--data", hint="give one or more folders")
    check_objective(config)
    model = build_network(config.model)
    if config.objective.rounding == "hard":
        learn_only(model, LEARN_HARD)
    if config.objective.rounding == "encoder":
        learn_only(model, LEARN_ENCODER)
    if config.objective.rounding == "entropy":
        freeze_hyperprior(model)
    objective = RateDistortion(config.objective, config.model.lambdas)
    return Trainable(model, objective, CropData(sources, config.data, config.run.seed))


def check_objective(config: CodecTraining) -> None:
    """Raise UsageError for a rounding that the model is not trained with, and for slopes of other rates."""
    objective, rates = config.objective, len(config.model.lambdas)
    if objective.distortion == "structure" and len(objective.slopes) != rates:
        what = f"the model has {rates} rates, but there are {len(objective.slopes)} slopes"
        raise UsageError(what, where="objective.slopes", hint="give one slope for each rate")
    rounding, context = objective.rounding, not isinstance(config.model, HyperpriorConfig)
    if (rounding == "noise" and context) or (rounding == "entropy" and not context):
        what = "a model with context" if context else "a model without context"
        hint = "use mixed, hard, entropy or encoder" if context else "use mixed, noise, hard or encoder"
        raise UsageError(f"{what} is not trained with '{rounding}'", where="objective.rounding", hint=hint)


def learn_only(model: nn.Module, names: tuple[str, ...]) -> None:
    """Freeze all parameters except those whose names start with one of these."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(names))


def example(folder: Path) -> Example:
    """A small data set: crops of the bundled photographs, for training and as inputs."""
    paths = []
    for photo in photographs():
        pixels = read_image(photo.path).pixels
        for number, (top, left) in enumerate(((0, 0), (60, 90))):
            path = folder / f"{photo.name}{number}.png"
            write_image(path, Image.fromarray(np.ascontiguousarray(pixels[top : top + 192, left : left + 192])))
            paths.append(path)
    source = Source("", str(folder))
    return Example("image", [source], paths, [source], light={"data.crop": "64"})


def apply(codec: ImageCodec, path: Path) -> Mapping[str, np.ndarray]:
    """The bytes of the file, and the decoded image."""
    blob = codec.compress(path, quality=1)
    return {"file": np.frombuffer(blob, dtype=np.uint8), "decoded": np.asarray(codec.decompress(blob))}


# ---------------------------------------------------------------------------------------------------------- artifacts

DRAWN: Mapping[str, Callable[[], bytes]] = MappingProxyType(
    {"figure5.3.1": figures.two_class_figure, "figure5.3.2": figures.three_class_figure}
)
MEASURED: Mapping[str, Callable[[Study], list[Block]]] = MappingProxyType(
    {
        "methods": tables.methods,
        "table5.4.1": tables.temperature,
        "table5.4.2": tables.interpolation,
        "table5.4.3": tables.three_classes,
        "figure5.4.1": figures.overall,
        "figure5.4.2": figures.rate_early,
        "figure5.4.3": figures.semi_multi_rate_pruned,
        "figure5.4.4": figures.qualitative,
        "figureC.1": figures.interpolation,
        "figureC.2": figures.rate,
        "figureC.3": figures.rate_late,
        "figureC.4": figures.semi_multi_rate,
    }
)


def drawn(name: str, lab: CodecLab) -> Report:
    """A figure that needs neither model nor images."""
    figure = Figure(DRAWN[name](), artifact_title(name))
    return Report(name=name, title=artifact_title(name), about="probabilities of the rounding laws", blocks=[figure])


def measured(name: str, lab: CodecLab) -> Report:
    """A table or figure of refinement runs. Raises UsageError without data, InputError for images smaller than the crop."""
    study = Study(lab)
    return study.report(name, artifact_title(name), MEASURED[name](study))


def artifact_title(name: str) -> str:
    """The title of an artifact: "Table 5.4.1" for table5.4.1."""
    return name.replace("figure", "Figure ").replace("table", "Table ").replace("methods", "Methods of refinement")


ARTIFACTS: Mapping[str, Artifact[ImageCodec, CodecScale]] = MappingProxyType(
    {name: Artifact(make=partial(drawn, name), scales=SCALES) for name in DRAWN}
    | {name: Artifact(make=partial(measured, name), scales=SCALES) for name in MEASURED}
)


SYSTEM = System[CodecTraining, ImageCodec](
    name="image_codec",
    title="Photographs into small files",
    recipes=RECIPES,
    example=example,
    build=build,
    load=load,
    apply=apply,
    evaluation=Evaluation(
        options=CodecEvaluation(), run=evaluate, quick=CodecEvaluation(qualities=(1.0, 2.0)), files=("rows.jsonl",)
    ),
    cases=cases,
    artifacts=ARTIFACTS,
    graphs=graphs,
    demo=section,
)
