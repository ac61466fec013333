"""The tables that users write: grades.csv (one line a plant) and lots.csv (a lot is a set of cells)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple, TypeAlias

from latens.data.files import read_bytes
from latens.errors import InputError, UnreadableInput
from latens.systems.seedlings.names import parse_date

Plant: TypeAlias = tuple[str, int, int]  # tray, row and column from 1
LIMIT = 2**26  # bytes of a table
RANGE = re.compile(r"(\d+)(?:\s*-\s*(\d+))?")
GRADES, SUCCESSES = range(1, 7), (5, 6)


class Lot(NamedTuple):
    """Cells of one or more trays that were sown with one lot of seed."""

    name: str
    cells: Mapping[str, tuple[tuple[range, ...], tuple[range, ...]]]  # tray -> rows and columns (none: all), from 1
    seeds: Mapping[str, int]  # tray -> seeds sown there; 0: as many as cells
    sown: date | None = None

    def holds(self, plant: Plant) -> bool:
        """Whether a cell belongs to this lot."""
        if plant[0] not in self.cells:
            return False
        rows, cols = self.cells[plant[0]]
        return _within(plant[1], rows) and _within(plant[2], cols)


def _within(number: int, ranges: Sequence[range]) -> bool:
    return not ranges or any(number in part for part in ranges)


def read_rows(path: Path, needed: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """The lines of a CSV file as (line number, values by column name). Raises UnreadableInput or InputError."""
    try:
        text = read_bytes(path, limit=LIMIT).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UnreadableInput("this is no text in UTF-8", where=str(path), hint="save the table as CSV in UTF-8") from None
    first = text.split("\n", 1)[0]
    delimiter = ";" if first.count(";") > first.count(",") else "\t" if first.count("\t") > first.count(",") else ","
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter)
    names = [(name or "").strip().lower() for name in reader.fieldnames or []]
    missing = [name for name in needed if name not in names]
    if missing:
        what = f"the table has no column {', '.join(missing)}"
        raise InputError(what, where=str(path), hint=f"its first line names the columns: {', '.join(needed)}")
    reader.fieldnames = names
    return [
        (reader.line_num, {k: (v or "").strip() for k, v in row.items() if k is not None and isinstance(v, str | None)})
        for row in reader
    ]


def read_grades(path: Path) -> dict[Plant, int]:
    """Grade of every plant. Raises InputError for what is no grade, and for a plant that is graded twice."""
    grades: dict[Plant, int] = {}
    for line, row in read_rows(path, ("tray", "row", "col", "grade")):
        where = f"{path}, line {line}"
        try:
            plant, grade = (row["tray"], int(row["row"]), int(row["col"])), int(row["grade"])
        except ValueError:
            raise InputError("row, col and grade are whole numbers", where=where) from None
        if grade not in GRADES:
            raise InputError(f"grade {grade} is none of 1 to 6", where=where)
        if plant[1] < 1 or plant[2] < 1:
            raise InputError("rows and columns are counted from 1", where=where)
        if plant in grades:
            raise InputError(f"the plant in row {plant[1]}, column {plant[2]} of {plant[0]} is graded twice", where=where)
        grades[plant] = grade
    if not grades:
        raise InputError("the table holds no plants", where=str(path))
    return grades


def write_grades(grades: Iterable[tuple[Plant, int]]) -> bytes:
    """The text of a grades.csv."""
    lines = [f"{tray},{row},{col},{grade}" for (tray, row, col), grade in grades]
    return "\n".join(["tray,row,col,grade", *lines, ""]).encode()


def read_lots(path: Path) -> list[Lot]:
    """Lots in the order of the table; lines of one name are one lot. Raises InputError for lines that contradict each other."""
    found: dict[str, Lot] = {}
    for line, row in read_rows(path, ("tray", "lot")):
        where = f"{path}, line {line}"
        if not row["tray"] or not row["lot"]:
            raise InputError("tray and lot are needed", where=where)
        rows, cols = (parse_ranges(row.get(name, ""), where) for name in ("rows", "cols"))
        seeds = row.get("seeds", "")
        if seeds and not (seeds.isdigit() and int(seeds) > 0):
            raise InputError(f"'{seeds}' is no number of seeds", where=where)
        sown = parse_date(row["sown"], where) if row.get("sown") else None
        lot = found.setdefault(row["lot"], Lot(row["lot"], {}, {}, sown))
        if row["tray"] in lot.cells:
            what = f"lot {lot.name} names tray {row['tray']} twice"
            raise InputError(what, where=where, hint="write its rows and columns as ranges in one line, as 1-5 or 1-2,7")
        if sown != lot.sown:
            raise InputError(f"lot {lot.name} has two dates of sowing", where=where)
        found[lot.name] = lot._replace(
            cells={**lot.cells, row["tray"]: (rows, cols)}, seeds={**lot.seeds, row["tray"]: int(seeds or 0)}
        )
    if not found:
        raise InputError("the table holds no lots", where=str(path))
    _check_disjoint(list(found.values()), path)
    return list(found.values())


def _check_disjoint(lots: Sequence[Lot], path: Path) -> None:
    """Raises InputError where a cell belongs to two lots."""
    for number, lot in enumerate(lots):
        for other in lots[:number]:
            for tray in lot.cells.keys() & other.cells.keys():
                if all(map(_meet, lot.cells[tray], other.cells[tray])):
                    what = f"lots {other.name} and {lot.name} share cells of tray {tray}"
                    raise InputError(what, where=str(path), hint="give them other rows or cols (an empty cell means all)")


def _meet(first: Sequence[range], second: Sequence[range]) -> bool:
    """Whether two sets of lines have one in common; none given means all."""
    if not first or not second:
        return True
    return any(a.start < b.stop and b.start < a.stop for a in first for b in second)


def parse_ranges(text: str, where: str) -> tuple[range, ...]:
    """`1-5`, `3`, `1-2 7-9` (commas or spaces between); none for "". Raises InputError."""
    parts = [part for part in re.split(r"[,\s]+", text.replace(" - ", "-").strip()) if part]
    ranges = []
    for part in parts:
        match = RANGE.fullmatch(part)
        if match is None or int(match[1]) < 1 or int(match[2] or match[1]) < int(match[1]):
            raise InputError(f"'{part}' is no range of rows or columns", where=where, hint="write 1-5, counted from 1")
        ranges.append(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(ranges)
