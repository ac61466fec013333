"""Results of lots from graded photographs: germination curve and indices, usable share, verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from latens.errors import counted
from latens.systems.seedlings.lots import (
    Counts,
    Indices,
    Interval,
    Rates,
    Share,
    Tolerance,
    between_trays,
    corrected_share,
    indices,
    tolerance,
    verdict,
    wilson,
)
from latens.systems.seedlings.names import Shot
from latens.systems.seedlings.predict import GradedTray, SeedlingGrader
from latens.systems.seedlings.tables import Lot


@dataclass(frozen=True, kw_only=True)
class LotResult:
    """Result of one lot. Undefined values are None, with the reason in `notes`."""

    COLUMNS: ClassVar[tuple[str, ...]] = (
        "lot",
        "trays",
        "seeds",
        "seen, %",
        "T50",
        "MGT",
        "CUG",
        "usable, %",
        "95 %",
        "verdict",
    )

    name: str
    trays: tuple[str, ...]
    seeds: int
    days: tuple[float, ...]
    cumulative: tuple[float, ...]  # % of the seeds sown, by day
    indices: Indices | None
    usable: Share | None
    usable_interval: Interval | None  # shares; over trays if these differ by more than chance
    spread: Tolerance | None
    verdict: str
    notes: tuple[str, ...]
    trained_on: str | None  # training data of a bundled model

    def cells(self) -> list[str]:
        """Row of the table in a report."""
        found = self.indices
        times = [_text(value, 2) for value in ((found.t50_farooq, found.mgt, found.uniformity) if found else (None,) * 3)]
        share = "-" if self.usable is None else f"{100 * self.usable.value:.1f}"
        limits = (
            "-"
            if self.usable_interval is None
            else f"{100 * self.usable_interval.low:.1f} to {100 * self.usable_interval.high:.1f}"
        )
        seen = "-" if found is None else f"{found.percentage:.1f}"
        return [self.name, str(len(self.trays)), str(self.seeds), seen, *times, share, limits, self.verdict]

    def line(self) -> str:
        """The result in words; undefined values are a dash."""
        name, _, _, seen, t50, mgt, uniformity, usable, limits, decided = self.cells()
        sown = f"{counted(self.seeds, 'seed')} in {counted(len(self.trays), 'tray')}"
        share = "usable -" if self.usable is None else f"usable {usable} % (95 %: {limits})"
        return (
            f"lot {name}: {sown}; seen {seen if seen == '-' else f'{seen} %'}, T50 {t50}, MGT {mgt}, CUG {uniformity}; "
            f"{share}; verdict {decided}"
        )

    def record(self) -> dict[str, Any]:
        """Line of lots.csv; undefined values are empty."""
        plain: dict[str, Any] = {"lot": self.name, "trays": " ".join(self.trays), "seeds": self.seeds}
        plain |= {
            "days": " ".join(f"{day:g}" for day in self.days),
            "cumulative_percent": " ".join(f"{c:.2f}" for c in self.cumulative),
        }
        for name in Indices._fields:
            value = getattr(self.indices, name) if self.indices is not None else None
            if name == "interval":
                plain |= {
                    "percentage_low": _cell(value.low if value else None),
                    "percentage_high": _cell(value.high if value else None),
                }
            elif name != "undefined":
                plain[name] = _cell(value)
        interval = self.usable_interval
        plain["usable_percent"] = _cell(None if self.usable is None else 100 * self.usable.value)
        plain["usable_low"] = _cell(None if interval is None else 100 * interval.low)
        plain["usable_high"] = _cell(None if interval is None else 100 * interval.high)
        plain["usable_uncorrected"] = _cell(None if self.usable is None else 100 * self.usable.apparent)
        plain["tray_span"] = _cell(None if self.spread is None else self.spread.span)
        plain["tray_tolerance"] = _cell(None if self.spread is None else self.spread.allowed)
        return {**plain, "verdict": self.verdict, "notes": "; ".join(self.notes), "trained_on": self.trained_on or ""}


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _text(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def lots_of(
    grader: SeedlingGrader, graded: Sequence[GradedTray], table: Sequence[Lot] | None, failed: Sequence[Shot], limit: float
) -> list[LotResult]:
    """Results of the lots of the table, or of each tray without a table. Missing trays are noted."""
    by_tray: dict[str, list[GradedTray]] = {}
    for one in graded:
        by_tray.setdefault(one.shot.tray, []).append(one)
    lots = list(table) if table is not None else [Lot(tray, {tray: ((), ())}, {tray: 0}) for tray in by_tray]
    return [_result(grader, lot, by_tray, failed, limit) for lot in lots]


def _result(
    grader: SeedlingGrader, lot: Lot, by_tray: Mapping[str, list[GradedTray]], failed: Sequence[Shot], limit: float
) -> LotResult:
    notes = [f"no photograph of tray {tray} was graded" for tray in lot.cells if tray not in by_tray]
    notes += [
        f"the photograph of tray {shot.tray}, day {shot.day} could not be read" for shot in failed if shot.tray in lot.cells
    ]
    found = {tray: by_tray[tray] for tray in lot.cells if tray in by_tray}
    cells = {tray: _cells(lot, tray, shots[0], notes) for tray, shots in found.items()}
    cells = {tray: chosen for tray, chosen in cells.items() if chosen.any()}
    sown = {tray: lot.seeds.get(tray, 0) or int(chosen.sum()) for tray, chosen in cells.items()}
    for tray, seeds in sown.items():
        if seeds < cells[tray].sum():
            notes.append(f"tray {tray}: {seeds} seeds for {int(cells[tray].sum())} cells; the percentage refers to the seeds")
    counts, missing = _counts({tray: found[tray] for tray in cells}, cells, sum(sown.values()))
    notes += missing
    made = None
    if counts is not None:
        try:
            made = indices(counts)
            notes += made.undefined
        except ValueError as error:
            notes.append(f"indices are not defined: {error}")
    usable, interval, spread, reasons = _usable(grader, {tray: found[tray] for tray in cells}, cells, sown)
    notes += reasons
    decided = "undecided" if interval is None else verdict(interval, limit)
    total = sum(sown.values())
    return LotResult(
        name=lot.name, trays=tuple(lot.cells), seeds=total, days=counts.days if counts else (),
        cumulative=tuple(float(100 * c / total) for c in counts.cumulative) if counts else (),
        indices=made, usable=usable, usable_interval=interval, spread=spread, verdict=decided,
        notes=tuple(dict.fromkeys(notes)), trained_on=grader.trained_on, )  # fmt: skip


def _cells(lot: Lot, tray: str, shot: GradedTray, notes: list[str]) -> np.ndarray:
    """Mask of the cells of a tray that belong to a lot; ranges beyond the grid are noted."""
    rows, cols = shot.lattice.rows, shot.lattice.cols
    for ranges, count, name in ((lot.cells[tray][0], rows, "rows"), (lot.cells[tray][1], cols, "columns")):
        beyond = [f"{part.start}-{part.stop - 1}" for part in ranges if part.stop - 1 > count]
        if beyond:
            notes.append(f"tray {tray} has {count} {name}; {', '.join(beyond)} is out of range")
    return np.array([lot.holds((tray, row + 1, col + 1)) for row in range(rows) for col in range(cols)])


def _counts(
    found: Mapping[str, Sequence[GradedTray]], cells: Mapping[str, np.ndarray], sown: int
) -> tuple[Counts | None, list[str]]:
    """First-seen counts over the days with photographs of all trays of the lot. A plant that was seen once stays seen."""
    notes = []
    days_of = {tray: {one.shot.day for one in shots if one.shot.day is not None} for tray, shots in found.items()}
    if any(len(days) < len(found[tray]) for tray, days in days_of.items()):
        notes.append("photographs without a day are not part of the curve")
    days = sorted(set.intersection(*days_of.values())) if days_of else []
    left = sorted(set.union(*days_of.values()) - set(days)) if days_of else []
    if left:
        notes.append(f"day {', '.join(map(str, left))} is missing for some trays and not part of the curve")
    if not days:
        return None, [*notes, "no curve: on no day all trays were photographed"] if found else notes
    totals = []
    for day in days:
        seen = 0
        for tray, shots in found.items():
            ever = np.zeros(len(cells[tray]), bool)
            for one in shots:
                if one.shot.day is not None and one.shot.day <= day:
                    ever |= one.seen
            seen += int((ever & cells[tray]).sum())
        totals.append(seen)
    new = np.diff([0, *totals])
    if totals[-1] > sown:
        notes.append(f"{totals[-1]} plants were seen where {sown} seeds were sown")
    return Counts(tuple(float(day) for day in days), tuple(int(n) for n in new), max(sown, totals[-1])), notes


def _usable(
    grader: SeedlingGrader, found: Mapping[str, Sequence[GradedTray]], cells: Mapping[str, np.ndarray], sown: Mapping[str, int]
) -> tuple[Share | None, Interval | None, Tolerance | None, list[str]]:
    """Predicted usable share from the latest photograph of each tray: share, interval, agreement of trays, notes."""
    if not found:
        return None, None, None, []
    last = {tray: max(shots, key=lambda one: -1 if one.shot.day is None else one.shot.day) for tray, shots in found.items()}
    called = {tray: int(((one.p_success >= 0.5) & cells[tray]).sum()) for tray, one in last.items()}
    sizes = {tray: max(sown[tray], called[tray]) for tray in last}
    outside = [tray for tray, one in last.items() if one.out_of_distribution]
    if outside:
        return None, None, None, [f"no usable share: the crops of {', '.join(outside)} are unlike the training crops"]
    days = {one.shot.day for one in last.values()}
    notes = [] if len(days) == 1 else ["the trays were last photographed on different days"]
    known = [grader.rates_of(day) for day in sorted(days, key=lambda day: -1 if day is None else day)]
    rates = known[0]
    if rates is None or min(rates.successes, rates.failures) < 1:
        apparent = sum(called.values()) / sum(sizes.values())
        interval = wilson(sum(called.values()), sum(sizes.values()))
        return (
            Share(apparent, interval, apparent),
            interval,
            None,
            [*notes, "the model has no error rates: the usable share is not corrected"],
        )
    return _corrected(called, sizes, rates, notes)


def _corrected(
    called: Mapping[str, int], sizes: Mapping[str, int], rates: Rates, notes: list[str]
) -> tuple[Share | None, Interval | None, Tolerance | None, list[str]]:
    try:
        share = corrected_share(sum(called.values()), sum(sizes.values()), rates, len(called))
        single = [corrected_share(called[tray], sizes[tray], rates).value for tray in called]
    except ValueError as error:
        return None, None, None, [*notes, f"no usable share: {error}"]
    counts = [sizes[tray] for tray in called]
    spread = tolerance([called[tray] / sizes[tray] for tray in called], counts)
    interval, over_trays = share.interval, between_trays(single, counts)
    if spread is not None and not spread.agrees and over_trays is not None:
        notes = [
            *notes,
            f"the trays differ by {spread.span:.1f} points (chance: up to {spread.allowed:.1f}): the interval is over trays",
        ]
        interval = Interval(min(interval.low, over_trays.low), max(interval.high, over_trays.high))
    return share, interval, spread, notes
