"""Page report.html of an experiment: curves, table of lots, overlays and warnings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from latens.catalogue import limits_of_training
from latens.errors import LatensError, counted
from latens.inference.page import Block, Figure, Gallery, Page, Part, Section, Table
from latens.metrics.plot import Line, LinePanel, line_plot
from latens.systems.seedlings.lot_results import LotResult
from latens.systems.seedlings.predict import SeedlingGrader

CAPTION = (
    "Seen: share of the seeds sown. T50: day by which half of the seen seeds had emerged (Farooq); MGT: mean germination time;"
    " both by count days. CUG: coefficient of uniformity of germination. Usable: predicted share of grades 5 and 6, corrected"
    " for the model's errors; 95 %: its interval. Verdict: accept where the whole interval is at least {limit:g} %, reject"
    " where the whole interval is below, undecided otherwise."
)
ELSEWHERE = "on photographs the grid and the areas are usable, emergence, grades and verdicts are not"
LEGEND = (
    "Frame of a cell: blue, success is predicted (grade 5 or 6); orange, failure; green, grades are withheld because the crops"
    " are unlike the training crops. A red cross marks a cell without a visible plant. Yellow lines are outlines of leaves."
)


def lot_blocks(lots: Sequence[LotResult], limit: float) -> list[Block]:
    """Germination curves, table of lots, and notes. `limit` is the smallest usable share of an accepted lot, in (0, 1]."""
    if not lots:
        return []
    blocks: list[Block] = []
    lines = [
        Line(lot.name if len(lots) <= 12 else "", lot.days, lot.cumulative, number, "-o")
        for number, lot in enumerate(lots)
        if len(lot.days) > 1
    ]
    if lines:
        panel = LinePanel("day after sowing", "seen, % of seeds sown", lines, limits=(0.0, 102.0))
        blocks.append(Figure(line_plot([panel]), "Germination curves", chart=True))
    blocks.append(Table(LotResult.COLUMNS, [lot.cells() for lot in lots], CAPTION.format(limit=100 * limit)))
    notes = [f"{lot.name}: {note}" for lot in lots for note in lot.notes]
    return [*blocks, *notes]


def experiment_page(
    grader: SeedlingGrader,
    blocks: Sequence[Block],
    overlays: Sequence[Figure],
    warnings: Sequence[str],
    failures: Sequence[tuple[Path, LatensError]],
    count: int,
) -> Page:
    """The page. `count` is the number of graded photographs."""
    parts = [Part("Photographs", [LEGEND, Gallery(overlays, columns=2, narrowest=320)])] if overlays else []
    if count > len(overlays):
        parts.append(
            Part(
                "More photographs",
                [f"{count - len(overlays)} more overlays are in the folder of this page: NAME.overlay.webp."],
            )
        )
    if warnings or failures:
        notes = [*(f"not graded: {error}" for _, error in failures), *warnings]
        parts.append(Part("Warnings", notes))
    lead = f"{counted(count, 'photograph')}, graded by {grader.name} ({grader.model_id[:12]})"
    lead += "." if grader.trained_on is None else f": {limits_of_training(grader.trained_on, ELSEWHERE)}"
    return Page("Seedling trays", [Section("Lots", list(blocks), parts)], lead=lead)
