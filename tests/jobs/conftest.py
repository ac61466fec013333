from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.jobs.capitals import TARGET

from latens.jobs import job as jobs
from latens.jobs.job import Input, Job, Task
from latens.jobs.store import FolderStore


class Place:
    """A job on texts: inputs in one folder, results in another."""

    def __init__(self, folder: Path) -> None:
        self.inputs, self.out = folder / "inputs", folder / "out"
        self.store = FolderStore(self.out)

    def write(self, texts: Mapping[str, str]) -> list[Input]:
        for name, text in texts.items():
            (self.inputs / name).parent.mkdir(parents=True, exist_ok=True)
            (self.inputs / name).write_text(text)
        return [Input(name, str(self.inputs / name)) for name in texts]

    def begin(self, inputs: list[Input], *, shard: int = 2, together: bool = False, **settings: object) -> Job:
        make = jobs.new_job("compress", ["compress"], settings, "/", shard, version="1", together=together)
        return jobs.begin(self.store, make, inputs)[0]

    def tasks(self, job: Job) -> list[Task]:
        inputs = jobs.read_inputs(self.store, job)
        return list(jobs.tasks(job, TARGET, self.store.place, inputs, jobs.finished_shards(self.store)))

    def results(self) -> dict[str, str]:
        """Texts of all results, without the state of the job."""
        return {name: (self.out / name).read_text() for name in self.store.names() if not name.startswith(jobs.STATE)}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)
