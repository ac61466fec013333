"""Code of all verbs: global options, results, messages and batches of files."""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from latens.errors import OutputExists, UsageError

if TYPE_CHECKING:
    from latens.inference.batch import BatchReport, Job, Outcome

logger = logging.getLogger(__name__)

GLOBAL = Group("Global options", sort_key=100)
DURATION = re.compile(r"(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m)?(?:(?P<s>\d+(?:\.\d+)?)s?)?")

Format = Literal["human", "json", "quiet"]
OnProgress = Callable[[int, str], None]  # how much of a job is done, and a note


@Parameter(name="*", group=GLOBAL)
@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Options of every verb."""

    format: Annotated[
        Format, Parameter(help="Results for people, as JSON (one object a line), or none; quiet says errors only.")
    ] = "human"
    debug: Annotated[bool, Parameter(show_default=False, help="Show the traceback of an error.")] = False


@Parameter(name="*", group=GLOBAL)
@dataclass(frozen=True, kw_only=True)
class ComputeOptions(OutputOptions):
    """Options of every verb that runs a model."""

    device: Annotated[str, Parameter(help="auto, cpu, cuda or cuda:N; only auto may fall back.")] = "auto"
    threads: Annotated[int | None, Parameter(help="CPU threads.  [default: all cores]")] = None


PARTIAL = 4  # exit status for results of damaged inputs
Output = Annotated[Path | None, Parameter(name=["--out", "-o"], help="Where the result goes.")]
Force = Annotated[bool, Parameter(show_default=False, help="Overwrite what is there.")]
Model = Annotated[str, Parameter(help="A name from `latens models`, the folder of a trained model, or hub:OWNER/NAME.")]


class StderrHandler(logging.Handler):
    """Handler of log messages: lines on stderr. Warnings begin with the name of the program and are shown once."""

    def __init__(self) -> None:
        super().__init__()
        self._warned: set[str] = set()  # a file may be read in several passes

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            if text in self._warned:
                return
            self._warned.add(text)
            text = f"latens: {text}"
        print(text, file=sys.stderr, flush=True)


@contextmanager
def messages(format: Format) -> Iterator[None]:
    """Shows what the library logs while a verb runs; `quiet` shows errors only."""
    root, handler = logging.getLogger("latens"), StderrHandler()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.ERROR if format == "quiet" else logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


class Reporter:
    """Results on stdout in the format the user asked for, and progress bars. Everything else is logged.

    `results_to_stderr` is for the case that stdout carries the output file itself.
    """

    def __init__(self, options: OutputOptions, *, results_to_stderr: bool = False) -> None:
        self.format = options.format
        self.debug = options.debug
        self._results_to_stderr = results_to_stderr

    def result(self, record: dict[str, Any], text: str) -> None:
        """One result: the record as a line of JSON, or the text for people."""
        stream = sys.stderr if self._results_to_stderr else sys.stdout
        if self.format == "json":
            print(json.dumps(record, ensure_ascii=False, default=str), file=stream, flush=True)
        elif self.format == "human":
            print(text, file=stream, flush=True)

    @contextmanager
    def progress(self, total: int, what: str) -> Iterator[Callable[..., None]]:
        """Yield a function that takes the finished amount of `total` and a note; a bar is drawn only on a terminal."""
        if total < 2 or self.format != "human" or not sys.stderr.isatty():
            yield lambda done, note="": None
            return
        from rich.console import Console
        from rich.progress import Progress

        # Lines printed meanwhile go above the bar; a stdout that is a file or a pipe is left alone.
        bar = Progress(console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty())
        with bar:
            task = bar.add_task(what, total=total)
            yield lambda done, note="": bar.update(task, completed=done, description=f"{what} {note}".rstrip())


def parse_duration(text: str) -> float:
    """Seconds of "90", "45s", "30m", "2h" or "1h30m". Raises UsageError."""
    match = DURATION.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        raise UsageError(f"'{text}' is not a length of time", hint="write 90s, 30m, 2h or 1h30m")
    hours, minutes, seconds = (float(part or 0) for part in match.group("h", "m", "s"))
    return 3600 * hours + 60 * minutes + seconds


def parse_settings(settings: list[str]) -> dict[str, str]:
    """{"optim.lr": "1e-4"} of ["optim.lr=1e-4"]. Raises UsageError."""
    parsed: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"'{setting}' is not a setting", where="--set", hint="write --set key=value")
        parsed[key.strip()] = value.strip()
    return parsed


def human_size(size: int) -> str:
    """1234 -> "1.2 kB"; thousands, not 1024s."""
    scaled, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if scaled < 999.95 or unit == "GB":
            break
        scaled /= 1000
    return f"{scaled:.0f} B" if unit == "B" else f"{scaled:.1f} {unit}"


# ------------------------------------------------------------------------------------------------------ many files


def folder_of_results(jobs: list[Job], out: Path | None) -> Path | None:
    """The folder that -o names; None where results go beside their inputs, into one named file or to standard output."""
    return None if out is None or [job.output for job in jobs] == [out] else out


def refuse_to_overwrite(jobs: list[Job], out: Path | None, *, force: bool) -> None:
    """Raise UsageError if the results cannot be written, before long work begins.

    Raise OutputExists for a single named input whose named output exists; other existing outputs are skipped.
    """
    from latens.data.files import STANDARD_STREAM, is_file
    from latens.data.folders import check_writable

    folder = folder_of_results(jobs, out)
    places = {job.output.parent for job in jobs if job.output != STANDARD_STREAM} if folder is None else {folder}
    if len(places) == 1 and not (len(jobs) == 1 and is_file(jobs[0].output)):  # a device, or a file that is refused or replaced
        check_writable(places.pop())
    if len(jobs) == 1 and jobs[0].named and out == jobs[0].output and jobs[0].output.is_file() and not force:
        raise OutputExists("the file is there already", where=str(out), hint="choose another -o, or add --force")


def run_files(
    jobs: list[Job],
    work: Callable[[Job, OnProgress], dict[str, Any]],
    reporter: Reporter,
    *,
    force: bool,
    what: str,
    request: Mapping[str, Any],
    out: Path | None,
    parts: int = 1,
) -> BatchReport:
    """Run a batch and print the result of each file; the summary goes to stderr.

    `work` may call its second argument with how many of the `parts` of a file are done, and a note. `request` is what decides
    the results besides the inputs, the model and options: an output folder `out` holds results of one request for each verb
    (`what`) only. Raises OutputExists.
    """
    from latens.data.folders import check_request, note_request
    from latens.inference.batch import run_batch

    finished, folder = 0, folder_of_results(jobs, out)
    noted = folder is None
    if folder is not None:
        check_request(folder, what, request, force=force)
    with reporter.progress(len(jobs) * parts, what) as show:

        def tell(outcome: Outcome) -> None:
            nonlocal finished
            _tell(outcome, reporter, alone=len(jobs) == 1)
            finished += parts
            show(finished)

        def run(job: Job) -> dict[str, Any]:
            nonlocal noted
            record = work(job, lambda done, note: show(finished + done, note))
            if folder is not None and not noted:  # not before there is a result
                note_request(folder, what, request)
                noted = True
            return record

        report = run_batch(jobs, run, force=force, on_result=tell)
    if len(jobs) > 1:
        _summary(report, reporter)
    return report


def _tell(outcome: Outcome, reporter: Reporter, *, alone: bool) -> None:
    job = outcome.job
    record: dict[str, Any] = {"input": str(job.input), "output": str(job.output), "status": outcome.status}
    if outcome.failure is not None:
        if reporter.debug and outcome.error is not None:
            traceback.print_exception(outcome.error)
        logger.error(outcome.failure.message)
        if reporter.format == "json":
            reporter.result(record | outcome.failure._asdict(), "")
    elif outcome.record is None:
        if reporter.format == "json":
            reporter.result(record, "")
        logger.info(f"{job.output}: there already, skipped: --force makes it anew, -o names another" + _shared(job) * alone)
    else:
        details = dict(outcome.record)
        text = details.pop("text", str(job.output))
        reporter.result(record | details, text)


def _shared(job: Job) -> str:
    """Says which other files beside an input have its name but for the ending, and so the same name for their result."""
    from latens.data.images import IMAGE_ENDINGS

    names = sorted(path.name for path in job.input.parent.iterdir() if path.stem == job.input.stem and path != job.output)
    others = [name for name in names if name != job.input.name and Path(name).suffix.lower() in IMAGE_ENDINGS]
    return f"\n{', '.join(others)} would have the same name for the result of {job.input.name}" if others else ""


def _summary(report: BatchReport, reporter: Reporter) -> None:
    parts = [f"{report.done} done"]
    parts += [f"{report.skipped} skipped"] * bool(report.skipped)
    parts += [f"{len(report.failed)} failed"] * bool(report.failed)
    parts += [f"{report.not_done} not tried"] * bool(report.not_done)
    listed = f"; failures are listed in {report.log}" if report.log else ""
    logger.info(", ".join(parts) + listed)
    if report.stopped is not None:
        logger.error(str(report.stopped))


def save_image(job: Job, image: Any) -> None:
    """Writes a PIL image to the job's output, which may be standard output (PNG)."""
    import io

    from latens.data.files import STANDARD_STREAM, write_atomic
    from latens.data.image_output import write_image

    if job.output == STANDARD_STREAM:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        write_atomic(job.output, buffer.getvalue())
    else:
        write_image(job.output, image)
