"""`latens parts`"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from latens.cli.batch import FileBatch, Readable, save_image
from latens.cli.common import Force, ImageComputeOptions, Model, Reporter
from latens.errors import LimitExceeded, counted
from latens.launch import announce
from latens.progress import OnProgress

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
    most: Annotated[int, Parameter(validator=Number(gte=1), help="Largest number of patches in the gallery of a part.")] = 9,
    resolution: Annotated[
        int | None,
        Parameter(help="Shorter side in pixels to which images are reduced, a multiple of 8.  [default: the model's]"),
    ] = None,
    model: Model = "parts",
    force: Force = False,
    options: ImageComputeOptions = ImageComputeOptions(),  # noqa: B008
) -> int:
    """Find parts that repeat in your images, without labels.

    Written are a map of part occurrences for every image; and for all images gallery.png (patches of every part), swaps.png
    (the appearance of one part moved between images), parts.json and index.html.

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
    batch = FileBatch(plan_jobs(files, f"{out}/", ENDING), out, options, force=force, check=False)
    check_writable(out)
    check_folder(out, [file.path for file in files], force=force)
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

    request = {"model": finder.model_id, "resolution": finder.resolution, "most": most, **options.choice()}
    request["images"] = sorted(os.path.realpath(file.path) for file in files if str(file.path) != "-")
    report = batch.run(work, what="finding parts", request=request)
    failed = {failure.input for failure in report.failed}
    names = {file.path: file.relative.as_posix() for file in files if str(file.path) not in {*failed, "-"}}
    skipped = [file for file in files if file.path in names and file.path not in measured]
    again = Readable(skipped, lambda file: finder.measure(file.path), batch.reporter)
    measured |= {file.path: value for file, value in again}
    good = {path: name for path, name in names.items() if path in measured}
    if good:
        summarize(finder, good, [measured[path] for path in good], out, most, batch.reporter)
    return report.exit_status or (SOME_FAILED if again.failed else 0)


def ours(path: Path) -> bool:
    """Whether an earlier run wrote this image: results may be in the folder of their inputs."""
    from latens.systems.parts.report import SUMMARY, is_earlier_summary

    return path.name.endswith(ENDING) or (path.name in SUMMARY and is_earlier_summary(path.parent))


def map_one(finder: Parts, job: Job) -> tuple[dict[str, Any], Measured]:
    """Write the map of one image; return the record of the result, and the measurements for the summary."""
    from PIL import Image

    from latens.data.images import read_image
    from latens.systems.parts.drawing import occurrence_sheet

    started = time.perf_counter()
    image = read_image(job.input)
    measured = finder.measure(image)
    code = measured.code
    save_image(job, Image.fromarray(occurrence_sheet(image.pixels, code)))
    found, seconds = code.present(), time.perf_counter() - started
    notes = "".join(f"; {note}" for note in image.notes)
    record = {
        "parts": found,
        "probability": [round(float(code.occurrence[n].max()), 4) for n in found],
        "seconds": round(seconds, 3),
        "notes": list(image.notes),
        "text": f"{job.output}: {counted(len(found), 'part')}, {seconds:.2f} s{notes}",
    }
    return record, measured


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
