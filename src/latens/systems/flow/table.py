"""Tables of numbers from text files, arrays and data frames, in float64."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from latens.data.files import read_bytes
from latens.data.image_arrays import plain_array
from latens.data.npy import load_array
from latens.errors import InputError, UnreadableInput
from latens.shapes import Float

logger = logging.getLogger(__name__)

TABLE_ENDINGS = frozenset({".csv", ".tsv", ".txt", ".npy"})
FILE_LIMIT = 2**31  # maximum size of a file in bytes
MIN_DISTINCT_SHARE = 0.05  # share of distinct values below which a column counts as discrete
DELIMITERS = ",;\t"
LARGEST = 1e18  # of a number in a table: squares of larger ones overflow


class NumberTable(NamedTuple):
    """Rows of numbers with the names of their columns."""

    rows: Float[np.ndarray, "n D"]  # float64, finite
    columns: tuple[str, ...]


def read_table(source: Any) -> NumberTable:
    """Reads a path (.csv, .tsv, .txt, .npy), an array (n, D) or (n,), a tensor, or a data frame.

    Raises UnreadableInput for an empty or unreadable file, InputError for cells that are not finite numbers.
    """
    if isinstance(source, str | Path):
        return _checked(*_read_file(Path(source)), where=str(source))
    names = tuple(map(str, source.columns)) if hasattr(source, "columns") else ()
    plain = source.detach().cpu().numpy() if hasattr(source, "detach") else source
    try:
        rows = plain_array(plain).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"a {type(source).__name__} is not a table of numbers ({error})", hint="leave text columns out"
        ) from error
    return _checked(rows, names, where=None)


def _read_file(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    data = read_bytes(path, limit=FILE_LIMIT)
    if path.suffix.lower() == ".npy":
        try:
            return load_array(data).astype(np.float64), ()
        except (ValueError, TypeError, OSError, EOFError) as error:
            raise UnreadableInput(
                f"the file is not an array of numbers ({error})", where=str(path), hint="save it with numpy.save"
            ) from error
    if b"\0" in data:
        hint = "tables are text in UTF-8 (.csv, .tsv, .txt) or arrays (.npy)"
        raise UnreadableInput("this is not a table: it has bytes that are not text", where=str(path), hint=hint)
    text = data.decode("utf-8-sig", errors="replace")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise UnreadableInput("the table is empty", where=str(path), hint="write one row per line, numbers separated by commas")
    delimiter = max(DELIMITERS, key=lines[0].count)
    records = list(csv.reader(lines, delimiter=delimiter)) if delimiter in lines[0] else [line.split() for line in lines]
    names: tuple[str, ...] = ()
    if not all(_is_number(cell) for cell in records[0]):
        names = tuple(cell.strip() for cell in records[0])
        records = records[1:]
    return _numbers(records, len(names) or len(records[0]), path, first_line=2 if names else 1), names


def _numbers(records: list[list[str]], width: int, path: Path, first_line: int) -> np.ndarray:
    rows = np.empty((len(records), width))
    for number, record in enumerate(records):
        where = f"{path}, row {number + first_line}"
        if len(record) != width:
            hint = "give every row the same number of cells"
            raise InputError(f"{len(record)} cells where the first row has {width}", where=where, hint=hint)
        for column, cell in enumerate(record):
            try:
                rows[number, column] = float(cell)
            except ValueError:
                hint = "leave text columns out, and rows with missing cells"
                raise InputError(
                    f"'{cell.strip()[:40]}' is not a number (column {column + 1})", where=where, hint=hint
                ) from None
    return rows


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _checked(rows: np.ndarray, names: tuple[str, ...], *, where: str | None) -> NumberTable:
    if rows.ndim == 1:
        rows = rows[:, None]
    if rows.ndim != 2 or not rows.size:
        raise InputError(f"an array of shape {rows.shape} is not a table", where=where, hint="tables are (rows, columns)")
    bad = np.argwhere(~np.isfinite(rows))
    if len(bad):
        row, column = bad[0]
        what = f"the cell in row {row + 1}, column {column + 1} is not finite ({len(bad)} such cells in all)"
        raise InputError(what, where=where, hint="fill missing values, or leave their rows out")
    if np.abs(rows).max() > LARGEST:
        what = f"the number {rows.flat[np.abs(rows).argmax()]:g} is too large for the model, which computes in 32 bits"
        raise InputError(what, where=where, hint="use other units")
    return NumberTable(rows, names or tuple(str(i + 1) for i in range(rows.shape[1])))


def standardization(table: NumberTable) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the columns (float64). Raises InputError for fewer than two rows and for constant columns.

    Warns about columns with few distinct values: the fitted density of discrete values is unbounded.
    """
    rows, columns = table
    if len(rows) < 2:
        raise InputError("a density cannot be fitted to one row", hint="give at least two rows, better thousands")
    mean, deviation = rows.mean(axis=0), rows.std(axis=0)
    scale = np.maximum(np.abs(mean), np.abs(rows).max(axis=0))
    constant = np.flatnonzero(~(deviation > 1e-13 * scale))
    if len(constant):
        names = ", ".join(columns[i] for i in constant)
        raise InputError(f"constant columns have no density: {names}", hint="leave these columns out")
    few = [columns[i] for i in range(rows.shape[1]) if len(np.unique(rows[:, i])) < min(MIN_DISTINCT_SHARE * len(rows), 1000)]
    if few:
        logger.warning("columns with few distinct values: %s; the density of discrete values is unbounded", ", ".join(few))
    return mean, deviation
