"""Grading of an experiment: photographs to plants.csv, lots.csv, overlays and report.html."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from latens.data.csv_files import csv_bytes
from latens.data.files import write_atomic
from latens.data.folders import check_request, note_request, noting_results
from latens.data.image_output import webp_bytes
from latens.data.records import Records
from latens.errors import InputError, LatensError, UnreadableInput, UsageError
from latens.inference.page import Block, Figure
from latens.settings import to_dict
from latens.systems.seedlings.config import GridOptions
from latens.systems.seedlings.grading_report import experiment_page, lot_blocks
from latens.systems.seedlings.ledger import LEDGER, Ledger
from latens.systems.seedlings.lot_results import LotResult, lots_of
from latens.systems.seedlings.names import Shot, identify
from latens.systems.seedlings.overlay import Drawn, draw_trays
from latens.systems.seedlings.predict import GradedTray, SeedlingGrader, reference_for
from latens.systems.seedlings.reference import Reference
from latens.systems.seedlings.tables import Lot, read_lots

PLANTS, LOTS, REPORT = "plants.csv", "lots.csv", "report.html"
OVERLAY = ".overlay.webp"
WHAT = "grade"  # name of the request in the record of the folder
COLUMNS = ("tray", "day", "row", "col", "id", "x", "y", "seen", "p_seen", "p_success", "area_px")
MAX_OVERLAYS = 16  # maximum number of overlays in the report; all are written as files
LIMIT = 0.9  # minimum share of usable plants of an accepted lot
OnGraded = Callable[[Path, Sequence[GradedTray]], None]


class Experiment(NamedTuple):
    """Results of an experiment, without pixels."""

    graded: tuple[GradedTray, ...]
    lots: tuple[LotResult, ...]
    failures: tuple[tuple[Path, LatensError], ...]
    warnings: tuple[str, ...]  # on single photographs
    general: tuple[str, ...]  # on the experiment
    files: tuple[Path, ...]
    blocks: tuple[Block, ...]  # curves and table of the lots


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
    workers: int = 1,
    force: bool = False,
    on_graded: OnGraded | None = None,
) -> Experiment:
    """Grades photographs and writes plants.csv, lots.csv, one overlay per photograph and report.html into `out`.

    `workers` photographs are graded in parallel. Photographs that an earlier run into `out` graded with the same model and grid
    are reused, unless `force`. Photographs without a result are listed in `failures` and noted in the lots of their trays. If
    no photograph can be graded, nothing is written. Without `lots` every tray is a lot. `limit` is the minimum usable share of
    an accepted lot. Raises OutputExists if `out` holds results of another model or grid, UsageError if `lots` is its lots.csv.
    """
    table = read_lots(lots) if lots is not None else None
    if lots is not None and lots.resolve() == (out / LOTS).resolve():
        raise UsageError("the results would overwrite this table", where=str(lots), hint="choose another -o")
    request = {"model": grader.model_id, **to_dict(grid)}
    check_request(out, WHAT, request, results=(PLANTS, LOTS, REPORT, LEDGER, f"*{OVERLAY}"), force=force)
    shots = {path: identify(path, sown=_sown(path, table, sown), day=day) for path in paths}
    work = _Work(grader, out, shots, grid, Ledger(out, fresh=force), lambda: note_request(out, WHAT, request))
    graded, failures = _grade_all(work, paths, workers, on_graded)
    if not graded:
        return Experiment((), (), tuple(failures), (), (), (), ())
    photographs = by_photograph(graded)
    warnings = [text for path, trays in photographs.items() for text in warnings_on(path, trays)]
    counted, doubled = _without_doubles(graded)
    general = [*doubled, *_unused(counted, table), *work.notes(paths)]
    found = lots_of(grader, counted, table, [shots[path] for path, _ in failures], limit)
    blocks = lot_blocks(found, limit)
    page = experiment_page(
        grader, blocks, _figures(photographs, work.overlays), [*general, *warnings], failures, len(photographs)
    )
    with noting_results(out, WHAT, (PLANTS, LOTS, REPORT)):
        write_atomic(out / PLANTS, _csv(COLUMNS, [plant for one in graded for plant in one.plants()]))
        write_atomic(out / LOTS, _csv(list(found[0].record()) if found else ["lot"], [lot.record() for lot in found]))
        page.save(out / REPORT)
    overlays = [work.overlays[path] for path in paths if work.overlays[path].is_file()]
    Records().draw(overlays)
    files = [*overlays, out / PLANTS, out / LOTS, out / REPORT]
    return Experiment(
        tuple(graded), tuple(found), tuple(failures), tuple(warnings), tuple(general), tuple(files), tuple(blocks)
    )


def _sown(path: Path, table: Sequence[Lot] | None, sown: date | None) -> date | None:
    """Date of sowing of a photograph: `sown`, or else that of the first lot in its tray."""
    if sown is not None or table is None:
        return sown
    tray = identify(path).tray
    return next((lot.sown for lot in table if tray in lot.cells and lot.sown is not None), None)


def _unused(graded: Sequence[GradedTray], table: Sequence[Lot] | None) -> list[str]:
    """Note on graded trays that are in no lot of the table."""
    if table is None:
        return []
    named = {tray for lot in table for tray in lot.cells}
    missing = sorted({one.shot.tray for one in graded} - named)
    return [f"no lot names the trays {', '.join(missing[:5])}{' and others' * (len(missing) > 5)}"] if missing else []


class _Work:
    """Grades one photograph and draws its overlay; thread-safe."""

    def __init__(
        self,
        grader: SeedlingGrader,
        out: Path,
        shots: Mapping[Path, Shot],
        grid: GridOptions,
        ledger: Ledger,
        note: Callable[[], None],
    ) -> None:
        self.grader, self.shots, self.grid, self.ledger = grader, shots, grid, ledger
        self._note, self._noted, self._lock = note, False, Lock()
        self.overlays = _overlay_paths(list(shots), out)
        self.reused = 0

    def __call__(self, path: Path, reference: Reference | None = None) -> list[GradedTray] | LatensError:
        """Graded trays of a photograph, without pixels, or the error. Raises StorageFull."""
        shot, overlay = self.shots[path], self.overlays[path]
        try:
            earlier = self.ledger.find(path, shot, overlay)
            if earlier is not None:
                self.reused += 1
                return earlier
            found = self.grader.grade_trays(path, grid=self.grid, shot=shot, reference=reference)
        except LatensError as error:
            return error.at(str(path))
        except OSError as error:
            return UnreadableInput(str(error), where=str(path))
        reading = found[0].reading
        assert reading is not None
        several = self.grid.trays > 1 or self.grid.tray
        names = [one.shot.tray.removeprefix(shot.tray) if several else "" for one in found]
        drawn = [
            Drawn(one.lattice, None if one.out_of_distribution else one.p_success, one.seen, name)
            for one, name in zip(found, names, strict=True)
        ]
        self._note_once()
        write_atomic(overlay, webp_bytes(draw_trays(reading.image.pixels, reading.foreground.mask, drawn), quality=75))
        light = [one._replace(reading=None) for one in found]
        self.ledger.add(path, shot, light)
        return light

    def _note_once(self) -> None:
        """Records the request before the first result, so that a run without results does not bind the folder to it."""
        with self._lock:
            if not self._noted:
                self._note()
                self._noted = True

    def notes(self, paths: Sequence[Path]) -> list[str]:
        """Notes on earlier runs."""
        notes = []
        if self.reused:
            notes.append(f"{self.reused} of {len(paths)} photographs were graded by an earlier run ({self.ledger.path})")
        others = self.ledger.others(paths)
        if others:
            notes.append(
                f"{self.ledger.path} holds {others} more photographs that were not given now; the tables leave them out"
            )
        return notes


def _overlay_paths(paths: Sequence[Path], out: Path) -> dict[Path, Path]:
    """Path NAME.overlay.webp of each photograph; equal names get the folder as a prefix, or a number."""
    taken: set[str] = set()
    chosen = {}
    for path in paths:
        names = [path.stem, f"{path.parent.name}-{path.stem}", *(f"{path.stem}-{k}" for k in range(2, len(paths) + 2))]
        name = next(name for name in names if name not in taken)
        taken.add(name)
        chosen[path] = out / f"{name}{OVERLAY}"
    return chosen


def _grade_all(
    work: _Work, paths: Sequence[Path], workers: int, on_graded: OnGraded | None
) -> tuple[list[GradedTray], list[tuple[Path, LatensError]]]:
    """Grades all photographs. Those without a grid are retried last, with the grid or rim of other photographs."""
    graded: list[GradedTray] = []
    later: list[tuple[Path, LatensError]] = []

    def take(path: Path, result: list[GradedTray] | LatensError, failed: list[tuple[Path, LatensError]]) -> None:
        if isinstance(result, LatensError):
            failed.append((path, result))
            return
        graded.extend(result)
        if on_graded is not None:
            on_graded(path, result)

    for path, result in _each(work, paths, workers):
        take(path, result, later)
    failures: list[tuple[Path, LatensError]] = []
    readable = list(graded)
    for path, first in later:
        lacking = isinstance(first, InputError) and not isinstance(first, UnreadableInput)
        single = work.grid.trays == 1 and not work.grid.tray
        reference = reference_for(work.shots[path], readable) if lacking and single else None
        if reference is None:
            failures.append((path, first))
        else:
            take(path, work(path, reference), failures)
    order = {path: index for index, path in enumerate(paths)}
    graded.sort(key=lambda one: order[one.path] if one.path is not None else 0)
    return graded, failures


def _each(work: _Work, paths: Sequence[Path], workers: int) -> Iterator[tuple[Path, list[GradedTray] | LatensError]]:
    """Results in the order of the photographs, `workers` at a time. An interruption waits for photographs in progress."""
    if workers < 2 or len(paths) < 2:
        for path in paths:
            yield path, work(path)
        return
    pool = ThreadPoolExecutor(workers)
    try:
        running = {path: pool.submit(work, path) for path in paths}
        for path in paths:
            yield path, running.pop(path).result()
    finally:
        pool.shutdown(cancel_futures=True)


def _without_doubles(graded: list[GradedTray]) -> tuple[list[GradedTray], list[str]]:
    """The first photograph of each tray and day, and notes on the others."""
    first: dict[tuple[str, int | None], GradedTray] = {}
    notes = []
    for one in graded:
        key = (one.shot.tray, one.shot.day)
        if one.shot.day is not None and key in first:
            notes.append(f"{one.path}: left out of the lots: {first[key].path} shows the same tray on the same day")
        else:
            first[key if one.shot.day is not None else (f"{one.path} {one.shot.tray}", None)] = one
    return list(first.values()), notes


def by_photograph(graded: Sequence[GradedTray]) -> dict[Path, list[GradedTray]]:
    """The trays of each photograph."""
    trays: dict[Path, list[GradedTray]] = {}
    for one in graded:
        if one.path is not None:
            trays.setdefault(one.path, []).append(one)
    return trays


def warnings_on(path: Path, trays: Sequence[GradedTray]) -> list[str]:
    """Warnings on one photograph. A warning names its trays unless it holds for all of them."""
    found = []
    for text in dict.fromkeys(text for one in trays for text in one.warnings):
        names = [one.shot.tray for one in trays if text in one.warnings]
        found.append(f"{path}: {text}" if len(names) == len(trays) else f"{path}, {', '.join(names)}: {text}")
    return found


def _figures(trays: Mapping[Path, Sequence[GradedTray]], overlays: Mapping[Path, Path]) -> list[Figure]:
    """Overlays for the report: photographs with warnings first, then the others in order."""
    order = sorted(trays, key=lambda path: not any(one.warnings for one in trays[path]))
    return [
        Figure(
            overlays[path].read_bytes(),
            "; ".join(map(_title, trays[path])),
            "; ".join(dict.fromkeys(text for one in trays[path] for text in one.warnings)),
        )
        for path in order[:MAX_OVERLAYS]
    ]


def _title(one: GradedTray) -> str:
    day = "day unknown" if one.shot.day is None else f"day {one.shot.day}"
    success = "grades withheld" if one.out_of_distribution else f"{int((one.p_success >= 0.5).sum())} predicted to succeed"
    return f"{one.shot.tray}, {day}: visible plants in {int(one.seen.sum())} of {len(one.seen)} cells, {success}"


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bytes:
    return csv_bytes([columns, *([row.get(column, "") for column in columns] for row in rows)])
