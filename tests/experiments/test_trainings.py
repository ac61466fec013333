"""Trainings of the rows of tables and figures: scales reach every row, and reports tell how rows were trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import pytest

from latens.catalogue import SYSTEMS
from latens.contract import open_system
from latens.experiments.report import Report
from latens.experiments.trainings import described, training_of, with_trainings
from latens.hub import save_model
from latens.inference.page import Table
from latens.settings import override
from latens.systems.amodal import variants
from latens.systems.flow import trials
from latens.systems.haze import recipes
from latens.training.config import AnyTrainConfig

RECIPES: Mapping[str, Mapping[str, set[str]]] = {
    "amodal": {"tiny": {"tiny"}, "cpu": {"cpu", "cpu_code"}, "paper": {"paper"}},
    "haze": {
        "tiny": {"tiny", "tiny_mmd"},
        "cpu": {"cpu", "cpu_mmd", "cpu_unit", "cpu_cyclegan", "cpu_dehazenet"},
        "paper": {"paper"},
    },
    "parts": {"tiny": {"tiny"}, "cpu": {"small"}, "paper": {"paper"}},
    "video_codec": {"tiny": {"tiny"}, "cpu": {"cpu_decay"}, "paper": {"paper"}},
    "flow": {"tiny": {"tiny"}, "cpu": {"cpu"}, "paper": {"paper"}},
    "seedlings": {"tiny": {"cpu_day"}, "cpu": {"cpu_day"}, "paper": {"paper"}},
}
# One recipe at every scale: simulated points, and class folders, which are not in a paper.
ONE_RECIPE: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "flow": {"toy": ("table4.4.2", "tableB.4-toy", "figure4.4.1")},
    "seedlings": {"cpu_classes": ("species",)},
}
NOTHING_TRAINED: Mapping[str, set[str] | None] = {
    "image_codec": None,  # all: they refine the latents of one model, which their first line names
    "parts": {"figure1", "figure3", "figure4", "figure5"},  # of the model of --model
    "video_codec": {"figureD.1"},
    "flow": {
        *("table4.4.1", "table4.5.1", "tableB.1", "tableB.2", "tableB.3", "figure4.3.1", "figureB.1"),
        "unusual",  # of the model of --model
    },
    "seedlings": {"table3.1", "figure3.1", "figureA.1"},
}


FULL = 35  # steps of a full model of the thesis (flow) where a small one has 7: 1,000 and 200 epochs


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_scale_reaches_every_row(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "matched", lambda sizes, target: sizes)  # widths take seconds to match
    monkeypatch.setattr(variants, "equal_width", lambda baseline, name, wanted: 8)
    for name, artifact in open_system(system).artifacts.items():
        untrained = NOTHING_TRAINED.get(system, set())
        plans = {scale: artifact.trainings(artifact.scales[scale]) for scale in ("tiny", "cpu", "paper")}
        if untrained is None or name in untrained:
            assert not any(plans.values()), name
            continue
        own = next((recipe for recipe, names in ONE_RECIPE.get(system, {}).items() if name in names), None)
        for scale, plan in plans.items():
            assert plan, name
            assert {config.recipe for config in plan.values()} <= ({own} if own else RECIPES[system][scale]), (name, scale)
            assert {config.system for config in plan.values()} == {system}
        tiny, cpu, paper = (_steps(plans[scale]) for scale in ("tiny", "cpu", "paper"))
        assert max(tiny) < min(cpu) <= max(cpu) <= min(paper), name
        setting = "code_steps" if name == "codebook" else "steps"
        for scale in plans:
            settings = artifact.scales[scale]
            if setting in {field.name for field in fields(settings)}:
                assert set(_steps(artifact.trainings(override(settings, {setting: "7"})))) <= {7, FULL}, (name, scale)


def _steps(plan: Mapping[str, AnyTrainConfig]) -> list[int]:
    """Steps of the rows. "no training" has none, and the mask code that rows share is not a row."""
    return [config.run.steps for row, config in plan.items() if config.run.steps and (row != "mask code" or len(plan) == 1)]


def test_a_report_tells_how_its_rows_were_trained() -> None:
    report = Report(name="table1", title="t", about="Two scenes.", blocks=[Table(["a"], [["1"]])])
    short, long = recipes.cpu_mmd(), recipes.cpu()
    same = with_trainings(report, {"mmd": short, "unit": short})
    assert described(short) == "cpu_mmd, 3,500 steps of 1"
    assert same.about == "Two scenes. Training of every row: cpu_mmd, 3,500 steps of 1."
    assert same.to_dict()["training"] == {"mmd": "cpu_mmd, 3,500 steps of 1", "unit": "cpu_mmd, 3,500 steps of 1"}
    mixed = with_trainings(report, {"mmd": short, "physical": long})
    assert mixed.to_dict()["training"]["physical"] == "cpu, 12,000 steps of 8"
    assert "physical  cpu, 12,000 steps of 8" in mixed.table()
    assert with_trainings(mixed, {"mmd": long}) is mixed  # the report knows better
    assert with_trainings(report, {}) is report


def test_a_model_folder_tells_how_it_was_trained(tmp_path: Path) -> None:
    run, alone = tmp_path / "run", tmp_path / "given"
    for folder in (run / "best", alone):
        save_model(folder, {"system": "haze", "scores": {"step": 1200}}, {})
    (run / "config.json").write_text(json.dumps({"recipe": "cpu_mmd", "run": {"steps": 3500}, "data": {"batch": 1}}))
    assert training_of(run / "best") == "cpu_mmd, 0 of 3,500 steps of 1"
    lines = ['{"kind": "train", "step": 1500}', '{"kind": "validation", "step": 1500}', '{"kind": "tr']
    (run / "metrics.jsonl").write_text("\n".join(lines))
    (run / "environment.json").write_text('{"data": ["rgbd:/far/nyu", "kitti"]}')
    assert training_of(run / "best") == "cpu_mmd, 1,500 of 3,500 steps of 1; nyu, kitti"
    assert training_of(alone) == "model given, weights of step 1,200"
