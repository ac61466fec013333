"""Evaluation of a grader on held-out trays: success by day compared with baselines, emergence, and indices of lots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from latens.data.duplicates import Distinct, digest_of
from latens.data.source import Source
from latens.errors import UsageError
from latens.experiments.report import Report
from latens.inference.page import Table
from latens.settings import Count, Natural, settings
from latens.systems.seedlings.bootstrap import accuracy_of, auc_of, majority_of, paired_difference
from latens.systems.seedlings.calibration import calibration_error, cross_entropy
from latens.systems.seedlings.config import CropsConfig, GraderConfig
from latens.systems.seedlings.crops import NO_DAY, UNKNOWN, Crops
from latens.systems.seedlings.dataset import open_crops
from latens.systems.seedlings.lots import Counts, indices
from latens.systems.seedlings.model import GRADES
from latens.systems.seedlings.predict import SeedlingGrader


@settings
class GradingEvaluation:
    """Simulated held-out trays of an evaluation without data.

    With data, only `rows`, `cols`, `days`, `sown` and `method` apply.
    """

    trays: Count = 24  # number of simulated trays
    rows: Count = 10  # rows of cells in a tray
    cols: Count = 15  # columns of cells in a tray
    days: tuple[Natural, ...] = (4, 5, 6, 7)  # days of the photographs
    sown: str = ""  # date of sowing (2024-03-01) of all trays whose photographs have a date in their name or EXIF
    preset: Literal["easy", "thesis", "hard"] = "thesis"  # difficulty of the simulated trays
    method: Literal["lattice", "thesis", "truth"] = "lattice"  # grid fit of trays
    seed: Natural = 1000  # seed of the simulated trays; training uses 0


class Scores(NamedTuple):
    """Scores of a binary classifier. `auc` is NaN if one class is missing."""

    plants: int
    loss: float
    accuracy: float
    auc: float
    calibration: float  # expected calibration error


def score(chances: np.ndarray, truth: np.ndarray) -> Scores:
    """Scores of probabilities of class 1 for labels 0 and 1."""
    both = np.stack([1 - chances, chances], axis=1)
    return Scores(
        len(truth),
        cross_entropy(both, truth),
        float(((chances >= 0.5) == truth).mean()),
        auc(chances, truth),
        calibration_error(chances, truth),
    )


def auc(values: np.ndarray, truth: np.ndarray) -> float:
    """Area under the ROC curve; NaN if one class is missing."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth, values)) if 0 < truth.sum() < len(truth) else float("nan")


def held_out(grader: SeedlingGrader, sources: Sequence[Source], options: GradingEvaluation) -> Crops:
    """Crops of an evaluation."""
    config = CropsConfig(
        trays=options.trays, rows=options.rows, cols=options.cols, days=options.days, sown=options.sown, preset=options.preset,
        method=options.method, simulated_seed=options.seed,
    )  # fmt: skip
    model = GraderConfig(size=grader.settings.size, channels=grader.settings.channels)
    return open_crops(sources, model, config)


def evaluate(grader: SeedlingGrader, sources: Sequence[Source], options: GradingEvaluation, folder: Path | None) -> Report:
    """Report on a grader. Raises UsageError if the classes of data and model differ."""
    crops = held_out(grader, sources, options)
    if crops.classes != grader.classes:
        what = f"the data have the classes {', '.join(crops.classes[:4])}, the model {', '.join(grader.classes[:4])}"
        raise UsageError(what, where="--data", hint="evaluate the model on data of its own classes")
    crops = crops.take(crops.label != UNKNOWN)
    seen = Distinct()
    crops = crops.take(np.array([seen.is_new(digest_of(pixels), f"crop {i + 1}") for i, pixels in enumerate(crops.pixels)]))
    data = ", ".join(map(str, sources)) or f"{options.trays} simulated trays ({options.preset}, seed {options.seed})"
    about = f"{grader.name} ({grader.model_id[:12]}) on {data}"
    if grader.classes != GRADES:
        return class_report(grader, crops, about)
    rows, facts = grade_rows(grader, crops)
    columns = ["day", "plants", "loss", "accuracy", "AUC", "calibration error", "majority", "AUC of leaf area"]
    columns += ["accuracy - majority", "AUC - leaf area's"]
    blocks = [
        Table(
            columns,
            rows,
            "Success is grade 5 or 6. Majority: accuracy of predicting the most frequent class. Differences have 95 % intervals"
            " over trays.",
        )
    ]
    blocks += emergence_tables(grader, crops, facts)
    return Report(name="evaluation", title="Seedling grades", about=about, blocks=blocks, facts=facts)


def grade_rows(grader: SeedlingGrader, crops: Crops) -> tuple[list[list[str]], dict[str, Any]]:
    """Table rows by day, and the same values as numbers."""
    rows, facts = [], {}
    for day in np.unique(crops.day):
        part = crops.take(crops.day == day)
        chances = grader.predict_crops(part.pixels, None if day == NO_DAY else int(day)).classes[:, 1]
        found = score(chances, part.label)
        majority = max(part.label.mean(), 1 - part.label.mean())
        area = auc(part.area, part.label)
        name = "-" if day == NO_DAY else str(day)
        gains = {
            "over_majority": paired_difference(accuracy_of(chances, part.label), majority_of(part.label), part.tray),
            "over_area": paired_difference(auc_of(chances, part.label), auc_of(part.area, part.label), part.tray),
        }
        numbers = [f"{value:.3f}" for value in (*found[1:], majority, area)]
        rows.append([name, str(found.plants), *numbers, *(gain.text() for gain in gains.values())])
        facts[name] = {**found._asdict(), "majority": float(majority), "area_auc": area}
        facts[name] |= {key: list(gain) for key, gain in gains.items()}
    return rows, {"days": facts}


def emergence_tables(grader: SeedlingGrader, crops: Crops, facts: dict[str, Any]) -> list[Table]:
    """Accuracy of emergence by day, and errors of the times of lots; empty if the true emergence is unknown."""
    known = crops.take(crops.seen != UNKNOWN)
    if not known.size:
        return []
    rows, called = [], np.zeros(known.size, bool)
    facts["seen"] = {}
    for day in np.unique(known.day):
        chosen = known.day == day
        chances = grader.predict_crops(known.pixels[chosen], int(day)).seen
        by_area = known.area[chosen] >= grader.area_threshold
        called[chosen] = by_area if chances is None else chances >= 0.5
        right = [float((guess == known.seen[chosen]).mean()) for guess in (called[chosen], by_area)]
        rows.append([str(day), f"{known.seen[chosen].mean():.3f}", *(f"{value:.4f}" for value in right)])
        facts["seen"][str(day)] = right[0]
    found = [Table(["day", "emerged", "accuracy", "by leaf area"], rows, "Emergence compared with the truth of the simulator.")]
    times, censored = lot_times(known, called)
    if times:
        facts |= {"lots": times, "left_censored": censored}
        shown = [[name, *(f"{value:.3f}" for value in values)] for name, values in times.items()]
        columns = ["index", "mean error, days", "mean absolute error", "largest"]
        found.append(
            Table(
                columns,
                shown,
                "Each tray is a lot. Error: index from the predicted emergence minus index from the true emergence."
                f" T50 is left-censored on {censored} of {len(set(known.tray))} trays (more than half of the seen seeds had"
                " emerged at the first count), which are excluded from its errors.",
            )
        )
    return found


def lot_times(crops: Crops, called: np.ndarray) -> tuple[dict[str, list[float]], int]:
    """Mean, mean absolute and maximum error of T50 and MGT over trays, and the number of trays with a left-censored T50.

    Trays with an undefined index are excluded, and for T50 those where it lies before the first count: there a fitted median
    depends on one or two late plants and misses the true median by up to a day.
    """
    errors: dict[str, list[float]] = {"T50 (Farooq)": [], "MGT": [], "T50, interval-censored": []}
    left = 0
    for tray in np.unique(crops.tray):
        mine = crops.tray == tray
        both = [indices(first_seen(crops.take(mine), seen[mine])) for seen in (called, crops.seen == 1)]
        censored = max(one.left_censored for one in both) > 0.5
        left += censored
        for name, field in zip(errors, ("t50_farooq", "mgt", "t50_censored"), strict=True):
            ours, true = (getattr(one, field) for one in both)
            if ours is not None and true is not None and not (censored and field != "mgt"):
                errors[name].append(ours - true)
    found = {
        name: [float(np.mean(values)), float(np.mean(np.abs(values))), float(np.max(np.abs(values)))]
        for name, values in errors.items()
        if values
    }
    return found, left


def first_seen(crops: Crops, seen: np.ndarray) -> Counts:
    """Numbers of plants of one lot by the day on which they were first seen."""
    days = np.unique(crops.day)
    plants, which = np.unique(crops.plants(), return_inverse=True)
    first = np.full(len(plants), np.inf)
    np.minimum.at(first, which.ravel()[seen], crops.day[seen])
    return Counts(tuple(map(float, days)), tuple(int((first == day).sum()) for day in days), len(plants))


def class_report(grader: SeedlingGrader, crops: Crops, about: str) -> Report:
    """Accuracy on other classes than grades, compared with the most frequent class."""
    chances = grader.predict_crops(crops.pixels, None).classes
    guess = chances.argmax(axis=1)
    rows = []
    for index, name in enumerate(grader.classes):
        mine = crops.label == index
        if mine.any():
            rows.append([name, str(int(mine.sum())), f"{(guess[mine] == index).mean():.3f}"])
    accuracy = float((guess == crops.label).mean())
    majority = float(np.bincount(crops.label).max() / crops.size)
    facts = {"accuracy": accuracy, "majority": majority, "loss": cross_entropy(chances, crops.label), "crops": crops.size}
    caption = f"Accuracy on all crops: {accuracy:.3f}; of the most frequent class: {majority:.3f}."
    return Report(
        name="evaluation",
        title="Plant classes",
        about=about,
        blocks=[Table(["class", "crops", "accuracy"], rows, caption)],
        facts=facts,
    )
