"""Tables and figures of chapter 5: what they are made of, that runs are shared and found again, and bad requests."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latens.codes.annealing import Refine
from latens.codes.refine import refine
from latens.errors import InputError, UsageError
from latens.inference.page import Figure, Table
from latens.systems.image_codec import curves
from latens.systems.image_codec.experiments import RUNS, Laboratory, Scale, mean_history
from latens.systems.image_codec.predict import ImageCodec
from latens.systems.image_codec.refinement import lambda_at, quality_at
from latens.systems.image_codec.reproduce import MEASURED, NAMES, reproduce
from latens.systems.image_codec.thesis import TABLE_5_4_1, TABLE_5_4_2, TABLE_5_4_3

SCALE = Scale(pictures=2, crop=64, steps=6, rate_steps=4, measure_every=2)
SMALL = {"steps": "6", "rate_steps": "4", "measure_every": "2"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures, of which experiments here use the first two."""
    folder = tmp_path_factory.mktemp("pictures")
    row, column = np.mgrid[0:80, 0:100]
    for number in range(3):
        waves = np.stack([np.sin((row * (number + 1) + column * k) / 13) for k in (1, 2, 3)], axis=-1)
        Image.fromarray((120 + 80 * waves).astype(np.uint8)).save(folder / f"{number}.png")
    return folder


def laboratory(codec: ImageCodec, pictures: Path, out: Path, said: list[str]) -> Laboratory:
    return Laboratory(codec, pictures, SCALE, out, said.append)


def test_a_run_is_the_refinement_of_its_pictures(bundled: ImageCodec, pictures: Path, tmp_path: Path) -> None:
    lab = laboratory(bundled, pictures, tmp_path, [])
    settings = lab.thesis("ssl")
    history = lab.run(0.01, settings)
    assert history.steps == [0, 2, 4, 6]
    losses = []
    for subject in lab.subjects:
        found = refine(
            bundled.model,
            subject.image[None],
            0.01,
            quality=quality_at(bundled, 0.01),
            settings=settings,
            precision=torch.bfloat16 if bundled.precision == "bfloat16" else torch.float32,
        )
        losses.append([trace.true_loss for trace in found.history])
    assert history.true_loss == pytest.approx(np.mean(losses, axis=0), rel=2e-3)  # bfloat16 sums depend on the batch
    expected = np.array(history.bpp) + 0.01 * 255**2 * np.mean([10 ** (-db / 10) for db in history.psnr])
    assert history.true_loss == pytest.approx(expected, rel=0.2)


def test_runs_are_found_again_and_changed_settings_are_new(bundled: ImageCodec, pictures: Path, tmp_path: Path) -> None:
    said: list[str] = []
    first = laboratory(bundled, pictures, tmp_path, said).run(0.01, Refine.thesis("ssl", steps=2))
    again = laboratory(bundled, pictures, tmp_path, said).run(0.01, Refine.thesis("ssl", steps=2))
    assert len(said) == 1
    assert again.true_loss == first.true_loss
    laboratory(bundled, pictures, tmp_path, said).run(0.01, Refine.thesis("ssl", steps=2, seed=1))
    laboratory(bundled, pictures, tmp_path, said).run(0.01, Refine.thesis("ssl", steps=2), target=0.02)
    assert len(said) == 3
    assert len((tmp_path / RUNS).read_text().split()) > 0


def test_means_are_over_pictures_and_stop_with_the_shortest() -> None:
    one = [[0, 0.0, math.nan, 1.0, 1.0, 30.0, 0.01], [2, 1.0, 1.0, 4.0, 1.0, 30.0, 0.01], [4, 2.0, 1.0, 9.0, 1.0, 30.0, 0.01]]
    three = [[0, 0.0, math.nan, 5.0, 2.0, 34.0, 0.01], [2, 3.0, 2.0, 8.0, 2.0, 34.0, 0.01]]
    mean = mean_history([one, three], [1, 3])
    assert mean.steps == [0, 2]
    assert mean.true_loss == [4.0, 7.0]
    assert mean.psnr == [33.0, 33.0]
    assert math.isnan(mean.loss[0])
    assert mean.seconds == [0.0, 2.5]
    assert (mean.at(1), mean.at(2), mean.at(99)) == (0, 1, 1)


def test_quality_and_lambda_are_inverse(bundled: ImageCodec) -> None:
    for weight in (0.001, 0.0025, 0.01, 0.04):
        assert lambda_at(bundled, round(quality_at(bundled, weight) * 256)) == pytest.approx(weight, rel=0.002)


@pytest.mark.parametrize("name", NAMES)
def test_every_table_and_figure_is_made(name: str, bundled: ImageCodec, pictures: Path, tmp_path_factory) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path_factory.getbasetemp() / "shared-runs"  # as a user runs them: into one folder
    found = reproduce(name, bundled, pictures, out, recipe="tiny", settings=SMALL)
    assert name in found.table()
    saved = json.loads((out / f"{name}.json").read_text())
    assert len(saved["tables"]) == sum(isinstance(block, Table) for block in found.blocks)
    figures = [block for block in found.blocks if isinstance(block, Figure)]
    if figures:
        with Image.open(out / f"{name}.png") as image:
            assert min(image.size) > 300
    assert name in (out / f"{name}.html").read_text()


def test_thesis_numbers_stand_beside_ours(bundled: ImageCodec, pictures: Path, tmp_path_factory) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path_factory.getbasetemp() / "shared-runs"
    tables = {
        name: reproduce(name, bundled, pictures, out, recipe="tiny", settings=SMALL).table()
        for name in ("table5.4.1", "table5.4.2", "table5.4.3")
    }
    assert all(f"{loss:.4f}" in tables["table5.4.1"] for row in TABLE_5_4_1.values() for loss in row)
    assert "0.0038" in tables["table5.4.1"]  # 003 prints this difference of atanh at 1.0 itself
    assert all(f"{loss:.4f}" in tables["table5.4.2"] for loss in TABLE_5_4_2.values())
    assert all(f"{early:.4f} ({late:.4f})" in tables["table5.4.3"] for early, late in TABLE_5_4_3.values())


def test_points_below_the_plain_curve_are_told_apart() -> None:
    plain = [(0.1, 26.0), (0.4, 32.0)]
    assert curves._height(plain, 0.2) == pytest.approx(29.0)  # half way in the logarithm
    assert curves._height(plain, 0.05) == pytest.approx(23.0)
    assert curves._height(plain, 0.8) == pytest.approx(35.0)


@pytest.mark.parametrize(
    ("name", "recipe", "settings"),
    [("table9", "tiny", {}), ("table5.4.1", "huge", {}), ("table5.4.1", "tiny", {"stepz": "4"})],
)
def test_unknown_names_are_refused(
    name: str, recipe: str, settings: dict[str, str], bundled: ImageCodec, tmp_path: Path
) -> None:
    with pytest.raises(UsageError):
        reproduce(name, bundled, tmp_path, tmp_path, recipe=recipe, settings=settings)


def test_pictures_are_needed_and_must_be_large_enough(bundled: ImageCodec, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pictures"):
        reproduce(next(iter(MEASURED)), bundled, None, tmp_path)
    Image.new("RGB", (70, 40)).save(tmp_path / "flat.png")
    with pytest.raises(InputError, match="smaller"):
        reproduce("table5.4.1", bundled, tmp_path, tmp_path / "out", recipe="tiny")
