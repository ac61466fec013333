"""Section of `latens demo`: a simulated lot from photographs to germination curve."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from latens.data.image_output import avif_bytes, write_image
from latens.data.images import Pixels, read_image
from latens.inference.page import Block, Compare, Figure, Gallery, Links, Part, Section, Summary
from latens.systems.seedlings.grading import OVERLAY, Experiment, grade_folder
from latens.systems.seedlings.grading_report import LEGEND
from latens.systems.seedlings.model import GRADES
from latens.systems.seedlings.predict import GradedTray, SeedlingGrader
from latens.systems.seedlings.simulator.photograph import TrayPhotograph, photograph

DAYS = (4, 5, 6, 7)
SEED = 2000  # not a seed of the training trays
QUALITY = 60  # of AVIF
SMALL = 640  # width in pixels of the photographs of single days

INTRO = (
    "A simulated tray of 150 seedlings on days 4 to 7. The grid of the tray is fitted to each photograph, every cell is graded "
    "on its own, and the counts give the germination curve and the indices of the lot."
)


def section(grader: SeedlingGrader, folder: Path) -> Section:
    """One graded tray on four days. All files are written into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    if grader.classes != GRADES:
        return Section("Seedlings", [f"The model {grader.name} predicts {', '.join(grader.classes)} and does not grade trays."])
    trays = {day: photograph(SEED, 0, day) for day in DAYS}
    paths = [folder / f"demo_day{day}.png" for day in DAYS]
    for path, tray in zip(paths, trays.values(), strict=True):
        write_image(path, Image.fromarray(tray.pixels))
    result = grade_folder(grader, paths, folder / "graded", force=True)
    overlays = {
        one.shot.day: read_image(folder / "graded" / f"demo_day{one.shot.day}{OVERLAY}").pixels for one in result.graded
    }
    last = DAYS[-1]
    before = Figure(avif_bytes(trays[last].pixels, quality=QUALITY), f"day {last}", alt="photograph of a seedling tray")
    blocks: list[Block] = [
        INTRO,
        Compare(before, Figure(avif_bytes(overlays[last], quality=QUALITY), "graded", alt="the graded tray"), LEGEND),
        *result.blocks,
        Links("All files, next to this page:", [folder.name]),
    ]
    days = [
        Figure(
            avif_bytes(_small(overlays[one.shot.day])),
            f"Day {one.shot.day}",
            _line(one),
            alt=f"graded tray, day {one.shot.day}",
        )
        for one in result.graded
    ]
    parts = [Part("All four days", [Gallery(days, columns=2, narrowest=260)], folded=True)]
    return Section("Grade seedling trays", blocks, parts, _summary(result, trays[last]))


def _summary(result: Experiment, truth: TrayPhotograph) -> Summary:
    """Compares the grades of the last day with those that the simulator drew."""
    last = result.graded[-1]
    right = int(((last.p_success >= 0.5) == truth.plants.success).sum())
    return Summary(
        f"photographs of one tray on days {DAYS[0]} to {DAYS[-1]} (simulated)",
        "a grade for every cell, plants.csv, lots.csv, germination curve",
        f"{right} of {last.seen.size}",
        f"cells predicted right on day {DAYS[-1]}: success or failure; guessing the more frequent one gives "
        f"{max(int(truth.plants.success.sum()), int((~truth.plants.success).sum()))}",
        "latens grade trays/ -o out/ --sown 2024-03-01",
    )


def _small(pixels: Pixels) -> Pixels:
    height, width = pixels.shape[:2]
    return np.asarray(Image.fromarray(pixels).resize((SMALL, round(height * SMALL / width)), Image.Resampling.LANCZOS))


def _line(one: GradedTray) -> str:
    return f"{int(one.seen.sum())} seen, {int((one.p_success >= 0.5).sum())} predicted to succeed"
