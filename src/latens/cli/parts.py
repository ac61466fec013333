"""`latens parts`"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from latens.cli.common import ComputeOptions, Force, Model, OnProgress, Reporter, run_files
from latens.errors import InputError, LimitExceeded, counted
from latens.launch import announce

if TYPE_CHECKING:
    from latens.inference.batch import Job
    from latens.systems.parts.predict import Measured, Parts

ENDING = ".parts.png"
DEFAULT_OUT = Path("parts-found")

logger = logging.getLogger(__name__)


def parts(
    inputs: Annotated[list[str], Parameter(help="Images, folders, patterns such as 'album/*.jpg', or -.")],
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"], help="Folder of the results.")] = DEFAULT_OUT,
    most: Annotated[int, Parameter(validator=Number(gte=1), help="Patches of a part in its gallery.")] = 9,
    resolution: Annotated[
        int | None, Parameter(help="Shorter side that images are reduced to, a multiple of 8.  [default: the model's]")
    ] = None,
    model: Model = "parts",
    force: Force = False,
    options: ComputeOptions = ComputeOptions(),  # noqa: B008
) -> int:
    """Parts that repeat in your images, found without labels.

    For every image a map of where which part is; for all of them gallery.png (the patches of every part), swaps.png
    (one part's appearance moved between images), parts.json and index.html.

        latens parts photos/ -o found/ --model runs/parts/best
        latens parts photo.jpg -o finer/ --model runs/parts/best --resolution 128
    """
    from latens.data.folders import check_writable
    from latens.data.images import IMAGE_ENDINGS
    from latens.data.inputs import find_inputs
    from latens.inference.batch import SOME_FAILED, plan_jobs
    from latens.systems.parts.predict import load
    from latens.systems.parts.report import check_folder

    files = [file for file in find_inputs(inputs, IMAGE_ENDINGS, out) if file.named or not ours(file.path)]
    jobs = plan_jobs(files, f"{out}/", ENDING)
    check_writable(out)
    check_folder(out, [file.path for file in files], force=force)
    reporter = Reporter(options)
    loaded = load(model, device=options.device, threads=options.threads)
    try:
        finder = loaded if resolution is None else loaded.at(resolution)
    except LimitExceeded as error:
        raise error.at(f"--resolution {resolution}") from None
    announce(finder)

    measured: dict[Path, Measured] = {}

    def work(job: Job, on_progress: OnProgress) -> dict[str, Any]:
        record, measured[job.input] = map_one(finder, job)
        return record

    request = {"model": finder.model_id, "resolution": finder.resolution, "most": most}
    request["images"] = sorted(os.path.realpath(file.path) for file in files if str(file.path) != "-")
    report = run_files(jobs, work, reporter, force=force, what="finding parts", request=request, out=out)
    failed = {failure.input for failure in report.failed}
    names = {file.path: file.relative.as_posix() for file in files if str(file.path) not in {*failed, "-"}}
    measured |= measure_all(finder, [path for path in names if path not in measured], reporter)
    good = {path: name for path, name in names.items() if path in measured}
    if good:
        summarize(finder, good, [measured[path] for path in good], out, most, reporter)
    return report.exit_status or (SOME_FAILED if len(good) < len(names) else 0)


def ours(path: Path) -> bool:
    """Whether an earlier run wrote this image: results may be in the folder of their inputs."""
    from latens.systems.parts.report import SUMMARY, is_earlier_summary

    return path.name.endswith(ENDING) or (path.name in SUMMARY and is_earlier_summary(path.parent))


def map_one(finder: Parts, job: Job) -> tuple[dict[str, Any], Measured]:
    """Write the map of one image; return the record of the result, and the measurements for the summary."""
    from latens.data.files import write_atomic
    from latens.data.image_output import png_bytes
    from latens.data.images import read_image
    from latens.systems.parts.drawing import occurrence_sheet

    started = time.perf_counter()
    image = read_image(job.input)
    measured = finder.measure(image)
    code = measured.code
    job.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(job.output, png_bytes(occurrence_sheet(image.pixels, code)))
    found, seconds = code.present(), time.perf_counter() - started
    said = "".join(f"; {note}" for note in image.notes)
    record = {
        "parts": found,
        "probability": [round(float(code.occurrence[n].max()), 4) for n in found],
        "seconds": round(seconds, 3),
        "notes": list(image.notes),
        "text": f"{job.output}: {counted(len(found), 'part')}, {seconds:.2f} s{said}",
    }
    return record, measured


def measure_all(finder: Parts, paths: list[Path], reporter: Reporter) -> dict[Path, Measured]:
    """Measurements of images whose maps exist already; unreadable images are left out with a warning."""
    measured = {}
    for path in paths:
        try:
            measured[path] = finder.measure(path)
        except (InputError, LimitExceeded) as error:
            logger.error(str(error.at(str(path))))
    return measured


def summarize(
    finder: Parts, images: dict[Path, str], measured: list[Measured], out: Path, most: int, reporter: Reporter
) -> None:
    """Galleries, swaps and statistics over all images, given by path and name."""
    from latens.systems.parts.report import describe, write_report

    paths, names = list(images), list(images.values())
    report = describe(finder, paths, names, measured, most=most)
    written = write_report(finder, report, paths, out)
    s = report.statistics
    files = ", ".join(path.name for path in written)
    text = f"{out}: {s.active} of {len(s.share)} parts occur in {counted(len(names), 'image')}; {files}"
    reporter.result({"output": str(out), "files": [str(path) for path in written], **s.to_dict()}, text)
