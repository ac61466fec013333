"""The evaluation on fields, from label maps to its report."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from latens.data.source import Source
from latens.systems.amodal.cells import evaluate as module
from latens.systems.amodal.cells.predict import CellSegmenter
from latens.systems.amodal.cells.scores import Fit
from latens.systems.amodal.evaluate import AmodalEvaluation, evaluate
from latens.systems.amodal.predict import load


def write_discs(folder: Path, count: int) -> None:
    """Images of nine blurred discs; every image is a field."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:128, 0:140]
    for number in range(count):
        labels = np.zeros((128, 140), dtype=np.uint16)
        for value in range(9):
            middle = np.array([24 + 40 * (value // 3), 26 + 42 * (value % 3)]) + rng.uniform(-4, 4, 2)
            labels[(y - middle[0]) ** 2 + (x - middle[1]) ** 2 < rng.uniform(9, 12) ** 2] = value + 1
        light = 25 + 130 * cv2.GaussianBlur((labels > 0).astype(np.float32), (0, 0), 1.0) + rng.normal(0, 5, labels.shape)
        Image.fromarray(np.clip(light, 0, 255).astype(np.uint8)).save(folder / f"n{number}_img.png")
        Image.fromarray(labels).save(folder / f"n{number}_lab.png")


def test_the_bundled_model_on_discs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bright discs are easy: the model and the baseline find them, and empty images have no confident object."""
    write_discs(tmp_path, 8)
    monkeypatch.setattr(module, "EMPTY", 3)
    monkeypatch.setattr(module, "COMPOSED", 3)
    segmenter = load("cells", device="cpu")
    out = tmp_path / "out"
    out.mkdir()
    report = evaluate(segmenter, [Source("labels", str(tmp_path))], AmodalEvaluation(), out)
    measures = report.facts["measures"]
    assert measures["fluorescent, cells"]["f1_50"] > 0.95
    assert measures["fluorescent, cells"]["fields"] == 2
    assert set(measures) == {f"fluorescent, {name}" for name in ("cells", module.CONTROL, module.BASELINE)}
    images, warned, filled, objects = report.facts["negatives"]["simulated empty slides and noise"]
    assert (images, filled, objects) == (3, 0, 0)
    assert warned == 3
    assert len(list(out.glob("*.png"))) == 2


def test_scores_of_an_unknown_image_are_small(tmp_path: Path) -> None:
    """The probability that the image is known is a factor of every score."""
    write_discs(tmp_path, 1)
    segmenter = load("cells", device="cpu")
    assert isinstance(segmenter, CellSegmenter)
    before = segmenter.segment(tmp_path / "n0_img.png")
    assert before.known > 0.9
    assert not before.warnings
    segmenter.fit = Fit(segmenter.fit.by_kind, (-3.0, *[0.0] * 7))
    assert len(segmenter.segment(tmp_path / "n0_img.png")) == 0
    found = segmenter.segment(tmp_path / "n0_img.png", least_score=0.02)
    assert found.known == pytest.approx(1 / (1 + np.exp(3)))
    assert found.scores[:9] == pytest.approx(before.scores[:9] / before.known * found.known, rel=1e-4)
    assert found.facts["known"] == pytest.approx(found.known, abs=1e-4)
    assert "multiplied by 0.047" in found.warnings[0]
