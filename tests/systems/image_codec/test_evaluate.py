"""An evaluation of a codec about which everything is known: it is one of the baselines."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latens.errors import InputError, UsageError
from latens.metrics.image import psnr
from latens.systems.image_codec.evaluate import ROWS, evaluate
from latens.systems.image_codec.results import EvaluationReport


def test_a_codec_against_itself(disguise: Any, album: Path) -> None:
    report = evaluate(disguise, album, baselines=("WebP",))
    assert report.pictures == ("grey.png", "waves.png")
    assert report.codecs == ("latens", "WebP")
    found = report.bd_rates("psnr")["WebP"]
    assert found is not None
    assert found.percent == pytest.approx(0.0, abs=1e-9)
    ours, theirs = report.curve("latens", "psnr"), report.curve("WebP", "psnr")
    assert ours.rates == theirs.rates
    assert (found.lowest, found.highest) == (min(ours.qualities), max(ours.qualities))


def test_numbers_come_from_files(disguise: Any, album: Path) -> None:
    report = evaluate(disguise, album, qualities=[2.0], baselines=())
    pixels = np.asarray(Image.open(album / "waves.png"))
    blob = disguise.compress(Image.fromarray(pixels), quality=2.0)
    row = next(row for row in report.rows if row.picture == "waves.png")
    assert (row.bytes, row.bpp) == (len(blob), 8 * len(blob) / (64 * 48))
    assert row.psnr == psnr(pixels, np.asarray(Image.open(io.BytesIO(blob)).convert("RGB")))
    assert row.ms_ssim is None  # too small
    (mean,) = report.means("latens")
    other = next(row for row in report.rows if row.picture == "grey.png")
    assert mean.bpp == pytest.approx((row.bpp + other.bpp) / 2)
    assert mean.psnr == pytest.approx((row.psnr + other.psnr) / 2)


@pytest.mark.parametrize(("excess", "within"), [(0, True), (199, True), (-230, False), (260, False)])
def test_files_are_held_against_their_estimates(disguise: Any, album: Path, excess: float, within: bool) -> None:
    """The bound is 1 % of the estimate and 200 bytes; these files have 200 to 3,000 bytes."""
    disguise.excess = excess
    report = evaluate(disguise, album, qualities=[3.0], baselines=())
    check = report.size_check()
    assert (check.files, check.within) == (2, 2 if within else 0)
    assert check.difference == pytest.approx(excess)
    assert f"{check.within} of 2 files" in report.table()


def test_large_pictures_have_ms_ssim(disguise: Any, tmp_path: Path) -> None:
    rows, columns = np.mgrid[0:176, 0:180]
    Image.fromarray(((rows * columns) % 251).astype(np.uint8)).save(tmp_path / "large.png")
    report = evaluate(disguise, tmp_path, qualities=[1.0, 4.0, 8.0], baselines=("WebP",))
    assert all(row.ms_ssim is not None and 0 < row.ms_ssim < 1 for row in report.rows)
    found = report.bd_rates("ms_ssim")["WebP"]
    assert found is not None
    assert "MS-SSIM" in report.table()


def test_the_report_is_written(disguise: Any, album: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    report = evaluate(disguise, [album / "waves.png"], out, qualities=[1.0, 5.0], baselines=("JPEG",))
    assert {path.name for path in out.iterdir()} == {"evaluation.json", "table.txt", "rd.png", "index.html", ROWS}
    assert json.loads((out / "evaluation.json").read_text()) == json.loads(json.dumps(report.to_dict()))
    assert (out / "table.txt").read_text() == report.table() + "\n"
    with Image.open(out / "rd.png") as image:
        assert image.format == "PNG"
    html = (out / "index.html").read_text()
    assert "against JPEG" in html
    assert "waves.png" in html


def test_a_second_run_measures_nothing_again(disguise: Any, album: Path, tmp_path: Path) -> None:
    first = evaluate(disguise, album, tmp_path / "out", qualities=[1.0, 4.0], baselines=("JPEG",))
    done, lines = disguise.calls, (tmp_path / "out" / ROWS).read_text()
    said: list[str] = []
    second = evaluate(disguise, album, tmp_path / "out", qualities=[1.0, 4.0], baselines=("JPEG",), progress=said.append)
    assert disguise.calls == done == 4
    assert (tmp_path / "out" / ROWS).read_text() == lines
    assert second == first
    assert all("earlier run" in line for line in said)


def test_a_killed_run_is_continued(disguise: Any, album: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"qualities": [1.0, 2.0, 3.0], "baselines": ()}
    whole = evaluate(disguise, album, tmp_path / "whole", **settings)
    lines = (tmp_path / "whole" / ROWS).read_bytes()
    assert disguise.calls == 6
    for kept in (len(lines) // 2, len(lines) - 2):
        out = tmp_path / f"cut{kept}"
        out.mkdir()
        (out / ROWS).write_bytes(lines[:kept])
        disguise.calls = 0
        report = evaluate(disguise, album, out, **settings)
        complete = sum(line.endswith(b"}") for line in lines[:kept].split(b"\n"))
        assert disguise.calls == 6 - complete
        assert [row[:8] for row in report.rows] == [row[:8] for row in whole.rows]  # all but times
        disguise.calls = 0
        evaluate(disguise, album, out, **settings)
        assert disguise.calls == 0


def test_other_weights_and_changed_pictures_are_measured_anew(disguise: Any, album: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"qualities": [1.0], "baselines": ()}
    evaluate(disguise, album, tmp_path / "out", **settings)
    disguise.model_id = "another"
    evaluate(disguise, album, tmp_path / "out", **settings)
    assert disguise.calls == 4
    Image.fromarray(255 - np.asarray(Image.open(album / "waves.png"))).save(album / "waves.png")
    shutil.copy(album / "grey.png", album / "same.png")  # the same pixels under another name are not measured again
    report = evaluate(disguise, album, tmp_path / "out", **settings)
    assert disguise.calls == 5
    assert report.pictures == ("grey.png", "same.png", "waves.png")


def test_a_bad_picture_is_named_and_passed_over(disguise: Any, album: Path) -> None:
    (album / "bad.jpg").write_text("no picture")
    said: list[str] = []
    report = evaluate(disguise, album, qualities=[1.0], baselines=(), progress=said.append)
    assert report.exit_status == 3
    assert len(report.failures) == 1
    assert report.failures[0].startswith("bad.jpg: ")
    assert report.failures[0] in report.table()
    assert [line.split(":")[0] for line in said] == ["1 of 3", "2 of 3", "3 of 3"]


def test_nothing_to_measure(disguise: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(InputError, match="none of the pictures"):
        evaluate(disguise, [tmp_path / "bad.png"], baselines=())
    with pytest.raises(UsageError, match="GIF"):
        evaluate(disguise, tmp_path, baselines=("GIF",))


def test_curves_without_common_quality(disguise: Any, album: Path) -> None:
    report = evaluate(disguise, album, qualities=[1.0], baselines=("JPEG",))  # one point is no curve
    assert report.bd_rates("psnr") == {"JPEG": None}
    assert "no overlap" in report.table()
    json.dumps(report.to_dict(), allow_nan=False)


def test_a_perfect_picture_does_not_break_the_means(disguise: Any, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), (0, 0, 0)).save(tmp_path / "black.png")
    report: EvaluationReport = evaluate(disguise, tmp_path, tmp_path / "out", qualities=[8.0], baselines=())
    assert report.rows[0].psnr == float("inf")
    assert report.means("latens")[0].psnr == 100.0
    again = evaluate(disguise, tmp_path / "black.png", tmp_path / "out", qualities=[8.0], baselines=())
    assert again.rows[0].psnr == float("inf")
    assert disguise.calls == 1
