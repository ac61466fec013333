"""Evaluation: measurements on every kind of data, reuse of finished probes, errors."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latens.data.labeled import open_labeled
from latens.data.source import Source
from latens.data.squares import Squares
from latens.errors import InputError, UsageError
from latens.experiments.probes import Probe, ProbeConfig
from latens.experiments.report import Report
from latens.settings import SettingsError, override
from latens.systems.parts.evaluate import PartsEvaluation, evaluate, frechet_distance, reconstruction_quality
from latens.systems.parts.predict import Parts
from latens.systems.parts.system import SYSTEM


def measured(
    parts: Parts, data: Path | None, probes: tuple[Probe, ...] | None = None, folder: Path | None = None, epochs: int = 1
) -> Report:
    options = PartsEvaluation(probes=probes, schedule=ProbeConfig(epochs=epochs, batch=8), scenes=24)
    return evaluate(parts, [] if data is None else [Source("", str(data))], options, folder)


def test_frechet_distance_of_gaussians_with_diagonal_covariances() -> None:
    """Two rows per axis at +-s give the covariance diag(2 s^2 / (n - 1)); the distance is that of the deviations."""
    scales = np.array([1.0, 2.0]), np.array([3.0, 0.5])
    a, b = (np.concatenate([np.diag(s), -np.diag(s)]) for s in scales)
    deviations = [np.sqrt(2 * s**2 / 3) for s in scales]
    assert frechet_distance(a, b + 5) == pytest.approx(2 * 25 + np.square(deviations[0] - deviations[1]).sum(), rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="two"):
        frechet_distance(a[:1], b)


def test_reconstruction_quality(parts: Parts, labeled_source: Source) -> None:
    squares = Squares(open_labeled(labeled_source), 16)
    found = reconstruction_quality(parts.model, squares, lambda x: x.mean((2, 3)))
    assert 0 < found.psnr < 60
    assert found.frechet is not None
    assert found.mean_psnr > 10
    assert reconstruction_quality(parts.model, squares).frechet is None


def test_an_interrupted_evaluation_continues(
    parts: Parts, labeled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    first = measured(parts, labeled, ("conv1-5", "knn"), tmp_path)
    assert [probe["probe"] for probe in first.facts["probes"]] == ["conv1-5", "knn"]
    assert "most frequent class" in first.table()
    json.dumps(first.to_dict())
    trained = caplog.text.count("epoch")
    monkeypatch.setattr("latens.systems.parts.evaluate.split_sets", None)  # reads every image
    again = measured(parts, labeled, ("conv1-5", "knn"), tmp_path)
    assert again.facts == first.facts
    assert caplog.text.count("epoch") == trained


def test_a_long_probe_logs_few_lines(parts: Parts, labeled: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    measured(parts, labeled, ("conv1-5",), epochs=25)
    lines = [record.getMessage() for record in caplog.records if "epoch" in record.getMessage()]
    assert 9 <= len(lines) <= 14
    assert lines[-1].startswith("conv1-5: epoch 25 of 25, validation")


def test_probes_without_labels_are_refused_first(parts: Parts, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Image.new("RGB", (20, 20), (9, 99, 200)).save(tmp_path / "one.png")
    with pytest.raises(InputError, match="labeled images"):
        measured(parts, tmp_path, ("knn",))
    assert caplog.text == ""
    facts = measured(parts, tmp_path).facts  # a folder of one image
    assert (facts["images"], facts["probes"]) == (1, [])


def test_evaluation_without_data_uses_scenes(parts: Parts, vae: Parts) -> None:
    for model in (parts, vae):
        report = measured(model, None)
        assert len(report.facts["discovery"]["matches"]) == 4
        assert (report.facts["statistics"] is None) == (model is vae)
        assert "Mean IoU" in report.table()


def test_default_probes_need_labels(parts: Parts, labeled: Path) -> None:
    assert [probe["probe"] for probe in measured(parts, labeled).facts["probes"]] == ["linear", "knn"]
    plain = measured(parts, labeled / "a").facts
    assert plain["probes"] == []
    assert plain["quality"] is not None


def test_invalid_options_are_refused(parts: Parts) -> None:
    options = SYSTEM.evaluation.options
    assert override(options, {"probes": "linear,knn"}).probes == ("linear", "knn")
    with pytest.raises(SettingsError, match="conv7"):
        override(options, {"probes": "conv7"})
    with pytest.raises(UsageError, match="labeled images"):
        measured(parts, None, ("knn",))


def test_unreadable_images_are_skipped_and_reported_once(
    parts: Parts, labeled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for split, broken in (("train", "a/0.png"), ("test", "b/1.png")):
        shutil.copytree(labeled, tmp_path / split)
        (tmp_path / split / broken).write_text("no image")
    report = measured(parts, tmp_path, ("conv1-5", "knn"))
    assert len(report.facts["probes"]) == 2
    assert len(report.failures) == 2
    assert report.exit_status
    for name in ("0.png", "1.png"):
        assert sum("left out" in record.getMessage() and name in record.getMessage() for record in caplog.records) == 1


def test_results_of_other_labels_are_not_reused(parts: Parts, tmp_path: Path) -> None:
    """Two packs of the same name and images with different labels, evaluated into one folder."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (40, 16, 16, 3), dtype=np.uint8), np.arange(40) % 2
    images[labels == 1] //= 8
    found = []
    for folder, order in (("a", labels), ("b", rng.permutation(labels))):
        (tmp_path / folder).mkdir()
        pack = tmp_path / folder / "mine.npz"
        np.savez(pack, x_train=images, y_train=order, x_test=images[:20], y_test=labels[:20])
        found.append(measured(parts, pack, ("knn",), tmp_path / "out").facts["probes"][0]["test"])
    assert found[0] == 100
    assert found[1] < 100


def test_a_model_without_parts_has_fewer_cases(parts: Parts, vae: Parts) -> None:
    assert [case.name for case in SYSTEM.cases(parts) if not case.peer][-1] == "training step"
    assert {case.name for case in SYSTEM.cases(vae)} < {case.name for case in SYSTEM.cases(parts)}
