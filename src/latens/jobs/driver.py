"""The driver of a job: it gives shards to an engine, and gives them again if their worker dies."""

from __future__ import annotations

import csv
import json
import logging
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from latens.data.csv_files import csv_bytes
from latens.data.inputs import natural_key
from latens.errors import DeviceError, InputError, LatensError, ModelError, StorageFull, UsageError
from latens.jobs.engines import Answer, Engine
from latens.jobs.job import STATE, Job, Task, finished_shards
from latens.jobs.shard import JOINT, Done
from latens.jobs.store import Store, digest_of

logger = logging.getLogger(__name__)

TABLES = f"{STATE}/tables.json"  # SHA-256 of every joined table, by its name
ALONE_AFTER = 2  # deaths of workers after which the inputs of a shard are worked on in processes of their own
GIVEN_UP_AFTER = 5
FATAL: Mapping[int, type[LatensError]] = MappingProxyType(
    {kind.exit_status: kind for kind in (UsageError, StorageFull, ModelError, DeviceError)}
)
"""Errors of a command that end the job, not one input, by exit status."""


def drive(engine: Engine, tasks: Sequence[Task]) -> Iterator[Done]:
    """Work on all tasks; yields every finished shard. Raises the error of a worker that cannot go on, such as a full disk."""
    waiting, deaths = deque(tasks), Counter[str]()
    running = 0
    while waiting or running:
        while waiting and engine.free:
            engine.submit(waiting.popleft())
            running += 1
        task, answer = engine.wait()
        running -= 1
        if answer is not None:
            yield _done(answer)
            continue
        deaths[task.journal] += 1
        if deaths[task.journal] >= GIVEN_UP_AFTER:
            raise InputError(
                f"{GIVEN_UP_AFTER} workers died on shard {task.number}", where=task.place, hint="check their memory"
            )
        alone = deaths[task.journal] >= ALONE_AFTER and not task.job.together
        logger.warning("shard %d: its worker died; it is worked on again%s", task.number, ", input by input" if alone else "")
        waiting.append(task._replace(alone=alone))


def _done(answer: Answer) -> Done:
    if isinstance(answer, dict):
        raise FATAL.get(answer["status"], InputError)(answer["error"])
    return Done(*answer)


def merge_tables(store: Store, job: Job) -> list[str]:
    """Write the joined tables of a job into its output folder; returns their names. A table that was changed is kept."""
    names, before = [], _written_tables(store)
    written = dict(before)
    for name, whole in joined_tables(store, job):
        names.append(name)
        now, found = digest_of(whole), store.digest(name)
        if found not in (None, now, before.get(name, found)):
            logger.warning("%s/%s: this table was changed and is kept; remove it, and the command writes it", store.place, name)
            continue
        if found != now:
            store.replace(name, whole)
        written[name] = now
    if written != before:
        store.replace(TABLES, json.dumps(written).encode())
    return names


def _written_tables(store: Store) -> dict[str, str]:
    """The hashes of the tables as they were written; none if they are not on record, or no longer."""
    try:
        return dict(json.loads(store.read(TABLES) or b"{}"))
    except (ValueError, TypeError):
        return {}


def joined_tables(store: Store, job: Job) -> Iterator[tuple[str, Path]]:
    """Join the CSV files of all shards to one of the same name: names, and temporary files; nothing before the last shard.

    Tables of retries come last; those of a job whose inputs are together replace the earlier ones.
    """
    names = sorted((name for name in store.names(JOINT) if name.endswith(".csv")), key=natural_key)
    if len(finished_shards(store)) < job.shards:
        return
    for name in sorted({name.split("/", 2)[2] for name in names}):
        parts = [part for part in names if part.split("/", 2)[2] == name]
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / "table.csv"
            _joined(store, parts[-1:] if job.together else parts, whole)
            yield name, whole


def _joined(store: Store, parts: Sequence[str], whole: Path) -> None:
    """Write the tables `parts` one after another. A row that a retry made again stands where the last retry has it."""
    remade = {part: {tuple(row) for row in _table(store, part)[1:]} for part in parts if part.startswith(f"{JOINT}/retry-")}
    header: list[str] | None = None
    with whole.open("wb") as stream:
        for part in parts:
            remade.pop(part, None)
            first, *rows = _table(store, part) or [[]]
            if header is None:
                header = first
                stream.write(csv_bytes([first]))
            if first != header:
                raise InputError("the columns of this table differ from those of the first shard", where=part)
            stream.write(csv_bytes(row for row in rows if not any(tuple(row) in later for later in remade.values())))


def _table(store: Store, name: str) -> list[list[str]]:
    return list(csv.reader((store.read(name) or b"").decode("utf-8").splitlines(keepends=True)))
