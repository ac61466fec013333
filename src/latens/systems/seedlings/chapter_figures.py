"""Figures 3.1, 3.3 to 3.8 and A.1 (Perugachi-Diaz 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import numpy as np

from latens.data.image_output import png_bytes, webp_bytes
from latens.experiments.report import Report
from latens.inference.page import Block, Figure, Gallery, Table
from latens.metrics.plot import Line, LinePanel, line_plot
from latens.systems.seedlings.chapter_tables import runs_of
from latens.systems.seedlings.config import Backbone
from latens.systems.seedlings.lattice import Lattice, NoLattice, project
from latens.systems.seedlings.reading import TrayReading, draw_overlay, read_tray
from latens.systems.seedlings.simulator.photograph import photograph
from latens.systems.seedlings.thesis_grid import starting_coordinates, thesis_lattice
from latens.systems.seedlings.trials import (
    DISPLAY_NAMES,
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

HEAT: Mapping[tuple[int, int], float] = MappingProxyType(  # cells of Figure 3.8a with printed numbers: (training day, test day)
    {(4, 4): 0.87, (5, 5): 0.91, (6, 6): 0.93, (7, 7): 0.94, (6, 5): 0.71, (4, 5): 0.932}
)
AUC_37 = 0.62


def figure31(lab: ChapterLab) -> Report:
    """Figure 3.1: a success and a failure on each day."""
    crops = data_of(lab).crops
    figures = []
    for label, name in ((1, "success"), (0, "failure")):
        plants = crops.plants()
        chosen = _shown_plant(crops.label == label, plants, crops.seen)
        for day in lab.scale.days:
            found = np.flatnonzero((plants == chosen) & (crops.day == day))
            if len(found):
                pixels = np.repeat(np.repeat(crops.pixels[found[0]], 3, axis=0), 3, axis=1)
                shown = pixels.repeat(3, axis=2) if pixels.shape[2] == 1 else pixels
                figures.append(Figure(png_bytes(shown), f"day {day}", name, pixelated=True))
    gallery = Gallery(figures, columns=len(lab.scale.days), narrowest=90)
    return Report(name="figure3.1", title="Figure 3.1: seedlings on each day", about=about(lab), blocks=[gallery])


def _shown_plant(mask: np.ndarray, plants: np.ndarray, seen: np.ndarray) -> str:
    """The plant that is visible in most photographs."""
    names, which = np.unique(plants[mask], return_inverse=True)
    shares = np.bincount(which.ravel(), np.maximum(seen[mask], 0)) / np.bincount(which.ravel())
    return str(names[int(np.argmax(shares))])


def figure33(lab: ChapterLab) -> Report:
    """Figure 3.3: validation loss by epoch, mean and standard deviation over runs."""
    return _curves(lab, "figure3.3", "Figure 3.3: validation loss", lab.scale.models, "loss_as_trained")


def figure34(lab: ChapterLab) -> Report:
    """Figure 3.4: validation loss of the convolutional networks."""
    return _curves(lab, "figure3.4", "Figure 3.4: validation loss of the networks", lab.scale.networks, "loss_as_trained")


def figure35(lab: ChapterLab) -> Report:
    """Figure 3.5: validation accuracy of the convolutional networks."""
    return _curves(lab, "figure3.5", "Figure 3.5: validation accuracy of the networks", lab.scale.networks, "accuracy")


def _curves(lab: ChapterLab, name: str, title: str, models: Sequence[Backbone], what: str) -> Report:
    panels, rows = [], []
    for day in lab.scale.days:
        lines = []
        for number, backbone in enumerate(models):
            found = [curve(trained(lab, backbone, day, seed), what) for seed in each_run(lab.scale)]
            steps = found[0][0]
            values = np.array([one[1] for one in found])
            mean, deviation = values.mean(axis=0), values.std(axis=0)
            epochs = [step * lab.scale.epochs / steps[-1] for step in steps]
            lines.append(Line(DISPLAY_NAMES[backbone], epochs, mean.tolist(), number))
            if len(values) > 1:
                lines += [Line("", epochs, (mean + side * deviation).tolist(), number, ":") for side in (-1, 1)]
            pick = np.argmax(mean) if what == "accuracy" else np.argmin(mean)
            rows.append([str(day), DISPLAY_NAMES[backbone], f"{mean[pick]:.3f}", f"{epochs[int(pick)]:.1f}", f"{mean[-1]:.3f}"])
        panels.append(LinePanel("epoch", what.replace("_", " "), lines, f"day {day}"))
    corrected = "as trained" if lab.scale.protocol == "paper" else "after prior correction"
    caption = (
        f"Loss as trained: at the balanced training priors, on the natural class shares of validation. Accuracy: {corrected}."
    )
    table = Table(["day", "model", f"best {what.replace('_', ' ')}", "at epoch", "last"], rows, caption)
    return Report(name=name, title=title, about=about(lab), blocks=[Figure(line_plot(panels), title), table])


def figure36(lab: ChapterLab) -> Report:
    """Figure 3.6: ROC curves on the test set."""
    panels, rows = [], []
    for day in lab.scale.days:
        lines = [Line("chance", [0, 1], [0, 1], 5, ":")]
        for number, backbone in enumerate(lab.scale.models):
            run = runs_of(lab, backbone, day)[0]
            false, true = roc(run.raw, run.label)
            lines.append(Line(DISPLAY_NAMES[backbone], false, true, number))
            rows.append([str(day), DISPLAY_NAMES[backbone], f"{run.auc:.3f}", f"{_specificity(false, true, 0.93):.2f}"])
        panels.append(LinePanel("false positive rate", "true positive rate", lines, f"day {day}"))
    caption = "Published (day 4, sensitivity .93): specificity about .65 for AlexNet, .45 for the other models."
    table = Table(["day", "model", "AUC", "specificity at sensitivity .93"], rows, caption)
    return Report(
        name="figure3.6", title="Figure 3.6: ROC curves", about=about(lab), blocks=[Figure(line_plot(panels), "ROC"), table]
    )


def roc(values: np.ndarray, label: np.ndarray) -> tuple[list[float], list[float]]:
    """False and true positive rates over all thresholds."""
    from sklearn.metrics import roc_curve

    if label.min() == label.max():
        return [0.0, 1.0], [0.0, 1.0]
    false, true, _ = roc_curve(label, values)
    return false.tolist(), true.tolist()


def _specificity(false: Sequence[float], true: Sequence[float], sensitivity: float) -> float:
    return 1 - float(np.interp(sensitivity, true, false))


def figure37(lab: ChapterLab) -> Report:
    """Figure 3.7: the first day without oversampling and augmentation, and with both."""
    day, best = min(lab.scale.days), lab.scale.best
    run = measured(lab, trained(lab, best, day, 0, Variant(oversample=False, augment=False)), best, day, "test")
    ours = measured(lab, trained(lab, best, day, 0), best, day, "test")
    lines = [Line("chance", [0, 1], [0, 1], 5, ":")]
    for number, (name, one) in enumerate((("original data", run), ("oversampling + augmentation", ours))):
        lines.append(Line(name, *roc(one.raw, one.label), number))
    plot = line_plot([LinePanel("false positive rate", "true positive rate", lines, f"day {day}")])
    rows = [["original data", f"{run.auc:.3f}", f"{AUC_37:.2f}"], ["oversampling + augmentation", f"{ours.auc:.3f}", "0.91"]]
    blocks: list[Block] = [Figure(plot, "ROC"), Table(["training data", "AUC", "published AUC, day 4"], rows)]
    return Report(name="figure3.7", title=f"Figure 3.7: original data ({DISPLAY_NAMES[best]})", about=about(lab), blocks=blocks)


def figure38(lab: ChapterLab) -> Report:
    """Figure 3.8: accuracy of the model of each day on each day, for the leaky split and the split of the scale."""
    best, days = lab.scale.best, lab.scale.days
    blocks: list[Block] = []
    plain: dict[str, dict[str, float]] = {}
    for by in dict.fromkeys(("leaky", lab.scale.split)):
        heat = {}
        for trained_on in days:
            model = trained(lab, best, trained_on, 0, Variant(split=by))
            for tested_on in days:
                heat[trained_on, tested_on] = measured(lab, model, best, tested_on, "test", by)
        plain[by] = {f"{a}->{b}": one.accuracy for (a, b), one in heat.items()}
        accuracy = [[str(a), *(f"{heat[a, b].accuracy:.3f}" for b in days)] for a in days]
        text, corrected = _differences(heat, days, "accuracy"), _differences(heat, days, "corrected_accuracy")
        columns = ["trained on", *(f"tested on {day}" for day in days)]
        blocks += [
            Figure(heat_map([[heat[a, b].accuracy for b in days] for a in days], days), f"Accuracy, split {by}"),
            Table(columns, accuracy, f"(a) Accuracy, split {by}."),
            Table(columns, text, f"(b) Difference from the model of the test day, split {by}; interval over trays."),
            Table(columns, corrected, f"As (b), after prior correction, split {by}."),
        ]
    blocks.append(_leak(plain, days))
    printed = [[str(a), str(b), f"{value:.3f}"] for (a, b), value in HEAT.items()]
    blocks.append(Table(["trained on", "tested on", "published accuracy"], printed, "All published cells."))
    title = f"Figure 3.8: days exchanged ({DISPLAY_NAMES[best]})"
    return Report(name="figure3.8", title=title, about=about(lab), blocks=blocks, facts={"accuracy": plain})


def _differences(
    heat: Mapping[tuple[int, int], Measured], days: Sequence[int], what: Literal["accuracy", "corrected_accuracy"]
) -> list[list[str]]:
    """Rows of differences from the model of the test day, with intervals over trays."""

    def text(a: int, b: int) -> str:
        return paired_bootstrap(heat[a, b], heat[b, b], what).text() if a != b else "0"

    return [[str(a), *(text(a, b) for b in days)] for a in days]


def _leak(accuracy: Mapping[str, Mapping[str, float]], days: Sequence[int]) -> Table:
    """Mean accuracies by split: the gain from plants that were trained on with other days."""
    rows = []
    for by, cells in accuracy.items():
        own = float(np.mean([cells[f"{day}->{day}"] for day in days]))
        other = [cells[f"{a}->{b}"] for a in days for b in days if a != b]
        rows.append([by, f"{own:.3f}", f"{np.mean(other):.3f}" if other else ""])
    caption = "Means over days. With the leaky split most test plants of other days are training plants."
    return Table(["split", "own day", "other days"], rows, caption)


def heat_map(values: Sequence[Sequence[float]], days: Sequence[int]) -> bytes:
    """PNG of a matrix with training days as rows and test days as columns."""
    import cv2

    side = 90
    matrix = np.asarray(values, float)
    low, high = float(matrix.min()), float(matrix.max())
    scaled = (matrix - low) / max(high - low, 1e-9)
    image = np.full((side * (len(days) + 1), side * (len(days) + 1), 3), 255, np.uint8)
    for i in range(len(days)):
        for text, x, y in ((f"{days[i]}", 30, side * (i + 1) + 55), (f"{days[i]}", side * (i + 1) + 35, 55)):
            cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (30, 36, 48), 2, cv2.LINE_AA)
        for j in range(len(days)):
            color = np.array([255, 244, 225]) * (1 - scaled[i, j]) + np.array([20, 94, 160]) * scaled[i, j]
            image[side * (i + 1) : side * (i + 2) - 2, side * (j + 1) : side * (j + 2) - 2] = color
            ink = (255, 255, 255) if scaled[i, j] > 0.5 else (30, 36, 48)
            place = (side * (j + 1) + 14, side * (i + 1) + 52)
            cv2.putText(image, f"{matrix[i, j]:.3f}", place, cv2.FONT_HERSHEY_SIMPLEX, 0.65, ink, 1, cv2.LINE_AA)
    return png_bytes(image)


def figure_a1(lab: ChapterLab) -> Report:
    """Figure A.1: grids of Algorithm 1 and of the lattice on each day, with their errors."""
    scale, figures, rows = lab.scale, [], []
    for day in scale.days:
        made = photograph(0, 0, day, rows=scale.rows, cols=scale.cols, preset=scale.preset)
        reading = read_tray(made.pixels, rows=scale.rows, cols=scale.cols, day=day)
        errors = {"lattice": np.linalg.norm(reading.lattice.centers() - made.centers, axis=-1)}
        try:
            thesis = thesis_lattice(reading.foreground.mask, scale.rows, scale.cols, day)
            errors["Algorithm 1"] = np.linalg.norm(thesis.centers() - made.centers, axis=-1)
        except NoLattice:
            thesis = reading.lattice
        for name, error in errors.items():
            rows.append([str(day), name, f"{error.mean():.1f}", f"{np.percentile(error, 95):.1f}", f"{error.max():.1f}"])
        figures.append(
            Figure(
                webp_bytes(_with_corners(reading, thesis), quality=80), f"day {day}", "lattice, and red corners of Algorithm 1"
            )
        )
    blocks: list[Block] = [Gallery(figures, columns=2), Table(["day", "method", "mean error, px", "95 %", "largest"], rows)]
    return Report(name="figureA.1", title="Figure A.1: grid of a tray", about=about(lab), blocks=blocks)


def _with_corners(reading: TrayReading, thesis: Lattice) -> np.ndarray:
    import cv2

    image = draw_overlay(reading)
    bounds = starting_coordinates(reading.foreground.mask)
    corners = [(x, y) for x in (bounds.left, bounds.right) for y in (bounds.top, bounds.bottom)]
    factor = image.shape[1] / reading.image.pixels.shape[1]
    for x, y in corners:
        cv2.circle(image, (int(factor * x), int(factor * y)), 8, (235, 40, 40), -1, cv2.LINE_AA)
    frame = project(
        thesis.homography,
        np.array([[-0.5, -0.5], [thesis.cols - 0.5, -0.5], [thesis.cols - 0.5, thesis.rows - 0.5], [-0.5, thesis.rows - 0.5]]),
    )
    cv2.polylines(image, [np.rint(factor * frame).astype(np.int32)], True, (235, 40, 40), 1, cv2.LINE_AA)
    return image
