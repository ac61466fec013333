"""Input tables: grades.csv (one line per plant) and lots.csv (a lot is a set of cells)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple, TypeAlias

from latens.data.files import read_bytes
from latens.errors import InputError, UnreadableInput
from latens.systems.seedlings.names import parse_date

Plant: TypeAlias = tuple[str, int, int]  # tray, row and column from 1
LIMIT = 2**26  # maximum size of a table in bytes
RANGE = re.compile(r"(\d+)(?:\s*-\s*(\d+))?")
GRADES, SUCCESSES = range(1, 7), (5, 6)


class Lot(NamedTuple):
    """Cells of one or more trays sown with one lot of seed."""

    name: str
    cells: Mapping[str, tuple[tuple[range, ...], tuple[range, ...]]]  # tray -> ranges of rows and columns, from 1; empty: all
    seeds: Mapping[str, int]  # tray -> number of seeds; 0: one per cell
    sown: date | None = None

    def holds(self, plant: Plant) -> bool:
        """True if the cell belongs to this lot."""
        if plant[0] not in self.cells:
            return False
        rows, cols = self.cells[plant[0]]
        return _within(plant[1], rows) and _within(plant[2], cols)


def _within(number: int, ranges: Sequence[range]) -> bool:
    return not ranges or any(number in part for part in ranges)


def read_rows(path: Path, needed: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Lines of a CSV file as (line number, values by column name). Raises UnreadableInput or InputError."""
    try:
        text = read_bytes(path, limit=LIMIT).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UnreadableInput("the file is not UTF-8 text", where=str(path), hint="save the table as CSV in UTF-8") from None
    first = text.split("\n", 1)[0]
    delimiter = ";" if first.count(";") > first.count(",") else "\t" if first.count("\t") > first.count(",") else ","
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter)
    names = [(name or "").strip().lower() for name in reader.fieldnames or []]
    missing = [name for name in needed if name not in names]
    if missing:
        what = f"the table has no column {', '.join(missing)}"
        raise InputError(what, where=str(path), hint=f"the first line must name the columns: {', '.join(needed)}")
    reader.fieldnames = names
    return [
        (reader.line_num, {k: (v or "").strip() for k, v in row.items() if k is not None and isinstance(v, str | None)})
        for row in reader
    ]


def read_grades(path: Path) -> dict[Plant, int]:
    """Grade of every plant. Raises InputError for invalid grades and for plants that are graded twice."""
    grades: dict[Plant, int] = {}
    for line, row in read_rows(path, ("tray", "row", "col", "grade")):
        where = f"{path}, line {line}"
        try:
            plant, grade = (row["tray"], int(row["row"]), int(row["col"])), int(row["grade"])
        except ValueError:
            raise InputError("row, col and grade must be whole numbers", where=where) from None
        if grade not in GRADES:
            raise InputError(f"grade {grade} is not in 1 to 6", where=where)
        if plant[1] < 1 or plant[2] < 1:
            raise InputError("rows and columns are counted from 1", where=where)
        if plant in grades:
            raise InputError(f"the plant in row {plant[1]}, column {plant[2]} of {plant[0]} is graded twice", where=where)
        grades[plant] = grade
    if not grades:
        raise InputError("the table has no plants", where=str(path))
    return grades


def read_lots(path: Path) -> list[Lot]:
    """Lots in the order of the table. Lines with the same name form one lot. Raises InputError for contradictory lines."""
    found: dict[str, Lot] = {}
    for line, row in read_rows(path, ("tray", "lot")):
        where = f"{path}, line {line}"
        if not row["tray"] or not row["lot"]:
            raise InputError("tray and lot must not be empty", where=where)
        rows, cols = (parse_ranges(row.get(name, ""), where) for name in ("rows", "cols"))
        seeds = row.get("seeds", "")
        if seeds and not (seeds.isdigit() and int(seeds) > 0):
            raise InputError(f"'{seeds}' is not a number of seeds", where=where)
        sown = parse_date(row["sown"], where) if row.get("sown") else None
        lot = found.setdefault(row["lot"], Lot(row["lot"], {}, {}, sown))
        if row["tray"] in lot.cells:
            what = f"lot {lot.name} names tray {row['tray']} twice"
            raise InputError(what, where=where, hint="write its rows and columns as ranges in one line, as 1-5 or 1-2,7")
        if sown != lot.sown:
            raise InputError(
                f"lot {lot.name} has two dates of sowing", where=where, hint="write the same date in all its lines"
            )
        found[lot.name] = lot._replace(
            cells={**lot.cells, row["tray"]: (rows, cols)}, seeds={**lot.seeds, row["tray"]: int(seeds or 0)}
        )
    if not found:
        raise InputError("the table has no lots", where=str(path))
    _check_disjoint(list(found.values()), path)
    return list(found.values())


def _check_disjoint(lots: Sequence[Lot], path: Path) -> None:
    """Raises InputError if a cell belongs to two lots."""
    for number, lot in enumerate(lots):
        for other in lots[:number]:
            for tray in lot.cells.keys() & other.cells.keys():
                if all(map(_meet, lot.cells[tray], other.cells[tray])):
                    what = f"lots {other.name} and {lot.name} share cells of tray {tray}"
                    raise InputError(what, where=str(path), hint="give them other rows or cols (an empty cell means all)")


def _meet(first: Sequence[range], second: Sequence[range]) -> bool:
    """True if two sets of ranges intersect; an empty set means all."""
    if not first or not second:
        return True
    return any(a.start < b.stop and b.start < a.stop for a in first for b in second)


def parse_ranges(text: str, where: str) -> tuple[range, ...]:
    """Parses ranges such as `1-5`, `3` or `1-2 7-9`, separated by commas or spaces. Raises InputError."""
    parts = [part for part in re.split(r"[,\s]+", text.replace(" - ", "-").strip()) if part]
    ranges = []
    for part in parts:
        match = RANGE.fullmatch(part)
        if match is None or int(match[1]) < 1 or int(match[2] or match[1]) < int(match[1]):
            raise InputError(f"'{part}' is not a range of rows or columns", where=where, hint="write 1-5, counted from 1")
        ranges.append(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(ranges)
