"""Records that survive kills."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from latens.data.journal import Journal
from latens.errors import StorageFull


def test_records_come_back_in_order_and_from_another_process_too(tmp_path: Path) -> None:
    mine, other = Journal(tmp_path / "runs.jsonl"), Journal(tmp_path / "runs.jsonl")
    mine.append([{"n": 1}, {"n": 2}])
    other.append([{"n": 3}])
    assert [record["n"] for record in mine.read()] == [1, 2, 3]


def test_a_line_that_was_cut_off_is_passed_over_and_the_next_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    Journal(path).append([{"n": 1}, {"n": 2}])
    path.write_bytes(path.read_bytes()[:-4])  # as a kill leaves it
    Journal(path).append([{"n": 3}])
    assert [record["n"] for record in Journal(path).read()] == [1, 3]


def test_what_is_no_record_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text('[1]\n"text"\n{"n": 1}\n')
    assert list(Journal(path).read()) == [{"n": 1}]


def test_without_a_path_nothing_is_kept() -> None:
    journal = Journal(None)
    journal.append([{"n": 1}])
    assert list(journal.read()) == []


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageFull):
        Journal(tmp_path / "runs.jsonl").append([{"n": 1}])
