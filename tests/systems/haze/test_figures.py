"""Figures 2 to 5 with the bundled methods: rows, measurements, and images that cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latens.data.source import Source
from latens.errors import InputError
from latens.experiments.lab import ExperimentRunner
from latens.systems.haze import figures
from latens.systems.haze.artifacts import SCALES, HazeLab
from latens.systems.haze.predict import load
from latens.systems.haze.system import build

TRAININGS = {"dehazenet": "bundled", "mmd": "bundled", "physical": "bundled"}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HazeLab:
    monkeypatch.setattr(figures, "with_all_methods", lambda lab: (lab.loaded, TRAININGS))  # with the bundled models
    return lab_of(tmp_path, [])


def lab_of(folder: Path, sources: list[Source]) -> HazeLab:
    haze = load("haze", device="cpu", threads=1)
    return ExperimentRunner(
        build=build, open_model=lambda place: haze, sources=sources, scale=SCALES["tiny"], recipe="tiny", folder=folder
    )


def test_removal_and_synthesis_are_measured_against_the_truth(lab: HazeLab) -> None:
    removed, hazy = figures.figure2(lab), figures.figure5(lab)
    titles = [row["image"] for row in removed.rows if row["scene"] == removed.rows[0]["scene"]]
    assert titles == ["hazy", "He", "Meng", "DehazeNet", "MMD-VAE", "physical"]
    assert {row["scene"] for row in removed.rows} == {row["scene"] for row in hazy.rows}
    assert "MMD-VAE  " in removed.table()
    assert removed.facts["training"] == TRAININGS
    assert set(hazy.facts["training"]) == {"mmd", "physical"}  # DehazeNet adds no haze
    by_title = {row["image"]: row["psnr"] for row in removed.rows[:6]}
    assert by_title["physical"] > by_title["hazy"]


def test_photographs_that_cannot_be_read_are_left_out(lab: HazeLab, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (120, 150, 3), dtype=np.uint8)
    place = tmp_path / "photos"
    place.mkdir()
    Image.fromarray(pixels).save(place / "a.png")
    Image.fromarray(pixels).save(place / "a_depth.png")
    (place / "b.png").write_bytes(b"no image")
    made = figures.figure3(lab_of(tmp_path, [Source("", str(place))]))
    assert [row["image"] for row in made.rows] == ["a.png"]
    assert len(made.failures) == 1
    assert made.exit_status == InputError.exit_status


def test_the_detail_is_the_center() -> None:
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[37:62, 75:125] = 255
    crop = figures.detail(pixels)
    assert crop.shape == (25, 50, 3)
    assert crop.min() == 255
