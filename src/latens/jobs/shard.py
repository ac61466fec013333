"""The work on one shard: fetch the inputs, run the command, create the outputs, then the journal.

A killed worker leaves outputs without a journal; the next one finds them equal to its own. Outputs of machines of different
kinds may differ; the first stands, and the row of the second names it.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from latens.data.files import is_alive
from latens.errors import LatensError, OutputExists
from latens.jobs.job import Input, Job, Task
from latens.jobs.journal import Journal, Output, Row, commit
from latens.jobs.store import Store, digest_of, fetch_input, open_store

OPEN = "latens-shard-"  # begins the names of folders of shards that are worked on
JOINT = "shards"  # folder of the outputs that belong to no single input
KEPT_MESSAGES = 20
RETRY_LIMIT = 3600.0  # seconds for one input in its own process


class RunFailed(LatensError):
    """The command ended before its last input, with an internal error."""


class Ran(NamedTuple):
    """What a command did: its rows with `input` as an id, the id of the input of every file, and messages."""

    rows: list[dict[str, Any]]
    owners: dict[str, str]  # names of files in the folder of outputs; files that are not named belong to the shard
    messages: list[str]


Run = Callable[[Job, Path, Path], Ran]  # the command on a folder of inputs; writes into a folder of outputs


class Done(NamedTuple):
    """What the driver learns of a finished shard; the rest is in its journal."""

    number: int
    done: int
    failed: int
    conflict: str = ""  # the journal that stands says something else


def runner(target: str) -> Run:
    """The function of "module:function"."""
    module, _, name = target.partition(":")
    found: Run = getattr(importlib.import_module(module), name)
    return found


def work_on(task: Task) -> Done:
    """Work on a shard that has no journal, and write it. Errors of inputs become rows; those of the store are raised."""
    store = open_store(task.place)
    data = store.read(task.journal)
    if data is not None:  # a worker that outlived its driver finished it
        return _done(task, Journal.parse(data, task.journal).of(task.job.id, task.journal))
    started = time.time()
    sweep()
    with tempfile.TemporaryDirectory(prefix=f"{OPEN}{os.getpid()}-") as place:
        rows, joint, messages = _rows(task, Path(place), store)
        journal = Journal(
            task.job.id,
            task.number,
            started,
            time.time(),
            socket.gethostname(),
            tuple(sorted(rows, key=lambda row: row.id)),
            tuple(joint),
            tuple(dict.fromkeys(messages))[:KEPT_MESSAGES],
        )
        try:
            return _done(task, commit(store, task.journal, journal))
        except OutputExists as error:
            return Done(task.number, 0, 0, str(error))


def sweep() -> None:
    """Remove the folders of killed workers of this machine."""
    for path in Path(tempfile.gettempdir()).glob(f"{OPEN}*-*"):
        pid = path.name.removeprefix(OPEN).partition("-")[0]
        if pid.isdecimal() and not is_alive(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _done(task: Task, journal: Journal) -> Done:
    failed = sum(row.state == "failed" for row in journal.rows)
    return Done(task.number, len(journal.rows) - failed, failed)


def _rows(task: Task, place: Path, store: Store) -> tuple[list[Row], list[Output], list[str]]:
    inputs, outputs = place / "in", place / "out"
    inputs.mkdir()
    outputs.mkdir()
    rows = [row for row in (_fetched(entry, inputs) for entry in task.inputs) if row is not None]
    missing = {row.id for row in rows}
    entries = [entry for entry in task.inputs if entry.id not in missing]
    if not entries:
        return rows, [], []
    ran = None if task.alone else _together(task.job, runner(task.target), inputs, outputs)
    if ran is None:
        ran = _one_by_one(task, entries, place)
    own, joint = _created(task, ran, outputs, store)
    by_id = {row["input"]: row for row in ran.rows if "input" in row}
    rows += [_row(entry, by_id.get(entry.id), own.get(entry.id, [])) for entry in entries]
    return rows, joint, ran.messages


def _together(job: Job, run: Run, inputs: Path, outputs: Path) -> Ran | None:
    """Run the command on all inputs at once; None if one of them ended it, and they need not be together."""
    try:
        return run(job, inputs, outputs)
    except RunFailed:
        if job.together:
            raise
        shutil.rmtree(outputs)
        outputs.mkdir()
        return None


def _fetched(entry: Input, folder: Path) -> Row | None:
    """Make an input readable in a folder; a row if it cannot be read."""
    target = folder / entry.id
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fetch_input(entry.place, target)
    except LatensError as error:
        return _failed(entry, error)
    return None


def _failed(entry: Input, error: LatensError) -> Row:
    return Row(entry.id, "failed", error=type(error).__name__, message=str(error))


def _row(entry: Input, row: dict[str, Any] | None, outputs: Sequence[Output | LatensError]) -> Row:
    if row is None:
        return Row(entry.id, "failed", error="NoResult", message=f"{entry.id}: the command printed no result for this input")
    if row.get("status") == "failed":
        return Row(entry.id, "failed", error=row["error"], message=row["message"])
    errors = [output for output in outputs if isinstance(output, LatensError)]
    if errors:
        return _failed(entry, errors[0])
    made = tuple(sorted(output for output in outputs if isinstance(output, Output)))
    result = {name: value for name, value in row.items() if name not in ("input", "output", "files", "status")}
    return Row(entry.id, "done", made, result=result)


def _created(task: Task, ran: Ran, folder: Path, store: Store) -> tuple[dict[str, list[Output | LatensError]], list[Output]]:
    """Create the outputs in the store: those of every input, and those of the shard."""
    own: dict[str, list[Output | LatensError]] = {}
    joint = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        owner = ran.owners.get(name)
        try:
            if owner is not None:
                own.setdefault(owner, []).append(_create(store, name, path))
            else:
                joint.append(_create(store, joint_name(task.generation, task.number, name), path))
        except OutputExists as error:
            if owner is None:
                raise
            own[owner].append(error)
    return own, joint


def joint_name(generation: int, number: int, name: str) -> str:
    """The name of a file of a shard that belongs to no single input."""
    return f"{JOINT}/{f'retry-{generation}-' if generation else ''}{number:06d}/{name}"


def _create(store: Store, name: str, path: Path) -> Output:
    """Create a file, or find an equal one. Raises OutputExists for another one."""
    digest = digest_of(path)
    if not store.create(name, path) and store.digest(name) != digest:
        what = "another file of this name exists, which this job did not write or a machine of another kind wrote"
        raise OutputExists(what, where=f"{store.place}/{name}", hint="remove it, then latens jobs OUT --retry-failed")
    return Output(name, path.stat().st_size, digest)


# ------------------------------------------------------------------------------------------ inputs that end the process


def _one_by_one(task: Task, entries: Sequence[Input], place: Path) -> Ran:
    """Run the command on each input in a process of its own: one of them has ended a worker."""
    rows: list[dict[str, Any]] = []
    owners: dict[str, str] = {}
    messages: list[str] = []
    for entry, ran in _alone(task, entries, place):
        if ran is None:
            what = f"{entry.id}: the process that worked on this input was killed or crashed"
            rows.append({"input": entry.id, "status": "failed", "error": "WorkerDied", "message": what})
            continue
        rows += ran.rows
        owners |= ran.owners
        messages += ran.messages
    return Ran(rows, owners, messages)


def _alone(task: Task, entries: Sequence[Input], place: Path) -> Iterator[tuple[Input, Ran | None]]:
    for number, entry in enumerate(entries):
        folder = place / f"alone-{number}"
        target = folder / "in" / entry.id
        target.parent.mkdir(parents=True)
        (place / "in" / entry.id).rename(target)
        (folder / "out").mkdir()
        words = [sys.executable, "-m", "latens.jobs.worker", task.target, str(folder)]
        try:
            text = json.dumps(task.job._asdict())
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
            done = subprocess.run(words, input=text, capture_output=True, text=True, timeout=RETRY_LIMIT, env=environment)
        except subprocess.TimeoutExpired:
            yield entry, None
            continue
        if done.returncode:
            yield entry, None
            continue
        ran = Ran(**json.loads(done.stdout))
        left_out = _collect(folder / "out", place / "out", ran.owners)
        yield entry, ran._replace(messages=[*ran.messages, *(f"{entry.id}: {name} left out" for name in left_out)])


def _collect(source: Path, target: Path, owners: Collection[str]) -> list[str]:
    """Move the files of one input, and add the rows of its tables to those of the others; names of what is left out."""
    left_out = []
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        name = path.relative_to(source).as_posix()
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if name not in owners and path.suffix != ".csv":  # a report on one input
            left_out.append(name)
        elif name in owners or not place.exists():
            shutil.move(path, place)
        else:
            with place.open("ab") as table:
                table.write(path.read_bytes().partition(b"\n")[2])
    return left_out
