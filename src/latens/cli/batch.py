"""Batches of files for all verbs: list the inputs, refuse to overwrite, claim, skip, run, report results and failures."""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from latens.cli.common import OutputOptions, Reporter, human_size
from latens.errors import InputError, LimitExceeded, OutputExists, UsageError, counted
from latens.progress import OnProgress

if TYPE_CHECKING:
    from PIL import Image

    from latens.data.inputs import InputFile
    from latens.inference.batch import BatchReport, Failure, FailureLog, Job, Outcome
    from latens.inference.finished import Request
    from latens.inference.watch import Watching

logger = logging.getLogger(__name__)
T = TypeVar("T")

Work = Callable[["Job", OnProgress], dict[str, Any]]  # writes the output of a job; returns its record


class Sizes(NamedTuple):
    """Bytes of inputs and outputs of files that are done or were done before; pipes and folders do not count."""

    files: int = 0
    before: int = 0
    after: int = 0

    def plus(self, before: int, after: int) -> Sizes:
        """The sums with one file more."""
        return Sizes(self.files + 1, self.before + before, self.after + after)

    def line(self) -> str:
        """The line for people."""
        share = f"{100 * self.after / self.before:.1f} %" if self.before else "from empty files"
        return f"total: {counted(self.files, 'file')}, {human_size(self.before)} in, {human_size(self.after)} out ({share})"


class FileBatch:
    """The jobs of a verb, each with one input and one output.

    `out` is the value of -o. Making a batch raises UsageError if the results cannot be written, and OutputExists for a single
    named input whose named output exists; `run` decides on other existing outputs. `check` is off for verbs with
    their own checks. With a `Watching` in place of jobs, `run` takes them from its folders until Ctrl-C.
    """

    def __init__(
        self, jobs: list[Job] | Watching, out: Path | None, options: OutputOptions, *, force: bool, check: bool = True
    ) -> None:
        from latens.data.files import STANDARD_STREAM

        self.watching = None if isinstance(jobs, list) else jobs
        self.jobs = jobs if isinstance(jobs, list) else []
        self.out, self.force = out, force
        self._counts: Counter[str] = Counter()  # outcomes by status
        self._sizes: Sizes | None = None  # sums, of verbs with sizes
        self._missed: dict[Path, bool] = {}  # outputs of verbs with targets
        self.to_stdout = any(job.output == STANDARD_STREAM for job in self.jobs)
        self.reporter = Reporter(options, results_to_stderr=self.to_stdout)
        if check:
            self._check_outputs()

    @property
    def folder(self) -> Path | None:
        """The folder that -o names; None if results go next to their inputs, into one named file or to stdout."""
        return None if self.out is None or [job.output for job in self.jobs] == [self.out] else self.out

    @property
    def single(self) -> bool:
        """True if the verb has one input."""
        return len(self.jobs) == 1 and self.watching is None

    @property
    def missed(self) -> bool:
        """True if a result missed its target, in this run or in the earlier one that finished it."""
        return any(self._missed.values())

    def _check_outputs(self) -> None:
        from latens.data.files import STANDARD_STREAM, is_file
        from latens.data.folders import check_writable

        jobs, folder = self.jobs, self.folder
        places = {job.output.parent for job in jobs if job.output != STANDARD_STREAM} if folder is None else {folder}
        if len(places) == 1 and not (len(jobs) == 1 and is_file(jobs[0].output)):  # such a file is refused or replaced
            check_writable(places.pop())
        single = len(jobs) == 1 and jobs[0].named and self.out == jobs[0].output
        if single and jobs[0].output.is_file() and not self.force:
            raise OutputExists("the file exists already", where=str(self.out), hint="choose another -o, or add --force")

    def check_image_ending(self, to: str | None = None) -> None:
        """Raise UsageError if the single named output is not an image file, or not of the format `to`.

        Other outputs have the ending of the verb.
        """
        from latens.data.files import is_special
        from latens.data.image_output import check_ending

        if len(self.jobs) == 1 and not self.to_stdout and not is_special(self.jobs[0].output):
            output = self.jobs[0].output
            if check_ending(output) != format_name(to or output.suffix[1:]):
                raise UsageError(f"--to {to} contradicts this name", where=str(output), hint="leave --to out")

    def run(
        self,
        work: Work,
        request: Request,
        *,
        parts: int = 1,
        with_sizes: bool = False,
        after_group: Callable[[], None] = lambda: None,
    ) -> BatchReport:
        """Run `work` on every job and print the result of each file; the summary goes to stderr.

        `work` may call its second argument with how many of the `parts` of a file are done, and a note. `after_group` is called
        at the end, and after every group of files of a watched folder. `with_sizes` adds `source_bytes` and `bytes` to the
        results, and their sums to the summary. Raises OutputExists if finished results were made with other settings than those
        of `request`, and for a single file that is in the way.
        """
        self._sizes = Sizes() if with_sizes else None
        if self.watching is not None:
            return self._watch(self.watching, work, request, parts, after_group)
        done = self._run(self.jobs, work, request, parts)
        after_group()
        if len(self.jobs) > 1:
            report_summary(done, self._sizes)
        return done

    def _watch(
        self, watching: Watching, work: Work, request: Request, parts: int, after_group: Callable[[], None]
    ) -> BatchReport:
        """Run the jobs of watched folders until Ctrl-C or a full disk."""
        from latens.inference.batch import FAILURES, BatchReport, FailureLog

        log, stopped = FailureLog(None if self.out is None else self.out / FAILURES), None
        try:
            for jobs in watching.groups():
                self.jobs = list({job.input: job for job in [*self.jobs, *jobs]}.values())
                stopped = self._run(jobs, work, request, parts, log).stopped
                after_group()
                if stopped is not None:
                    break
        except KeyboardInterrupt:
            logger.info("stopped watching")
            after_group()
        counts = self._counts
        total = BatchReport(counts["done"], counts["skipped"], tuple(log.failures), 0, stopped, log.written)
        report_summary(total, self._sizes)
        return total

    def _run(self, jobs: list[Job], work: Work, request: Request, parts: int, log: FailureLog | None = None) -> BatchReport:
        from latens.inference.batch import run_batch
        from latens.inference.memory import tune_allocator

        tune_allocator()
        finished = 0
        with self.reporter.progress(len(jobs) * parts, request.what) as show:

            def report(outcome: Outcome) -> None:
                nonlocal finished
                report_outcome(outcome, self.reporter, self._counted(outcome) | self._target(outcome))
                self._counts[outcome.status] += 1
                finished += parts
                show(finished)

            def run(job: Job) -> dict[str, Any]:
                return work(job, lambda done, note="": show(finished + done, note))

            return run_batch(jobs, run, request=request, force=self.force, folder=self.folder, on_result=report, log=log)

    def _target(self, outcome: Outcome) -> dict[str, bool]:
        """`missed` of a finished job. Empty without a target."""
        missed = outcome.missed if outcome.record is None else outcome.record.get("missed")
        if missed is None:
            return {}
        self._missed[outcome.job.output] = missed
        return {"missed": missed}

    def _counted(self, outcome: Outcome) -> dict[str, int]:
        """The sizes of a job, which are added to the sums; empty for verbs without sizes, failed jobs, pipes and folders."""
        from latens.data.files import STANDARD_STREAM

        job = outcome.job
        if self._sizes is None or outcome.status == "failed" or STANDARD_STREAM in (job.input, job.output):
            return {}
        if not (job.input.is_file() and job.output.is_file()):
            return {}
        before, after = job.input.stat().st_size, job.output.stat().st_size
        self._sizes = self._sizes.plus(before, after)
        return {"source_bytes": before, "bytes": after}


class Readable(Generic[T]):
    """Iterates over (file, value of `read`) for verbs whose results are not one file per input.

    Inputs that cannot be used are reported and counted in `failed`; a single named input raises its error.
    """

    def __init__(self, files: Sequence[InputFile], read: Callable[[InputFile], T], reporter: Reporter) -> None:
        self.files, self.read, self.reporter = files, read, reporter
        self.failed = 0

    def __iter__(self) -> Iterator[tuple[InputFile, T]]:
        from latens.inference.batch import Failure

        for file in self.files:
            try:
                value = self.read(file)
            except (InputError, LimitExceeded) as error:
                placed = error.at(str(file.path))
                if len(self.files) == 1 and file.named:
                    raise placed from None
                failure = Failure(str(file.path), type(error).__name__, str(placed), error.exit_status)
                report_failure({"input": str(file.path), "status": "failed"}, failure, placed, self.reporter)
                self.failed += 1
                continue
            yield file, value


def report_outcome(outcome: Outcome, reporter: Reporter, sizes: Mapping[str, int]) -> None:
    """Print the result of one job, with its sizes in JSON, or log why there is none."""
    from latens.data.inputs import shown_name

    job = outcome.job
    record: dict[str, Any] = {
        "input": shown_name(job.input, Path(job.relative)),
        "output": str(job.output),
        "status": outcome.status,
    }
    if outcome.failure is not None:
        report_failure(record, outcome.failure, outcome.error, reporter)
    elif outcome.record is None:
        if reporter.format == "json":
            reporter.result({**record, **sizes, "reason": outcome.note}, "")
        logger.info("%s: skipped, %s; --force makes it again", job.output, outcome.note)
    else:
        if outcome.note:
            logger.info("%s: %s", job.output, outcome.note)
        details = dict(outcome.record)
        text = details.pop("text", str(job.output))
        reporter.result({**record, **sizes, **details}, text)


def report_failure(record: dict[str, Any], failure: Failure, error: Exception | None, reporter: Reporter) -> None:
    """Log a failure, with its traceback under --debug; in JSON also print it as a record."""
    if reporter.debug and error is not None:
        logger.error("".join(traceback.format_exception(error)).rstrip())
    logger.error(failure.message)
    if reporter.format == "json":
        reporter.result(record | failure._asdict(), "")


def report_summary(done: BatchReport, sizes: Sizes | None = None) -> None:
    """Log how many jobs were done, skipped, failed or not tried, and the sums of their sizes."""
    counts = {"done": done.done, "skipped": done.skipped, "failed": len(done.failed), "not tried": done.not_done}
    text = ", ".join(f"{count} {name}" for name, count in counts.items() if count or name == "done")
    logger.info(text + (f"; failures are listed in {done.log}" if done.log else ""))
    if sizes is not None and sizes.files:
        logger.info(sizes.line())
    if done.stopped is not None:
        logger.error(str(done.stopped))


def format_name(ending: str) -> str:
    """Pillow's name of the format of an ending without its dot; empty for an unknown one."""
    from PIL import Image

    Image.init()
    return Image.EXTENSION.get(f".{ending.lower()}", "")


def save_image(job: Job, image: Image.Image, to: str | None = None) -> list[str]:
    """Write an image to the output of a job; return notes on what its format cannot hold. All verbs save images here.

    The ending of a file selects its format; a pipe or standard output takes the format `to` (an ending, default png).
    """
    from latens.data.files import STANDARD_STREAM, is_special, write_atomic
    from latens.data.image_output import checked_bytes, lost_metadata, write_image

    piped = job.output == STANDARD_STREAM or is_special(job.output)
    name = format_name((to or "png") if piped else job.output.suffix[1:])
    if piped:
        write_atomic(job.output, checked_bytes(image, name, str(job.output)))
    else:
        write_image(job.output, image)
    return lost_metadata(image, name)
