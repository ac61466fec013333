"""Further experiments: one model for all days, optimizers, attention maps, other plants.

Perugachi-Diaz 2024 proposes them or reports them without a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from latens.data.image_output import png_bytes
from latens.data.images import Pixels
from latens.errors import UsageError
from latens.experiments.lab import ExperimentRunner
from latens.experiments.report import Report, spread
from latens.hub import load_model
from latens.inference.page import Figure, Gallery, Table
from latens.settings import Count, settings
from latens.systems.seedlings.chapter_tables import runs_of
from latens.systems.seedlings.config import TORCHVISION, CropsConfig
from latens.systems.seedlings.crops import PARTS, UNKNOWN, Crops, split
from latens.systems.seedlings.dataset import open_crops
from latens.systems.seedlings.lots import wilson
from latens.systems.seedlings.model import Grader, normalized
from latens.systems.seedlings.predict import SeedlingGrader
from latens.systems.seedlings.recipes import RECIPES, SeedlingTraining
from latens.systems.seedlings.trials import (
    DISPLAY_NAMES,
    SCALES,
    ChapterLab,
    ChapterScale,
    Measured,
    Variant,
    about,
    curve,
    data_of,
    each_run,
    measured,
    paired_bootstrap,
    precision_of,
    trained,
)
from latens.training.config import RunConfig

OPTIMIZERS: Mapping[str, Variant] = MappingProxyType({"SGD": Variant(), "Adam": Variant(adam=True)})
CAM_PLANTS = 4  # plants of each class in the attention maps


def days(lab: ChapterLab) -> Report:
    """One model with the day as an input, compared with one model per day, and with all photographs up to a day."""
    best, scale = lab.scale.best, lab.scale
    mixed = trained(lab, best, scale.days[0], 0, Variant(days=scale.days))
    rows = []
    history: dict[str, list[Measured]] = {part: [] for part in PARTS}
    for day in scale.days:
        single = measured(lab, trained(lab, best, day, 0), best, day, "test")
        together = measured(lab, mixed, best, day, "test")
        for part in PARTS[1:]:
            history[part].append(measured(lab, mixed, best, day, part))
        joined = sequence(history["validation"], history["test"])
        cells = [f"{one.auc:.3f}" for one in (single, together, joined)]
        cells += [f"{one.corrected_accuracy:.3f}" for one in (single, together, joined)]
        differences = [paired_bootstrap(*pair, "auc").text() for pair in ((together, single), (joined, together))]
        rows.append([str(day), *cells, *differences])
    names = ("own model", "one model", "sequence")
    columns = ["day", *(f"AUC, {n}" for n in names), *(f"accuracy, {n}" for n in names), "one - own", "sequence - one"]
    caption = (
        "Sequence: logistic regression on the one model's log-odds of all days so far, fitted on validation plants."
        " Differences of AUC with 95 % intervals over trays."
    )
    return Report(
        name="days", title=f"Days together ({DISPLAY_NAMES[best]})", about=about(lab), blocks=[Table(columns, rows, caption)]
    )


def sequence(validation: list[Measured], test: list[Measured]) -> Measured:
    """Predictions for the test plants from all days so far. Plants must have the same order on all days."""
    from sklearn.linear_model import LogisticRegression

    last = test[-1]
    if any(len(one.label) != len(last.label) or (one.label != last.label).any() for one in test):
        return last  # a leaky split has different plants each day
    model = LogisticRegression(C=1.0).fit(_log_odds(validation), validation[-1].label)
    chances = model.predict_proba(_log_odds(test))[:, 1]
    return Measured(last.label, last.tray, chances, chances)


def _log_odds(measurements: list[Measured]) -> np.ndarray:
    chances = np.clip(np.stack([one.corrected for one in measurements], axis=1), 1e-5, 1 - 1e-5)
    found: np.ndarray = np.log(chances / (1 - chances))
    return found


def optimizers(lab: ChapterLab) -> Report:
    """SGD compared with Adam; with --set pretrained=FILE also ImageNet weights compared with random initialization."""
    best, day, rows = lab.scale.best, max(lab.scale.days), []
    for name, variant in OPTIMIZERS.items():
        runs = runs_of(lab, best, day, variant)
        losses = [curve(trained(lab, best, day, seed, variant), "loss")[1] for seed in each_run(lab.scale)]
        jumps = [float(np.abs(np.diff(one[len(one) // 2 :])).mean()) if len(one) > 3 else 0.0 for one in losses]
        rows.append([name, DISPLAY_NAMES[best], *_loss_and_auc(runs), f"{np.mean(jumps):.3f}"])
    if lab.scale.pretrained and best in TORCHVISION:
        fresh = replace(lab.scale, pretrained="")
        blank: ChapterLab = _with_scale(lab, fresh)
        runs = runs_of(blank, best, day)
        rows.append(["SGD, random start", DISPLAY_NAMES[best], *_loss_and_auc(runs), ""])
    columns = ["optimizer", "model", "test loss", "test AUC", "mean change of the validation loss"]
    caption = (
        "Changes between epochs in the second half of training. The thesis found Adam unstable and pretrained weights better."
    )
    return Report(name="optimizers", title=f"Optimizers, day {day}", about=about(lab), blocks=[Table(columns, rows, caption)])


def _loss_and_auc(runs: list[Measured]) -> list[str]:
    return [spread([run.loss for run in runs], ".3f"), spread([run.auc for run in runs], ".3f")]


def _with_scale(lab: ChapterLab, scale: Any) -> ChapterLab:
    from latens.experiments.lab import ExperimentRunner

    return ExperimentRunner(
        build=lab.build,
        open_model=lab.open_model,
        sources=lab.sources,
        scale=scale,
        recipe=lab.recipe,
        folder=lab.folder,
        device=lab.device,
    )


# ---------------------------------------------------------------------------------------------------- attention maps


def attention(lab: ChapterLab) -> Report:
    """Grad-CAM of successes and failures on the last day."""
    best, day = lab.scale.best, max(lab.scale.days)
    loaded = lab.open_model(trained(lab, best, day, 0))
    crops = data_of(lab).crops.of_days([day])
    defaults = CropsConfig()
    test = crops.take(split(crops, lab.scale.split, defaults.train_share, defaults.validation_share)["test"])
    figures = []
    for label, name in ((1, "success"), (0, "failure")):
        for index in np.flatnonzero(test.label == label)[:CAM_PLANTS]:
            batch = normalized(torch.from_numpy(test.pixels[index : index + 1]).permute(0, 3, 1, 2))
            chance = float(loaded.predict_crops(test.pixels[index : index + 1], day).classes[0, 1])
            heat = grad_cam(loaded.network, batch, torch.tensor([day]), 1)
            figures.append(Figure(png_bytes(_heated(test.pixels[index], heat)), name, f"p = {chance:.2f}", pixelated=True))
    title = f"Grad-CAM, day {day} ({DISPLAY_NAMES[best]})"
    return Report(name="attention", title=title, about=about(lab), blocks=[Gallery(figures, columns=CAM_PLANTS)])


def grad_cam(network: Grader, crops: Tensor, day: Tensor, label: int) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017) of the last convolution, (B, S, S) in [0, 1].

    Raises UsageError for a network without convolutions.
    """
    layers = [part for part in network.body.modules() if isinstance(part, nn.Conv2d)]
    if not layers:
        raise UsageError("attention maps need a network with convolutions", hint="choose a convolutional network")
    kept: list[Tensor] = []
    hook = layers[-1].register_forward_hook(lambda module, inputs, output: kept.append(output))
    try:
        with torch.enable_grad():
            logits = network(crops.clone().requires_grad_(), day).classes
            (gradient,) = torch.autograd.grad(logits[:, label].sum() - logits[:, 1 - label].sum(), kept[0])
    finally:
        hook.remove()
    heat = F.relu((gradient.mean(dim=(2, 3), keepdim=True) * kept[0].detach()).sum(dim=1, keepdim=True))
    large = F.interpolate(heat, crops.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    found: Tensor = large / large.amax(dim=(1, 2), keepdim=True).clamp(min=1e-9)
    return found


def _heated(pixels: np.ndarray, heat: Tensor) -> Pixels:
    """Enlarged crop with its attention map in red."""
    gray = pixels.mean(axis=2).astype(np.float32)
    weight = heat[0].numpy()[..., None]
    mixed = gray[..., None] * (1 - 0.5 * weight) + np.array([255, 60, 0], np.float32) * 0.5 * weight
    shown: Pixels = np.repeat(np.repeat(mixed.astype(np.uint8), 3, axis=0), 3, axis=1)
    return shown


# ------------------------------------------------------------------------------------------------------ other plants


@settings
class SpeciesScale(ChapterScale):
    """Size of the cross-validation on class folders."""

    width: Count = 24  # width of the network
    folds: Annotated[int, Ge(2)] = 5  # folds of the cross-validation
    repeats: Count = 2  # repetitions with other folds
    steps: Count = 500  # training steps of each fold


SPECIES_SCALES: Mapping[str, SpeciesScale] = MappingProxyType(
    {
        "tiny": SpeciesScale(**vars(SCALES["tiny"]), folds=2, repeats=1, steps=4),
        "cpu": SpeciesScale(),
        "paper": SpeciesScale(),
    }
)


def species_config(scale: SpeciesScale, repeat: int = 0, fold: int = 0) -> SeedlingTraining:
    """Training configuration of one fold."""
    recipe, often = RECIPES["cpu_classes"](), max(1, scale.steps // 5)
    data = replace(recipe.data, days=scale.days, trays=scale.trays, rows=scale.rows, cols=scale.cols, method=scale.method)
    run = RunConfig(
        steps=scale.steps,
        seed=repeat,
        precision=precision_of(scale, "small"),
        log_every=often,
        validate_every=often,
        checkpoint_every=scale.steps,
    )
    return replace(
        recipe,
        model=replace(recipe.model, size=scale.size, width=scale.width),
        data=replace(data, split="plant", split_seed=repeat, fold=fold),
        run=run,
    )


def species(lab: ExperimentRunner[SeedlingGrader, SpeciesScale]) -> Report:
    """Class folders (--data FOLDER): accuracy in a repeated cross-validation."""
    repeats, folds, first = lab.scale.repeats, lab.scale.folds, species_config(lab.scale)
    crops = open_crops(lab.sources, first.model, first.data)
    crops = crops.take(crops.label != UNKNOWN)
    rows, hits = [], np.zeros((repeats, crops.size))
    guesses = np.zeros((len(crops.classes), len(crops.classes)), int)
    for repeat in range(repeats):
        for fold in range(folds):
            config = species_config(lab.scale, repeat, fold)
            folder = lab.trained(config, name=f"species-{repeat}-{fold}", identity=[crops.fingerprint()])
            parts = split(crops, "plant", config.data.train_share, config.data.validation_share, repeat, fold)
            guess = _guesses(lab, folder, crops, parts["test"])
            hits[repeat, parts["test"]] = guess == crops.label[parts["test"]]
            np.add.at(guesses, (crops.label[parts["test"]], guess), 1)
        rows.append([str(repeat + 1), str(crops.size), f"{hits[repeat].mean():.3f}"])
    accuracy = float(hits.mean())
    interval = wilson(accuracy * crops.size, crops.size)
    majority = float(np.bincount(crops.label).max() / crops.size)
    limits = f"95 % interval {interval.low:.3f} to {interval.high:.3f} (Wilson, {crops.size} crops)"
    caption = f"Mean {accuracy:.3f}, {limits}; most frequent class {majority:.3f}."
    confusion = [[name, *map(str, row)] for name, row in zip(crops.classes, guesses, strict=True)]
    blocks = [
        Table(["repeat", "crops", "accuracy"], rows, caption),
        Table(
            ["class", *(name[:12] for name in crops.classes)],
            confusion,
            "Rows are true classes, columns are predictions, summed over repeats.",
        ),
    ]
    data_text = ", ".join(map(str, lab.sources)) or "simulated trays"
    setting = f"{data_text}; {folds} folds, {lab.scale.steps} steps each"
    return Report(
        name="species",
        title="Classes of plants",
        about=setting,
        blocks=blocks,
        facts={"accuracy": accuracy, "interval": list(interval)},
    )


def _guesses(lab: ExperimentRunner[SeedlingGrader, SpeciesScale], folder: Any, crops: Crops, test: np.ndarray) -> np.ndarray:
    key = {"guesses": load_model(folder).sha256, "data": crops.fingerprint(), "test": test.tolist()}
    found = lab.once(
        key, lambda: lab.open_model(folder).predict_crops(crops.pixels[test], None).classes.argmax(axis=1).tolist()
    )
    return np.asarray(found)
