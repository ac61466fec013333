"""`latens jobs`"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

from cyclopts import Parameter

from latens.cli.as_job import SOME_FAILED, TARGET, row_text, status_of, worked
from latens.cli.common import OutputOptions, Reporter
from latens.cli.engines import EngineOptions
from latens.errors import UnreadableInput, counted

if TYPE_CHECKING:
    from typing import Any

    from latens.jobs.job import Job
    from latens.jobs.journal import Row
    from latens.jobs.store import Store

logger = logging.getLogger(__name__)


def jobs(
    out: Annotated[str, Parameter(help="Folder or address of the results of a job.")],
    /,
    *,
    retry_failed: Annotated[bool, Parameter(show_default=False, help="Work again on the inputs that failed.")] = False,
    verify: Annotated[
        bool, Parameter(show_default=False, help="Read every result back and compare it with its checksum.")
    ] = False,
    engine: EngineOptions = EngineOptions(),  # noqa: B008
    options: OutputOptions = OutputOptions(),  # noqa: B008
) -> int:
    """Show how far a job is: inputs done and failed, by error; inputs per second; time left. It may be running or not.

    --retry-failed runs with --engine local unless another one is named. With --verify, it also works on the inputs whose
    results are missing. A changed result is kept: remove it first. Exit status 3: some inputs failed, or some results are
    missing or changed. Exit status 4: some results are partial.

        latens jobs small/
        latens jobs s3://archive/ltn/ --verify
        latens jobs small/ --retry-failed
        latens jobs small/ --verify --retry-failed
    """
    from latens.jobs.job import journals, load
    from latens.jobs.store import open_store

    store, reporter = open_store(out), Reporter(options)
    job = load(store)
    if job is None:
        next(iter(store.names()), None)  # a bucket that does not exist raises here, and only here
        raise UnreadableInput("no job has its results here", where=store.place, hint="--engine begins one")
    found = list(journals(store))
    latest = {row.id: row for journal in found for row in journal.rows}
    checked = _verified(store, job, list(latest.values()), reporter) if verify else Checked()
    if retry_failed:
        return max(_retried(store, job, checked, engine, reporter), SOME_FAILED if checked.changed else 0)
    if verify:
        return SOME_FAILED if any(checked) else 0
    errors = Counter(row.error for row in latest.values() if row.state == "failed")
    done, failed = len(latest) - errors.total(), errors.total()
    first, last = (min((one.started for one in found), default=0), max((one.finished for one in found), default=0))
    rate = sum(len(one.rows) for one in found) / (last - first) if last > first else 0.0
    left = (job.total - len(latest)) / rate if rate else None
    record = {
        "verb": job.verb,
        "inputs": job.total,
        "done": done,
        "failed": failed,
        "errors": dict(errors.most_common()),
        "per_second": round(rate, 3),
        "seconds_left": None if left is None else round(left, 1),
        "last_finished": round(time.time() - last, 1) if found else None,
    }
    reporter.result(record, _progress(record))
    return status_of(latest.values())


def _progress(record: Mapping[str, Any]) -> str:
    left = record["inputs"] - record["done"] - record["failed"]
    errors = ", ".join(f"{number} {name}" for name, number in record["errors"].items())
    parts = [
        f"latens {record['verb']}: {record['done']:,} of {counted(record['inputs'], 'input')} done",
        f"{record['failed']:,} failed" + (f" ({errors})" if errors else ""),
        f"{record['per_second']:g} a second",
    ]
    if left and record["seconds_left"] is not None:
        parts.append(f"{left:,} left, about {duration(record['seconds_left'])}")
    if left and record["last_finished"] is not None:
        parts.append(f"the last shard ended {duration(record['last_finished'])} ago")
    return "; ".join(parts)


def duration(seconds: float) -> str:
    """3700 -> "1 h 2 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, minutes = divmod(round(whole / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


class Checked(NamedTuple):
    """Inputs with results that are missing, and results that are not as they were written."""

    missing: frozenset[str] = frozenset()
    changed: frozenset[str] = frozenset()
    missing_tables: frozenset[str] = frozenset()  # of all inputs together


def _verified(store: Store, job: Job, rows: Sequence[Row], reporter: Reporter) -> Checked:
    """Compare all results with their checksums, and the tables of all inputs with those of the shards."""
    from latens.jobs.driver import joined_tables
    from latens.jobs.store import digest_of

    results = [(row.id, output.name, output.sha256) for row in rows for output in row.outputs]
    tables = [("", name, digest_of(whole)) for name, whole in joined_tables(store, job)]
    bad: dict[str, set[tuple[str, str]]] = {"missing": set(), "changed": set()}
    for id, name, written in (*results, *tables):
        digest = store.digest(name)
        if digest != written:
            state = "missing" if digest is None else "changed"
            bad[state].add((id, name))
            reporter.result({"id": id, "output": name, "state": state}, f"{name}: {state}")
    total, wrong = len(results) + len(tables), len(bad["missing"]) + len(bad["changed"])
    reporter.result(
        {"verified": total - wrong, "bad": wrong}, f"{counted(total, 'result')}: {total - wrong:,} as written, {wrong:,} not"
    )
    return Checked(
        missing=frozenset(id for id, _ in bad["missing"] if id),
        changed=frozenset(name for _, name in bad["changed"]),
        missing_tables=frozenset(name for id, name in bad["missing"] if not id),
    )


def _retried(store: Store, job: Job, checked: Checked, engine: EngineOptions, reporter: Reporter) -> int:
    """Work again on the inputs that failed, and make what is missing; returns the exit status."""
    from latens.jobs import driver
    from latens.jobs.job import finished_shards, retry, tasks

    failed, missing = 0, checked.missing
    while True:  # an unfinished retry comes first, and its list is what it is
        generation, inputs = retry(store, job, missing)
        todo = list(tasks(job, TARGET, store.place, inputs, finished_shards(store, generation), generation))
        for row in worked(todo, store, engine):
            failed += row["state"] == "failed"
            reporter.result(row, row_text(row))
        missing = missing - {entry.id for entry in inputs}
        if not missing or not inputs:
            break
    if not inputs and not checked.missing_tables:
        logger.info("%s: no input failed; with --verify, missing results are made again", store.place)
        return 0
    driver.merge_tables(store, job)
    return SOME_FAILED if failed else 0
