"""CSV files: no cell is a formula, and all names can be written."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest

import latens
from latens.data.csv_files import csv_bytes, safe_cell
from latens.metrics.cells import CELL_COLUMNS
from latens.systems.seedlings.grading import _csv

FORMULAS = ("=cmd.png", "+1+1", "-2+3", "@SUM(A1)", "=HYPERLINK(1)", " =1")


@pytest.mark.parametrize("text", FORMULAS)
def test_text_that_a_spreadsheet_would_run_is_quoted(text: str) -> None:
    assert safe_cell(text) == safe_cell(Path(text)) == f"'{text}"
    assert _csv(("tray", "x"), [{"tray": text}]).decode().splitlines() == ["tray,x", f"'{text},"]


def test_other_cells_are_unchanged() -> None:
    for value in ("a.png", "a-b=c", "-1.5", "+2e3", "-inf", "", -3, 2.5, None):
        assert safe_cell(value) == value
    assert csv_bytes([("a", -1, 0.5), ("b,c", "", None)]) == b'a,-1,0.5\n"b,c",,\n'


def test_names_with_bytes_that_are_not_utf8_and_control_characters() -> None:
    rows = list(csv.reader(io.StringIO(csv_bytes([(Path("a\udcff.png"), "b\x1b[2J\n.png")]).decode())))
    assert rows == [["a\\xff.png", "b\\x1b[2J\\x0a.png"]]


def test_every_table_of_the_product_is_written_here() -> None:
    root = Path(latens.__file__).parent
    writers = [path for path in root.rglob("*.py") if re.search(r"csv\.(writer|DictWriter)", path.read_text())]
    assert [path.name for path in writers] == ["csv_files.py"]
    assert CELL_COLUMNS[0] == "image"
