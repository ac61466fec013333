"""`latens grade`"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from latens.catalogue import limits_of_training
from latens.cli.common import Force, ImageComputeOptions, Model, Reporter
from latens.cli.engines import EngineOptions
from latens.cli.pipes import Emit, Name, through_pipe
from latens.cli.watching import WatchOptions
from latens.errors import InputError, LimitExceeded, UsageError, counted
from latens.launch import announce

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from latens.inference.watch import Watch
    from latens.systems.seedlings.grading import Experiment
    from latens.systems.seedlings.predict import GradedTray

logger = logging.getLogger(__name__)
SOME_FAILED = 3
PRODUCTS = {"plants": "plants.csv", "lots": "lots.csv", "overlay": "*.overlay.webp", "report": "report.html"}  # of --emit
MAX_NOTES = 10  # printed notes on lots; the files hold all


def grade(
    inputs: Annotated[list[str], Parameter(help="Tray photographs, folders, or patterns such as 'trays/*_day6.png'.")],
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"], help="Folder of plants.csv, lots.csv, overlays and report.html.")],
    lots: Annotated[
        Path | None, Parameter(help="CSV: tray, rows, cols, lot, seeds, sown.  [default: each tray is a lot]")
    ] = None,
    sown: Annotated[str | None, Parameter(help="Date of sowing, such as 2024-03-01, for photographs with a date.")] = None,
    day: Annotated[int | None, Parameter(help="Day after sowing, for one photograph.")] = None,
    accept: Annotated[str, Parameter(help="Smallest share of usable plants of an accepted lot.")] = "90%",
    rows: Annotated[int, Parameter(validator=Number(gte=1), help="Rows of cells in a tray.")] = 10,
    cols: Annotated[int, Parameter(validator=Number(gte=1), help="Columns of cells in a tray.")] = 15,
    corners: Annotated[
        str | None, Parameter(help="Centers of the corner cells in pixels: x,y,x,y,x,y,x,y, clockwise from the top left.")
    ] = None,
    trays: Annotated[
        int, Parameter(validator=Number(gte=1), help="Number of trays in each photograph; they are named NAME#1, NAME#2.")
    ] = 1,
    tray: Annotated[int | None, Parameter(validator=Number(gte=1), help="Grade only the tray with this number.")] = None,
    method: Annotated[
        Literal["lattice", "thesis"], Parameter(help="Robust grid fit, or Algorithm 1 of the thesis.")
    ] = "lattice",
    model: Model = "seedlings",
    emit: Emit = None,
    name: Name = None,
    watching: WatchOptions = WatchOptions(),  # noqa: B008
    force: Force = False,
    engine: EngineOptions = EngineOptions(),  # noqa: B008
    options: ImageComputeOptions = ImageComputeOptions(),  # noqa: B008
) -> int:
    """Grade seedling trays: emerged plants, plants that will succeed, and germination of each lot.

    Photographs are named TRAY_day6.png, or TRAY_2024-03-07.png together with --sown. Plants keep their ids over days.

        latens grade tray_day6.png -o out/
        latens grade trays/ -o out/ --sown 2024-03-01 --lots lots.csv
        latens grade photo.jpg -o out/ --rows 3 --cols 5 --day 6 --trays 2
        latens grade photo.jpg -o out/ --rows 3 --cols 5 --day 6 --corners 240,460,1362,460,1362,1020,240,1020

        latens grade - -o - --emit lots --name tray_day6.png < photo.png > lots.csv

    --emit is plants (default), lots, overlay or report. A second run into the same folder grades only new photographs; an
    interrupted run continues.
    """

    def run(inputs: list[str], out: Path | None) -> int:
        return grade(
            inputs, out=out or Path(), lots=lots, sown=sown, day=day, accept=accept, rows=rows, cols=cols, corners=corners,
            trays=trays, tray=tray, method=method, model=model, force=force, options=options,
        )  # fmt: skip

    watching.check(inputs, out)
    piped = through_pipe(run, inputs, out, PRODUCTS, emit, name)
    if piped is not None:
        return piped
    from latens.data.folders import check_writable
    from latens.data.images import IMAGE_ENDINGS
    from latens.data.inputs import find_inputs
    from latens.systems.seedlings.config import GridOptions
    from latens.systems.seedlings.names import parse_date

    def find() -> list[Path]:
        return photographs([file.path for file in find_inputs(inputs, IMAGE_ENDINGS)])

    watch = watching.start(inputs, out)
    files = find() if watch is None else []
    share = parse_share(accept)
    if day is not None and len(files) > 1:
        raise UsageError(
            f"one day for {len(files)} photographs", where="--day", hint="name files TRAY_dayN.png, or give --sown"
        )
    if day is not None and day < 0:
        raise UsageError("a day is counted from sowing", where="--day")
    if corners is not None and len(files) > 1:
        logger.warning("--corners is used for all %d photographs", len(files))
    placed = parse_corners(corners)
    if (trays > 1 or tray is not None) and (placed is not None or method == "thesis"):
        what = "--corners and --method thesis place one grid, --trays and --tray choose among several"
        raise UsageError(what, hint="leave one of them out")
    if trays > 1 and tray is not None:
        raise UsageError("--trays grades all trays and --tray one of them", hint="leave one of them out")
    grid = GridOptions(rows=rows, cols=cols, method=method, corners=placed, trays=trays, tray=tray or 0)
    since = None if sown is None else parse_date(sown, "--sown")
    if out.exists() and not out.is_dir():
        raise UsageError("the results are several files", where=str(out), hint="name a folder with -o")
    check_writable(out)
    reporter = Reporter(options)

    from latens.systems.seedlings.grading import grade_folder, warnings_on
    from latens.systems.seedlings.grading_report import ELSEWHERE
    from latens.systems.seedlings.predict import load

    workers = 1 if len(files) == 1 else worker_count(options.threads)
    grader = load(model, device=options.device, threads=1 if workers > 1 else options.threads)
    announce(grader)
    if grader.trained_on is not None:
        logger.info(limits_of_training(grader.trained_on, ELSEWHERE))
    if workers > 1:
        logger.info("%d photographs at a time", workers)

    def graded(files: list[Path]) -> int:
        done = 0
        with reporter.progress(len(files), "grading") as show:

            def warn(path: Path, trays: Sequence[GradedTray]) -> None:
                nonlocal done
                done += 1
                show(done)
                for text in warnings_on(path, trays):
                    logger.warning(text)

            try:
                result = grade_folder(
                    grader, files, out, day=day, sown=since, lots=lots, limit=share, grid=grid,
                    workers=workers, force=force, on_graded=warn,
                )  # fmt: skip
            except KeyboardInterrupt:
                logger.warning("%d of %d photographs are graded; the same command resumes from them", done, len(files))
                raise
        return report(result, out, reporter, single=len(inputs) == 1 and not Path(inputs[0]).is_dir())

    return graded(files) if watch is None else grade_watched(graded, find, watch, out)


def grade_watched(graded: Callable[[list[Path]], int], find: Callable[[], list[Path]], watch: Watch, out: Path) -> int:
    """Grade all photographs of watched folders whenever some are added, until Ctrl-C; finished ones are not graded again."""
    from latens.inference.batch import Job
    from latens.inference.watch import Watching

    taken: set[Path] = set()
    status = 0
    try:
        for group in Watching(watch, lambda: [Job(path, out) for path in find()]).groups():
            taken |= {job.input for job in group}
            try:
                status = graded([path for path in find() if path in taken])
            except (InputError, LimitExceeded) as error:
                logger.error(str(error))
                status = error.exit_status
    except KeyboardInterrupt:
        logger.info("stopped watching: %s", counted(len(taken), "photograph"))
    return status


def photographs(found: list[Path]) -> list[Path]:
    """The inputs without overlays in folders of earlier runs; a file that is named alone is taken."""
    from latens.data.folders import earlier_request
    from latens.systems.seedlings.grading import OVERLAY, WHAT

    if len(found) == 1:
        return found
    graded = {folder for folder in {path.parent for path in found} if earlier_request(folder, WHAT) is not None}
    files = [path for path in found if not path.name.endswith(OVERLAY) or path.parent not in graded]
    if len(files) < len(found):
        logger.warning("left out %s of earlier runs", counted(len(found) - len(files), "overlay"))
    return files


def report(result: Experiment, out: Path, reporter: Reporter, *, single: bool) -> int:
    """Print the lots, and in JSON the failed photographs; return the exit status. Raises the error of a `single` one."""
    from latens.cli.batch import report_failure
    from latens.inference.batch import Failure

    if single and len(result.failures) == 1 and not result.graded:
        raise result.failures[0][1]
    for path, error in result.failures:
        failure = Failure(str(path), type(error).__name__, str(error), error.exit_status)
        report_failure({"input": str(path), "status": "failed"}, failure, error, reporter)
    notes = [f"lot {lot.name}: {note}" for lot in result.lots for note in lot.notes]
    for text in [*result.general, *notes[:MAX_NOTES]]:
        logger.warning(text)
    if len(notes) > MAX_NOTES:
        logger.warning("%d more notes on lots are in lots.csv and report.html", len(notes) - MAX_NOTES)
    for lot in result.lots:
        reporter.result(lot.record(), lot.line())
    done = counted(len({one.path for one in result.graded}), "photograph")
    place = f"written to {out / 'report.html'}" if result.graded else "nothing was written"
    logger.info("%s graded, %d failed; %s", done, len(result.failures), place)
    return SOME_FAILED if result.failures else 0


def worker_count(threads: int | None) -> int:
    """Photographs graded at once: one for each core that this process may use, at most four."""
    return min(threads or _cores(), 4)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def parse_share(text: str) -> float:
    """0.9 of "90%" or "0.9". Raises UsageError."""
    number = text.strip().removesuffix("%").strip()
    try:
        share = float(number) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise UsageError(f"'{text}' is not a share", where="--accept", hint="write 90% or 0.9")
    return share


def parse_corners(text: str | None) -> tuple[float, ...] | None:
    """Eight numbers. Raises UsageError."""
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.replace(" ", ",").split(",") if part)
    except ValueError:
        numbers = ()
    if len(numbers) != 8:
        raise UsageError(
            "four corners are eight numbers", where="--corners", hint="write x,y,x,y,x,y,x,y clockwise from the top left"
        )
    return numbers
