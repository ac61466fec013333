"""A job: one command on a frozen list of inputs, cut into shards. Its state is the folder .latens-job of the output folder.

job.json                      the command, the number of inputs, the size of a shard
inputs-SHA256.jsonl           the list: a line [id, place] for each input, sorted by folder and id
shards/000000.jsonl           the journal of a finished shard
retry-1/inputs.jsonl          a list of inputs that had failed
retry-1/000000.jsonl          journals of these; the last row of an input counts
tables.json                   hashes of the tables of all inputs, as they were written
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from latens.errors import Corrupt, OutputExists, counted
from latens.jobs.journal import Journal, Row
from latens.jobs.naming import with_distinct_names
from latens.jobs.store import Store

logger = logging.getLogger(__name__)

STATE = ".latens-job"
JOB = f"{STATE}/job.json"
FORM = 1


class Input(NamedTuple):
    """An input: its name, whose stem is the name of its results in the output folder, and its path or address."""

    id: str
    place: str


class Job(NamedTuple):
    """What is worked on. `settings` decide the results; two commands with equal settings are one job."""

    id: str
    verb: str
    words: tuple[str, ...]  # of the command
    settings: Mapping[str, Any]
    folder: str  # where the command was given, to which relative paths of options belong
    total: int  # inputs
    shard: int  # largest number of inputs of a shard
    together: bool  # all inputs are one shard, which a retry works on as a whole
    inputs: str  # SHA-256 of the list
    version: str

    def cut(self, inputs: Sequence[Input]) -> list[tuple[Input, ...]]:
        """The shards of a sorted list."""
        size = max(len(inputs), 1) if self.together else self.shard
        return [tuple(inputs[start : start + size]) for start in range(0, len(inputs), size)]

    @property
    def shards(self) -> int:
        """Number of shards of the whole list."""
        return 1 if self.together else -(-self.total // self.shard)


class Task(NamedTuple):
    """A shard to work on. `generation` 0 is the whole list, others are retries; `alone`: each input in its own process."""

    job: Job
    target: str  # "module:function", a `latens.jobs.shard.Run`
    place: str  # of the outputs
    number: int
    inputs: tuple[Input, ...]
    generation: int = 0
    alone: bool = False

    @property
    def journal(self) -> str:
        return journal_name(self.generation, self.number)

    def dump(self) -> str:
        return json.dumps({**self._asdict(), "job": self.job._asdict()})

    @classmethod
    def parse(cls, text: str) -> Task:
        values = json.loads(text)
        values["job"] = as_job(values["job"])
        values["inputs"] = tuple(Input(*value) for value in values["inputs"])
        return cls(**values)


def journal_name(generation: int, number: int) -> str:
    return f"{STATE}/{f'retry-{generation}' if generation else 'shards'}/{number:06d}.jsonl"


def begin(store: Store, job: Callable[[str, int], Job], inputs: Sequence[Input]) -> tuple[Job, list[Input]]:
    """Freeze a list of inputs, or continue the job whose state is in the store. Returns the job and its list.

    `job` makes a job of the hash and the length of a list. Raises OutputExists if the store holds another job, or journals of
    one whose state was lost, Corrupt if its state is damaged, UsageError for inputs with one name.
    """
    inputs = sorted(with_distinct_names(inputs, store.place), key=lambda entry: (_folder(entry), entry.id))
    data = _list_data(inputs)
    own = job(hashlib.sha256(data).hexdigest(), len(inputs))
    found = load(store)
    if found is None:
        _check_journals(store, own)
        store.create(_list_name(own), data)
        store.create(JOB, json.dumps(own._asdict()).encode())
        found = load(store)  # that of another process which began at the same time, perhaps
        assert found is not None
    _check_same(found, own, store.place)
    frozen = read_inputs(store, found)
    if found.inputs != own.inputs:
        before, now = {entry.id for entry in frozen}, {entry.id for entry in inputs}
        what = f"{counted(len(now - before), 'input')} more and {len(before - now)} fewer than when this job began"
        logger.warning("%s: %s; the job keeps its list, and new inputs need another output folder", store.place, what)
    return found, frozen


def _check_journals(store: Store, own: Job) -> None:
    """Raise OutputExists if journals are there that do not belong to this job, whose state was lost or never written."""
    if all(journal.job == own.id for journal in journals(store)):
        return
    what = f"{JOB} is missing, and the journals next to it belong to another job"
    hint = f"give the inputs and the options of that job, name another folder with -o, or remove {STATE}"
    raise OutputExists(what, where=store.place, hint=hint)


def _list_name(job: Job) -> str:
    return f"{STATE}/inputs-{job.inputs}.jsonl"


def as_job(values: Mapping[str, Any]) -> Job:
    """The job of values read from JSON. Raises TypeError, KeyError or ValueError for other ones."""
    own = {**values, "words": tuple(map(str, values["words"]))}
    if "whole_folders" in own:  # of earlier versions
        own["together"] = own.pop("whole_folders")
    job = Job(**own)
    for name in ("id", "verb", "folder", "inputs", "version"):
        if not isinstance(getattr(job, name), str):
            raise TypeError(f"{name} is no text")
    if not isinstance(job.settings, Mapping):
        raise TypeError("settings is no object")
    if not (type(job.total) is int is type(job.shard) and job.total >= 0 and job.shard >= 1):
        raise ValueError("total and shard are no counts")
    return job


def load(store: Store) -> Job | None:
    """The job whose state is in a store; None without one. Raises Corrupt."""
    data = store.read(JOB)
    if data is None:
        return None
    try:
        return as_job(json.loads(data))
    except (ValueError, TypeError, KeyError) as error:
        hint = "remove this file, then give the command of the job again: finished shards are kept"
        raise Corrupt(f"this is not the state of a job ({error})", where=f"{store.place}/{JOB}", hint=hint) from error


def read_inputs(store: Store, job: Job) -> list[Input]:
    """The frozen list of a job. Raises Corrupt."""
    name = _list_name(job)
    data = store.read(name)
    if data is None or hashlib.sha256(data).hexdigest() != job.inputs:
        raise Corrupt("the list of inputs is missing or damaged", where=f"{store.place}/{name}", hint="name another folder")
    return _parsed_list(data, name)


def _list_data(inputs: Sequence[Input]) -> bytes:
    return "".join(json.dumps(entry) + "\n" for entry in inputs).encode()


def _parsed_list(data: bytes | None, name: str) -> list[Input]:
    if data is None:
        raise Corrupt("the list of inputs is missing", where=name, hint="name another folder")
    return [Input(*json.loads(line)) for line in data.splitlines()]


def _retry_list(generation: int) -> str:
    return f"{STATE}/retry-{generation}/inputs.jsonl"


def _check_same(found: Job, own: Job, place: str) -> None:
    if found.verb != own.verb:
        raise OutputExists(f"this folder holds a job of `latens {found.verb}`", where=place, hint="name another one with -o")
    changed = [
        f"{name} {found.settings.get(name)} -> {own.settings.get(name)}"
        for name in sorted({*found.settings, *own.settings})
        if found.settings.get(name) != own.settings.get(name)
    ]
    if changed:
        what = f"this folder holds a job with other settings: {'; '.join(changed)}"
        raise OutputExists(what, where=place, hint="name another folder with -o")
    if found.version != own.version:
        logger.warning("%s: this job was begun by latens %s; results may differ", place, found.version)


def _folder(entry: Input) -> str:
    return entry.id.rpartition("/")[0]


def tasks(
    job: Job, target: str, place: str, inputs: Sequence[Input], finished: set[int], generation: int = 0
) -> Iterator[Task]:
    """The shards that have no journal yet. `target` is "module:function", which runs the command on a shard."""
    for number, shard in enumerate(job.cut(inputs)):
        if number not in finished:
            yield Task(job, target, place, number, shard, generation)


def retry(store: Store, job: Job, lost: Collection[str] = ()) -> tuple[int, list[Input]]:
    """The number and the list of a retry: of one that is not finished, or a new one of all inputs that failed or are `lost`.

    `lost` are inputs whose results are missing. Raises Corrupt.
    """
    last = generations(store)
    if last:
        listed = _parsed_list(store.read(_retry_list(last)), _retry_list(last))
        if len(finished_shards(store, last)) < len(job.cut(listed)):
            return last, listed
    failed = {row.id for row in rows(store).values() if row.state == "failed"}
    every = read_inputs(store, job)
    inputs = [entry for entry in every if entry.id in failed or entry.id in lost]
    if inputs:
        inputs = every if job.together else inputs
        store.create(_retry_list(last + 1), _list_data(inputs))
    return last + 1, inputs


def finished_shards(store: Store, generation: int = 0) -> set[int]:
    """Numbers of the shards with a journal."""
    folder = journal_name(generation, 0).rpartition("/")[0]
    names = (name.rpartition("/")[2] for name in store.names(folder))
    return {int(name.removesuffix(".jsonl")) for name in names if name.endswith(".jsonl") and name[:-6].isdecimal()}


def generations(store: Store) -> int:
    """Number of retries that have a journal or a list."""
    parts = {name.split("/")[1] for name in store.names(STATE) if name.count("/") == 2}
    return max((int(part.removeprefix("retry-")) for part in parts if part.startswith("retry-")), default=0)


def journals(store: Store) -> Iterator[Journal]:
    """All journals: those of the whole list, then those of retries in their order. Raises Corrupt."""
    for generation in range(generations(store) + 1):
        for number in sorted(finished_shards(store, generation)):
            name = journal_name(generation, number)
            yield Journal.parse(store.read(name) or b"", f"{store.place}/{name}")


def rows(store: Store) -> dict[str, Row]:
    """The row that counts of every input that has one."""
    found: dict[str, Row] = {}
    for journal in journals(store):
        found.update((row.id, row) for row in journal.rows)
    return found


def new_job(
    verb: str,
    words: Sequence[str],
    settings: Mapping[str, Any],
    folder: str,
    shard: int,
    *,
    version: str,
    together: bool = False,
) -> Callable[[str, int], Job]:
    """A maker of jobs for `begin`."""

    def make(inputs: str, count: int) -> Job:
        own = json.dumps([verb, settings, inputs, shard, together], sort_keys=True, default=str)
        return Job(
            id=hashlib.sha256(own.encode()).hexdigest()[:16],
            verb=verb,
            words=tuple(words),
            settings=settings,
            folder=folder,
            total=count,
            shard=shard,
            together=together,
            inputs=inputs,
            version=version,
        )

    return make
