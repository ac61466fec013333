"""`latens reproduce`: which systems take several data sets, and tables that train their own models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from latens.catalogue import SYSTEMS
from latens.cli.main import main
from latens.papers import PAPERS


def test_a_table_of_amodal_on_two_data_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["reproduce", "amodal/table1", "--recipe", "tiny", "-o", str(tmp_path), "--device", "cpu", "--format", "json"]
    words += ["--data", "simulated", "simulated:opaque"]
    for setting in ("steps=1", "code_steps=2", "seeds=1", "images=2"):
        words += ["--set", setting]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["data"] == ["simulated", "simulated:opaque"]
    assert [run["variant"] for run in found["runs"]] == ["fcn-plain", "fcn-wide", "fcn", "vq"]
    assert main([*words, "--set", "stepz=1"]) == 2


def test_most_tables_take_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "parts/table1", "--data", "a", "b", "-o", str(tmp_path)]) == 2
    assert "one data set" in capsys.readouterr().err


@pytest.mark.parametrize("system", SYSTEMS)
def test_an_unknown_name_is_an_error_with_the_nearest_one(system: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = PAPERS[system].names[0]
    assert main(["reproduce", f"{system}/{name}0"]) == 2
    message = capsys.readouterr().err
    assert f"{system} has no '{name}0'" in message
    assert f"did you mean '{name}'?" in message


def test_torchrun_is_refused_by_the_first_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two processes would train one row together and wait for each other forever."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = ["reproduce", "amodal/table1", "--recipe", "tiny", "-o", str(tmp_path / "out")]
    for rank, said in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        assert main(words) == 2
        message = capsys.readouterr().err
        assert ("cannot run under torchrun" in message) == said
        assert ("share the rows" in message) == said
    assert not (tmp_path / "out").exists()
