"""The table of planted mistakes: every text occurs once, every mutant compiles, every named test exists."""

from __future__ import annotations

import ast
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
MUTANTS = runpy.run_path(str(ROOT / "benchmarks" / "mutants.py"))
TABLE: list[Any] = MUTANTS["table"]()
SYSTEMS = ("amodal", "haze", "parts", "image codec", "video codec", "flow", "seedlings")


@pytest.mark.parametrize("entry", TABLE, ids=lambda entry: entry.name)
def test_every_mistake_can_be_planted(entry: Any) -> None:
    ast.parse(MUTANTS["mutated"](entry))
    assert entry.text != entry.replacement
    assert bool(entry.tests) != bool(entry.reason), "give tests that must fail, or the reason why none can"
    for test in entry.tests:
        path, _, name = test.partition("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert not name or name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test


def test_the_table_covers_all_systems() -> None:
    assert len({entry.name for entry in TABLE}) == len(TABLE) >= 60
    counts = Counter(entry.name.partition(":")[0] for entry in TABLE)
    assert set(counts) == {*SYSTEMS, "training"}
    assert min(counts[system] for system in SYSTEMS) >= 8


def test_a_mistake_without_its_place_is_an_error() -> None:
    entry = TABLE[0]._replace(text="not in the file")
    with pytest.raises(ValueError, match="occurs 0 times"):
        MUTANTS["mutated"](entry)


def test_the_sample_is_seeded_and_proportional() -> None:
    population = {"a": [f"a{i}" for i in range(60)], "b": [f"b{i}" for i in range(30)], "c": ["c0"] * 10}
    drawn = MUTANTS["draw"](population, 20, 1)
    assert drawn == MUTANTS["draw"](population, 20, 1) != MUTANTS["draw"](population, 20, 2)
    assert Counter(name[0] for name in drawn) == {"a": 12, "b": 6, "c": 2}
    assert len(MUTANTS["draw"](population, 1000, 1)) == 100
    low, high = MUTANTS["wilson"](350, 400)
    assert (low, high) == pytest.approx((0.8390, 0.9039), abs=1e-4)


def test_the_files_of_the_sample_exist() -> None:
    assert [name for name in MUTANTS["FILES"] if not (ROOT / "src" / "latens" / name).is_file()] == []
    assert [name for name in MUTANTS["TESTS"] if not (ROOT / "tests" / name).is_file()] == []
    for name in MUTANTS["LONG"]:
        path, _, test = name.partition("::")
        assert path in MUTANTS["TESTS"]
        assert f"def {test}(" in (ROOT / "tests" / path).read_text(encoding="utf-8")
