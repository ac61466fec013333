"""Rows of the tables: equal CPU time, published numbers with the right data, outliers through the same JPEG step."""

from __future__ import annotations

import io
import json
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pytest
from PIL import Image

from latens.data.source import Source
from latens.inference.page import Table
from latens.reproduction import reproduce
from latens.systems.flow.config import DenseBlocks, ImageFlow
from latens.systems.flow.cpu_time import steps_within
from latens.systems.flow.drawing import CELL, MARGIN, colored, heat_map
from latens.systems.flow.original import published_for, stored_as_jpeg
from latens.systems.flow.outliers import as_typical, through_jpeg
from latens.systems.flow.tables import TABLES
from latens.systems.flow.trials import (
    FULL_GROWTH,
    ImageScale,
    dense,
    full_training,
    hybrid_training,
    image_training,
)


def arrays(path: Path, size: int = 32, classes: int = 10) -> Source:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2 * classes, size, size, 3), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(2 * classes) % classes)
    return Source("", str(path))


def test_steps_fill_the_time_and_are_a_multiple_of_the_validations() -> None:
    assert steps_within(2, 0.25, 4) == 480
    assert steps_within(1, 0.7, 4) == 84  # 85.7, down to a multiple of four
    assert steps_within(0.001, 1, 4) == 8
    assert steps_within(0.001, 1, 3) == 9


def test_differences_of_simulated_points_are_paired_by_seed(tmp_path: Path) -> None:
    settings = {"seeds": "2", "rows": "i-DenseNet,i-DenseNet+LC"}
    (report,) = reproduce("flow/table4.4.2", recipe="tiny", out=tmp_path, settings=settings, device="cpu")
    found, differences = (block for block in report.blocks if isinstance(block, Table))
    assert [row[0] for row in differences.rows] == ["i-DenseNet+LC - i-DenseNet"]
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines() if line]
    excess = [line["value"][1] for line in lines if line["key"]["what"] == "toy"]  # seeds of the first row, then of the second
    gains = [excess[2] - excess[0], excess[3] - excess[1]]
    assert differences.rows[0][1] == f"{mean(gains):+.3f} ± {stdev(gains):.3f}"
    assert found.rows[0][3] == f"{mean(excess[:2]):.3f} ± {stdev(excess[:2]):.3f}"
    assert "Mean ± deviation over 2 seeds" in differences.caption
    settings = {"rows": "i-DenseNet"}
    (alone,) = reproduce("flow/table4.4.2", recipe="tiny", out=tmp_path, settings=settings, device="cpu", force=True)
    assert len(alone.blocks) == 1


def test_rows_of_equal_time_are_trained_once(album: Path, tmp_path: Path) -> None:
    settings = {"minutes": "0.004", "checks": "2", "images": "4", "rows": "Residual Flow,i-DenseNet"}
    tables = [
        next(
            reproduce("flow/table4.4.3", recipe="tiny", data=[album], out=tmp_path, settings=settings, force=True, device="cpu")
        )
        for _ in range(2)
    ]
    assert tables[0].to_dict() == tables[1].to_dict()
    runs = list((tmp_path / "runs").glob("*/config.json"))
    assert len(runs) == 2
    configs = [json.loads(path.read_text()) for path in runs]
    steps = [config["run"]["steps"] for config in configs]
    assert all(count % 2 == 0 and count >= 8 for count in steps)
    assert [config["run"]["validate_every"] for config in configs] == [count // 2 for count in steps]
    assert [config["optim"]["warmup"] for config in configs] == [min(5, count // 5) for count in steps]
    printed = tables[0].table().splitlines()
    for name in ("Residual Flow ", "i-DenseNet "):
        cells = next(line for line in printed if line.startswith(name)).split("  ")
        assert any(cell.strip() == str(count) for cell in cells for count in steps)


def test_a_short_run_warms_up_for_a_fifth_of_its_steps() -> None:
    short, usual = (image_training(ImageScale(steps=steps, checks=2), dense()) for steps in (60, 4000))
    assert (short.run.steps, short.run.validate_every, short.optim.warmup) == (60, 30, 12)
    assert (usual.run.validate_every, usual.optim.warmup) == (2000, 100)


def test_learned_weights_are_shown_with_the_length_of_their_training(album: Path, tmp_path: Path) -> None:
    settings = {"steps": "1", "checks": "1"}
    (made,) = reproduce("flow/figureB.4", recipe="tiny", data=[album], out=tmp_path, settings=settings, device="cpu")
    claim = made.blocks[-1]
    assert isinstance(claim, Table)
    assert claim.caption == "After 1 step from equal weights of 0.707. One seed, which shows no order."


PAPER = ImageScale(size="paper", steps=156_250)


def test_small_models_at_paper_scale_have_the_sizes_and_the_schedule_of_the_thesis() -> None:
    small = image_training(PAPER, dense())
    assert isinstance(small.model, ImageFlow)
    assert (small.model.scales, small.run.steps, small.data.batch) == ((4, 4, 4), 200 * 50_000 // 64, 64)
    assert (small.optim.kind, small.optim.lr, small.optim.decay_share) == ("adam", 1e-3, 0.0)
    assert small.objective.validation_terms == 20
    assert small.objective.equal_share * small.run.steps == pytest.approx(25 * 50_000 / 64)  # epochs of 50,000 images


def test_full_and_hybrid_models_at_paper_scale_have_those_of_the_thesis() -> None:
    cifar = full_training(PAPER, dense(growth=FULL_GROWTH), Source("cifar10", "x"))
    large = full_training(PAPER, dense(growth=FULL_GROWTH), Source("imagenet32", "x"))
    assert isinstance(cifar.model, ImageFlow)
    assert isinstance(large.model, ImageFlow)
    assert cifar.model.block == large.model.block == DenseBlocks(growth=172, depth=3, activation="clipswish")
    assert (cifar.model.scales, cifar.run.steps) == ((16, 16, 16), 1000 * (50_000 // 64))
    assert (large.model.scales, large.run.steps) == ((32, 32, 32), 20 * (1_281_167 // 64))
    hybrid = hybrid_training(TABLES["table4.4.5"].scales["paper"], dense(growth=FULL_GROWTH), "1/D", 10)
    assert isinstance(hybrid.model, ImageFlow)
    assert (hybrid.model.scales, hybrid.model.input, hybrid.run.steps) == ((16, 16, 16), "standardize", 400 * 50_000 // 64)
    tiny = ImageScale(size="tiny")
    assert full_training(tiny, dense(growth=FULL_GROWTH), Source("cifar10", "x")) == image_training(tiny, dense())


def test_published_numbers_appear_only_for_the_original_images(tmp_path: Path, album: Path) -> None:
    published = {"row": "3.37"}
    assert published_for(arrays(tmp_path / "ten.npz"), published) == published
    assert published_for(arrays(tmp_path / "two.npz", classes=2), published) == {}
    assert published_for(arrays(tmp_path / "small.npz", size=8), published) == {}
    assert published_for(Source("", str(album)), published) == {}


@pytest.mark.parametrize(("kind", "expected"), [("JPEG", True), ("PNG", False)])
def test_jpeg_packs_are_detected_by_their_bytes(kind: str, expected: bool, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, kind)
    blob = np.frombuffer(buffer.getvalue(), np.uint8)
    np.savez(tmp_path / "pack.npz", jpeg=blob, offsets=np.array([0, len(blob)]), labels=np.array([0]))
    assert stored_as_jpeg(Source("", str(tmp_path / "pack.npz"))) is expected
    assert stored_as_jpeg(Source("", str(tmp_path))) is expected


def test_outliers_take_the_jpeg_step_of_the_typical_images() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(as_typical([image], 3, 0)[0], image.transpose(2, 0, 1))
    stepped = as_typical([image], 3, 75)[0]
    np.testing.assert_array_equal(stepped, through_jpeg(image, 75).transpose(2, 0, 1))
    assert not np.array_equal(stepped, image.transpose(2, 0, 1))


def test_a_heat_map_shows_every_value_in_its_cell() -> None:
    values = np.array([[0.0, 0.5, 1.0], [0.2, 0.4, 0.9]])
    sheet = heat_map(values, "ab", ["1.1", "1.2", "FC.1"])
    assert sheet.shape == (MARGIN // 2 + 2 * CELL, MARGIN + 3 * CELL, 3)
    corners = sheet[MARGIN // 2 :: CELL, MARGIN::CELL]
    np.testing.assert_array_equal(corners, colored(values))
