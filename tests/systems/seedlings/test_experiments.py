"""Folds, sequences of days, attention maps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from latens.data.source import Source
from latens.errors import UsageError
from latens.experiments.lab import ExperimentRunner
from latens.systems.seedlings.chapter_figures import heat_map, roc
from latens.systems.seedlings.config import GraderConfig
from latens.systems.seedlings.crops import split
from latens.systems.seedlings.experiments import grad_cam, sequence
from latens.systems.seedlings.networks import grader
from latens.systems.seedlings.predict import SeedlingGrader, load
from latens.systems.seedlings.system import build
from latens.systems.seedlings.trials import SCALES, ChapterScale, Measured, about

from .test_training import drawn


@pytest.mark.parametrize("sources", [[], [Source("simulated", "thesis")]])
def test_a_report_names_the_number_of_simulated_trays(sources: list[Source], tmp_path: Path) -> None:
    lab = ExperimentRunner[SeedlingGrader, ChapterScale](
        build=build,
        open_model=lambda place: load(place or "seedlings"),
        sources=sources,
        scale=replace(SCALES["cpu"], trays=24, runs=1),
        recipe="cpu",
        folder=tmp_path,
    )
    assert about(lab).startswith("24 simulated trays (thesis); split by tray; 6 epochs, 1 run, ")


def test_five_folds_test_every_plant_once() -> None:
    crops = drawn(4, 25, (4,))
    tested = np.concatenate([split(crops, "plant", 0.6, 0.2, 0, fold)["test"] for fold in range(5)])
    assert sorted(tested) == list(range(crops.size))
    other = split(crops, "plant", 0.6, 0.2, 1)["test"]
    assert not np.array_equal(other, split(crops, "plant", 0.6, 0.2, 0)["test"])


def test_two_noisy_days_are_better_than_one() -> None:
    rng = np.random.default_rng(0)
    label = (rng.random(4000) < 0.8).astype(np.int64)
    days = [1 / (1 + np.exp(-(2 * label - 1 + 1.5 * rng.standard_normal(4000)))) for _ in range(2)]
    half = np.arange(4000) < 2000
    validation, test = ([Measured(label[side], label[side], one[side], one[side]) for one in days] for side in (half, ~half))
    joined = sequence(validation, test)
    assert joined.auc > max(one.auc for one in test) + 0.02


def test_attention_maps() -> None:
    network = grader(GraderConfig(size=32, width=4, dropout=0.0), 2).eval()
    heat = grad_cam(network, torch.rand(2, 1, 32, 32) - 0.5, torch.tensor([6, 6]), 1)
    assert heat.shape == (2, 32, 32)
    assert float(heat.min()) >= 0
    assert float(heat.max()) <= 1
    flat = grader(GraderConfig(backbone="logistic"), 2)
    with pytest.raises(UsageError, match="attention maps need"):
        grad_cam(flat, torch.zeros(1, 1, 64, 64), torch.tensor([6]), 1)


def test_plots() -> None:
    assert heat_map([[0.9, 0.8], [0.7, 0.95]], (5, 6)).startswith(b"\x89PNG")
    false, true = roc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
    assert np.trapezoid(true, false) == pytest.approx(0.75)  # the example of scikit-learn's documentation
    assert roc(np.array([0.1, 0.2]), np.array([1, 1])) == ([0.0, 1.0], [0.0, 1.0])
