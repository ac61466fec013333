"""Tables as CSV files. No cell is a formula: spreadsheets run cells that begin with = + - or @, also from names of files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from numbers import Number
from typing import Any

from latens.errors import one_line

FORMULA = ("=", "+", "-", "@")


def csv_bytes(rows: Iterable[Sequence[Any]]) -> bytes:
    """Lines of a CSV file in UTF-8. Text is escaped by `safe_cell`; numbers are unchanged."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([safe_cell(value) for value in row] for row in rows)
    return text.getvalue().encode()


def safe_cell(value: Any) -> Any:
    """A number, or text: what a spreadsheet would run begins with an apostrophe, and control characters are escaped."""
    if value is None or isinstance(value, Number):
        return value
    text = one_line(str(value))
    if not text.lstrip().startswith(FORMULA) or _is_number(text):
        return text
    return f"'{text}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
