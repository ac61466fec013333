"""Evaluation, tables and figures: what they are made of, that work is found again, and bad requests."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latens.data.labeled import open_set
from latens.data.source import Source
from latens.data.squares import Squares, readable
from latens.errors import InputError, UnreadableInput, UsageError
from latens.experiments.lab import Lab
from latens.experiments.probes import Probe
from latens.experiments.report import Report, spread
from latens.inference.page import Figure, Table
from latens.settings import SettingsError, override
from latens.systems.parts import artifacts
from latens.systems.parts.artifacts import ARTIFACTS, TABLES
from latens.systems.parts.build import build
from latens.systems.parts.evaluate import PartsEvaluation, evaluate
from latens.systems.parts.figures import FIGURES
from latens.systems.parts.predict import Parts, load
from latens.systems.parts.published import TABLE_1, TABLE_2
from latens.systems.parts.reconstruction import frechet_distance, reconstruction_quality
from latens.systems.parts.runs import SCALES, Family, PartsLab, Scale, Score
from latens.systems.parts.variants import EVERY, FAMILY, Member, Variant, plain

SMALL = Scale(recipe="tiny", steps=1, images=48, epochs=1, seeds=1, scenes=48, shown=6)
NOTHING = PartsEvaluation(scenes=20)


def source(path: Path) -> list[Source]:
    return [Source("", str(path))]


def laboratory(data: Path | None, folder: Path, scale: Scale = SMALL, parts: Parts | None = None) -> PartsLab:
    """A laboratory as the command makes it; `parts` is the user's model."""

    def opened(place: Path | None) -> Parts:
        if place is None:
            assert parts is not None
            return parts
        return load(place, device="cpu")

    sources = [] if data is None else source(data)
    return Lab(build=build, open_model=opened, sources=sources, scale=scale, recipe="tiny", folder=folder, device="cpu")


def made(name: str, lab: PartsLab) -> Report:
    return ARTIFACTS[name].make(lab)


def test_frechet_distance_is_that_of_gaussians() -> None:
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(50, 4)), rng.normal(size=(60, 4)) @ rng.normal(size=(4, 4)) + 1
    covariances = np.cov(a.T), np.cov(b.T)
    exact = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(sum(covariances) - 2 * sqrtm(covariances[0] @ covariances[1]).real)
    assert frechet_distance(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(exact, rel=1e-6)
    assert frechet_distance(torch.from_numpy(a), torch.from_numpy(a)) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="two"):
        frechet_distance(torch.from_numpy(a[:1]), torch.from_numpy(b))


def test_quality_is_measured_on_the_pictures(parts: Parts, labelled: Path) -> None:
    squares = Squares(open_set(labelled), 16)
    found = reconstruction_quality(parts.model, squares, lambda x: x.mean((2, 3)))  # type: ignore[arg-type]
    assert 0 < found.psnr < 60
    assert found.frechet is not None
    assert found.mean_psnr > 10
    assert reconstruction_quality(parts.model, squares).frechet is None  # type: ignore[arg-type]


def test_evaluation_on_labeled_images_continues(
    parts: Parts, labelled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    options = PartsEvaluation(probes=("conv1-5", "knn"), epochs=1)
    report = evaluate(parts, source(labelled), options, tmp_path)
    assert [probe["probe"] for probe in report.facts["probes"]] == ["conv1-5", "knn"]
    assert "commonest class" in report.table()
    first = caplog.text.count("epoch")
    assert evaluate(parts, source(labelled), options, tmp_path).facts["probes"] == report.facts["probes"]
    assert caplog.text.count("epoch") == first


def test_a_long_probe_tells_its_progress_in_few_lines(parts: Parts, labelled: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    evaluate(parts, source(labelled), PartsEvaluation(probes=("conv1-5",), epochs=25), None)
    lines = [record.getMessage() for record in caplog.records if "epoch" in record.getMessage()]
    assert 9 <= len(lines) <= 14
    assert lines[-1].startswith("conv1-5: epoch 25 of 25, validation")


def test_probes_without_labels_are_refused_before_anything_is_measured(
    parts: Parts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    Image.new("RGB", (20, 20), (9, 99, 200)).save(tmp_path / "one.png")
    with pytest.raises(InputError, match="labeled"):
        evaluate(parts, source(tmp_path), PartsEvaluation(probes=("knn",)), None)
    assert not caplog.records
    report = evaluate(parts, source(tmp_path), NOTHING, None)  # a folder of one image
    assert report.facts["images"] == 1
    assert "probes" not in report.facts


def test_evaluation_without_data_uses_scenes(parts: Parts, vae: Parts) -> None:
    for model in (parts, vae):
        report = evaluate(model, [], NOTHING, None)
        assert len(report.facts["discovery"]["matches"]) == 4
        assert ("statistics" in report.facts) == (model is parts)
        assert "Mean IoU" in report.table()


def test_evaluation_of_plain_images_has_no_probes(parts: Parts, labelled: Path) -> None:
    report = evaluate(parts, source(labelled / "a"), NOTHING, None)
    assert "probes" not in report.facts
    assert report.facts["quality"]["psnr"] > 0
    with pytest.raises(UsageError, match="labeled"):
        evaluate(parts, [], PartsEvaluation(probes=("knn",)), None)
    with pytest.raises(UsageError, match="one data set"):
        evaluate(parts, source(labelled) * 2, NOTHING, None)
    with pytest.raises(SettingsError, match="conv7"):
        override(NOTHING, {"probes": "conv7"})


def test_a_finished_evaluation_prepares_no_probe(
    parts: Parts, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate(parts, source(labelled), PartsEvaluation(probes=("knn",)), tmp_path)
    monkeypatch.setattr("latens.systems.parts.evaluate.split_sets", None)
    again = evaluate(parts, source(labelled), PartsEvaluation(probes=("knn",)), tmp_path)
    assert again.facts["probes"] == first.facts["probes"]


def test_evaluation_leaves_out_what_cannot_be_read(
    parts: Parts, labelled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for split, broken in (("train", "a/0.png"), ("test", "b/1.png")):
        shutil.copytree(labelled, tmp_path / split)
        (tmp_path / split / broken).write_text("no picture")
    report = evaluate(parts, source(tmp_path), PartsEvaluation(probes=("conv1-5", "knn"), epochs=1), None)
    assert [probe["probe"] for probe in report.facts["probes"]] == ["conv1-5", "knn"]
    assert report.facts["quality"]["psnr"] > 0
    said = [record.getMessage() for record in caplog.records]
    for name in ("0.png", "1.png"):
        assert any("left out" in line and name in line for line in said)
    train, test = open_set(tmp_path, "train"), open_set(tmp_path, "test")
    assert len(readable(train, 16)) == len(train) - 1
    with pytest.raises(UnreadableInput, match=r"1\.png"):
        readable(test.subset([list(test.keys).index("b/1.png")]), 16)


def test_figures_leave_out_what_cannot_be_read(
    parts: Parts, labelled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    album = tmp_path / "album"
    album.mkdir()
    for name in ("1", "3"):
        Image.open(labelled / "b" / f"{name}.png").save(album / f"{name}.png")
    (album / "2.png").write_text("no picture")
    found = made("figure1", laboratory(album, tmp_path / "out", parts=parts))
    assert found.facts["images"] == ["1", "3"]
    said = [record.getMessage() for record in caplog.records]
    assert sum("left out" in line and "2.png" in line for line in said) == 1
    for name in ("1", "3"):
        (album / f"{name}.png").unlink()
    with pytest.raises(UnreadableInput, match=r"2\.png"):
        made("figure1", laboratory(album, tmp_path / "out", parts=parts))


def test_a_swap_of_one_image_is_refused_for_what_it_is(parts: Parts, labelled: Path, tmp_path: Path) -> None:
    (tmp_path / "album").mkdir()
    Image.open(labelled / "a" / "0.png").save(tmp_path / "album" / "0.png")
    with pytest.raises(InputError, match="two"):
        made("figure5", laboratory(tmp_path / "album", tmp_path, parts=parts))


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_made(name: str, parts: Parts, labelled: Path, tmp_path: Path) -> None:
    found = made(name, laboratory(labelled, tmp_path, parts=parts))
    assert any(isinstance(block, Figure) and block.image for block in found.blocks)


@pytest.mark.parametrize("name", ["table3", "table5", "table7", "discovery"])
def test_tables_are_made_and_runs_are_shared(
    name: str, labelled: Path, tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path_factory.getbasetemp() / "parts-tables"  # as a user runs them: into one folder
    caplog.set_level(logging.INFO)
    first = made(name, laboratory(labelled, out))
    begun = caplog.text.count("training ")
    assert made(name, laboratory(labelled, out)).to_dict() == first.to_dict()
    assert caplog.text.count("training ") == begun  # nothing is trained twice
    assert any(isinstance(block, Table) and block.rows for block in first.blocks)


def test_tables_1_and_2_have_every_row_with_the_papers_beside_it(labelled: Path, tmp_path: Path) -> None:
    asked: list[tuple[Variant, Probe]] = []
    ran: list[tuple[int, int]] = []

    class Known(Family):
        def run(self, variants, probes):  # type: ignore[no-untyped-def]
            ran.append((len(variants), len(probes)))

        def score(self, variant, probe):  # type: ignore[no-untyped-def]
            asked.append((variant, probe))
            return Score([0.5, 1.5], [2.0, 4.0])

    family = Known(laboratory(labelled, tmp_path))
    (block,) = artifacts.table1(family)
    assert isinstance(block, Table)
    assert [row[0] for row in block.rows] == list(EVERY)
    assert block.rows[0][1:6] == ["1.00 ± 0.71"] * 5
    assert len(asked) == 5 * len(EVERY)
    assert block.rows[0][-3:] == ["44.12", "39.65", "28.57"]
    assert block.rows[-1][-3:] == ["-"] * 3
    (block,) = artifacts.table2(family)
    assert isinstance(block, Table)
    assert block.rows[1] == ["PatchVAE", "1.00 ± 0.71", "3.00 ± 1.41", "47.01", "71.71"]
    assert asked[-1][0](family.base).model.blocks == 4
    assert ran == [(len(EVERY), 5), (len(TABLE_2), 1)]


def test_rows_and_probes_may_be_made_one_by_one(labelled: Path, tmp_path: Path) -> None:
    def rows(*names: Member) -> dict[str, list[str]]:
        scale = replace(SMALL, rows=names, probes=("knn",))
        (block,) = made("table1", laboratory(labelled, tmp_path, scale)).blocks
        assert isinstance(block, Table)
        return {row[0]: row[1:6] for row in block.rows}

    first = rows("PatchVAE")
    assert first.pop("PatchVAE")[:4] == ["-"] * 4
    assert set(map(tuple, first.values())) == {("-",) * 5}
    second = rows("random", "PatchVAE")
    assert [name for name, cells in second.items() if cells[4] != "-"] == ["PatchVAE", "random"]
    assert not list((tmp_path / "runs").glob("*/checkpoints"))


def test_results_of_other_images_are_not_taken_for_these(parts: Parts, tmp_path: Path) -> None:
    """Two packs of one name with the same images under other labels, one after the other into one folder."""
    rng = np.random.default_rng(0)
    pictures, labels = rng.integers(0, 255, (40, 16, 16, 3), dtype=np.uint8), np.arange(40) % 2
    pictures[labels == 1] //= 8
    for folder, order in (("a", labels), ("b", rng.permutation(labels))):
        (tmp_path / folder).mkdir()
        pack = {"x_train": pictures, "y_train": order, "x_test": pictures[:20], "y_test": labels[:20]}
        np.savez(tmp_path / folder / "mine.npz", **pack)
    packs = [tmp_path / folder / "mine.npz" for folder in "ab"]
    options = PartsEvaluation(probes=("knn",))
    found = [evaluate(parts, source(pack), options, tmp_path / "out").facts["probes"][0]["test"] for pack in packs]
    assert found[0] == 100
    assert found[1] < 100
    first, second = (Family(laboratory(pack, tmp_path)).key(plain, 0, "knn") for pack in packs)
    assert first != second


def test_a_shorter_run_ends_at_the_temperature_of_the_recipe(labelled: Path, tmp_path: Path) -> None:
    family = Family(laboratory(labelled, tmp_path, replace(SCALES["cpu"], steps=300)))
    base, short = family.base, family.config(plain, 0)
    assert short.run.steps == 300
    assert short.objective.annealing.rate * 300 == pytest.approx(base.objective.annealing.rate * base.run.steps)


def test_published_rows_are_members_of_the_family() -> None:
    for rows in TABLE_1.values():
        assert set(rows) - {"supervised"} == set(FAMILY)
    assert set(TABLE_2) < set(EVERY)
    assert artifacts.paper_column("Indoor-67") == "Indoor-67"
    assert artifacts.paper_column("cifar100_train") == "CIFAR-100"
    assert artifacts.paper_column("tin32") == "CIFAR-100"
    assert spread([1.0, 3.0]) == "2.00 ± 1.41"


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="labeled images"):
        made("table1", laboratory(None, tmp_path))
    odd = (("seeds", "0"), ("epochs", "0"), ("steps", "-5"), ("images", "-40"), ("scenes", "0"), ("rows", "VAE"))
    for setting, value in (*odd, ("probes", "conv7")):
        with pytest.raises(SettingsError, match=setting):
            override(SMALL, {setting: value})
    assert set(ARTIFACTS) == {*TABLES, *FIGURES}
