"""Tables of Jang et al. 2020: runs that are trained, reuse of results, sharing of work, arithmetic of the cells."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image

from latens.data.annotations import to_document
from latens.data.instances import Collection, paint, scene_of
from latens.data.source import parse_source, parse_sources
from latens.errors import InputError, UsageError
from latens.experiments.journal import digest
from latens.experiments.lab import ExperimentRunner
from latens.experiments.report import Report, spread
from latens.hub import load_model
from latens.inference.page import Table
from latens.settings import override
from latens.systems.amodal import experiments
from latens.systems.amodal.config import MaskCodeConfig
from latens.systems.amodal.dataset import concatenate, open_source
from latens.systems.amodal.evaluate import digest as image_digest
from latens.systems.amodal.experiments import SCALES, AmodalLab, AmodalScale, Comparison, Result
from latens.systems.amodal.model import MaskAutoencoder
from latens.systems.amodal.predict import AmodalSegmenter, load
from latens.systems.amodal.recipes import cpu
from latens.systems.amodal.system import SYSTEM
from latens.systems.amodal.tables import (
    SIMULATED,
    TABLE_1,
    TABLE_2,
    TABLE_3,
    TABLES,
    VariantRow,
    code_quality,
    difference,
    held_out_crops,
    measured,
    paper,
)
from latens.systems.amodal.variants import BASELINES, VARIANTS, Variant, has_code, parameters, with_variant

SMALL = {"steps": "1", "code_steps": "2", "seeds": "2", "code_seeds": "2", "images": "2"}


def laboratory(out: Path, values: Sequence[str] = (), scale: AmodalScale = SCALES["tiny"]) -> AmodalLab:
    return ExperimentRunner(
        build=SYSTEM.build,
        open_model=lambda place: cast("AmodalSegmenter", load(place or "amodal", device="cpu")),
        sources=parse_sources(values),
        scale=scale,
        recipe="tiny",
        folder=out,
        device="cpu",
    )


def report(name: str, out: Path, **changes: str) -> Report:
    found = TABLES[name].make(laboratory(out, (), override(SCALES["tiny"], SMALL | changes)))
    found.save(out)
    return found


def make(name: str, out: Path, **changes: str) -> dict[str, list[list[str]]]:
    """The rows of a table and of its differences."""
    kinds = ("rows", "differences")
    return {kind: table["rows"] for kind, table in zip(kinds, report(name, out, **changes).to_dict()["tables"], strict=False)}


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="latens")
    return caplog


def trained(log: pytest.LogCaptureFixture) -> list[str]:
    """Names of the runs trained since the last call."""
    names = [line.removeprefix("training ").removesuffix(" ...") for line in log.messages if line.startswith("training ")]
    log.clear()
    return names


def refuse(text: str) -> float:
    raise AssertionError(f"{text} is not valid JSON")


def test_a_table_is_trained_once_and_shares_its_runs(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    first = make("table1", tmp_path)
    first_seed = ["fcn-plain-0", "fcn-wide-0", "fcn-0", "code-0", "vq-0"]
    assert trained(log) == [*first_seed, "fcn-plain-1", "fcn-wide-1", "fcn-1", "vq-1"]
    assert [(row[0], row[1], row[-1]) for row in first["rows"]] == [(row.name, "2", paper(row.printed)) for row in TABLE_1]
    assert [row[-1] for row in first["differences"]] == ["+1.7", "-", "-"]
    written = json.loads((tmp_path / "table1.json").read_text(), parse_constant=refuse)
    runs = [(row.variant, seed) for row in TABLE_1 for seed in (0, 1)]
    assert [(run["variant"], run["seed"]) for run in written["runs"]] == runs
    test = open_source(parse_source("simulated")).held_out("all", 2, SCALES["tiny"].side)
    assert written["runs"][0]["digest"] == image_digest(test)
    assert not list((tmp_path / "runs").glob("*/checkpoints"))

    log.clear()
    assert make("table1", tmp_path) == first
    assert not log.messages
    make("table3", tmp_path, seeds="1")
    assert trained(log) == ["vq-alone-0", "vq-refined-0"]
    alone = json.loads((tmp_path / "table3.json").read_text())
    assert written["tables"][1]["caption"].endswith("Mean ± deviation over 2 seeds.")
    assert alone["tables"][1]["caption"].endswith("One seed, which shows no order.")
    codes = [load_model(folder / "best").weights for folder in (tmp_path / "runs").glob("[cv]*")]
    assert len(codes) == 5
    assert all(torch.equal(codes[0][name], other[name]) for other in codes for name in codes[0] if name.startswith("code."))


def test_rows_can_be_trained_separately_and_a_given_code_is_not_trained(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    make("table1", tmp_path / "given", rows="vq", seeds="1")
    (code,) = (tmp_path / "given" / "runs").glob("code-*")
    trained(log)
    out, code_from = tmp_path / "out", str(code / "best")
    part = make("table2", out, rows="asn-vq", seeds="1", code_from=code_from)
    assert trained(log) == ["asn-vq-0"]
    assert [row[1] for row in part["rows"]] == ["0", "0", "0", "1"]
    assert [row[2] == "-" for row in part["rows"]] == [True, True, True, False]
    assert all(row[1] == "0" for row in part["differences"])
    whole = make("table2", out, seeds="1", code_from=code_from)
    assert trained(log) == ["fcn-0", "vq-0", "asn-fcn-0"]
    assert whole["rows"][3] == part["rows"][3]
    assert not list((out / "runs").glob("code-*"))
    make("table2", out, seeds="1", code_from=code_from, images="1", rows="vq")
    assert any("evaluating on 1 images" in line for line in log.messages)
    assert trained(log) == []  # the same weights are evaluated on another test set


def test_an_interrupted_command_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(experiments, "measure", stop)
        with pytest.raises(KeyboardInterrupt):
            make("table1", tmp_path, seeds="1")
    make("table1", tmp_path, seeds="1")
    assert trained(log) == ["fcn-plain-0", "fcn-wide-0", "fcn-0", "code-0", "vq-0"]


TABLE = """
import logging, sys
from pathlib import Path
from typing import cast
from latens.experiments.lab import ExperimentRunner
from latens.settings import override
from latens.systems.amodal.experiments import SCALES
from latens.systems.amodal.system import SYSTEM
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
scale = override(SCALES["tiny"], {settings!r})
lab = ExperimentRunner(build=SYSTEM.build, open_model=lambda place: SYSTEM.load(place, device="cpu"), sources=[],
          scale=scale, recipe="tiny", folder=Path(sys.argv[1]), device="cpu")
SYSTEM.artifacts["table1"].make(lab)
"""


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path: Path) -> None:
    values = [sys.executable, "-c", TABLE.format(settings={**SMALL, "seeds": "1"}), str(tmp_path)]
    both = [subprocess.Popen(values, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    lines = [process.communicate(timeout=200)[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    names = [
        [line.removeprefix("training ").removesuffix(" ...") for line in each if line.startswith("training ")] for each in lines
    ]
    assert sorted(names[0] + names[1]) == sorted(["code-0", *(f"{row.variant}-0" for row in TABLE_1)])
    assert names[0]
    assert names[1]


def result(variant: Variant, seed: int, value: float, hidden: float = math.nan) -> Result:
    names = ("AP", "AP50", "AP of visible parts", "mean IoU", "order accuracy", "count accuracy")
    numbers = dict.fromkeys(names, value) | {"AP, mostly hidden": hidden, "mean IoU of hidden parts": value}
    return Result(variant, seed, numbers, 1_500_000, 90.0, "")


def test_cells_are_means_and_differences_are_paired_by_seed() -> None:
    one, other = VariantRow("a", "vq", 68.2), VariantRow("b", "fcn", 66.5)
    ours = [result("vq", 0, 0.5, 0.4), result("vq", 1, 0.7), result("vq", 2, 0.9)]
    theirs = [result("fcn", 1, 0.6), result("fcn", 0, 0.3, 0.1)]
    cells = measured(one, ours)
    assert cells[:3] == ["a", "3", "70.00 ± 20.00"]
    assert cells[4] == "40.00"  # only the runs with hidden objects
    assert cells[-2:] == ["1.50", "1.5 ± 0.0"]
    # Differences 20 and 10: mean 15, deviation 5 sqrt 2. The third seed has no partner.
    assert difference(one, other, ours, theirs)[:4] == ["a - b", "2", "+15.00 ± 7.07", "+30.00"]
    assert difference(one, other, ours, theirs)[-1] == "+1.7"
    assert measured(one, [])[1:4] == ["0", "-", "-"]
    assert spread([-1.0, 1.0], "+.1f") == "+0.0 ± 1.4"


def test_rows_are_variants_and_baselines_have_equal_parameters() -> None:
    assert {row.variant for row in (*TABLE_1, *TABLE_2, *TABLE_3)} == set(VARIANTS)
    for baseline, (model, _) in BASELINES.items():
        sizes = [parameters(with_variant(cpu(), variant).model) for variant in (baseline, model)]
        assert abs(sizes[0] / sizes[1] - 1) < 0.05


def test_rows_differ_only_in_the_compared_settings(tmp_path: Path) -> None:
    runs = Comparison(laboratory(tmp_path, scale=AmodalScale()), SIMULATED)
    made = {variant: runs.config(variant, 1) for variant in VARIANTS}
    reference = made["vq"]
    assert (reference.run.steps, reference.run.seed, reference.model.size, reference.data.batch) == (1500, 1, 128, 8)
    assert has_code("vq")
    assert not has_code("asn-fcn")
    for config in made.values():
        assert (config.run, config.optim, config.data) == (reference.run, reference.optim, reference.data)
        assert config.objective == reference.objective
        assert config.model.detector == reference.model.detector
        assert config.model.backbone == reference.model.backbone
    assert parameters(made["fcn-plain"].model) < 0.9 * parameters(made["fcn"].model)


def annotated(folder: Path, count: int, classes: tuple[str, ...] = ("cell",)) -> str:
    """A value of --data for a set of `count` images with one square each."""
    folder.mkdir()
    masks = np.zeros((1, 40, 60), dtype=bool)
    masks[0, 10:30, 10:30] = True
    scenes = []
    for number in range(count):
        Image.fromarray(np.where(masks[0], 200, number).astype(np.uint8)).save(folder / f"{number}.png")
        scenes.append(scene_of(paint(masks, np.zeros(1)), f"{number}.png"))
    (folder / "a.json").write_text(json.dumps(to_document(Collection(categories=classes, scenes=tuple(scenes)))))
    return f"coco:{folder / 'a.json'}"


def key(values: Sequence[str], scale: AmodalScale, out: Path) -> str:
    return digest(Comparison(laboratory(out, values, scale), SIMULATED).key("fcn", 0))


def test_training_images_are_not_test_images(tmp_path: Path) -> None:
    word = annotated(tmp_path / "a", 40)
    source = open_source(parse_source(word))
    held = [sample.image[0, 0, 0] for sample in Comparison(laboratory(tmp_path, [word]), SIMULATED).test]
    assert len(held) == 3
    drawn = {source.draw(np.random.default_rng(seed), 60).image[0, 0, 0] for seed in range(300)}
    assert not drawn & set(held)
    other = annotated(tmp_path / "b", 5)
    scale = AmodalScale(recipe="tiny", code_recipe="tiny", images=100)
    runs = Comparison(laboratory(tmp_path, [word], replace(scale, test=other)), SIMULATED)
    assert len(runs.test) == 5
    assert runs.test_name == other
    assert key([word], replace(scale, test=other), tmp_path) != key([word], scale, tmp_path)


def test_changed_data_have_another_key(tmp_path: Path) -> None:
    word = annotated(tmp_path / "a", 40)
    before = key([word], SCALES["tiny"], tmp_path)
    assert key([word], SCALES["tiny"], tmp_path) == before
    keys = {before}
    for path in (tmp_path / "a").glob("*.png"):
        Image.fromarray(np.full((40, 60), 77, dtype=np.uint8)).save(path)
    keys.add(key([word], SCALES["tiny"], tmp_path))
    document = json.loads((tmp_path / "a" / "a.json").read_text())
    del document["annotations"][-1]
    (tmp_path / "a" / "a.json").write_text(json.dumps(document))
    keys.add(key([word], SCALES["tiny"], tmp_path))
    assert len(keys) == 3
    tested = AmodalScale(recipe="tiny", code_recipe="tiny", test=annotated(tmp_path / "b", 3))
    keys.add(key([word], tested, tmp_path))
    Image.fromarray(np.full((40, 60), 9, dtype=np.uint8)).save(tmp_path / "b" / "0.png")
    keys.add(key([word], tested, tmp_path))
    assert len(keys) == 5


def test_codebook_reports_usage_and_reconstruction(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    found = report("codebook", tmp_path, side="100")
    assert "images of 96 pixels; tested on 2 images of 100 pixels" in found.about
    (table,) = found.blocks
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows] == ["0", "1", "mean"]
    assert trained(log) == ["code-0", "code-1"]
    scale = override(SCALES["tiny"], SMALL | {"side": "100", "size": "96"})
    lab = laboratory(tmp_path, ["simulated", "simulated:opaque"], scale)
    runs = Comparison(lab, SIMULATED)
    crops = held_out_crops(runs.test, 28)
    code = lab.open_model(runs.code(1)).model.code
    assert trained(log) == []
    assert code is not None
    indices = code.encode(crops)
    a, b = code.decode(indices) > 0, crops > 0.5
    iou = (a & b).sum((1, 2, 3)) / (a | b).sum((1, 2, 3))
    used = 100 * len(indices.unique()) / 16
    assert table.rows[1][1] == f"{used:.1f}"
    assert float(table.rows[1][3]) == pytest.approx(float(iou.mean()), abs=6e-5)


def test_perfect_reconstruction_has_iou_1() -> None:
    torch.manual_seed(0)
    code = MaskAutoencoder(MaskCodeConfig(size=28, codewords=16, width=8, channels=8))
    crops = held_out_crops(concatenate([open_source(parse_source("simulated:opaque")).held_out("test", 9, 64)]), 28)
    assert crops.shape == (64, 1, 28, 28)
    code.decode = lambda indices: crops - 0.5  # type: ignore[method-assign]
    found = code_quality(code, crops)
    assert (found.iou, found.worst, found.masks) == (1, 1, 64)
    code.encode = lambda mask: torch.zeros(len(mask), 7, 7, dtype=torch.long)  # type: ignore[method-assign]
    found = code_quality(code, crops)
    assert (found.used, found.perplexity) == (1 / 16, 1)


def test_unusable_data_are_refused(tmp_path: Path) -> None:
    scale = SCALES["tiny"]
    two = annotated(tmp_path / "two", 3, ("a", "b"))
    with pytest.raises(UsageError):
        TABLES["table1"].make(laboratory(tmp_path / "o", ["nothing"], scale))
    with pytest.raises(InputError):
        TABLES["table1"].make(laboratory(tmp_path / "o", [two], replace(scale, test="simulated")))
    assert not (tmp_path / "o").exists()
