"""Records that survive kills."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from latens.data.folders import claim
from latens.errors import StorageFull, UsageError
from latens.experiments.journal import Journal


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


def test_a_full_disk_raises_storage_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageFull):
        Journal(tmp_path / "runs.jsonl").append([{"n": 1}])


def test_a_claim_is_one_process_alone_and_ends_with_it(tmp_path: Path) -> None:
    with claim(tmp_path / "run", wait=False) as ours, claim(tmp_path / "run", wait=False) as other:
        assert ours
        assert not other
    code = "import sys, time\nfrom pathlib import Path\nfrom latens.data.folders import claim\n"
    code += "with claim(Path(sys.argv[1]), wait=True):\n    print('mine', flush=True)\n    time.sleep(100)"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "mine\n"
    with claim(tmp_path / "run", wait=False) as ours:
        assert not ours
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    with claim(tmp_path / "run", wait=True) as ours:
        assert ours
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError), claim(tmp_path / "file", wait=True):
        pass
