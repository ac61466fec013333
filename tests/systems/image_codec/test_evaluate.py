"""An evaluation of a codec with known results: it is one of the baselines."""

from __future__ import annotations

import io
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latens.data.images import LoadedImage
from latens.data.source import Source
from latens.errors import InputError, UsageError
from latens.experiments.rate_distortion import RateDistortionResults
from latens.metrics.image import psnr
from latens.settings import SettingsError
from latens.systems.image_codec.baselines import available
from latens.systems.image_codec.evaluate import ROWS, CodecEvaluation, load_subject, measure, measure_all, try_encoder


def measured(codec: Any, data: Path, folder: Path | None = None, **options: Any) -> RateDistortionResults:
    return measure_all(codec, [Source("", str(data))], CodecEvaluation(**options), folder)


def test_a_codec_compared_with_itself(disguise: Any, album: Path) -> None:
    report = measured(disguise, album, baselines=("WebP",))
    assert report.names == ("gray.png", "waves.png")
    assert report.codecs == ("latens", "WebP")
    found = report.bd_rates("psnr")["WebP"]
    assert found is not None
    assert found.percent == pytest.approx(0.0, abs=1e-9)
    ours, theirs = report.curve("latens", "psnr"), report.curve("WebP", "psnr")
    assert ours.rates == theirs.rates
    assert (found.lowest, found.highest) == (min(ours.qualities), max(ours.qualities))


def test_numbers_come_from_files(disguise: Any, album: Path) -> None:
    report = measured(disguise, album, qualities=(2.0,), baselines=())
    pixels = np.asarray(Image.open(album / "waves.png"))
    blob = disguise.compress(Image.fromarray(pixels), quality=2.0)
    row = next(row for row in report.rows if row.name == "waves.png")
    assert (row.bytes, row.bpp) == (len(blob), 8 * len(blob) / (64 * 48))
    assert row.psnr == psnr(pixels, np.asarray(Image.open(io.BytesIO(blob)).convert("RGB")))
    assert row.ms_ssim is None  # too small
    (mean,) = report.means("latens")
    other = next(row for row in report.rows if row.name == "gray.png")
    assert mean.bpp == pytest.approx(8 * (row.bytes + other.bytes) / (row.pixels + other.pixels))
    assert mean.psnr == pytest.approx((row.psnr + other.psnr) / 2)


@pytest.mark.parametrize(("excess", "within"), [(0, True), (199, True), (-230, False), (260, False)])
def test_file_sizes_are_compared_with_estimates(disguise: Any, album: Path, excess: float, within: bool) -> None:
    """The bound is 1 % of the estimate and 200 bytes; these files have 200 to 3,000 bytes."""
    disguise.excess = excess
    report = measured(disguise, album, qualities=(3.0,), baselines=())
    check = report.size_check()
    assert check is not None
    assert (check.files, check.within) == (2, 2 if within else 0)
    assert check.difference == pytest.approx(excess)
    assert f"{check.within} of 2 files" in report.size_line()


def test_large_images_have_ms_ssim(disguise: Any, tmp_path: Path) -> None:
    rows, columns = np.mgrid[0:176, 0:180]
    Image.fromarray(((rows * columns) % 251).astype(np.uint8)).save(tmp_path / "large.png")
    report = measured(disguise, tmp_path, qualities=(1.0, 4.0, 8.0), baselines=("WebP",))
    assert all(row.ms_ssim is not None and 0 < row.ms_ssim < 1 for row in report.rows)
    found = report.bd_rates("ms_ssim")["WebP"]
    assert found is not None
    assert "MS-SSIM" in report.rate_table().columns


def test_ssimulacra2_is_measured_where_it_is_asked_for(disguise: Any, album: Path, tmp_path: Path) -> None:
    """Rows of a run without it are measured again."""
    chosen: dict[str, Any] = {"baselines": ("WebP",)}
    plain = measured(disguise, album, tmp_path / "out", **chosen)
    assert {row.ssimulacra2 for row in plain.rows} == {None}
    assert "SSIMULACRA2" not in plain.bd_table().columns
    done = disguise.calls
    report = measured(disguise, album, tmp_path / "out", **chosen, ssimulacra2=True)
    assert disguise.calls == 2 * done
    scores = [mean.ssimulacra2 or -1000.0 for mean in report.means("latens")]
    assert -1000 < scores[0] < scores[-1] < 100
    assert {"SSIMULACRA2"} <= set(report.rate_table().columns) & set(report.bd_table().columns)
    found = report.bd_rates("ssimulacra2")["WebP"]
    assert found is not None
    assert found.percent == pytest.approx(0.0, abs=1e-9)
    measured(disguise, album, tmp_path / "out", **chosen, ssimulacra2=True)
    assert disguise.calls == 2 * done
    assert {row.ssimulacra2 for row in measured(disguise, album, tmp_path / "out", **chosen).rows} == {None}


def test_ssimulacra2_without_its_package_is_refused(disguise: Any, album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ssimulacra2", None)
    with pytest.raises(UsageError, match="SSIMULACRA2 needs the package ssimulacra2"):
        measured(disguise, album, ssimulacra2=True)
    assert disguise.calls == 0


def test_a_second_run_reuses_all_rows(disguise: Any, album: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = measured(disguise, album, tmp_path / "out", qualities=(1.0, 4.0), baselines=("JPEG",))
    done, lines = disguise.calls, (tmp_path / "out" / ROWS).read_text()
    caplog.set_level(logging.INFO)
    second = measured(disguise, album, tmp_path / "out", qualities=(1.0, 4.0), baselines=("JPEG",))
    assert disguise.calls == done == 4
    assert (tmp_path / "out" / ROWS).read_text() == lines
    assert second == first
    assert ["earlier run" in line for line in caplog.messages] == [True, True]


def test_a_killed_run_is_continued(disguise: Any, album: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"qualities": (1.0, 2.0, 3.0), "baselines": ()}
    whole = measured(disguise, album, tmp_path / "whole", **settings)
    lines = (tmp_path / "whole" / ROWS).read_bytes()
    assert disguise.calls == 6
    for kept in (len(lines) // 2, len(lines) - 2):
        out = tmp_path / f"cut{kept}"
        out.mkdir()
        (out / ROWS).write_bytes(lines[:kept])
        disguise.calls = 0
        report = measured(disguise, album, out, **settings)
        complete = sum(line.endswith(b"}") for line in lines[:kept].split(b"\n"))
        assert disguise.calls == 6 - complete
        assert [row[:8] for row in report.rows] == [row[:8] for row in whole.rows]  # all but times
        disguise.calls = 0
        measured(disguise, album, out, **settings)
        assert disguise.calls == 0


def test_every_file_is_stored_when_it_is_measured(disguise: Any, album: Path, tmp_path: Path) -> None:
    """A slow encoder that stops at its third quality; the next run continues there."""
    (webp,) = available(("WebP",))

    def encode(image: LoadedImage, quality: int) -> bytes:
        if stopped and quality == webp.qualities[2]:
            raise KeyboardInterrupt
        done.append(quality)
        return webp.encode(image, quality)

    slow = webp._replace(name="slow", encode=encode)
    data, options = [Source("", str(album / "waves.png"))], CodecEvaluation(qualities=(1.0,), baselines=())
    stopped, done = True, list[int]()
    with pytest.raises(KeyboardInterrupt):
        measure_all(disguise, data, options, tmp_path / "out", [slow])
    stopped = False
    report = measure_all(disguise, data, options, tmp_path / "out", [slow])
    assert done == list(webp.qualities)
    assert report.codecs == ("latens", "slow")
    assert report.settings == {"slow": webp.version}


def test_an_encoder_brings_its_own_clock_and_decoder(album: Path) -> None:
    (webp,) = available(("WebP",))
    readings = iter((10.0, 12.5, 20.0, 20.25))
    subject = load_subject(album / "waves.png", "waves.png")
    perfect = webp._replace(decode=lambda data: subject.image.pixels, clock=lambda: next(readings))
    row = measure(try_encoder(perfect, subject.image, 30), subject)
    assert (row.encode_cpu, row.decode_cpu, row.psnr) == (2.5, 0.25, float("inf"))


def test_other_weights_and_changed_images_are_measured_again(disguise: Any, album: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"qualities": (1.0,), "baselines": ()}
    measured(disguise, album, tmp_path / "out", **settings)
    disguise.model_id = "another"
    measured(disguise, album, tmp_path / "out", **settings)
    assert disguise.calls == 4
    Image.fromarray(255 - np.asarray(Image.open(album / "waves.png"))).save(album / "waves.png")
    shutil.copy(album / "gray.png", album / "same.png")  # counted once
    report = measured(disguise, album, tmp_path / "out", **settings)
    assert disguise.calls == 5
    assert report.names == ("gray.png", "waves.png")
    assert report.duplicates == ("same.png: the same as gray.png, counted once",)


def test_an_unreadable_image_is_reported_and_left_out(disguise: Any, album: Path, caplog: pytest.LogCaptureFixture) -> None:
    (album / "bad.jpg").write_text("no image")
    report = measured(disguise, album, qualities=(1.0,), baselines=()).report("Codec")
    assert report.exit_status == 3
    assert len(report.failures) == 1
    assert report.failures[0].startswith("bad.jpg: ")
    assert report.failures[0] in report.table()
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        f"left out: {report.failures[0]}"
    ]


def test_invalid_requests_are_refused(disguise: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no image")
    with pytest.raises(InputError, match="none of the images"):
        measured(disguise, tmp_path / "bad.png", baselines=())
    with pytest.raises(SettingsError, match="AVIF"):
        CodecEvaluation(baselines=("AVIFF",))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="1 to 8"):
        measured(disguise, tmp_path, qualities=(9.0,))
    with pytest.raises(UsageError, match="kind 'noise'"):
        measure_all(disguise, [Source("noise", str(tmp_path))], CodecEvaluation(), None)


def test_a_perfect_image_does_not_break_the_means(disguise: Any, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), (0, 0, 0)).save(tmp_path / "black.png")
    report = measured(disguise, tmp_path, tmp_path / "out", qualities=(8.0,), baselines=())
    assert report.rows[0].psnr == float("inf")
    assert report.means("latens")[0].psnr == 100.0
    again = measured(disguise, tmp_path / "black.png", tmp_path / "out", qualities=(8.0,), baselines=())
    assert again.rows[0].psnr == float("inf")
    assert disguise.calls == 1
