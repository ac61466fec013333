"""Lists are frozen, a folder holds one job, and shards keep what belongs together."""

from __future__ import annotations

import json

import pytest
from tests.jobs.capitals import TARGET

from latens.errors import Corrupt, OutputExists, UsageError
from latens.jobs import job as jobs
from latens.jobs.driver import merge_tables
from latens.jobs.job import Input, Task
from latens.jobs.shard import work_on

from .conftest import Place

WRONG: list[dict[str, object]] = [{"total": "3"}, {"shard": 0}, {"words": 1}, {"settings": []}, {"id": 1}, {"other": 1}]
TEXTS = {"b.txt": "b", "a.txt": "a", "day/c.txt": "c"}


def test_a_job_goes_on_with_its_list(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    inputs = place.write(TEXTS)
    job = place.begin(inputs, quality=4)
    more = place.write({"d.txt": "d"})
    assert place.begin([*inputs[1:], *more], quality=4) == job
    assert [entry.id for entry in jobs.read_inputs(place.store, job)] == ["a.txt", "b.txt", "day/c.txt"]
    assert "1 input more and 1 fewer" in caplog.text


def test_a_folder_holds_one_job(place: Place) -> None:
    inputs = place.write(TEXTS)
    place.begin(inputs, quality=4)
    with pytest.raises(OutputExists, match="quality 4 -> 5"):
        place.begin(inputs, quality=5)
    with pytest.raises(OutputExists, match="latens compress"):
        jobs.begin(place.store, jobs.new_job("dehaze", [], {"quality": 4}, "/", 2, version="1"), inputs)


def test_two_inputs_of_one_name_are_refused(place: Place) -> None:
    with pytest.raises(UsageError, match=r"2 inputs with the name of another one, such as a\.txt"):
        place.begin([*place.write(TEXTS), Input("a.txt", "/elsewhere/a.txt")])
    assert not place.out.exists()


def test_results_of_one_stem_have_different_names(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Names are those of the verbs without a job: a.jpg.ltn, a.png.ltn, and a.jpg.png.ltn, as a.jpg.ltn is taken."""
    inputs = [Input(name, f"/{name}") for name in ("a.jpg", "a.png", "a.jpg.png", "b.jpg", "day/a.jpg", "scan", "scan.png")]
    job = place.begin(inputs)
    listed = {entry.place: entry.id for entry in jobs.read_inputs(place.store, job)}
    assert listed == {
        "/a.jpg": "a.jpg.jpg",
        "/a.png": "a.png.png",
        "/a.jpg.png": "a.jpg.png.png",
        "/b.jpg": "b.jpg",
        "/day/a.jpg": "day/a.jpg",
        "/scan": "scan",
        "/scan.png": "scan.png.png",
    }
    assert "5 inputs whose results would share a name, such as a.jpg, named with a doubled ending" in caplog.text


def test_a_damaged_state_is_an_error(place: Place) -> None:
    job = place.begin(place.write(TEXTS))
    listed = place.out / jobs.STATE / f"inputs-{job.inputs}.jsonl"
    listed.write_bytes(listed.read_bytes()[:-3])
    with pytest.raises(Corrupt, match="list of inputs"):
        jobs.read_inputs(place.store, job)
    state = json.loads((place.out / jobs.JOB).read_text())
    for text in ("[]", "{", *(json.dumps({**state, **change}) for change in WRONG)):
        (place.out / jobs.JOB).write_text(text)
        with pytest.raises(Corrupt, match="not the state of a job") as caught:
            jobs.load(place.store)
        assert "finished shards are kept" in str(caught.value.hint)


def test_a_job_whose_state_was_lost_goes_on(place: Place) -> None:
    """Its journals count for the same list, shards and settings only: others are about other inputs."""
    inputs = place.write(TEXTS)
    job = place.begin(inputs, shard=2, quality=4)
    assert work_on(place.tasks(job)[0]).done == 2
    (place.out / jobs.JOB).unlink()
    for listed, shard, quality in ((inputs, 2, 5), (inputs, 1, 4), (inputs[:2], 2, 4)):
        with pytest.raises(OutputExists, match=r"job\.json is missing"):
            place.begin(listed, shard=shard, quality=quality)
    assert not (place.out / jobs.JOB).exists()
    assert place.begin(inputs, shard=2, quality=4) == job
    assert [task.number for task in place.tasks(job)] == [1]


def test_a_journal_of_another_job_is_not_taken(place: Place) -> None:
    task = place.tasks(place.begin(place.write(TEXTS)))[0]
    work_on(task)
    with pytest.raises(OutputExists, match="belongs to another job"):
        work_on(task._replace(job=task.job._replace(id="0")))


def test_inputs_that_stay_together_are_one_shard_also_in_a_retry(place: Place) -> None:
    names = ["a/1.txt", "a/2.txt", "a/3.txt", "b/1.txt", "c/1.txt"]
    inputs = place.write(dict.fromkeys(names, "x") | {"a/2.txt": "bad"})
    job = place.begin(inputs, shard=2, together=True)
    assert [[entry.id for entry in shard] for shard in job.cut(inputs)] == [names]
    apart = job._replace(together=False)
    assert [len(shard) for shard in apart.cut(inputs)] == [2, 2, 1]
    assert (job.shards, apart.shards) == (1, 3)
    work_on(place.tasks(job)[0])
    (place.inputs / "a/2.txt").write_text("better")
    generation, again = jobs.retry(place.store, job)
    assert [entry.id for entry in again] == names
    work_on(next(jobs.tasks(job, TARGET, place.store.place, again, set(), generation)))
    merge_tables(place.store, job)
    assert (place.out / "lengths.csv").read_text() == "file,length\n" + "".join(
        f"{name},{6 if name == 'a/2.txt' else 1}\n" for name in names
    )


def test_the_state_of_earlier_versions_is_read(place: Place) -> None:
    job = place.begin(place.write(TEXTS), shard=2)
    state = job._asdict()
    state["whole_folders"] = state.pop("together")
    assert jobs.as_job(state) == job


def test_tasks_survive_json(place: Place) -> None:
    for task in place.tasks(place.begin(place.write(TEXTS), quality=4)):
        assert Task.parse(task.dump()) == task
