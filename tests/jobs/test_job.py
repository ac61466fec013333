"""Lists are frozen, a folder holds one job, and shards keep what belongs together."""

from __future__ import annotations

import pytest

from latens.errors import Corrupt, OutputExists, UsageError
from latens.jobs import job as jobs
from latens.jobs.job import Input, Task

from .conftest import Place

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


@pytest.mark.parametrize("doubled", [Input("a.txt", "/elsewhere/a.txt"), Input("a.png", "/a.png")])
def test_two_results_of_one_name_are_refused(doubled: Input, place: Place) -> None:
    with pytest.raises(UsageError, match=r"2 inputs whose results would have one name, such as a\.[a-z]+ and a\."):
        place.begin([*place.write(TEXTS), doubled])
    assert not place.out.exists()


def test_a_damaged_state_is_an_error(place: Place) -> None:
    job = place.begin(place.write(TEXTS))
    listed = place.out / jobs.STATE / f"inputs-{job.inputs}.jsonl"
    listed.write_bytes(listed.read_bytes()[:-3])
    with pytest.raises(Corrupt, match="list of inputs"):
        jobs.read_inputs(place.store, job)
    (place.out / jobs.JOB).write_text("[]")
    with pytest.raises(Corrupt, match="not the state of a job"):
        jobs.load(place.store)


def test_whole_folders_stay_together(place: Place) -> None:
    names = ["a/1.txt", "a/2.txt", "a/3.txt", "b/1.txt", "c/1.txt"]
    inputs = place.write(dict.fromkeys(names, "x"))
    job = place.begin(inputs, shard=2, whole_folders=True)
    assert [[entry.id for entry in shard] for shard in job.cut(inputs)] == [names[:3], names[3:]]
    assert [len(shard) for shard in job._replace(whole_folders=False).cut(inputs)] == [2, 2, 1]


def test_tasks_survive_json(place: Place) -> None:
    for task in place.tasks(place.begin(place.write(TEXTS), quality=4)):
        assert Task.parse(task.dump()) == task
