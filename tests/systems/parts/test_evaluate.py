"""Evaluation, tables and figures: what they are made of, that work is found again, and bad requests."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from latens.systems.parts.experiments import SCALES, Laboratory, Score, spread
from latens.systems.parts.probes import ProbeConfig
from latens.systems.parts.quality import frechet_distance, reconstruction_quality
from latens.systems.parts.reproduce import FIGURES, NAMES, TABLES, reproduce, train_and_reproduce
from latens.systems.parts.sources import open_set
from PIL import Image

from latens.errors import InputError, UnreadableInput, UsageError
from latens.experiments.journal import claim
from latens.inference.page import Figure, Table
from latens.systems.parts import bench, tables
from latens.systems.parts.dataset import Squares, readable
from latens.systems.parts.evaluate import evaluate
from latens.systems.parts.predict import Parts
from latens.systems.parts.published import TABLE_1, TABLE_2
from latens.systems.parts.variants import EVERY, FAMILY
from latens.training.config import override

SMALL = {"steps": "1", "epochs": "1", "seeds": "1"}


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


def test_evaluation_on_labelled_pictures_goes_on(parts: Parts, labelled: Path, tmp_path: Path) -> None:
    said: list[str] = []
    schedule = ProbeConfig(epochs=1, batch=8)
    report = evaluate(parts, labelled, tmp_path, probes=["conv1-5", "knn"], schedule=schedule, progress=said.append)
    assert [probe.probe for probe in report.probes] == ["conv1-5", "knn"]
    saved = json.loads((tmp_path / "evaluation.json").read_text())
    assert saved["probes"][1]["test"] == report.probes[1].test
    assert "commonest class" in report.table()
    assert (tmp_path / "index.html").is_file()
    first = sum("epoch" in line for line in said)
    again = evaluate(parts, labelled, tmp_path, probes=["conv1-5", "knn"], schedule=schedule, progress=said.append)
    assert again.probes == report.probes
    assert sum("epoch" in line for line in said) == first


def test_a_long_probe_tells_its_progress_in_few_lines(parts: Parts, labelled: Path) -> None:
    said: list[str] = []
    evaluate(parts, labelled, probes=["conv1-5"], schedule=ProbeConfig(epochs=25, batch=8), progress=said.append)
    lines = [line for line in said if "epoch" in line]
    assert 9 <= len(lines) <= 14
    assert lines[-1].startswith("conv1-5: epoch 25 of 25, validation")


def test_probes_without_labels_are_refused_before_anything_is_measured(parts: Parts, tmp_path: Path) -> None:
    Image.new("RGB", (20, 20), (9, 99, 200)).save(tmp_path / "one.png")
    said: list[str] = []
    with pytest.raises(InputError, match="labelled pictures"):
        evaluate(parts, tmp_path, probes=["knn"], progress=said.append)
    assert said == []
    report = evaluate(parts, tmp_path, progress=said.append)  # a folder of one picture
    assert (report.pictures, report.probes) == (1, ())


def test_evaluation_without_data_uses_scenes(parts: Parts, vae: Parts) -> None:
    for model in (parts, vae):
        report = evaluate(model)
        assert report.discovery is not None
        assert len(report.discovery.matches) == 4
        assert (report.statistics is None) == (model is vae)
        assert "Mean IoU" in report.table()


def test_evaluation_of_plain_pictures_has_no_probes(parts: Parts, labelled: Path) -> None:
    report = evaluate(parts, labelled / "a")
    assert report.probes == ()
    assert report.quality is not None
    with pytest.raises(InputError, match="labelled"):
        evaluate(parts, labelled / "a", probes=["knn"])
    with pytest.raises(UsageError, match="no probe"):
        evaluate(parts, labelled, probes=["conv7"])
    with pytest.raises(UsageError, match="labelled"):
        evaluate(parts, None, probes=["knn"])


def test_a_finished_evaluation_prepares_no_probe(
    parts: Parts, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate(parts, labelled, tmp_path, probes=["knn"])
    monkeypatch.setattr("latens.systems.parts.evaluate.split_sets", None)
    assert evaluate(parts, labelled, tmp_path, probes=["knn"]).probes == first.probes


def test_evaluation_leaves_out_what_cannot_be_read(parts: Parts, labelled: Path, tmp_path: Path) -> None:
    for split, broken in (("train", "a/0.png"), ("test", "b/1.png")):
        shutil.copytree(labelled, tmp_path / split)
        (tmp_path / split / broken).write_text("no picture")
    said: list[str] = []
    report = evaluate(parts, tmp_path, probes=["conv1-5", "knn"], schedule=ProbeConfig(epochs=1, batch=8), progress=said.append)
    assert [probe.probe for probe in report.probes] == ["conv1-5", "knn"]
    assert report.quality is not None
    for name in ("0.png", "1.png"):
        assert sum("left out" in line and name in line for line in said) == 1
    train = open_set(tmp_path, "train")
    assert len(readable(train, 16, said.append)) == len(train) - 1
    with pytest.raises(UnreadableInput, match=r"1\.png"):
        readable(open_set(tmp_path, "test").subset([list(open_set(tmp_path, "test").keys).index("b/1.png")]), 16, said.append)


def test_figures_leave_out_what_cannot_be_read(parts: Parts, labelled: Path, tmp_path: Path) -> None:
    album = tmp_path / "album"
    album.mkdir()
    for name in ("1", "3"):
        Image.open(labelled / "b" / f"{name}.png").save(album / f"{name}.png")
    (album / "2.png").write_text("no picture")
    said: list[str] = []
    found = reproduce("figure1", parts, album, tmp_path / "out", progress=said.append)
    assert found.facts["pictures"] == ["1", "3"]
    assert sum("left out" in line and "2.png" in line for line in said) == 1
    for name in ("1", "3"):
        (album / f"{name}.png").unlink()
    with pytest.raises(UnreadableInput, match=r"2\.png"):
        reproduce("figure1", parts, album, tmp_path / "out")


def test_a_swap_of_one_picture_is_refused_for_what_it_is(parts: Parts, labelled: Path, tmp_path: Path) -> None:
    (tmp_path / "album").mkdir()
    Image.open(labelled / "a" / "0.png").save(tmp_path / "album" / "0.png")
    with pytest.raises(InputError, match="two pictures"):
        reproduce("figure5", parts, tmp_path / "album", tmp_path)


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_made(name: str, parts: Parts, labelled: Path, tmp_path: Path) -> None:
    found = reproduce(name, parts, labelled, tmp_path)
    assert any(isinstance(block, Figure) and block.image for block in found.blocks)
    assert (tmp_path / f"{name}.png").is_file()
    assert (tmp_path / f"{name}.html").is_file()


@pytest.mark.parametrize("name", ["table3", "table5", "table7", "discovery"])
def test_tables_are_made_and_runs_are_shared(name: str, labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.getbasetemp() / "parts-tables"  # as a user runs them: into one folder
    said: list[str] = []
    made = train_and_reproduce(name, labelled, out, recipe="tiny", settings=SMALL, progress=said.append, device="cpu")
    again = train_and_reproduce(name, labelled, out, recipe="tiny", settings=SMALL, progress=said.append, device="cpu")
    assert made.to_dict() == again.to_dict()
    assert len(said) == len(set(said))  # nothing is trained or probed twice
    assert json.loads((out / f"{name}.json").read_text())["tables"][0]["rows"]


def test_tables_1_and_2_have_every_row_with_the_papers_beside_it(labelled: Path, tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []
    ran: list[tuple[int, int]] = []

    class Known(Laboratory):
        def run(self, members, probes):  # type: ignore[no-untyped-def]
            ran.append((len(members), len(probes)))

        def score(self, settings, probe):  # type: ignore[no-untyped-def]
            asked.append((str(settings), probe))
            return Score([0.5, 1.5], [2.0, 4.0])

    (block,) = tables.table1(Known(labelled, SCALES["tiny"], tmp_path, print))
    assert isinstance(block, Table)
    assert [row[0] for row in block.rows] == list(EVERY)
    assert block.rows[0][1:6] == ["1.00 ± 0.71"] * 5
    assert len(asked) == 5 * len(EVERY)
    assert block.rows[0][-3:] == ["44.12", "39.65", "28.57"]
    assert block.rows[-1][-3:] == ["-"] * 3
    (block,) = tables.table2(Known(labelled, SCALES["tiny"], tmp_path, print))
    assert isinstance(block, Table)
    assert block.rows[1] == ["PatchVAE", "1.00 ± 0.71", "3.00 ± 1.41", "47.01", "71.71"]
    assert "'model.blocks': '4'" in asked[-1][0]
    assert ran == [(len(EVERY), 5), (len(TABLE_2), 1)]


def test_rows_and_probes_may_be_made_one_by_one(labelled: Path, tmp_path: Path) -> None:
    said: list[str] = []

    def rows(**changes: str) -> dict[str, list[str]]:
        made = train_and_reproduce(
            "table1", labelled, tmp_path, recipe="tiny", settings=SMALL | changes, progress=said.append, device="cpu"
        )
        return {row[0]: row[1:6] for row in made.to_dict()["tables"][0]["rows"]}

    first = rows(rows='["PatchVAE"]', probes='["knn"]')
    assert first.pop("PatchVAE")[:4] == ["-"] * 4
    assert set(map(tuple, first.values())) == {("-",) * 5}
    second = rows(rows='["random", "PatchVAE"]', probes='["knn"]')
    assert [name for name, cells in second.items() if cells[4] != "-"] == ["PatchVAE", "random"]
    assert sum(line.startswith("training") for line in said) == 2
    assert not list((tmp_path / "runs").glob("*/checkpoints"))


def test_claimed_work_is_passed_over_and_waited_for_at_the_end(labelled: Path, tmp_path: Path) -> None:
    order: list[bool] = []

    class Watched(Laboratory):
        def _complete(self, settings, seed, probes, *, wait):  # type: ignore[no-untyped-def]
            order.append(wait)
            super()._complete(settings, seed, probes, wait=wait)

    scale = override(SCALES["tiny"], {**SMALL, "steps": "0"})
    lab = Watched(labelled, scale, tmp_path, print, "cpu")
    member = EVERY["random"]
    with claim(tmp_path / "runs" / lab.key(member, 0), wait=False) as ours:
        assert ours
        lab._complete(member, 0, ["knn"], wait=False)
        assert lab.score(member, "knn").top1 == []
    order.clear()
    lab.run([member], ["knn"])
    assert order == [False, True]
    assert len(lab.score(member, "knn").top1) == 1


def test_results_of_other_pictures_are_not_taken_for_these(parts: Parts, tmp_path: Path) -> None:
    """Two packs of one name with the same pictures under other labels, one after the other into one folder."""
    rng = np.random.default_rng(0)
    pictures, labels = rng.integers(0, 255, (40, 16, 16, 3), dtype=np.uint8), np.arange(40) % 2
    pictures[labels == 1] //= 8
    for folder, order in (("a", labels), ("b", rng.permutation(labels))):
        (tmp_path / folder).mkdir()
        pack = {"x_train": pictures, "y_train": order, "x_test": pictures[:20], "y_test": labels[:20]}
        np.savez(tmp_path / folder / "mine.npz", **pack)
    packs = [tmp_path / folder / "mine.npz" for folder in "ab"]
    found = [evaluate(parts, pack, tmp_path / "out", probes=["knn"]).probes[0].test for pack in packs]
    assert found[0] == 100
    assert found[1] < 100
    first, second = (Laboratory(pack, SCALES["tiny"], tmp_path, print).key({}, 0) for pack in packs)
    assert first != second


def test_a_shorter_run_ends_at_the_temperature_of_the_recipe(labelled: Path, tmp_path: Path) -> None:
    lab = Laboratory(labelled, replace(SCALES["desk"], steps=300), tmp_path, print)
    base, short = lab.base, override(lab.base, lab._changes({}, 0))
    assert short.run.steps == 300
    assert short.objective.annealing.rate * 300 == pytest.approx(base.objective.annealing.rate * base.run.steps)


def test_published_rows_are_members_of_the_family() -> None:
    for rows in TABLE_1.values():
        assert set(rows) - {"supervised"} == set(FAMILY)
    assert set(TABLE_2) < set(EVERY)
    assert tables.paper_column("Indoor-67") == "Indoor-67"
    assert tables.paper_column("cifar100_train") == "CIFAR-100"
    assert tables.paper_column("tin32") == "CIFAR-100"
    assert spread([1.0, 3.0]) == "2.00 ± 1.41"


def test_bad_requests_are_refused(parts: Parts, labelled: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="labelled pictures"):
        train_and_reproduce("table1", None, tmp_path)
    for name, recipe, settings in (("table9", "tiny", {}), ("table1", "huge", {}), ("table1", "tiny", {"stepz": "1"})):
        with pytest.raises(UsageError):
            train_and_reproduce(name, labelled, tmp_path, recipe=recipe, settings=settings)
    odd = (("seeds", "0"), ("epochs", "0"), ("steps", "-5"), ("pictures", "-40"), ("features", "x"), ("scenes", "9"))
    for setting, value in (("rows", '["VAE"]'), ("rows", '[["a"]]'), ("rows", "[1]"), ("probes", '["conv7"]'), *odd):
        with pytest.raises(UsageError, match=setting):
            train_and_reproduce("table1", labelled, tmp_path, recipe="tiny", settings={setting: value})
    with pytest.raises(UsageError, match="table3 has no rows"):
        train_and_reproduce("table3", labelled, tmp_path, recipe="tiny", settings={"rows": '["PatchVAE"]'})
    with pytest.raises(UsageError, match="figure1 has no probes"):
        reproduce("figure1", parts, labelled, tmp_path, settings={"probes": '["knn"]'})
    with pytest.raises(UsageError):
        reproduce("figure2", parts, labelled, tmp_path)
    assert set(NAMES) == {*TABLES, *FIGURES}


def test_bench_names_its_parts(parts: Parts) -> None:
    report = bench.run(parts, batch=4, repeats=1)
    assert report.timings[0].part == "training step"
    assert "epochs of 50,000" in report.table()
    assert json.loads(json.dumps(report.to_dict()))["repeats"] == 1
    with pytest.raises(UsageError):
        bench.run(parts, repeats=0)
