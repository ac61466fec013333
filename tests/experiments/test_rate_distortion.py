"""Codecs with known curves: BD-rates, means, check of file sizes, journal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from latens.experiments.codec_rows import OURS, CodecRow, RowLog
from latens.experiments.rate_distortion import RateDistortionResults

SETTINGS = (1.0, 2.0, 3.0, 4.0)


def row(codec: str, setting: float, *, factor: float = 1.0, name: str = "a", estimated: float | None = None) -> CodecRow:
    """A codec of 10,000 pixels that gains 6 dB for twice the rate; `factor` is on its rate."""
    size = round(1000 * 2**setting * factor)
    bpp = 8 * size / 10_000
    return CodecRow(name, f"digest of {name}", codec, "1", setting, size, bpp, 24 + 6 * setting, None, 0.2, 0.1, estimated)


def results(rows: list[CodecRow], **changes: str) -> RateDistortionResults:
    return RateDistortionResults("model", "ab" * 32, tuple(rows), {"other": "version 2"}, **changes)  # type: ignore[arg-type]


def test_a_codec_with_a_tenth_less_rate_has_a_bd_rate_of_minus_ten_percent() -> None:
    found = results([row(OURS, s, factor=0.9) for s in SETTINGS] + [row("other", s) for s in SETTINGS])
    delta = found.bd_rates("psnr")["other"]
    assert delta is not None
    assert delta.percent == pytest.approx(-10, abs=0.05)
    assert (delta.lowest, delta.highest) == (30, 48)
    assert "-10.0 %" in found.bd_table().text()
    assert found.bd_rates("ms_ssim") == {"other": None}


def test_curves_without_common_quality_have_no_bd_rate() -> None:
    found = results([row(OURS, 1.0), row("other", 3.0)])
    assert found.bd_rates("psnr") == {"other": None}
    assert "no overlap" in found.bd_table().text()


def test_the_bd_rate_of_every_input_and_their_mean() -> None:
    """-10 % and -20 %: standard error 5, and 12.706 is the 97.5 % quantile of Student's t with one degree of freedom."""
    saved = {"a": 0.9, "b": 0.8}
    rows = [row(OURS, s, name=name, factor=factor) for name, factor in saved.items() for s in SETTINGS]
    rows += [row("other", s, name=name) for name in saved for s in SETTINGS]
    found = results(rows)
    each = {name: one["other"] for name, one in found.bd_rates_by_input("psnr").items()}
    assert {name: round(one.percent, 1) for name, one in each.items() if one} == {"a": -10.0, "b": -20.0}
    mean = found.mean_bd_rates("psnr")["other"]
    assert mean is not None
    assert mean == pytest.approx((-15, 12.706 * 5, 2), abs=0.1)
    assert "(-15.0 ± 63.5)" in found.bd_table().text()
    assert found.facts()["mean_bd_rate_of_images"]["psnr"]["other"]["images"] == 2
    json.dumps(found.facts(), allow_nan=False)


def test_an_input_without_common_quality_is_not_in_the_mean() -> None:
    pairs = {"a": (1.0, 4.0), "b": (1.0, 2.0), "c": (1.0, 4.0)}  # the other codec reaches only the upper half
    rows = [row(OURS, s, name=name) for name, reached in pairs.items() for s in reached]
    rows += [row("other", s, name=name) for name in pairs for s in (3.0, 4.0)]
    mean = results(rows).mean_bd_rates("psnr")["other"]
    assert mean is not None
    assert mean.images == 2
    one = results([each for each in rows if each.name != "c"])
    assert one.mean_bd_rates("psnr") == {"other": None}  # one image has no interval
    assert "±" not in one.bd_table().text()


def test_times_are_seconds_of_the_processor_per_megapixel() -> None:
    """Files of 10,000 pixels each; one was measured before such times were stored."""
    rows = [row("other", s)._replace(encode_cpu=0.01 * s, decode_cpu=0.002) for s in SETTINGS[:3]]
    found = results([row(OURS, s) for s in SETTINGS] + [*rows, row("other", SETTINGS[3])])
    assert found.processor_seconds(OURS) is None
    assert found.processor_seconds("other") == pytest.approx((0.02 * 100, 0.2))
    text = found.bd_table().text()
    assert "encode s/Mpx" in text
    assert "2.00" in text
    plain = results([row(codec, s) for codec in (OURS, "other") for s in SETTINGS])
    assert "s/Mpx" not in plain.bd_table().text()


def test_means_are_over_inputs_at_each_setting() -> None:
    found = results([row(OURS, 2.0, name="a"), row(OURS, 2.0, name="b", factor=3.0)])
    (mean,) = found.means(OURS)
    assert (found.names, mean.setting, mean.psnr) == (("a", "b"), 2.0, 36)
    assert mean.bpp == pytest.approx(6.4)


def test_a_tiny_image_hardly_changes_the_rate() -> None:
    """A file of 60 bytes for one pixel has 480 bits per pixel."""
    tiny = row(OURS, 2.0, name="b")._replace(bytes=60, bpp=480.0)
    (mean,) = results([row(OURS, 2.0, name="a"), tiny]).means(OURS)
    assert mean.bpp == pytest.approx(8 * (4000 + 60) / 10_001)


def test_clips_are_called_clips_and_need_no_code_length() -> None:
    found = results([row(OURS, s) for s in SETTINGS], noun="clip")
    assert (found.size_check(), found.size_line()) == (None, "")
    report = found.report("Video")
    assert "1 clip" in report.about
    assert report.parts[0].heading == "Clip by clip"
    assert report.facts["clips"] == ["a"]
    assert report.facts["size_check"] is None
    assert all("seconds" not in name for mean in report.facts["means"] for name in mean)
    json.dumps(report.to_dict(), allow_nan=False)


@pytest.mark.parametrize(("excess", "within"), [(0, 1), (239, 1), (-239, 1), (241, 0), (-241, 0)])
def test_files_may_differ_from_their_code_length_by_a_hundredth_and_200_bytes(excess: int, within: int) -> None:
    size = 4000 + excess
    found = results([row(OURS, 1.0)._replace(bytes=size, estimated_bytes=4000.0)])
    check = found.size_check()
    assert check is not None
    assert (check.files, check.within, check.difference) == (1, within, excess)
    assert f"{within} of 1 files" in found.size_line()


def test_the_log_finds_rows_again_and_skips_those_of_other_versions(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    RowLog(path).add([row(OURS, 1.0), row(OURS, 2.0)])
    with path.open("a") as stream:
        stream.write('{"image": "a", "digest": "x"}\n{"cut": ')
    log = RowLog(path)
    assert log.find("digest of a", OURS, "1", (1.0, 2.0, 3.0)) == {1.0: row(OURS, 1.0), 2.0: row(OURS, 2.0)}
    assert log.find("digest of a", OURS, "2", (1.0,)) == {}
    log.add([row(OURS, 3.0)])
    assert set(RowLog(path).find("digest of a", OURS, "1", (1.0, 3.0))) == {1.0, 3.0}
