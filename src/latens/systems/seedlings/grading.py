"""A whole experiment: photographs into plants.csv, lots.csv, overlays and report.html."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from latens.data.files import write_atomic
from latens.data.image_output import webp_bytes
from latens.errors import InputError, LatensError
from latens.inference.page import Block, Figure, Gallery, Page, Part, Section, Table
from latens.metrics.plot import Line, LinePanel, line_plot
from latens.systems.seedlings.config import GridOptions
from latens.systems.seedlings.lot_results import LotResult, lots_of
from latens.systems.seedlings.names import Shot, identify
from latens.systems.seedlings.predict import GradedTray, SeedlingGrader, reference_for
from latens.systems.seedlings.reading import draw_overlay
from latens.systems.seedlings.tables import Lot, read_lots

logger = logging.getLogger(__name__)

PLANTS, LOTS, REPORT = "plants.csv", "lots.csv", "report.html"
COLUMNS = ("tray", "day", "row", "col", "id", "x", "y", "seen", "p_seen", "p_success", "area_px")
SHOWN = 16  # overlays in the report; the others are files beside it
LIMIT = 0.9  # share of usable plants from which a lot is accepted
OnGraded = Callable[[GradedTray], None]


class Experiment(NamedTuple):
    """What was graded, without the pixels."""

    graded: tuple[GradedTray, ...]
    lots: tuple[LotResult, ...]
    failures: tuple[tuple[Path, LatensError], ...]
    warnings: tuple[str, ...]
    files: tuple[Path, ...]
    blocks: tuple[Block, ...]  # curves and table of the lots, for a page


def grade_folder(
    grader: SeedlingGrader,
    paths: Sequence[Path],
    out: Path,
    *,
    day: int | None = None,
    sown: date | None = None,
    lots: Path | None = None,
    limit: float = LIMIT,
    grid: GridOptions = GridOptions(),  # noqa: B008
    on_graded: OnGraded | None = None,
) -> Experiment:
    """Grades photographs and writes plants.csv, lots.csv, an overlay for each image and report.html into `out`.

    A photograph that cannot be read is listed in `failures`, and its trays' lots say so. Without `lots` every tray is a lot.
    """
    table = read_lots(lots) if lots is not None else None
    shots = {path: identify(path, sown=_sown(path, table, sown), day=day) for path in paths}
    files: list[Path] = []
    overlays: list[Figure] = []

    def keep(one: GradedTray) -> GradedTray:
        image = webp_bytes(draw_overlay(one.reading, one.p_success, one.seen), quality=75) if one.reading else b""
        assert one.path is not None
        place = out / f"{one.path.stem}.overlay.webp"
        if place in files:
            place = out / f"{one.path.parent.name}-{one.path.stem}.overlay.webp"
        write_atomic(place, image)
        files.append(place)
        if len(overlays) < SHOWN:
            overlays.append(Figure(image, _title(one), "; ".join(one.warnings)))
        light = one._replace(reading=None)
        if on_graded is not None:
            on_graded(light)
        return light

    graded, failures = _grade_all(grader, paths, shots, grid, keep)
    warnings = [f"{one.path}: {text}" for one in graded for text in one.warnings]
    counted, doubled = _without_doubles(graded)
    warnings += doubled
    found = lots_of(grader, counted, table, [shots[path] for path, _ in failures], limit)
    write_atomic(out / PLANTS, _csv(COLUMNS, [plant for one in graded for plant in one.plants()]))
    write_atomic(out / LOTS, _csv(list(found[0].record()) if found else ["lot"], [lot.record() for lot in found]))
    blocks = lot_blocks(found)
    page = _page(grader, blocks, overlays, warnings, failures, len(graded))
    page.save(out / REPORT)
    files += [out / PLANTS, out / LOTS, out / REPORT]
    return Experiment(tuple(graded), tuple(found), tuple(failures), tuple(warnings), tuple(files), tuple(blocks))


def _sown(path: Path, table: Sequence[Lot] | None, sown: date | None) -> date | None:
    """The date of sowing of a photograph: that of the command, or of the first lot in its tray."""
    if sown is not None or table is None:
        return sown
    tray = identify(path).tray
    return next((lot.sown for lot in table if tray in lot.cells and lot.sown is not None), None)


def _grade_all(
    grader: SeedlingGrader,
    paths: Sequence[Path],
    shots: Mapping[Path, Shot],
    grid: GridOptions,
    keep: Callable[[GradedTray], GradedTray],
) -> tuple[list[GradedTray], list[tuple[Path, LatensError]]]:
    """All photographs; those with too few plants come last and take the grid of the nearest day of their tray."""
    graded: list[GradedTray] = []
    later: list[tuple[Path, LatensError]] = []
    for path in paths:
        try:
            graded.append(keep(grader.grade(path, grid=grid, shot=shots[path])))
        except LatensError as error:
            later.append((path, error.at(str(path))))
    failures: list[tuple[Path, LatensError]] = []
    for path, first in later:
        reference = reference_for(shots[path], graded) if isinstance(first, InputError) else None
        if reference is None:
            failures.append((path, first))
            continue
        try:
            graded.append(keep(grader.grade(path, grid=grid, shot=shots[path], reference=reference)))
        except LatensError as second:
            failures.append((path, second.at(str(path))))
    order = {path: index for index, path in enumerate(paths)}
    graded.sort(key=lambda one: order[one.path] if one.path is not None else 0)
    return graded, failures


def _without_doubles(graded: list[GradedTray]) -> tuple[list[GradedTray], list[str]]:
    """One photograph for each tray and day, the first; and what is said of the others."""
    first: dict[tuple[str, int | None], GradedTray] = {}
    said = []
    for one in graded:
        key = (one.shot.tray, one.shot.day)
        if one.shot.day is not None and key in first:
            said.append(f"{one.path}: not counted; {first[key].path} shows tray {key[0]} on day {key[1]}, too")
        else:
            first[key if one.shot.day is not None else (str(one.path), None)] = one
    return list(first.values()), said


def _title(one: GradedTray) -> str:
    day = "day unknown" if one.shot.day is None else f"day {one.shot.day}"
    return f"{one.shot.tray}, {day}: {int(one.seen.sum())} seen, {int((one.p_success >= 0.5).sum())} predicted to succeed"


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bytes:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def lot_blocks(lots: Sequence[LotResult]) -> list[Block]:
    """Cumulative curves and the table of the lots."""
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
        blocks.append(Figure(line_plot([panel]), "Germination curves"))
    blocks.append(Table(LotResult.COLUMNS, [lot.cells() for lot in lots], CAPTION))
    said = [f"{lot.name}: {note}" for lot in lots for note in lot.notes]
    return [*blocks, *said]


CAPTION = (
    "Seen: share of the seeds sown. T50: day on which half of the seen seeds were there (Farooq); MGT: mean germination time;"
    " both by count days. Usable: predicted share of grades 5 and 6, corrected for the model's errors. Intervals are 95 %."
)


def _page(
    grader: SeedlingGrader,
    blocks: Sequence[Block],
    overlays: Sequence[Figure],
    warnings: Sequence[str],
    failures: Sequence[tuple[Path, LatensError]],
    count: int,
) -> Page:
    parts = [Part("Photographs", [Gallery(overlays, columns=2, narrowest=320)])] if overlays else []
    if count > len(overlays):
        parts.append(Part("More photographs", [f"{count - len(overlays)} overlays lie beside this page as NAME.overlay.webp."]))
    if warnings or failures:
        said = [*(f"not read: {error}" for _, error in failures), *warnings]
        parts.append(Part("Warnings", said))
    lead = f"{count} photographs, graded by {grader.name} ({grader.model_id[:12]})."
    return Page("Seedling trays", [Section("Lots", list(blocks), parts)], lead=lead)
