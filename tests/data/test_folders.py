"""Output folders: unwritable folders are refused, and results of different requests do not mix."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from latens.data.folders import MADE_WITH, check_request, check_writable, note_request, noting_request
from latens.errors import OutputExists, UsageError


def test_a_writable_folder_is_unchanged(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "deep")
    check_writable(tmp_path)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_leaves_no_test_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink = os.unlink

    def stopped(path: str) -> None:
        monkeypatch.setattr(os, "unlink", unlink)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "unlink", stopped)
    with pytest.raises(KeyboardInterrupt):
        check_writable(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["file", "file/x", "file/x/y", "link", "/proc/x", "/proc/x/y"])
def test_an_unwritable_folder_is_refused(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="cannot be written") as caught:
        check_writable(tmp_path / place)
    assert "-o" in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


REQUEST = {"model": "abc", "data": [("", "/photos")], "options": {"border": 0, "scale": {"steps": 3}}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "xyz"}, "model was abc and is xyz"),
        ({"data": [("", "/photos"), ("kins", "/k")]}, "data differ by kins:/k"),
        ({"options": {"border": 12, "scale": {"steps": 3}}}, "options.border was 0 and is 12"),
        ({"options": {"border": 0, "scale": {"steps": 4}}}, "options.scale.steps was 3 and is 4"),
    ],
)
def test_another_request_is_refused_unless_forced(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    note_request(tmp_path, "evaluation", REQUEST)
    check_request(tmp_path, "evaluation", REQUEST)
    check_request(tmp_path, "table1", {**REQUEST, **changes})  # other results in the same folder
    with pytest.raises(OutputExists, match=message):
        check_request(tmp_path, "evaluation", {**REQUEST, **changes})
    check_request(tmp_path, "evaluation", {**REQUEST, **changes}, force=True)
    note_request(tmp_path, "table1", {**REQUEST, **changes})
    check_request(tmp_path, "evaluation", REQUEST)


def test_files_of_unknown_origin_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(OutputExists, match="no record of its request"):
        check_request(tmp_path, "demo", {}, results=["index.html"])
    check_request(tmp_path, "demo", {}, results=["index.html"], force=True)


def test_changed_results_are_not_replaced(tmp_path: Path) -> None:
    table, journal = tmp_path / "evaluation.csv", tmp_path / "evaluation.jsonl"
    results = ["evaluation.*"]
    with noting_request(tmp_path, "evaluation", REQUEST, results=results):
        table.write_text("1")
        journal.write_text("1")
    journal.write_text("2")  # by another request of the same folder
    check_request(tmp_path, "evaluation", REQUEST, results=results)
    table.write_text("mine")
    with pytest.raises(OutputExists, match="has changed since") as caught:
        check_request(tmp_path, "evaluation", REQUEST, results=results)
    assert caught.value.where == str(table)
    check_request(tmp_path, "evaluation", REQUEST, results=results, force=True)
    with pytest.raises(ValueError, match="no data"), noting_request(tmp_path, "evaluation", REQUEST, results=results):
        raise ValueError("no data")
    with pytest.raises(OutputExists, match="has changed since"):
        check_request(tmp_path, "evaluation", REQUEST, results=results)
    with pytest.raises(KeyboardInterrupt), noting_request(tmp_path, "evaluation", REQUEST, results=results):
        raise KeyboardInterrupt  # or a kill, while some results are new
    check_request(tmp_path, "evaluation", REQUEST, results=results)


@pytest.mark.parametrize("content", ["{", '{"tool": "mine"}', "[1]", None])
def test_a_foreign_record_is_kept_without_force(content: str | None, tmp_path: Path) -> None:
    own, record = tmp_path / "own.txt", tmp_path / "out" / MADE_WITH
    record.parent.mkdir()
    own.write_text("mine")
    if content is None:
        record.symlink_to(own)
    else:
        record.write_text(content)
    with pytest.raises(OutputExists, match="latens did not write it"):
        check_request(record.parent, "demo", {})
    check_request(record.parent, "demo", {}, force=True)
    note_request(record.parent, "demo", {"x": 1})
    check_request(record.parent, "demo", {"x": 1})
    assert not record.is_symlink()
    assert own.read_text() == "mine"


def test_standard_output_is_no_folder() -> None:
    with pytest.raises(UsageError, match="standard output"):
        check_writable(Path("./-"))
