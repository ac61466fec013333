"""Tables: rows and published numbers, reuse of runs, work that another process has claimed."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latens.data.folders import claim
from latens.data.source import Source
from latens.errors import UsageError
from latens.experiments.journal import digest
from latens.experiments.lab import CLAIMS, ExperimentRunner
from latens.experiments.report import Report
from latens.inference.page import Table
from latens.settings import SettingsError, override
from latens.systems.parts.predict import Parts, load
from latens.systems.parts.published import TABLE_1, TABLE_2, published_set
from latens.systems.parts.recipes import RECIPES, TABLE_1_ROWS
from latens.systems.parts.system import SYSTEM, build
from latens.systems.parts.tables import TABLES, table1, table2
from latens.systems.parts.trials import Score, Trials

SMALL = {"steps": "1", "epochs": "1", "seeds": "1"}


def lab_of(name: str, data: Path | None, folder: Path, **changes: str) -> ExperimentRunner[Parts, Any]:
    return ExperimentRunner[Parts, Any](
        build=build,
        open_model=lambda place: load("parts" if place is None else place, device="cpu"),
        sources=[] if data is None else [Source("", str(data))],
        scale=override(TABLES[name].scales["tiny"], SMALL | changes),
        recipe="tiny",
        folder=folder,
        device="cpu",
    )


def made(name: str, data: Path | None, folder: Path, **changes: str) -> Report:
    return TABLES[name].make(lab_of(name, data, folder, **changes))


class Known(Trials):
    """Trials with given results."""

    ran: list[tuple[int, int]]
    asked: list[str]

    def complete(self, variants: Any, probes: Any = ()) -> None:
        self.ran = [*getattr(self, "ran", []), (len(list(variants)), len(probes))]

    def score(self, row: str, variant: Any, probe: Any) -> Score:
        self.asked = [*getattr(self, "asked", []), row]
        return Score([0.5, 1.5], [2.0, 4.0])


def test_tables_1_and_2_have_every_row_and_its_published_numbers(labeled: Path, labeled_source: Source, tmp_path: Path) -> None:
    lab = lab_of("table1", labeled, tmp_path, seeds="2")
    trials = Known(lab, labeled_source)
    (block,) = table1(trials, lab.scale)
    assert isinstance(block, Table)
    assert [row[0] for row in block.rows] == list(TABLE_1_ROWS)
    assert block.rows[0][1:6] == ["1.00 ± 0.71"] * 5
    assert len(trials.asked) == 5 * len(TABLE_1_ROWS)
    assert block.rows[0][-3:] == ["44.12", "39.65", "28.57"]
    assert block.rows[-1][-3:] == ["-"] * 3
    second = lab_of("table2", labeled, tmp_path, seeds="2")
    (block,) = table2(trials, second.scale)
    assert isinstance(block, Table)
    assert block.rows[1] == ["PatchVAE", "1.00 ± 0.71", "3.00 ± 1.41", "47.01", "71.71"]
    assert trials.ran == [(len(TABLE_1_ROWS), 5), (len(TABLE_2), 1)]


def test_a_table_of_one_seed_and_few_images_says_so(labeled: Path, tmp_path: Path) -> None:
    report = made("table7", labeled, tmp_path, images="2")
    assert ", 2 training and " in report.about
    (block,) = report.blocks
    assert isinstance(block, Table)
    assert "One seed, which shows no order." in block.caption


def test_rows_and_probes_can_be_measured_separately(labeled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    def rows(**changes: str) -> dict[str, list[str]]:
        return {row[0]: row[1:6] for row in made("table1", labeled, tmp_path, **changes).to_dict()["tables"][0]["rows"]}

    first = rows(rows="PatchVAE", probes="knn")
    assert first.pop("PatchVAE")[:4] == ["-"] * 4
    assert set(map(tuple, first.values())) == {("-",) * 5}
    second = rows(rows="random,PatchVAE", probes="knn")
    assert [name for name, cells in second.items() if cells[4] != "-"] == ["PatchVAE", "random"]
    assert caplog.text.count("training patchvae") == 1
    assert not list((tmp_path / "runs").glob("*/checkpoints"))


def test_claimed_work_comes_last(labeled: Path, labeled_source: Source, tmp_path: Path) -> None:
    lab = lab_of("table1", labeled, tmp_path)
    trials, rows = Trials(lab, labeled_source), [TABLE_1_ROWS["random"], TABLE_1_ROWS["PatchVAE"]]
    order: list[str] = []
    measure = trials._measure

    def watched(variant: Any, seed: int, probe: Any) -> list[Any]:
        order.append("random" if variant is rows[0] else "PatchVAE")
        held.__exit__(None, None, None)  # the other process has finished
        return measure(variant, seed, probe)

    trials._measure = watched  # type: ignore[method-assign]
    held = claim(tmp_path / CLAIMS / digest(trials._key(rows[0], 0, "knn")), wait=False)
    assert held.__enter__()
    trials.complete(rows, ["knn"])
    assert order == ["PatchVAE", "random"]
    assert all(len(trials.score("", row, "knn").top1) == 1 for row in rows)


def test_runs_on_other_data_are_not_reused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (40, 16, 16, 3), dtype=np.uint8), np.arange(40) % 2
    keys = []
    for order in (labels, 1 - labels):
        np.savez(tmp_path / "mine.npz", x_train=images, y_train=order, x_test=images[:20], y_test=labels[:20])
        lab = lab_of("table3", tmp_path / "mine.npz", tmp_path)
        keys.append(digest(Trials(lab, lab.sources[0])._key(TABLE_1_ROWS["PatchVAE"], 0, "knn")))
    assert keys[0] != keys[1]


def test_a_shorter_run_ends_at_the_temperature_of_the_recipe(labeled: Path, labeled_source: Source, tmp_path: Path) -> None:
    lab = lab_of("table3", labeled, tmp_path)
    lab.scale = replace(TABLES["table3"].scales["cpu"], steps=300)
    trials = Trials(lab, labeled_source)
    base, short = RECIPES["small"](), trials.config(TABLE_1_ROWS["PatchVAE"], 0)
    assert (short.run.steps, short.run.seed) == (300, 0)
    rates = [config.objective.annealing.rate for config in (base, short)]  # type: ignore[union-attr]
    assert rates[1] * 300 == pytest.approx(rates[0] * base.run.steps)


def test_published_rows_exist() -> None:
    for rows in TABLE_1.values():
        assert set(rows) < set(TABLE_1_ROWS)
    assert set(TABLE_2) < set(TABLE_1_ROWS)
    assert published_set("Indoor-67") == "Indoor-67"
    assert published_set("cifar100_train") == "CIFAR-100"
    assert published_set("tin32") == "CIFAR-100"
    assert {"table1", "figure4", "discovery"} < set(SYSTEM.artifacts)


def test_invalid_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="labeled images"):
        made("table1", None, tmp_path)
    odd = (("seeds", "0"), ("epochs", "0"), ("steps", "-5"), ("images", "-40"), ("features", "x"), ("scenes", "9"))
    for setting, value in (("rows", "VAE"), ("rows", '[["a"]]'), ("rows", "[1]"), ("probes", "conv7"), *odd):
        with pytest.raises(SettingsError, match=setting):
            override(TABLES["table1"].scales["tiny"], {setting: value})
    with pytest.raises(SettingsError, match="rows"):
        override(TABLES["table3"].scales["tiny"], {"rows": "PatchVAE"})
