"""Reports as text and as JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from latens.data.image_output import png_bytes
from latens.experiments.report import Report, spread
from latens.inference.page import Figure, Gallery, Part, Table


def report(**more: object) -> Report:
    import numpy as np

    image = png_bytes(np.zeros((4, 4, 3), np.uint8))
    blocks = [
        Table(["row", "dB"], [["ours", "30.1"]], "Means."),
        Figure(image, "Curve", "bits"),
        Gallery([Figure(image, "One")]),
    ]
    parts = [Part("More", [Table(["x"], [["1"]])])]
    given = {"facts": {"seed": 3, "bad": math.nan}, "rows": [{"dB": 30.1, "ssim": math.inf}], **more}
    return Report(name="table1", title="Table 1", about="toys, seed 3", blocks=blocks, parts=parts, **given)  # type: ignore[arg-type]


def test_a_terminal_sees_tables_and_captions() -> None:
    text = report(failures=["b.png: damaged"]).table()
    assert text.startswith("Table 1: toys, seed 3")
    for expected in ("ours", "Means.", "Curve: bits", "One", "left out: b.png: damaged"):
        assert expected in text


def test_machines_see_numbers_without_nan(tmp_path: Path) -> None:
    report().save(tmp_path)
    found = json.loads((tmp_path / "table1.json").read_text())
    assert found["seed"] == 3
    assert found["bad"] is None
    assert [table["columns"] for table in found["tables"]] == [["row", "dB"], ["x"]]
    assert json.loads((tmp_path / "table1-rows.jsonl").read_text()) == {"dB": 30.1, "ssim": None}
    assert (tmp_path / "table1.png").read_bytes().startswith(b"\x89PNG")
    assert "data:image/png" in (tmp_path / "table1.html").read_text()


def test_inputs_left_out_determine_the_exit_status() -> None:
    assert report().exit_status == 0
    assert report(failures=["b.png: damaged"]).exit_status == 3


@pytest.mark.parametrize(
    ("values", "text"), [([], "-"), ([1.234], "1.23"), ([1.0, 3.0], "2.00 ± 1.41")]
)  # sample deviation of 1 and 3: sqrt(2)
def test_spread(values: list[float], text: str) -> None:
    assert spread(values) == text
