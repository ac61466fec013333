"""Batches of files: finished jobs are skipped, and failed ones are listed while the others go on.

The outputs and the records in their folders are the only state (`latens.inference.finished` decides what is finished). Outputs
are written atomically, so a killed batch continues when it is run again. Several processes may run the same batch; each claims
the jobs it works on, and a claim ends with its process.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from latens.data.files import STANDARD_STREAM, sweep_stale, write_atomic, write_error
from latens.data.inputs import InputFile
from latens.data.output_paths import plan_outputs
from latens.data.placing import only_new
from latens.errors import LatensError, LimitExceeded, OutputExists, StorageFull, counted
from latens.inference.claims import claim_file, claims, unclaimed_first
from latens.inference.finished import REPLACE, Request, Results

logger = logging.getLogger(__name__)

FAILURES = "failures.jsonl"
SOME_FAILED = 3
INTERNAL_ERROR = 70
NO_MEMORY = re.compile(r"out of memory|not enough memory|can't allocate memory|bad_alloc|failed to allocate", re.I)

Record = dict[str, Any]
WORKING = Request()  # of callers with one kind of work


class Job(NamedTuple):
    """An input and its output.

    `named`: the user named this input, instead of a folder or pattern. `relative` is its path relative to that folder.
    """

    input: Path
    output: Path
    named: bool = True
    relative: str = ""


class Failure(NamedTuple):
    """One line of failures.jsonl."""

    input: str
    error: str  # class of the error
    message: str
    exit_status: int  # of a command with only this input


class Outcome(NamedTuple):
    """The outcome of one job, for progress and messages."""

    job: Job
    status: Literal["done", "skipped", "failed"]
    record: Record | None = None  # result of the work
    failure: Failure | None = None
    error: Exception | None = None  # cause of the failure, for a traceback
    note: str = ""  # why it is skipped or made again
    missed: bool | None = None  # of a skipped job, as in `Verdict`


class BatchReport(NamedTuple):
    """Outcome of a batch; done + skipped + len(failed) + not_done is the number of jobs."""

    done: int
    skipped: int
    failed: tuple[Failure, ...]
    not_done: int = 0
    stopped: StorageFull | None = None  # reason why the batch stopped
    log: Path | None = None  # failures.jsonl, if it could be written

    @property
    def exit_status(self) -> int:
        """0; 3 if some jobs failed; the status of StorageFull if a full disk stopped the batch."""
        if self.stopped is not None:
            return self.stopped.exit_status
        return SOME_FAILED if self.failed else 0


def plan_jobs(files: Sequence[InputFile], out: str | Path | None, ending: str) -> list[Job]:
    """A job for every file, with the output path of `latens.data.output_paths.plan_outputs`."""
    outputs = plan_outputs(files, out, ending)
    return [Job(file.path, output, file.named, file.relative.as_posix()) for file, output in zip(files, outputs, strict=True)]


def run_batch(
    jobs: Sequence[Job],
    work: Callable[[Job], Record],
    *,
    request: Request = WORKING,
    force: bool = False,
    folder: Path | None = None,
    on_result: Callable[[Outcome], None] | None = None,
    log: FailureLog | None = None,
) -> BatchReport:
    """Run `work` on every job. It reads job.input, writes job.output atomically, and returns a record.

    Finished outputs are skipped, and other existing files are refused, unless `force` (see `latens.inference.finished`). Jobs
    that are refused, raise or run out of memory are listed in failures.jsonl in `folder` (default: the folder of the first
    output), and the batch continues. That file describes the last run and is removed if nothing failed. Jobs that another
    process has claimed come last, and are run here if that process leaves no output. A file that appears at an output during
    the work is kept, and the job fails, unless `force`. A full disk stops the batch; KeyboardInterrupt is not caught. A single
    named input raises its error instead of being listed.

    With a `log`, this is one of several batches of a watched folder: the log is kept, results of an earlier content of their
    input are made again, and other settings are a failure of one job.

    Raises OutputExists before any work if finished results were made with other settings than those of `request`.
    """
    single = len(jobs) == 1 and jobs[0].named
    for place in {job.output.parent for job in jobs if job.output != STANDARD_STREAM}:
        sweep_stale(place)
    results = Results(request, folder, renew=log is not None)
    if not force and log is None:
        _check_settings(jobs, results)
    common = None if single or not jobs else folder or jobs[0].output.parent
    watched, log = log is not None, log or FailureLog(None if common is None else common / FAILURES)
    failed: list[Failure] = []
    done = skipped = 0
    stopped: StorageFull | None = None
    with claims(claim_file(jobs, common)) as claimed:
        for job in unclaimed_first(jobs, claimed):
            try:
                outcome = _outcome(job, work, results, force=force)
                skipped += outcome.status == "skipped"
                done += outcome.status == "done"
                log.forget(job)
            except Exception as error:
                if single:
                    raise
                failed.append(log.add(job, error))
                outcome = Outcome(job, "failed", failure=failed[-1], error=error)
                stopped = error if isinstance(error, StorageFull) else None
            if on_result is not None:
                on_result(outcome)
            if stopped is not None:
                break
    if not watched:
        log.close()
    not_done = len(jobs) - done - skipped - len(failed)
    return BatchReport(done, skipped, tuple(failed), not_done, stopped, log.written)


def _check_settings(jobs: Sequence[Job], results: Results) -> None:
    """Raise OutputExists if one of the finished results was made with other settings."""
    found = [(job, changed) for job in jobs if (changed := results.conflict(job))]
    if found:
        job, changed = found[0]
        more = f" ({counted(len(found), 'file')} like this one)" if len(found) > 1 else ""
        what = f"this result was made with other settings{more}: {'; '.join(changed)}"
        raise OutputExists(what, where=str(job.output), hint=REPLACE)


def _outcome(job: Job, work: Callable[[Job], Record], results: Results, *, force: bool) -> Outcome:
    """Skip a finished job, or run it. Raises OutputExists for files that only force replaces, and all errors of `work`."""
    with only_new(() if force else results.request.outputs(job)):
        return _judged(job, work, results, force=force)


def _judged(job: Job, work: Callable[[Job], Record], results: Results, *, force: bool) -> Outcome:
    verdict = results.verdict(job)
    if verdict.do == "refuse" and not force:
        raise verdict.error(job)
    if verdict.do == "skip" and not force:
        return Outcome(job, "skipped", note=verdict.why, missed=verdict.missed)
    lost = results.lost(job) if force else []
    record = _run(lambda job: results.made(job, work), job)
    if lost:
        names = ", ".join(path.name for path in lost)
        logger.warning("%s: replaced by --force: %s, which latens did not write or which changed since", job.output, names)
    elif verdict.do == "refuse":
        logger.warning("%s: replaced by --force: %s", job.output, verdict.why)
    return Outcome(job, "done", record=record, note=verdict.why if verdict.do == "work" else "")


def _run(work: Callable[[Job], Record], job: Job) -> Record:
    """The result of `work`; memory and disk errors of any library become LatensError with the input's path."""
    try:
        return work(job)
    except LatensError as error:
        error.at(str(job.input))
        raise
    except OSError as error:
        full = write_error(job.output, error)
        if isinstance(full, StorageFull):
            raise full from error
        raise
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
            raise _too_large(job) from None  # the traceback would keep the tensors of the failed job alive
        raise


def _too_large(job: Job) -> LimitExceeded:
    return LimitExceeded(
        "this machine has too little memory for this file",
        where=str(job.input),
        hint="close other programs, or make the image smaller",
    )


def _is_failure_list(path: Path) -> bool:
    """False for an existing file or link that no batch wrote."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):  # a link, a folder, a pipe
            return False
        with path.open("rb") as file:
            return set(json.loads(file.readline())) == set(Failure._fields)
    except FileNotFoundError:
        return True
    except (OSError, ValueError, TypeError):
        return False


class FailureLog:
    """failures.jsonl: created by the first failure of a run, then one appended line per failure.

    If it cannot be written, the batch continues; the report also holds the failures.
    """

    def __init__(self, path: Path | None) -> None:
        if path is not None and not _is_failure_list(path):
            logger.warning("%s: this file is not a list of failed inputs and is kept; failures are only shown", path)
            path = None
        self.path = path
        self.written: Path | None = None
        self.failures: list[Failure] = []

    def add(self, job: Job, error: Exception) -> Failure:
        status = error.exit_status if isinstance(error, LatensError) else INTERNAL_ERROR
        name = type(error).__name__
        message = str(error) if isinstance(error, LatensError) else f"{job.input}: {name}: {error}"
        failure = Failure(str(job.input), name, message, status)
        self.failures.append(failure)
        with contextlib.suppress(OSError, LatensError):
            self._write(json.dumps(failure._asdict(), ensure_ascii=False) + "\n")
        return failure

    def forget(self, job: Job) -> None:
        """Remove the failure of an input that is done now, in a watched folder."""
        kept = [failure for failure in self.failures if failure.input != str(job.input)]
        if len(kept) == len(self.failures):
            return
        self.failures, written, self.written = kept, self.written, None
        with contextlib.suppress(OSError, LatensError):
            if written is not None:
                written.unlink(missing_ok=True)
            for failure in kept:
                self._write(json.dumps(failure._asdict(), ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Remove the list of an earlier run if nothing failed in this one."""
        if self.path is not None and not self.failures:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)

    def _write(self, line: str) -> None:
        if self.path is None:
            return
        data = line.encode("utf-8", "surrogateescape")  # names that are not UTF-8 are kept as they are
        if self.written is None:
            write_atomic(self.path, data)
            self.written = self.path
            return
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, data)  # one call, so a killed process leaves complete lines
        finally:
            os.close(descriptor)
