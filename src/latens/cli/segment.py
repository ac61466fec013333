"""`latens segment`"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from latens.cli.batch import FileBatch
from latens.cli.common import Force, ImageComputeOptions, Model, Output
from latens.errors import UsageError, counted
from latens.launch import announce
from latens.progress import OnProgress

if TYPE_CHECKING:
    from latens.inference.batch import Job
    from latens.systems.amodal.predict import AmodalSegmenter

ENDING = ".json"
COMPANIONS = (".masks", *(f"_{name}" for name in ("cp_masks", "cp_outlines", "cp_output", "flows", "outlines", "cellprob")))
"""Marks of files that belong to an image next to them: masks of latens, and images that cellpose writes."""

logger = logging.getLogger(__name__)


def segment(
    inputs: Annotated[list[str], Parameter(help="Images, TIFF stacks, folders, or patterns such as 'day3/*.tif'.")],
    /,
    *,
    out: Output = None,
    score: Annotated[float, Parameter(validator=Number(gte=0, lte=1), help="Leave out objects with a lower score.")] = 0.5,
    model: Model = "amodal",
    force: Force = False,
    options: ImageComputeOptions = ImageComputeOptions(),  # noqa: B008
) -> int:
    """Segment whole cells in overlap: visible and hidden parts, and depth order.

    For every input: COCO JSON, an overlay, tables of cells and images, a TIFF with one page per cell, and ROIs for Fiji.
    A folder of several results also has the joint tables cells.csv and frames.csv of all of them, also of earlier runs.
    Time, slice, channel and micrometers are those of OME or ImageJ metadata; without metadata these columns are empty.

        latens segment embryo.png -o out/
        latens segment stack.tif frames/ -o out/
    """
    from latens.data.files import STANDARD_STREAM
    from latens.data.images import IMAGE_ENDINGS
    from latens.data.inputs import find_inputs
    from latens.inference.batch import plan_jobs
    from latens.inference.finished import Request

    files = find_inputs(inputs, IMAGE_ENDINGS, out, skip_results=True, marks=[".overlay"], companions=COMPANIONS)
    batch = FileBatch(plan_jobs(files, out, ENDING), out, options, force=force)
    if any(STANDARD_STREAM in (job.output, job.input) for job in batch.jobs):
        raise UsageError("several files are written for every input", where="-", hint="name a file and a folder with -o")
    if any(job.output.suffix != ENDING for job in batch.jobs):
        raise UsageError(f"the result is a {ENDING} file", where=str(out), hint=f"name a folder or a {ENDING} file")

    from latens.systems.amodal.outputs import check_foreign, family, is_ours, join_tables
    from latens.systems.amodal.predict import load

    if not force:
        check_foreign(job.output for job in batch.jobs)
    segmenter = load(model, device=options.device, threads=options.threads)
    announce(segmenter)
    if segmenter.trained_on is not None:
        known = segmenter.trained_on.split(";")[0]
        own = "Train your own and pass it with --model."
        logger.info(f"this model was trained on {known}; on other images expect false positives. {own}")

    def work(job: Job, on_progress: OnProgress) -> dict[str, Any]:
        return segment_one(segmenter, job, score)

    request = {"model": segmenter.model_id, "score": score, **options.choice()}
    outputs, ours = (lambda job: [*family(job.output), job.output]), (lambda job: is_ours(job.output))
    done = batch.run(work, Request("segmenting", request, outputs, is_ours=ours))
    if batch.folder is not None and (written := join_tables(batch.folder)):
        logger.info(f"all results in {batch.folder} together: {', '.join(path.name for path in written)}")
    return done.exit_status


def segment_one(segmenter: AmodalSegmenter, job: Job, score: float) -> dict[str, Any]:
    """Segment one file; return the record of the result."""
    from latens.data.images import frames_note
    from latens.data.planes import Plane, read_planes
    from latens.data.stacks import TIFF_ENDINGS, count_frames
    from latens.systems.amodal.outputs import Frame, write_outputs

    started = time.perf_counter()
    count = count_frames(job.input)
    planes = iter(read_planes(job.input))
    found = segmenter.segment_frames(job.input, least_score=score)
    frames = (Frame(pixels, objects, next(planes, Plane())) for pixels, objects in found)
    info = {"model": segmenter.name, "weights": segmenter.model_id, "trained_on": segmenter.trained_on, "least_score": score}
    written = write_outputs(frames, job.output, job.relative or job.input.name, count=count, info=info)
    seconds = time.perf_counter() - started
    note = None if job.input.suffix.lower() in TIFF_ENDINGS else frames_note(job.input)  # all pages of a TIFF are segmented
    total = sum(written.objects)
    shown = counted(total, "object") + (f" in {count} frames" if count > 1 else "")
    return {
        "frames": len(written.objects),
        "objects": written.objects,
        "files": [str(path) for path in written.files],
        "seconds": round(seconds, 3),
        "notes": [note] if note else [],
        "text": f"{job.output}: {shown}, {seconds:.2f} s" + (f"; {note}" if note else ""),
    }
