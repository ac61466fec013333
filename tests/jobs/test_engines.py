"""The engine `local`: shards of dead workers are worked on again, and a dead driver is replaced by the next one."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest
from tests.jobs.capitals import TARGET

from latens.errors import InputError
from latens.jobs import job as jobs
from latens.jobs.driver import drive, merge_tables
from latens.jobs.engines import LocalEngine
from latens.jobs.shard import OPEN, Done

from .conftest import Place


def test_an_input_that_kills_workers_costs_one_row(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    texts = {"a.txt": "a", "b.txt": "die", "c.txt": "c", "d.txt": "bad"}
    job = place.begin(place.write(texts))
    with contextlib.closing(LocalEngine(2)) as engine:
        done = list(drive(engine, place.tasks(job)))
    assert sorted(done) == [Done(0, 1, 1), Done(1, 1, 1)]
    errors = {row.id: row.error for row in jobs.rows(place.store).values()}
    assert errors == {"a.txt": "", "b.txt": "WorkerDied", "c.txt": "", "d.txt": "Corrupt"}
    assert merge_tables(place.store, job) == ["lengths.csv"]
    assert (place.out / "lengths.csv").read_text() == "file,length\na.txt,1\nc.txt,1\n"
    assert caplog.text.count("its worker died") == 2


def test_a_stopped_driver_leaves_no_folder_of_a_shard(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (task,) = place.tasks(place.begin(place.write({"a.txt": "wait"})))
    with contextlib.closing(LocalEngine(1)) as engine:
        engine.submit(task)
        while not list(tmp_path.glob(f"{OPEN}*/in/a.txt")):
            time.sleep(0.01)
    assert list(tmp_path.glob(f"{OPEN}*")) == []


def test_an_error_of_the_job_ends_it(place: Place) -> None:
    tasks = place.tasks(place.begin(place.write({"a.txt": "a"})))
    with contextlib.closing(LocalEngine(1)) as engine, pytest.raises(InputError, match="internal error"):
        list(drive(engine, [task._replace(target="tests.jobs.capitals:missing") for task in tasks]))


def test_failed_inputs_are_worked_on_again(place: Place) -> None:
    job = place.begin(place.write({"a.txt": "a", "b.txt": "bad", "c.txt": "c"}), shard=1)
    with contextlib.closing(LocalEngine(1)) as engine:
        list(drive(engine, place.tasks(job)))
        assert merge_tables(place.store, job) == ["lengths.csv"]
        assert (place.out / "lengths.csv").read_text() == "file,length\na.txt,1\nc.txt,1\n"
        (place.inputs / "b.txt").write_text("better")
        generation, inputs = jobs.retry(place.store, job)
        assert (generation, [entry.id for entry in inputs]) == (1, ["b.txt"])
        assert jobs.retry(place.store, job) == (1, inputs)  # of a driver that died
        again = jobs.tasks(job, TARGET, place.store.place, inputs, set(), generation)
        assert list(drive(engine, list(again))) == [Done(0, 1, 0)]
    assert {row.id: row.state for row in jobs.rows(place.store).values()} == dict.fromkeys(("a.txt", "b.txt", "c.txt"), "done")
    assert jobs.retry(place.store, job) == (2, [])
    merge_tables(place.store, job)
    assert (place.out / "lengths.csv").read_text() == "file,length\na.txt,1\nc.txt,1\nb.txt,6\n"


def test_lost_results_are_made_again(place: Place) -> None:
    """Their rows of a table are not doubled, and an unfinished retry of other inputs comes first."""
    job = place.begin(place.write({"a.txt": "a", "b.txt": "bad", "c.txt": "c"}), shard=3)
    with contextlib.closing(LocalEngine(1)) as engine:
        list(drive(engine, place.tasks(job)))
        assert [entry.id for entry in jobs.retry(place.store, job)[1]] == ["b.txt"]
        (place.inputs / "b.txt").write_text("better")
        results = place.results()
        name = next(output.name for output in jobs.rows(place.store)["a.txt"].outputs)
        (place.out / name).unlink()
        for number, listed in ((1, ["b.txt"]), (2, ["a.txt"])):
            generation, inputs = jobs.retry(place.store, job, {"a.txt"})
            assert (generation, [entry.id for entry in inputs]) == (number, listed)
            again = jobs.tasks(job, TARGET, place.store.place, inputs, set(), generation)
            assert [done.failed for done in drive(engine, list(again))] == [0]
    assert place.results()[name] == results[name]
    merge_tables(place.store, job)
    assert (place.out / "lengths.csv").read_text() == "file,length\nc.txt,1\nb.txt,6\na.txt,1\n"
