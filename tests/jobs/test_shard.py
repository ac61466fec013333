"""One row for every input, whatever happens to the worker."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.campaigns.faults import KILLED, Fault, run_call

from latens.errors import OutputExists
from latens.jobs import job as jobs
from latens.jobs.journal import Journal, Row, commit
from latens.jobs.shard import OPEN, Done, work_on

from .conftest import Place

TEXTS = {"a.txt": "a", "b.txt": "bad", "day/c.txt": "c"}
RESULTS = {"a.up": "A", "day/c.up": "C", "shards/000000/lengths.csv": "file,length\na.txt,1\nday/c.txt,1\n"}


def states(place: Place) -> dict[str, str]:
    return {row.id: row.error or row.state for row in jobs.rows(place.store).values()}


def test_rows_and_results(place: Place) -> None:
    inputs = place.write(TEXTS)
    (place.inputs / "gone.txt").write_text("x")
    gone = inputs[0]._replace(id="gone.txt", place=str(place.inputs / "gone.txt"))
    (task,) = place.tasks(place.begin([*inputs, gone], shard=9))
    os.unlink(gone.place)
    assert work_on(task) == Done(0, 2, 2)
    assert states(place) == {"a.txt": "done", "b.txt": "Corrupt", "day/c.txt": "done", "gone.txt": "UnreadableInput"}
    assert place.results() == RESULTS
    row = jobs.rows(place.store)["a.txt"]
    assert (row.outputs[0].name, row.outputs[0].bytes, row.result) == ("a.up", 1, {"length": 1})
    assert row.outputs[0].sha256 == place.store.digest("a.up")


def test_a_finished_shard_is_not_worked_on_again(place: Place) -> None:
    (task,) = place.tasks(place.begin(place.write(TEXTS), shard=9))
    work_on(task)
    (place.inputs / "a.txt").write_text("other")
    assert work_on(task) == Done(0, 2, 1)
    assert place.results() == RESULTS


@pytest.mark.parametrize("kind", ["kill", "torn"])
def test_a_worker_may_die_at_any_call_that_changes_files(kind: str, place: Place, tmp_path: Path) -> None:
    inputs = place.write(TEXTS)
    job = place.begin(inputs, shard=9)
    (task,) = place.tasks(job)
    log = tmp_path.parent / f"{tmp_path.name}.log"
    calls = run_call(lambda: int(work_on(task).failed), "a shard", place.out, log).calls
    expected = place.results(), states(place)
    assert calls > 15
    for at in range(calls):
        for path in [*place.out.iterdir(), place.out / jobs.STATE / "shards"]:
            if path.is_file():
                path.unlink()
            elif path.name != jobs.STATE:
                shutil.rmtree(path, ignore_errors=True)
        assert run_call(lambda: int(work_on(task).failed), "a shard", place.out, log, Fault(kind, at)).status == KILLED
        assert work_on(task) == Done(0, 2, 1)
        place.store.sweep()
        assert (place.results(), states(place)) == expected


def test_a_result_that_the_job_did_not_write_is_kept(place: Place) -> None:
    (task,) = place.tasks(place.begin(place.write(TEXTS), shard=9))
    (place.out / "a.up").write_text("mine")
    assert work_on(task) == Done(0, 1, 2)
    assert states(place)["a.txt"] == "OutputExists"
    assert (place.out / "a.up").read_text() == "mine"


def test_an_internal_error_concerns_one_input(place: Place) -> None:
    (task,) = place.tasks(place.begin(place.write(TEXTS | {"x.txt": "crash"}), shard=9))
    assert work_on(task) == Done(0, 2, 2)
    assert states(place) == {"a.txt": "done", "b.txt": "Corrupt", "day/c.txt": "done", "x.txt": "InternalError"}


def test_an_input_that_kills_its_process_is_found(place: Place) -> None:
    (task,) = place.tasks(place.begin(place.write({"a.txt": "a", "x.txt": "die"}), shard=9))
    assert work_on(task._replace(alone=True)) == Done(0, 1, 1)
    assert states(place) == {"a.txt": "done", "x.txt": "WorkerDied"}


def test_the_folder_of_a_killed_worker_is_removed(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    dead, alive = (tmp_path / f"{OPEN}{pid}-abc" for pid in (child.pid, os.getpid()))
    dead.mkdir()
    alive.mkdir()
    (task,) = place.tasks(place.begin(place.write(TEXTS), shard=9))
    work_on(task)
    assert [path.name for path in tmp_path.glob(f"{OPEN}*")] == [alive.name]


def test_the_first_of_two_journals_stands(place: Place) -> None:
    row = Row("a", "done", result={"seconds": 1})
    first = Journal("job", 0, 1.0, 2.0, "here", (row,))
    assert commit(place.store, "j", first) == first
    slower = first._replace(finished=9.0, rows=(row._replace(result={"seconds": 5}),))
    assert commit(place.store, "j", slower) == first
    with pytest.raises(OutputExists, match="disagree on shard 0, first on a"):
        commit(place.store, "j", first._replace(rows=(row._replace(state="failed"),)))
    with pytest.raises(OutputExists, match="another job"):
        commit(place.store, "j", first._replace(job="other"))
