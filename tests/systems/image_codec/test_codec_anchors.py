"""The comparison with more codecs in benchmarks/codec_anchors.py."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import features

from latens.data.splits import place_of
from latens.experiments.codec_rows import OURS, CodecRow
from latens.experiments.rate_distortion import RateDistortionResults
from latens.systems.image_codec.config import CropConfig

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def anchors() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("codec_anchors")
    for name in ("codec_anchors", "serving"):
        del sys.modules[name]


def run(anchors: Any, monkeypatch: pytest.MonkeyPatch, codec: Any, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["codec_anchors.py", *map(str, arguments)])
    monkeypatch.setattr(anchors, "load", lambda name, **options: codec)
    anchors.main()


def row(codec: str, setting: float, *, psnr: float, cpu: float | None = None) -> CodecRow:
    """A file for 10,000 pixels, of twice the size for each step of the setting."""
    size = round(1000 * 2**setting)
    return CodecRow(
        "a", "digest", codec, "1", setting, size, 8 * size / 10_000, psnr, None, 0.2, 0.1, encode_cpu=cpu, decode_cpu=cpu
    )


def test_the_chosen_images(anchors: Any, monkeypatch: pytest.MonkeyPatch, album: Path) -> None:
    share = CropConfig().validation_share
    held = next(name for name in (f"{number}.png" for number in range(1000)) if place_of(name) < share)
    trained = next(name for name in (f"{number}.png" for number in range(1000)) if place_of(name) >= share)
    for old, new in zip(("waves.png", "gray.png"), (held, trained), strict=True):
        (album / old).rename(album / new)

    def chosen(*options: str) -> set[str]:
        monkeypatch.setattr(sys, "argv", ["codec_anchors.py", "--data", str(album), "-o", "out", *options])
        return {path.name for path in anchors.parse_arguments().images}

    assert chosen() == {held, trained}
    assert chosen("--held-out") == {held}
    assert chosen("--leave-out", held) == {trained}


def test_a_choice_of_no_image_is_refused(
    anchors: Any, disguise: Any, monkeypatch: pytest.MonkeyPatch, album: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without images, `latens evaluate` would measure the bundled photographs."""
    with pytest.raises(SystemExit):
        run(anchors, monkeypatch, disguise, "--data", album, "--leave-out", "waves.png", "gray.png", "-o", album / "out")
    assert "no image is left" in capsys.readouterr().err
    assert disguise.calls == 0


def test_speeds_need_avif(
    anchors: Any, disguise: Any, monkeypatch: pytest.MonkeyPatch, album: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(features, "check", lambda feature: feature != "avif")
    with pytest.raises(SystemExit):
        run(anchors, monkeypatch, disguise, "--data", album, "--speeds", "4", "-o", album / "out")
    assert "built without AVIF" in capsys.readouterr().err


def test_a_run_without_avif(
    anchors: Any, disguise: Any, monkeypatch: pytest.MonkeyPatch, album: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(anchors, monkeypatch, disguise, "--data", album, "--baselines", "WebP", "-o", album / "out")
    text = capsys.readouterr().out
    assert "against WebP" in text
    assert "BD-rate against AVIF" not in text


def test_rates_against_avif(anchors: Any) -> None:
    """`half` needs half the rate of AVIF, was not timed, and `far` shares no quality with AVIF."""
    rows = [row("AVIF", s, psnr=24 + 6 * s, cpu=0.01) for s in (1, 2, 3)]
    rows += [row("half", s, psnr=30 + 6 * s) for s in (1, 2, 3)]
    rows += [row("far", s, psnr=80 + 6 * s, cpu=0.02) for s in (1, 2, 3)]
    rows += [row(OURS, s, psnr=24 + 6 * s) for s in (1, 2, 3)]
    table = anchors.against_avif(RateDistortionResults("model", "ab" * 32, tuple(rows), {}))
    assert table.rows == [
        ["half", "-50.0 %", "-", "-", "-", "-"],
        ["far", "no overlap", "-", "-", "2.00", "2.00"],
    ]
    assert {len(cells) for cells in table.rows} == {len(table.columns)}


def test_the_process_of_another_codec_ends_after_an_error(anchors: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "from serving import serve; serve({'version': lambda: {'version': '1'}})"
    server = anchors.Server([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); {script}"], threads=1)
    monkeypatch.setattr(anchors, "Server", lambda command, threads: server)

    def measure() -> None:
        with anchors.jpeg_xl(sys.executable) as (codec,):
            assert codec.version == "1"
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        measure()
    assert server.process.returncode == 0
