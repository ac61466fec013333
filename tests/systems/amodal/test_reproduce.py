"""Tables of 000: what is trained, that nothing is done twice, that work is shared, and the arithmetic of the cells."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from latens.inference.reproduction import spread
from PIL import Image

from latens.data.annotations import to_document
from latens.data.instances import Collection, paint, scene_of
from latens.errors import InputError, UsageError
from latens.hub import load_model
from latens.inference.page import Table
from latens.systems.amodal import experiments
from latens.systems.amodal.codebook import code_quality, held_out_crops
from latens.systems.amodal.config import MaskCodeConfig
from latens.systems.amodal.evaluate import digest, frozen_pictures
from latens.systems.amodal.experiments import SCALES, Laboratory, Result, Scale
from latens.systems.amodal.model import MaskAutoencoder
from latens.systems.amodal.published import TABLE_1, TABLE_2, TABLE_3, Row
from latens.systems.amodal.recipes import desk, tiny
from latens.systems.amodal.reproduce import train_and_reproduce
from latens.systems.amodal.sources import source_of, together
from latens.systems.amodal.tables import difference, measured, paper
from latens.systems.amodal.variants import RIVALS, VARIANTS, coded, configured, parameters, settings_of
from latens.training.config import override

SMALL = {"steps": "1", "code_steps": "2", "seeds": "2", "pictures": "2"}


def make(name: str, out: Path, said: list[str], **changes: str) -> dict[str, list[list[str]]]:
    """A table by caption-free name: its rows, and those of the differences."""
    found = train_and_reproduce(
        name, None, out, recipe="tiny", settings=SMALL | changes, progress=said.append, device="cpu"
    ).to_dict()
    kinds = ("rows", "differences")
    return {kind: table["rows"] for kind, table in zip(kinds, found["tables"], strict=False)}


def trained(said: list[str]) -> list[str]:
    return [line.removeprefix("training ") for line in said if line.startswith("training ")]


def refuse(text: str) -> float:
    raise AssertionError(f"{text} is no JSON")


def test_a_table_is_trained_once_and_shares_its_runs(tmp_path: Path) -> None:
    said: list[str] = []
    first = make("table1", tmp_path, said)
    first_seed = ["fcn-plain, seed 0", "fcn-wide, seed 0", "fcn, seed 0", "mask code, seed 0", "vq, seed 0"]
    assert trained(said) == [*first_seed, "fcn-plain, seed 1", "fcn-wide, seed 1", "fcn, seed 1", "vq, seed 1"]
    assert [(row[0], row[1], row[-1]) for row in first["rows"]] == [(row.name, "2", paper(row.printed)) for row in TABLE_1]
    assert [row[-1] for row in first["differences"]] == ["+1.7", "-", "-"]
    written = json.loads((tmp_path / "table1.json").read_text(), parse_constant=refuse)
    runs = [(row.variant, seed) for row in TABLE_1 for seed in (0, 1)]
    assert [(run["variant"], run["seed"]) for run in written["runs"]] == runs
    assert written["runs"][0]["digest"] == digest(frozen_pictures(source_of("simulated"), 2, SCALES["tiny"].side))
    assert (tmp_path / "table1.html").is_file()
    assert not list((tmp_path / "runs").glob("*/checkpoints"))

    assert make("table1", tmp_path, again := []) == first
    assert not again
    make("table3", tmp_path, more := [], seeds="1")
    assert trained(more) == ["vq-alone, seed 0", "vq-refined, seed 0"]
    codes = [load_model(folder / "best").weights for folder in (tmp_path / "runs").glob("[cv]*") if folder.is_dir()]
    assert len(codes) == 5
    assert all(torch.equal(codes[0][name], other[name]) for other in codes for name in codes[0] if name.startswith("code."))


def test_rows_may_be_made_one_by_one_and_a_given_code_is_not_trained(tmp_path: Path) -> None:
    said: list[str] = []
    make("table1", tmp_path / "given", said, rows='["vq"]', seeds="1")
    (code,) = (tmp_path / "given" / "runs").glob("code-*")
    out, code_from = tmp_path / "out", str(code / "best")
    part = make("table2", out, said := [], rows='["asn-vq"]', seeds="1", code_from=code_from)
    assert trained(said) == ["asn-vq, seed 0"]
    assert [row[1] for row in part["rows"]] == ["0", "0", "0", "1"]
    assert [row[2] == "-" for row in part["rows"]] == [True, True, True, False]
    assert all(row[1] == "0" for row in part["differences"])
    whole = make("table2", out, said := [], seeds="1", code_from=code_from)
    assert trained(said) == ["fcn, seed 0", "vq, seed 0", "asn-fcn, seed 0"]
    assert whole["rows"][3] == part["rows"][3]
    assert not list((out / "runs").glob("code-*"))
    make("table2", out, said := [], seeds="1", code_from=code_from, pictures="1", rows='["vq"]')
    assert trained(said) == []  # another test set is measured on with the same weights
    assert any("measuring" in line for line in said)


def test_a_stopped_command_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    measure = experiments.measure

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(experiments, "measure", stop)
    with pytest.raises(KeyboardInterrupt):
        make("table1", tmp_path, said, seeds="1")
    monkeypatch.setattr(experiments, "measure", measure)
    make("table1", tmp_path, said, seeds="1")
    assert trained(said) == ["fcn-plain, seed 0", "fcn-wide, seed 0", "fcn, seed 0", "mask code, seed 0", "vq, seed 0"]


TABLE = """
import sys
from pathlib import Path
from latens.systems.amodal.reproduce import train_and_reproduce
train_and_reproduce("table1", None, Path(sys.argv[1]), recipe="tiny", settings={settings!r}, progress=print, device="cpu")
"""


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path: Path) -> None:
    words = [sys.executable, "-c", TABLE.format(settings=SMALL), str(tmp_path)]
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=200)[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    together = sorted(trained(said[0]) + trained(said[1]))
    assert together == sorted(["mask code, seed 0", *(f"{row.variant}, seed {seed}" for row in TABLE_1 for seed in (0, 1))])
    assert trained(said[0])
    assert trained(said[1])


def result(variant: str, seed: int, value: float, hidden: float = math.nan) -> Result:
    names = ("AP", "AP50", "AP of visible parts", "mean IoU", "order accuracy", "count accuracy")
    numbers = dict.fromkeys(names, value) | {"AP, mostly hidden": hidden, "mean IoU of hidden parts": value}
    return Result(variant, seed, numbers, 1_500_000, 90.0, "")


def test_cells_are_means_and_differences_are_paired_by_seed() -> None:
    one, other = Row("a", "vq", 68.2), Row("b", "fcn", 66.5)
    ours = [result("vq", 0, 0.5, 0.4), result("vq", 1, 0.7), result("vq", 2, 0.9)]
    theirs = [result("fcn", 1, 0.6), result("fcn", 0, 0.3, 0.1)]
    cells = measured(one, ours)
    assert cells[:3] == ["a", "3", "70.00 ± 20.00"]
    assert cells[4] == "40.00"  # the runs that have hidden objects
    assert cells[-2:] == ["1.50", "1.5 ± 0.0"]
    # Differences 20 and 10: mean 15, deviation 5 sqrt 2. The third seed has no partner.
    assert difference(one, other, ours, theirs)[:4] == ["a - b", "2", "+15.00 ± 7.07", "+30.00"]
    assert difference(one, other, ours, theirs)[-1] == "+1.7"
    assert measured(one, [])[1:4] == ["0", "-", "-"]
    assert spread([-1.0, 1.0], "+.1f") == "+0.0 ± 1.4"


def test_rows_are_variants_and_baselines_have_equal_parameters() -> None:
    assert {row.variant for row in (*TABLE_1, *TABLE_2, *TABLE_3)} == set(VARIANTS)
    for base in (desk().model, tiny().model):
        for baseline, (model, _) in RIVALS.items():
            sizes = [parameters(configured(settings_of(variant, base), base)) for variant in (baseline, model)]
            assert abs(sizes[0] / sizes[1] - 1) < 0.05


def test_rows_differ_in_what_is_compared_alone(tmp_path: Path) -> None:
    lab = Laboratory(["simulated"], Scale(code_from="x"), tmp_path, print)
    lab.shared_code = Path("x")  # type: ignore[misc]
    made = {variant: override(lab.base, lab.settings(variant, 1)) for variant in VARIANTS}
    reference = made["vq"]
    assert (reference.run.steps, reference.run.seed, reference.model.size, reference.data.batch) == (1500, 1, 128, 8)
    for variant, config in made.items():
        assert (config.run, config.optim, config.data) == (reference.run, reference.optim, reference.data)
        assert config.model.detector == reference.model.detector
        assert config.model.backbone == reference.model.backbone
        assert config.objective.code_from == ("x" if coded(variant) else "")
    assert lab.parameters("fcn-plain") < 0.9 * lab.parameters("fcn")


def annotated(folder: Path, count: int, classes: tuple[str, ...] = ("cell",)) -> str:
    """The word of a set of `count` pictures with one square each."""
    folder.mkdir()
    masks = np.zeros((1, 40, 60), dtype=bool)
    masks[0, 10:30, 10:30] = True
    scenes = []
    for number in range(count):
        Image.fromarray(np.where(masks[0], 200, number).astype(np.uint8)).save(folder / f"{number}.png")
        scenes.append(scene_of(paint(masks, np.zeros(1)), f"{number}.png"))
    (folder / "a.json").write_text(json.dumps(to_document(Collection(categories=classes, scenes=tuple(scenes)))))
    return f"coco:{folder / 'a.json'}"


def test_what_was_trained_on_is_not_tested_on(tmp_path: Path) -> None:
    word = annotated(tmp_path / "a", 40)
    source = source_of(word)
    held = [sample.image[0, 0, 0] for sample in Laboratory([word], SCALES["tiny"], tmp_path, print).test]
    assert len(held) == 3
    drawn = {source.draw(np.random.default_rng(seed), 60).image[0, 0, 0] for seed in range(300)}
    assert not drawn & set(held)
    other = annotated(tmp_path / "b", 5)
    lab = Laboratory([word], Scale(recipe="tiny", code_recipe="tiny", test=other, pictures=100), tmp_path, print)
    assert len(lab.test) == 5
    assert lab.test_name == other
    assert lab.key("fcn", 0) != Laboratory([word], Scale(recipe="tiny", code_recipe="tiny", pictures=100), tmp_path, print).key(
        "fcn", 0
    )


def test_data_that_changed_under_the_same_name_is_other_data(tmp_path: Path) -> None:
    word = annotated(tmp_path / "a", 40)
    before = Laboratory([word], SCALES["tiny"], tmp_path, print).key("fcn", 0)
    assert Laboratory([word], SCALES["tiny"], tmp_path, print).key("fcn", 0) == before
    keys = {before}
    for path in (tmp_path / "a").glob("*.png"):
        Image.fromarray(np.full((40, 60), 77, dtype=np.uint8)).save(path)
    keys.add(Laboratory([word], SCALES["tiny"], tmp_path, print).key("fcn", 0))
    document = json.loads((tmp_path / "a" / "a.json").read_text())
    del document["annotations"][-1]
    (tmp_path / "a" / "a.json").write_text(json.dumps(document))
    keys.add(Laboratory([word], SCALES["tiny"], tmp_path, print).key("fcn", 0))
    assert len(keys) == 3
    other = annotated(tmp_path / "b", 3)
    tested = Scale(recipe="tiny", code_recipe="tiny", test=other)
    keys.add(Laboratory([word], tested, tmp_path, print).key("fcn", 0))
    Image.fromarray(np.full((40, 60), 9, dtype=np.uint8)).save(tmp_path / "b" / "0.png")
    keys.add(Laboratory([word], tested, tmp_path, print).key("fcn", 0))
    assert len(keys) == 5


def test_codebook_says_what_the_codes_do(tmp_path: Path) -> None:
    said: list[str] = []
    settings = SMALL | {"side": "100"}
    found = train_and_reproduce(
        "codebook", None, tmp_path, recipe="tiny", settings=settings, progress=said.append, device="cpu"
    )
    assert "pictures of 96 pixels; tested on 2 pictures of 100 pixels" in found.setting
    (table,) = found.blocks
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows] == ["0", "1", "mean"]
    assert trained(said) == ["mask code, seed 0", "mask code, seed 1"]
    lab = Laboratory(
        ["simulated", "simulated:opaque"], override(SCALES["tiny"], settings | {"size": "96"}), tmp_path, print, "cpu"
    )
    crops = held_out_crops(lab.test, 28)
    code = lab.model(lab.code(1).parent).model.code
    assert code is not None
    indices = code.encode(crops)
    a, b = code.decode(indices) > 0, crops > 0.5
    iou = (a & b).sum((1, 2, 3)) / (a | b).sum((1, 2, 3))
    used = 100 * len(indices.unique()) / 16
    assert table.rows[1][1] == f"{used:.1f}"
    assert float(table.rows[1][3]) == pytest.approx(float(iou.mean()), abs=6e-5)


def test_a_code_that_gives_every_mask_back_is_perfect() -> None:
    torch.manual_seed(0)
    code = MaskAutoencoder(MaskCodeConfig(size=28, codewords=16, width=8, channels=8))
    crops = held_out_crops(together([source_of("simulated:opaque").held_out("test", 9, 64)]), 28)
    assert crops.shape == (64, 1, 28, 28)
    code.decode = lambda indices: crops - 0.5  # type: ignore[method-assign, assignment]
    found = code_quality(code, crops)
    assert (found.iou, found.worst, found.masks) == (1, 1, 64)
    code.encode = lambda mask: torch.zeros(len(mask), 7, 7, dtype=torch.long)  # type: ignore[method-assign, assignment]
    found = code_quality(code, crops)
    assert (found.used, found.perplexity) == (1 / 16, 1)


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    for name, words, changes, kind in (
        ("table9", [], {}, UsageError),
        ("table1", [], {"rows": '["gan"]'}, UsageError),
        ("table1", [], {"seeds": "0"}, UsageError),
        ("table1", ["nothing"], {}, UsageError),
        ("table1", [annotated(tmp_path / "two", 3, ("a", "b"))], {"test": "simulated"}, InputError),
    ):
        data = [Path(word) for word in words]
        with pytest.raises(kind):
            train_and_reproduce(name, data, tmp_path / "o", recipe="tiny", settings=changes, device="cpu")
    with pytest.raises(UsageError):
        train_and_reproduce("table1", None, tmp_path / "o", recipe="huge")
    assert not (tmp_path / "o").exists()
