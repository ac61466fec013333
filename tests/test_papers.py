"""The list of tables and figures of the papers: complete, with records, and pages that were generated from them."""

from __future__ import annotations

import json
import runpy
from collections import Counter
from pathlib import Path

import pytest

from latens.cli.main import main
from latens.contract import open_system
from latens.papers import PAPERS, RECORDS, listed, read_record

ROOT = Path(__file__).parent.parent
COUNTS = {"image_codec": 13, "amodal": 3, "haze": 5, "parts": 11, "video_codec": 16, "flow": 19, "seedlings": 12}


def test_all_tables_and_figures_are_listed() -> None:
    items = list(listed())
    assert Counter(item.system for item in items) == COUNTS
    assert len({(item.system, item.name) for item in items}) == 79
    assert sum(item.name.startswith("table") for item in items) == 30


@pytest.mark.parametrize("system", PAPERS)
def test_every_listed_name_can_be_reproduced_at_all_scales(system: str) -> None:
    artifacts = open_system(system).artifacts
    assert set(PAPERS[system].names) <= set(artifacts)
    assert {name for name in PAPERS[system].names if not {"tiny", "cpu"} <= artifacts[name].scales.keys()} == set()


def test_every_listed_name_has_a_record() -> None:
    for item in listed():
        assert item.record is not None, f"{item.system}/{item.name}"
        assert (item.record["system"], item.record["name"]) == (item.system, item.name)
        assert item.record["date"] in item.state
    files = {(path.parent.name, path.stem) for path in RECORDS.glob("*/*.json")}
    assert files == {(item.system, item.name) for item in listed()}


def test_the_results_count_the_records_of_scale_cpu() -> None:
    large = [item for item in listed() if item.record is not None and item.record["recipe"] == "cpu"]
    text = (ROOT / "docs" / "results" / "index.md").read_text(encoding="utf-8")
    assert f"Of the 79, {len(large)} have a record at scale `cpu`" in " ".join(text.split())


def test_records_name_no_folder_of_a_machine() -> None:
    for path in RECORDS.glob("*/*.json"):
        text = path.read_text(encoding="utf-8")
        assert not [place for place in ("/work", "/home", "/tmp", "/root") if place in text], path.name


@pytest.mark.parametrize("system", PAPERS)
def test_pages_are_generated_from_the_records(system: str) -> None:
    page_of = runpy.run_path(str(ROOT / "benchmarks" / "results_pages.py"))["page_of"]
    hint = "run python benchmarks/results_pages.py render"
    assert (ROOT / "docs" / "results" / "papers" / f"{system}.md").read_text(encoding="utf-8") == page_of(system), hint


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--list", "haze", "--format", "json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["name"] for each in found] == list(PAPERS["haze"].names)
    record = read_record("haze", "figure2")
    assert record is not None
    assert found[1]["command"] == record["command"]
    assert main(["reproduce", "--list"]) == 0
    shown = capsys.readouterr().out
    assert all(paper.source in shown for paper in PAPERS.values())
    assert main(["reproduce", "--list", "haze/figure2", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "figure2"
    assert main(["reproduce", "--list", "haze/figure9"]) == 2
    assert "haze has no 'figure9'" in capsys.readouterr().err
    assert main(["reproduce", "--list", "hase"]) == 2
    assert "haze" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["haze/"], ["all"], ["all", "--recipe", "tiny", "--data", "x"], ["all", "--recipe", "tiny", "--model", "haze"]]
)
def test_requests_that_are_refused(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", *words, "-o", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
