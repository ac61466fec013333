"""The record of the parts system: training, application, evaluation, timing, tables, figures and demo."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from latens.contract import Evaluation, Example, System
from latens.data.images import Pixels, read_image
from latens.data.samples import photographs, write_two_classes
from latens.data.source import Source
from latens.errors import UsageError
from latens.experiments.bench import Case
from latens.systems.parts.baseline_objectives import BiGanObjective, MaskedObjective, SupervisedObjective
from latens.systems.parts.baselines import Adversarial, build_model
from latens.systems.parts.config import (
    BetaVAELoss,
    BiGANLoss,
    LossConfig,
    MaskedLoss,
    PatchVAELoss,
    SupervisedConfig,
)
from latens.systems.parts.dataset import ImageData
from latens.systems.parts.demo import section
from latens.systems.parts.evaluate import PartsEvaluation, evaluate, holds_out
from latens.systems.parts.figures import FIGURES
from latens.systems.parts.graphs import graphs
from latens.systems.parts.model import VAE, BetaVAE, PatchVAE
from latens.systems.parts.objective import Elbo
from latens.systems.parts.predict import Parts, load
from latens.systems.parts.recipes import RECIPES, PartsTraining
from latens.systems.parts.tables import TABLES
from latens.systems.parts.two_views import TwoViews
from latens.training.objective import Objective, Trainable

EXAMPLE_IMAGES, EXAMPLE_SIZE = 24, (40, 32)  # width and height
BENCH_BATCH = 128  # random images in a training step


def build(config: PartsTraining, sources: Sequence[Source]) -> Trainable:
    """Model, objective and data of a run.

    Raises UsageError without data and for missing labels.
    """
    if not sources:
        hint = "give folders of images, an .npz pack, or NAME:PATH (cifar10, cifar100, imagenet, indoor67, places205)"
        raise UsageError("training needs images", where="--data", hint=hint)
    data = ImageData(sources, config.data, config.model.size, config.run.seed)
    sizes = config.model
    if isinstance(sizes, SupervisedConfig):
        sizes = replace(sizes, classes=_classes(sizes.classes, data, sources))
    model = build_model(sizes)
    if isinstance(model, PatchVAE | BetaVAE):
        assert isinstance(config.objective, PatchVAELoss | BetaVAELoss)  # a validator of PartsTraining
        return Trainable(_for_training(model, config.objective), Elbo(config.objective), data)
    return Trainable(model, _baseline_objective(config.objective), data)


def _classes(wanted: int, data: ImageData, sources: Sequence[Source]) -> int:
    found = len(data.classes)
    if found < 2:
        hint = "give one folder of images for every class"
        raise UsageError("supervised training needs labels", where=", ".join(map(str, sources)), hint=hint)
    if wanted not in (0, found):
        raise UsageError(f"the data have {found} classes", where=f"--set model.classes={wanted}", hint="remove this setting")
    return found


def _baseline_objective(loss: LossConfig) -> Objective:
    if isinstance(loss, BiGANLoss):
        return BiGanObjective(loss)
    return MaskedObjective(loss) if isinstance(loss, MaskedLoss) else SupervisedObjective()


def _for_training(model: VAE, loss: PatchVAELoss | BetaVAELoss) -> torch.nn.Module:
    """The model, wrapped with the modules that only its losses need."""
    if loss.contrastive_weight:
        return TwoViews(model)
    return Adversarial(model) if loss.adversarial else model


def example(folder: Path, seed: int = 0) -> Example:
    """Blurred random images of two classes with warm and cold colors, which `tiny` can learn in 40 steps."""
    paths = write_two_classes(folder, EXAMPLE_IMAGES, EXAMPLE_SIZE, seed)
    sources = [Source("", str(folder))]
    return Example(kind="image", sources=sources, inputs=paths[:2], test_sources=sources)


def apply(parts: Parts, path: Path) -> Mapping[str, np.ndarray]:
    """Code and reconstruction of one image; features for a model without parts."""
    if not isinstance(parts.model, PatchVAE):
        return {"features": parts.embed(path)}
    (code,) = parts.encode(path)
    return {"occurrence": code.occurrence, "appearance": code.appearance, "decoded": np.asarray(parts.decode(code))}


def cases(parts: Parts) -> list[Case]:
    """A training step, and inference on a photograph, beside HOG."""
    pixels = read_image(photographs()[0].path).pixels
    timed = [Case("embed a photograph", lambda: parts.embed(pixels))]
    if isinstance(parts.model, PatchVAE):
        (code,) = parts.encode(pixels)
        timed += [Case("encode a photograph", lambda: parts.encode(pixels)), Case("decode a code", lambda: parts.decode(code))]
    if isinstance(parts.model, PatchVAE | BetaVAE):
        timed.append(Case("training step", training_step(parts), BENCH_BATCH))
    return [*timed, Case("HOG of a photograph", partial(hog, pixels), peer=True)]


def hog(pixels: Pixels) -> np.ndarray:
    """Histogram of oriented gradients (Dalal and Triggs 2005) with the settings of scikit-image."""
    from skimage.feature import hog as histogram

    found: np.ndarray = histogram(pixels, channel_axis=-1)
    return found


def training_step(parts: Parts) -> Callable[[], None]:
    """A function that runs one update of a new model with the same settings on random images, in float32 and channels last."""
    model = build_model(parts.config).to(parts.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    objective = Elbo(PatchVAELoss() if isinstance(model, PatchVAE) else BetaVAELoss())
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    shape = (BENCH_BATCH, 3, parts.config.size, parts.config.size)
    image = torch.rand(shape, device=parts.device).contiguous(memory_format=torch.channels_last)

    def act() -> None:
        for step in objective(model, {"image": image}, 0):
            optimizer.zero_grad(set_to_none=True)
            step.loss.backward()
            optimizer.step()

    return act


SYSTEM = System[PartsTraining, Parts](
    name="parts",
    title="Unsupervised discovery of parts in images",
    recipes=RECIPES,
    example=example,
    build=build,
    load=load,
    apply=apply,
    evaluation=Evaluation(options=PartsEvaluation(), run=evaluate, files=("probes.jsonl",), holds_out=holds_out),
    cases=cases,
    artifacts={**TABLES, **FIGURES},
    graphs=graphs,
    demo=section,
)
