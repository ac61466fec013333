"""Section of `latens demo`: a simulated lot from photographs to germination curve."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from latens.data.image_output import write_image
from latens.inference.page import Block, Figure, Gallery, Section
from latens.systems.seedlings.grading import grade_folder
from latens.systems.seedlings.model import GRADES
from latens.systems.seedlings.predict import SeedlingGrader
from latens.systems.seedlings.simulator.photograph import photograph

DAYS = (4, 5, 6, 7)
SEED = 2000  # not a seed of the training trays

INTRO = (
    "A simulated tray of 150 seedlings on days 4 to 7. The grid is fitted to each photograph. Orange cells are predicted to"
    " fail, blue cells to succeed; crosses mark cells without a visible plant. The germination curve and the indices of the lot"
    " follow."
)


def section(grader: SeedlingGrader, folder: Path) -> Section:
    """One graded tray on four days. All files are written into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    if grader.classes != GRADES:
        return Section("Seedlings", [f"The model {grader.name} predicts {', '.join(grader.classes)} and does not grade trays."])
    paths = []
    for day in DAYS:
        paths.append(folder / f"demo_day{day}.png")
        write_image(paths[-1], Image.fromarray(photograph(SEED, 0, day).pixels))
    result = grade_folder(grader, paths, folder / "graded", force=True)
    figures = []
    for one in result.graded:
        image = (folder / "graded" / f"demo_day{one.shot.day}.overlay.webp").read_bytes()
        figures.append(Figure(image, f"Day {one.shot.day}", _line(one.seen, one.p_success)))
    blocks: list[Block] = [INTRO, Gallery(figures, columns=2, narrowest=260), *result.blocks]
    return Section("Seedlings", blocks)


def _line(seen: np.ndarray, p_success: np.ndarray) -> str:
    return f"{int(seen.sum())} seen, {int((p_success >= 0.5).sum())} predicted to succeed"
