"""Tables 3.1 to 3.6 (Perugachi-Diaz 2024), with the published numbers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import numpy as np

from latens.experiments.report import Report, spread
from latens.inference.page import Table
from latens.systems.seedlings.bootstrap import accuracy_of, auc_of, majority_of, paired_difference
from latens.systems.seedlings.config import Backbone, CropsConfig
from latens.systems.seedlings.crops import PARTS, Crops, Part, split
from latens.systems.seedlings.evaluate import auc
from latens.systems.seedlings.trials import (
    CHAPTER,
    DISPLAY_NAMES,
    PAPER,
    ChapterLab,
    Measured,
    Variant,
    about,
    curve,
    data_of,
    each_run,
    measured,
    paired_bootstrap,
    trained,
)

SHARES: Mapping[int, tuple[float, float, float]] = MappingProxyType(  # Table 3.1: successes in training, validation, test
    {4: (0.856, 0.857, 0.849), 5: (0.856, 0.850, 0.855), 6: (0.855, 0.853, 0.855), 7: (0.851, 0.854, 0.867)}
)
RESULTS: Mapping[tuple[str, int], tuple[float, float, float]] = MappingProxyType(  # Table 3.5: loss, accuracy, AUC
    {
        ("logistic", 4): (0.503, 0.701, 0.87), ("mlp500", 4): (0.384, 0.809, 0.88), ("alexnet", 4): (0.354, 0.865, 0.91),
        ("logistic", 5): (0.378, 0.825, 0.92), ("mlp500", 5): (0.340, 0.872, 0.92), ("alexnet", 5): (0.262, 0.911, 0.94),
        ("logistic", 6): (0.376, 0.847, 0.92), ("mlp500", 6): (0.294, 0.892, 0.93), ("alexnet", 6): (0.207, 0.930, 0.94),
        ("logistic", 7): (0.381, 0.835, 0.92), ("mlp500", 7): (0.256, 0.906, 0.94), ("alexnet", 7): (0.175, 0.940, 0.95),
    }
)  # fmt: skip
EXPERIMENTS: Mapping[str, tuple[Variant, str]] = MappingProxyType(  # Table 3.6
    {
        "original": (Variant(oversample=False, augment=False), "no improvement or worsening"),
        "augmentation": (Variant(oversample=False), "no improvement or worsening"),
        "weighted loss": (Variant(oversample=False, augment=False, weighted=True), "worsening"),
        "weighted loss + augmentation": (Variant(oversample=False, weighted=True), "worsening"),
        "oversampling": (Variant(augment=False), "worsening"),
        "oversampling + augmentation": (Variant(), "best performance"),
    }
)
ORIGINAL_AUC: Mapping[int, float] = MappingProxyType({4: 0.62, 5: 0.89, 6: 0.94, 7: 0.95})  # of "original", section 3.4.5
SPLITS: tuple[Literal["leaky", "plant", "tray"], ...] = ("leaky", "plant", "tray")
ONE_RUN = "one run each, which shows no order of close values."  # end of a caption
LEARNING_RATES, DECAYS = (1e-2, 1e-3, 1e-4), (1e-3, 1e-5, 1e-7)  # Table 3.3


def table31(lab: ChapterLab) -> Report:
    """Table 3.1: share of successes in every part, for the leaky split and for splits by plant and by tray."""
    crops, defaults = data_of(lab).crops, CropsConfig()
    rows = []
    for by in SPLITS:
        parts = split(crops, by, defaults.train_share, defaults.validation_share)
        for day in lab.scale.days:
            shares = [crops.label[parts[part]][crops.day[parts[part]] == day].mean() for part in PARTS]
            paper = SHARES.get(day) if by == "leaky" else None
            rows.append(
                [
                    by,
                    str(day),
                    *(f"{share:.3f}" for share in shares),
                    *(f"{x:.3f}" for x in paper or ()),
                    *[""] * (0 if paper else 3),
                ]
            )
    columns = ["split", "day", *PARTS, *(f"{part} (published)" for part in PARTS)]
    caption = (
        "Share of successes. `leaky` redraws the split for each day, so test plants of one day train models of other days."
    )
    return Report(
        name="table3.1", title="Table 3.1: successes in every part", about=about(lab), blocks=[Table(columns, rows, caption)]
    )


def table33(lab: ChapterLab) -> Report:
    """Tables 3.3 and 3.4: the sequential search, on the last day's validation loss."""
    return _search(lab, "table3.3", "Table 3.3: hyperparameter settings tried")


def table34(lab: ChapterLab) -> Report:
    """Table 3.4: selected hyperparameters."""
    return _search(lab, "table3.4", "Table 3.4: best hyperparameter values")


def _search(lab: ChapterLab, name: str, title: str) -> Report:
    day = max(lab.scale.days)
    tried, chosen = [], []
    for backbone in lab.scale.models:
        losses, decays = search(lab, backbone)
        best, decay = _smallest(losses), _smallest(decays)
        tried += [[DISPLAY_NAMES[backbone], f"{rate:g}", f"{DECAYS[1]:g}", f"{loss:.4f}"] for rate, loss in losses.items()]
        tried += [
            [DISPLAY_NAMES[backbone], f"{best:g}", f"{one:g}", f"{loss:.4f}"]
            for one, loss in decays.items()
            if one != DECAYS[1]
        ]
        paper = PAPER.get(backbone, (1e-4, 1e-5)) if backbone in (*PAPER, "alexnet") else None
        chosen.append(
            [
                DISPLAY_NAMES[backbone],
                f"{best:g}",
                f"{decay:g}",
                *(f"{value:g}" for value in paper or ()),
                *[""] * (0 if paper else 2),
            ]
        )
    shown = {
        "table3.3": Table(["model", "learning rate", "weight decay", "validation loss"], tried, f"Day {day}, one run each."),
        "table3.4": Table(
            ["model", "learning rate", "weight decay", "rate (published)", "decay (published)"],
            chosen,
            f"By validation loss, day {day}, {ONE_RUN}",
        ),
    }
    return Report(name=name, title=title, about=about(lab), blocks=[shown[name]])


def search(lab: ChapterLab, backbone: Backbone) -> tuple[dict[float, float], dict[float, float]]:
    """Minimum validation losses on the last day by learning rate, and by weight decay at the best rate."""
    day = max(lab.scale.days)
    losses = {rate: _validation_loss(lab, backbone, day, Variant(lr=rate, decay=DECAYS[1])) for rate in LEARNING_RATES}
    best = _smallest(losses)
    return losses, {decay: _validation_loss(lab, backbone, day, Variant(lr=best, decay=decay)) for decay in DECAYS}


def _smallest(losses: Mapping[float, float]) -> float:
    return min(losses, key=lambda value: losses[value])


def _validation_loss(lab: ChapterLab, backbone: Backbone, day: int, variant: Variant) -> float:
    return min(curve(trained(lab, backbone, day, 0, variant), "loss")[1])


def runs_of(lab: ChapterLab, backbone: Backbone, day: int, variant: Variant = CHAPTER, part: Part = "test") -> list[Measured]:
    """Predictions of all runs of one model on its own day."""
    return [
        measured(lab, trained(lab, backbone, day, seed, variant), backbone, day, part, variant.split)
        for seed in each_run(lab.scale)
    ]


def table35(lab: ChapterLab) -> Report:
    """Table 3.5: test loss, accuracy and AUC, and differences with intervals over trays."""
    rows, pairs = [], []
    crops = data_of(lab).crops
    for day in lab.scale.days:
        found = {backbone: runs_of(lab, backbone, day) for backbone in lab.scale.models}
        for backbone, runs in found.items():
            cells = [
                spread([getattr(run, name) for run in runs], ".3f")
                for name in ("loss", "accuracy", "auc", "corrected_accuracy")
            ]
            paper = RESULTS.get((backbone, day))
            rows.append(
                [
                    str(day),
                    DISPLAY_NAMES[backbone],
                    *cells,
                    *((f"{paper[0]:.3f}", f"{paper[1]:.3f}", f"{paper[2]:.2f}") if paper else ("",) * 3),
                ]
            )
        first = next(iter(found.values()))[0]
        majority = max(first.label.mean(), 1 - first.label.mean())
        rows.append([str(day), "majority", "", f"{majority:.3f}", "0.500", f"{majority:.3f}", "", "", ""])
        area = _test_areas(lab, crops, day)
        rows.append([str(day), "leaf area", "", "", f"{auc(area, first.label):.3f}", "", "", "", ""])
        best = max(found, key=lambda name: np.mean([run.auc for run in found[name]]))
        for backbone, runs in found.items():
            one = runs[0]
            gains = (
                paired_bootstrap(one, found[best][0], "auc"),
                paired_difference(auc_of(one.raw, one.label), auc_of(area, one.label), one.tray),
                paired_difference(accuracy_of(one.corrected, one.label), majority_of(one.label), one.tray),
            )
            pairs.append([str(day), DISPLAY_NAMES[backbone], *(gain.text() for gain in gains)])
    columns = [
        "day",
        "model",
        "loss",
        "accuracy",
        "AUC",
        "accuracy, corrected",
        "published loss",
        "published accuracy",
        "published AUC",
    ]
    caption = "Loss and accuracy at the balanced training priors; corrected: after prior correction and temperature scaling."
    differences = ["day", "model", "AUC - best model's", "AUC - leaf area's", "accuracy, corrected - majority"]
    blocks = [
        Table(columns, rows, caption),
        Table(differences, pairs, "First runs; paired bootstrap over trays, 95 % intervals."),
    ]
    return Report(name="table3.5", title="Table 3.5: test results", about=about(lab), blocks=blocks)


def _test_areas(lab: ChapterLab, crops: Crops, day: int) -> np.ndarray:
    """Leaf areas of the test plants of `measured`, in the same order."""
    of_day, defaults = crops.of_days([day]), CropsConfig()
    chosen = of_day.take(split(of_day, lab.scale.split, defaults.train_share, defaults.validation_share)["test"])
    return chosen.area[chosen.label >= 0]


def table36(lab: ChapterLab) -> Report:
    """Table 3.6: six treatments of class imbalance, compared by the validation loss after prior correction."""
    best, rows = lab.scale.best, []
    for name, (variant, paper) in EXPERIMENTS.items():
        for day in lab.scale.days:
            model = trained(lab, best, day, 0, variant)
            valid, test = [measured(lab, model, best, day, part) for part in PARTS[1:]]
            numbers = (valid.corrected_loss, valid.loss, valid.corrected_accuracy, test.auc)
            printed = f"{ORIGINAL_AUC[day]:.2f}" if name == "original" and day in ORIGINAL_AUC else ""
            rows.append([name, str(day), *(f"{number:.3f}" for number in numbers), printed, paper])
    columns = [
        "experiment",
        "day",
        "validation loss, corrected",
        "as trained",
        "accuracy",
        "test AUC",
        "published AUC",
        "published finding",
    ]
    caption = f"{ONE_RUN.capitalize()} Without oversampling an epoch has fewer steps."
    title = f"Table 3.6: imbalance ({DISPLAY_NAMES[best]})"
    return Report(name="table3.6", title=title, about=about(lab), blocks=[Table(columns, rows, caption)])
