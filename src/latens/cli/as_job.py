"""A verb as a job (--engine): its command on the shards of a frozen list."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from inspect import BoundArguments
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from latens.cli.common import NAME, OutputOptions, Reporter, last_message
from latens.cli.engines import EngineOptions
from latens.cli.job_inputs import is_address, listed
from latens.errors import UsageError, counted

if TYPE_CHECKING:
    from latens.jobs.job import Job, Task
    from latens.jobs.journal import Row
    from latens.jobs.shard import Ran
    from latens.jobs.store import Store

logger = logging.getLogger(__name__)

SIDE_FOLDERS = frozenset({"save_maps", "save_depth"})  # arguments that name a folder of further results
TOGETHER = frozenset({"grade"})  # verbs whose results concern several inputs: a lot has several trays and days
WHOLE_SET = ("clusters", "find")  # arguments whose result concerns all inputs
APART = frozenset({"inputs", "out", "name", "force"})  # arguments that do not decide the results
OPTIONS_APART = frozenset({"format", "debug", "device", "threads"})
SOME_FAILED, PARTIAL = 3, 4
TARGET = "latens.cli.as_job:run_verb"


def batch(
    verb: str,
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    engine: Literal["local", "ray"] = "local",
    workers: int | None = None,
    shard: int | None = None,
    gpu_per_worker: float = 0,
    options: Sequence[str] = (),
) -> Iterator[dict[str, Any]]:
    """Run a verb as a job on many files; yield a row for every input as its shard ends, those of earlier runs first.

    `inputs` and `out` are files and folders, addresses (s3://, az://, gs://) or, as inputs, lists (.txt, .csv). `options` are
    words of the command line, such as ("--quality", "4"). A row has `id` (the name below its folder), `state` (done or failed),
    `outputs` (names in `out`), `error` (a class), `message`, and `result` (what the verb prints with --format json). Workers
    are processes that do not import the caller's module. Raises UsageError, UnreadableInput, and OutputExists if `out` holds
    another job.
    """
    from latens.cli import main

    words = [verb, *map(str, inputs), "-o", str(out), *options]
    chosen = EngineOptions(engine=engine, workers=workers, shard=shard, gpu_per_worker=gpu_per_worker)
    bound = main.parsed(words)[1]
    if "engine" not in bound.signature.parameters:
        raise UsageError("this verb does not run as a job", where=verb)
    check(bound, chosen)
    yield from rows_of(verb, words, bound, chosen)


def run(verb: str, tokens: Sequence[str], bound: BoundArguments, engine: EngineOptions) -> int:
    """Run the command of a verb as a job and print its new rows; returns the exit status."""
    from latens.jobs.job import rows as job_rows
    from latens.jobs.store import open_store

    reporter = Reporter(_options(bound))
    states: Counter[str] = Counter()
    for row in rows_of(verb, tokens, bound, engine, earlier=False):
        states[row["state"]] += 1
        reporter.result(row, row_text(row))
    store = open_store(bound.arguments["out"])
    logger.info("%d done, %d failed; latens jobs %s shows the whole job", states["done"], states["failed"], store.place)
    return status_of(job_rows(store).values())  # of earlier runs too


def check(bound: BoundArguments, engine: EngineOptions) -> None:
    """Raise UsageError for options of jobs without --engine, and for what a job cannot do."""
    from latens.jobs.store import uri_of

    given = bound.arguments
    inputs = given.get("inputs") or []
    if engine.engine is None:
        named = [name for name in (*inputs, given.get("out")) if name is not None and is_address(name)]
        if named:
            raise UsageError("addresses are read by jobs", where=str(uri_of(named[0])), hint="add --engine local")
        if engine != EngineOptions():
            raise UsageError("--workers, --shard and --gpu-per-worker are options of a job", hint="add --engine local or ray")
        return
    if not inputs:
        raise UsageError("a job needs inputs", hint="name files, folders, addresses or a list")
    if given.get("out") is None:
        raise UsageError("a job needs a folder or an address for its results", hint="name it with -o")
    if given.get("force"):
        raise UsageError("a job replaces no files", where="--force", hint="name another folder with -o")
    for name in WHOLE_SET:
        if given.get(name) is not None:
            raise UsageError("a job has a part of the inputs at a time", where=f"--{name}", hint="leave it or --engine out")
    for name in SIDE_FOLDERS & set(given):
        if given[name] is not None and (Path(given[name]).is_absolute() or ".." in Path(given[name]).parts):
            option = f"--{name.replace('_', '-')} {given[name]}"
            raise UsageError("a job writes all results below OUT", where=option, hint="name a folder in OUT, such as maps")
    watching = given.get("watching")
    if watching is not None and watching.watch:
        raise UsageError("a job has a frozen list of inputs", where="--watch", hint="leave --watch or --engine out")
    if any(name in ("-", "./-") for name in inputs) or str(given["out"]) == "-":
        raise UsageError("a job reads and writes files", where="-", hint="name files and folders")


def rows_of(
    verb: str, tokens: Sequence[str], bound: BoundArguments, engine: EngineOptions, *, earlier: bool = True
) -> Iterator[dict[str, Any]]:
    """Begin or continue a job and yield its rows: with `earlier`, first those that were finished before."""
    from latens import __version__
    from latens.jobs import driver
    from latens.jobs.engines import cores
    from latens.jobs.job import begin, finished_shards, new_job, tasks
    from latens.jobs.store import open_store

    assert engine.engine is not None
    store = open_store(bound.arguments["out"])
    found = listed(verb, bound.arguments["inputs"])
    shard = engine.shard_of(len(found), cores())
    make = new_job(verb, tokens, identity(bound), os.getcwd(), shard, version=__version__, together=verb in TOGETHER)
    job, inputs = begin(store, make, found)
    before = finished_shards(store)
    if before:
        logger.info("%s: %s finished before", store.place, counted(len(before), "shard"))
    for number in sorted(before) if earlier else ():
        yield from _rows(store, 0, number)
    store.sweep()
    yield from worked(list(tasks(job, TARGET, store.place, inputs, before)), store, engine)
    driver.merge_tables(store, job)
    store.sweep()


def worked(tasks: Sequence[Task], store: Store, engine: EngineOptions) -> Iterator[dict[str, Any]]:
    """Work on tasks; yield their rows as they finish. Raises LatensError if two workers disagree on a shard."""
    from latens.jobs import driver, engines

    if not tasks:
        return
    conflicts = []
    with contextlib.closing(
        engines.start(engine.engine or "local", engine.workers, engine.gpu_per_worker, most=len(tasks))
    ) as started:
        for done in driver.drive(started, tasks):
            if done.conflict:
                conflicts.append(done.conflict)
                logger.error(done.conflict)
            yield from _rows(store, tasks[0].generation, done.number)
    if conflicts:
        raise UsageError(f"workers disagreed on {counted(len(conflicts), 'shard')}", where=store.place)


def _rows(store: Store, generation: int, number: int) -> Iterator[dict[str, Any]]:
    from latens.jobs.job import journal_name
    from latens.jobs.journal import Journal

    name = journal_name(generation, number)
    journal = Journal.parse(store.read(name) or b"", name)
    for message in journal.messages:
        logger.warning("shard %d: %s", number, message.removeprefix(NAME))
    for row in journal.rows:
        yield {**row._asdict(), "outputs": [output.name for output in row.outputs]}


def row_text(row: Mapping[str, Any]) -> str:
    if row["state"] == "failed":
        return str(row["message"])
    notes = "".join(f"; {note}" for note in row["result"].get("notes", ()))
    return f"{row['id']}: {', '.join(row['outputs']) or 'done'}{notes}"


def status_of(rows: Iterable[Row]) -> int:
    """The exit status of rows: 3 if some failed, 4 if some are partial."""
    from latens.inference.finished import INCOMPLETE

    found = list(rows)
    if any(row.state == "failed" for row in found):
        return SOME_FAILED
    return PARTIAL if any(row.result.get(name) for row in found for name in ("missed", *INCOMPLETE)) else 0


def identity(bound: BoundArguments) -> dict[str, Any]:
    """The arguments of a command that decide its results, as JSON has them."""
    found: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if isinstance(value, EngineOptions) or name in APART or name == "watching":
            continue
        if isinstance(value, OutputOptions):
            found |= {
                key: entry for key, entry in asdict(value).items() if key not in OPTIONS_APART and entry not in (None, [])
            }
        else:
            found[name] = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


def _options(bound: BoundArguments) -> OutputOptions:
    return next((value for value in bound.arguments.values() if isinstance(value, OutputOptions)), OutputOptions())


def run_verb(job: Job, inputs: Path, outputs: Path) -> Ran:
    """Run the command of a job on a folder of inputs; the rows and files have the names of the inputs in it.

    Raises UsageError, StorageFull, ModelError or DeviceError if the command cannot work on any input, RunFailed if it ended at
    one of them.
    """
    from latens.cli import main
    from latens.jobs.driver import FATAL
    from latens.jobs.shard import Ran, RunFailed

    command, bound = main.parsed(job.words)
    bound.apply_defaults()
    for name, value in bound.arguments.items():
        bound.arguments[name] = _in_shard(name, value, outputs if name in SIDE_FOLDERS else Path(job.folder))
    bound.arguments |= {"inputs": ["."], "out": outputs}
    printed, messages = io.StringIO(), io.StringIO()
    with contextlib.chdir(inputs), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(messages):
        status = main.run(command, bound)
    lines = messages.getvalue().splitlines()
    if status not in (0, SOME_FAILED, PARTIAL):
        raise FATAL.get(status, RunFailed)(last_message(lines) or f"exit status {status}")
    rows = [row for row in map(json.loads, printed.getvalue().splitlines()) if "input" in row]
    if job.together:  # such verbs print rows of their results, and of failed inputs
        failed = {row["input"] for row in rows}
        names = (path.relative_to(inputs).as_posix() for path in inputs.rglob("*") if path.is_file())
        rows += [{"input": name} for name in names if name not in failed]
    told = "\n".join(row.get("message", "") for row in rows)
    messages_left = [line for line in lines if line.startswith(NAME) and line.removeprefix(NAME) not in told]
    return Ran(rows, _owners(outputs, inputs), messages_left)


def _in_shard(name: str, value: Any, folder: Path) -> Any:
    """An argument of the command for the work on a shard: results as JSON, paths of options as absolute ones."""
    if isinstance(value, EngineOptions):
        return EngineOptions()
    if isinstance(value, OutputOptions):
        return replace(value, format="json", debug=False)
    if isinstance(value, Path):
        return folder / value
    if isinstance(value, str) and name != "inputs" and os.path.exists(folder / value):
        return str(folder / value)
    return value


def _owners(outputs: Path, inputs: Path) -> dict[str, str]:
    """Names of files with a record, and the input that each was made from. Records and lists of failures are removed."""
    from latens.data.records import RECORDS, Records
    from latens.inference.batch import FAILURES
    from latens.inference.claims import CLAIMS

    records, found = Records(), {}
    for path in sorted(outputs.rglob("*")):
        if path.name in (RECORDS, CLAIMS, FAILURES) or not path.is_file():
            continue
        entry = records.entry(path)
        place = None if entry is None else Path(os.path.abspath(entry.input))
        if place is not None and place.is_relative_to(inputs) and place != inputs:
            found[path.relative_to(outputs).as_posix()] = place.relative_to(inputs).as_posix()
    for path in [*outputs.rglob(RECORDS), *outputs.rglob(CLAIMS), *outputs.rglob(FAILURES)]:
        path.unlink()
    return found
