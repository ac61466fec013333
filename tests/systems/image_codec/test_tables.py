"""Tables and figures of chapter 5: runs are shared and reused, published numbers, invalid requests, rounding laws."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pytest
from PIL import Image

from latens.codes.annealing import Method, Refine
from latens.codes.gains import quality_at
from latens.codes.refine import refine
from latens.data.source import Source
from latens.errors import InputError, UsageError
from latens.experiments.lab import ExperimentRunner
from latens.inference.page import Table
from latens.systems.image_codec import figures, tables
from latens.systems.image_codec.predict import ImageCodec
from latens.systems.image_codec.runs import CodecLab, CodecScale, Study, mean_history
from latens.systems.image_codec.system import ARTIFACTS, SYSTEM

SCALE = CodecScale(images=2, crop=64, steps=6, rate_steps=4, measure_every=2)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images, of which experiments here use the first two."""
    folder = tmp_path_factory.mktemp("images")
    row, column = np.mgrid[0:80, 0:100]
    for number in range(3):
        waves = np.stack([np.sin((row * (number + 1) + column * k) / 13) for k in (1, 2, 3)], axis=-1)
        Image.fromarray((120 + 80 * waves).astype(np.uint8)).save(folder / f"{number}.png")
    return folder


def laboratory(codec: ImageCodec, images: Path | None, folder: Path, sources: Sequence[Source] = ()) -> CodecLab:
    return ExperimentRunner(
        build=SYSTEM.build,
        open_model=lambda place: codec,
        sources=sources if images is None else [Source("", str(images))],
        scale=SCALE,
        recipe="tiny",
        folder=folder,
        device="cpu",
    )


def test_a_run_is_the_refinement_of_its_images(bundled: ImageCodec, images: Path, tmp_path: Path) -> None:
    study = Study(laboratory(bundled, images, tmp_path))
    settings = study.published("ssl")
    history = study.run(0.01, settings)
    assert history.steps == [0, 2, 4, 6]
    losses = []
    for subject in study.subjects:
        found = refine(
            bundled.model,
            subject.image[None],
            0.01,
            quality=quality_at(bundled.lambdas, 0.01),
            settings=settings,
            precision=bundled.dtype,
        )
        losses.append([trace.true_loss for trace in found.history])
    assert history.true_loss == pytest.approx(np.mean(losses, axis=0), rel=2e-3)  # bfloat16 sums depend on the batch
    expected = np.array(history.bpp) + 0.01 * 255**2 * np.mean([10 ** (-db / 10) for db in history.psnr])
    assert history.true_loss == pytest.approx(expected, rel=0.2)


def test_runs_are_reused_unless_settings_change(
    bundled: ImageCodec, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def study() -> Study:
        return Study(laboratory(bundled, images, tmp_path))

    first = study().run(0.01, Refine.thesis("ssl", steps=2))
    again = study().run(0.01, Refine.thesis("ssl", steps=2))
    assert len(caplog.messages) == 1
    assert again.true_loss == first.true_loss
    study().run(0.01, Refine.thesis("ssl", steps=2, seed=1))
    study().run(0.01, Refine.thesis("ssl", steps=2), target=0.02)
    assert len(caplog.messages) == 3


def test_means_are_over_images_up_to_the_shortest_history() -> None:
    one = [[0, 0.0, math.nan, 1.0, 1.0, 30.0, 0.01], [2, 1.0, 1.0, 4.0, 1.0, 30.0, 0.01], [4, 2.0, 1.0, 9.0, 1.0, 30.0, 0.01]]
    three = [[0, 0.0, math.nan, 5.0, 2.0, 34.0, 0.01], [2, 3.0, 2.0, 8.0, 2.0, 34.0, 0.01]]
    mean = mean_history([one, three], [1, 3])
    assert mean.steps == [0, 2]
    assert mean.true_loss == [4.0, 7.0]
    assert mean.psnr == [33.0, 33.0]
    assert math.isnan(mean.loss[0])
    assert mean.seconds == [0.0, 2.5]
    assert (mean.at(1), mean.at(2), mean.at(99)) == (0, 1, 1)


def test_tables_contain_the_published_numbers(bundled: ImageCodec, images: Path, tmp_path: Path) -> None:
    lab = laboratory(bundled, images, tmp_path)
    shown = {name: ARTIFACTS[name].make(lab).table() for name in ("table5.4.1", "table5.4.2", "table5.4.3")}
    assert all(f"{loss:.4f}" in shown["table5.4.1"] for row in tables.PUBLISHED_5_4_1.values() for loss in row)
    assert "0.0038" in shown["table5.4.1"]  # the paper prints this excess of atanh at 1.0
    assert all(f"{loss:.4f}" in shown["table5.4.2"] for loss in tables.PUBLISHED_5_4_2.values())
    published = tables.PUBLISHED_5_4_3.values()
    assert all(f"{early:.4f} ({late:.4f})" in shown["table5.4.3"] for early, late in published)


def test_reports_name_a_single_image_once(bundled: ImageCodec, images: Path, tmp_path: Path) -> None:
    lab = laboratory(bundled, images, tmp_path)
    several = Study(lab)
    first, *_, last = (subject.path.stem for subject in several.subjects)
    assert f"({first} to {last}), their middle" in several.report("figureC.2", "", []).about
    lab.scale = replace(SCALE, images=1)
    assert f"1 image ({first}), its middle" in Study(lab).report("figureC.2", "", []).about


def test_rows_of_several_seeds_have_deviations_and_differences_paired_by_seed(
    bundled: ImageCodec, images: Path, tmp_path: Path
) -> None:
    lab = laboratory(bundled, images, tmp_path)
    alone = ARTIFACTS["table5.4.3"].make(lab)
    assert "One seed, which shows no order." in alone.table()
    lab.scale = replace(SCALE, seed=1, seeds=3)
    report = ARTIFACTS["table5.4.3"].make(lab)
    assert "seeds 1 to 3;" in report.about
    losses, differences = (block for block in report.blocks if isinstance(block, Table))
    study = Study(lab)
    keys: tuple[tuple[Method, int], ...] = (("ssl", 2), ("cosine", 2), ("ssl", 3))
    ends = {
        key: [study.run(0.01, replace(study.published(*key), seed=seed)).true_loss[-1] for seed in (1, 2, 3)] for key in keys
    }
    assert len(set(ends["ssl", 2])) == 3
    assert losses.rows[2][:2] == ["ssl", f"{mean(ends['ssl', 2]):.4f} ± {stdev(ends['ssl', 2]):.4f}"]
    for name, first, second in (("ssl - cosine, 2 classes", keys[0], keys[1]), ("3 - 2 classes, ssl", keys[2], keys[0])):
        gains = [a - b for a, b in zip(ends[first], ends[second], strict=True)]
        assert [name, f"{mean(gains):+.4f} ± {stdev(gains):.4f}"] in differences.rows
    assert differences.caption.endswith("Mean ± deviation over 3 seeds.")


def test_the_other_tables_pair_their_rows_too(bundled: ImageCodec, images: Path, tmp_path: Path) -> None:
    lab = laboratory(bundled, images, tmp_path)
    lab.scale = replace(SCALE, steps=2, seeds=2)
    (methods,) = tables.methods(Study(lab))
    (shapes,) = tables.interpolation(Study(lab))
    assert isinstance(methods, Table)
    assert isinstance(shapes, Table)
    ours, ssl = ([float(row[1].split()[0]) for row in methods.rows if row[0] == name] for name in ("ours, 2 steps", "ssl"))
    (difference,) = [float(row[4].split()[0]) for row in methods.rows if row[0] == "ours, 2 steps"]
    assert difference == pytest.approx(ours[0] - ssl[0], abs=2e-4)
    assert [row[2] for row in shapes.rows if row[0] == "1.33"] == ["-"]
    assert all("±" in row[2] for row in shapes.rows if row[0] != "1.33")


def test_the_plain_curve_is_interpolated_and_extrapolated() -> None:
    plain = [(0.1, 26.0), (0.4, 32.0)]
    assert figures._height(plain, 0.2) == pytest.approx(29.0)  # half way in the logarithm
    assert figures._height(plain, 0.05) == pytest.approx(23.0)
    assert figures._height(plain, 0.8) == pytest.approx(35.0)


def test_images_are_needed_and_must_be_large_enough(bundled: ImageCodec, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="images"):
        ARTIFACTS["methods"].make(laboratory(bundled, None, tmp_path))
    with pytest.raises(UsageError, match="kind 'noise'"):
        Study(laboratory(bundled, None, tmp_path, [Source("noise", "x")]))
    Image.new("RGB", (70, 40)).save(tmp_path / "flat.png")
    with pytest.raises(InputError, match="side below"):
        Study(laboratory(bundled, tmp_path, tmp_path / "out"))


# ------------------------------------------------------------------------------------------------------ rounding laws


def test_curves_of_figure_5_3_1() -> None:
    curves = {(curve.name, curve.integer): curve for curve in figures.two_class_curves()}
    assert len(curves) == 8
    # v = 0.5 is entry 500 of 1000: a half for the laws, sqrt(1/3) for atanh, which is not normalized.
    middles = {key: curve.probability[500] for key, curve in curves.items()}
    for (name, _), value in middles.items():
        assert value == pytest.approx(math.sqrt(1 / 3) if "atanh" in name else 0.5, abs=1e-6)


def test_curves_of_figure_5_3_2() -> None:
    curves = {(curve.name, curve.integer): curve for curve in figures.three_class_curves()}
    assert len(curves) == 9
    entry = min(range(1001), key=lambda i: abs(curves["r = 0.9, n = 1", 0].v[i] + 0.951))
    shares = [curves["r = 0.9, n = 1", k].probability[entry] for k in (-1, 0, 1)]
    # weights 1 - 0.9 d at v = -0.951: of -2 (d = 1.049), -1 (0.049) and 0 (0.951)
    weights = [1 - 0.9 * d for d in (1.049, 0.049, 0.951)]
    assert shares == pytest.approx([w / sum(weights) for w in weights], abs=1e-6)
