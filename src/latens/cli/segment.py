"""`latens segment`"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from latens.catalogue import limits_of_training
from latens.cli.batch import FileBatch
from latens.cli.common import Force, ImageComputeOptions, Model, Output
from latens.cli.engines import EngineOptions
from latens.cli.pipes import Emit, Name, through_pipe
from latens.cli.soft_maps import SaveMaps, check_map_names, check_maps, map_file, map_files
from latens.cli.watching import WatchOptions
from latens.errors import UsageError, counted
from latens.launch import announce
from latens.progress import OnProgress

if TYPE_CHECKING:
    from pathlib import Path

    from latens.data.soft_maps import SoftMaps
    from latens.inference.batch import Job
    from latens.systems.amodal.segmenter import Segmenter

ENDING = ".json"
PRODUCTS = {  # choices of --emit
    "json": "*.json",
    "overlay": "*.overlay.*",
    "cells": "*.cells.csv",
    "frames": "*.frames.csv",
    "labels": "*.labels.tif",
    "overlap": "*.overlap.tif",
    "masks": "*.masks.tif",
    "rois": "*.rois.zip",
}
SHOWN = 3  # warnings of the pages of one file that are printed
COMPANIONS = (".masks", *(f"_{name}" for name in ("cp_masks", "cp_outlines", "cp_output", "flows", "outlines", "cellprob")))
"""Marks of files that belong to an image next to them: masks of latens, and images that cellpose writes."""

logger = logging.getLogger(__name__)


def segment(
    inputs: Annotated[list[str], Parameter(help="Images, TIFF stacks, folders, or patterns such as 'day3/*.tif'.")],
    /,
    *,
    out: Output = None,
    score: Annotated[float, Parameter(validator=Number(gte=0, lte=1), help="Leave out objects with a lower score.")] = 0.5,
    diameter: Annotated[
        float | None,
        Parameter(
            validator=Number(gt=0), help="Typical diameter of the nuclei in pixels (model cells); estimated if left out."
        ),
    ] = None,
    save_maps: SaveMaps = None,
    model: Model = "cells",
    emit: Emit = None,
    name: Name = None,
    watching: WatchOptions = WatchOptions(),  # noqa: B008
    force: Force = False,
    engine: EngineOptions = EngineOptions(),  # noqa: B008
    options: ImageComputeOptions = ImageComputeOptions(),  # noqa: B008
) -> int:
    """Segment nuclei (model cells) or blastomeres (model embryo), with their whole outlines where they overlap.

    For every input: COCO JSON, an overlay, tables of cells and images, and ROIs for Fiji. The model cells adds a label map and
    an overlap map, the model embryo a TIFF with one page per cell and the depth order. A folder of several results also has
    the joint tables cells.csv and frames.csv of all of them, also of earlier runs. Time, slice, channel and micrometers are
    those of OME or ImageJ metadata; without metadata these columns are empty.

        latens segment slide.tif -o out/
        latens segment stack.tif frames/ -o out/ --diameter 18
        latens segment embryo.png -o out/ --model embryo
        latens segment - --emit labels --name slide7 < slide.tif > labels.tif

    --save-maps saves the probabilities of foreground and overlap (model cells), or of the whole and the visible mask of every
    object (model embryo). --emit is json (default), overlay, cells, frames, labels, overlap, masks or rois.
    """

    def run(inputs: list[str], out: Path | None) -> int:
        return segment(
            inputs, out=out, score=score, diameter=diameter, save_maps=save_maps, model=model, force=force, options=options
        )

    watching.check(inputs, out)
    watching.check_outside(inputs, save_maps, "--save-maps")
    piped = through_pipe(run, inputs, out, PRODUCTS, emit, name)
    if piped is not None:
        return piped
    from latens.data.images import IMAGE_ENDINGS
    from latens.data.inputs import find_inputs
    from latens.inference.batch import plan_jobs
    from latens.inference.finished import Request

    def find() -> list[Job]:
        files = find_inputs(inputs, IMAGE_ENDINGS, out, skip_results=True, marks=[".overlay"], companions=COMPANIONS)
        check_map_names(files, save_maps)
        return plan_jobs(files, out, ENDING)

    batch = FileBatch(watching.jobs(inputs, out, find), out, options, force=force)
    if any(job.output.suffix != ENDING for job in batch.jobs):
        raise UsageError(f"the result is a {ENDING} file", where=str(out), hint=f"name a folder or a {ENDING} file")
    check_maps(save_maps, batch.jobs)

    from latens.systems.amodal.cells.predict import CellSegmenter
    from latens.systems.amodal.outputs import check_foreign, family, is_ours, join_tables
    from latens.systems.amodal.predict import load

    if not force:
        check_foreign(job.output for job in batch.jobs)
    segmenter = load(model, device=options.device, threads=options.threads)
    announce(segmenter)
    if isinstance(segmenter, CellSegmenter):
        segmenter.diameter = diameter
    elif diameter is not None:
        hint = "leave it out, or choose --model cells"
        raise UsageError(f"the model {segmenter.name} has no setting of the diameter", where="--diameter", hint=hint)
    if segmenter.trained_on is not None and not isinstance(segmenter, CellSegmenter):
        logger.info(limits_of_training(segmenter.trained_on, "on other images expect false positives"))

    without_rois = 0

    def work(job: Job, on_progress: OnProgress) -> dict[str, Any]:
        nonlocal without_rois
        record = segment_one(segmenter, job, score, map_file(job, save_maps))
        without_rois += bool(record["left_out"])
        return record

    request = {"model": segmenter.model_id, "score": score, "diameter": diameter, **options.choice()}
    maps, ours = map_files(save_maps), (lambda job: is_ours(job.output))
    outputs = lambda job: [*maps(job), *family(job.output), job.output]  # noqa: E731
    done = batch.run(work, Request("segmenting", request, outputs, is_ours=ours, needed=maps))
    if without_rois:
        of = counted(without_rois, "file")
        logger.warning("ROIs for Fiji of %s were left out; the extra `micro` writes them: pip install 'latens[micro]'", of)
    if batch.folder is not None and (written := join_tables(batch.folder)):
        logger.info(f"all results in {batch.folder} together: {', '.join(path.name for path in written)}")
    return done.exit_status


def segment_one(segmenter: Segmenter[Any], job: Job, score: float, maps: Path | None = None) -> dict[str, Any]:
    """Segment one file; return the record of the result. Soft maps are written to the file `maps`, if it is given."""
    from latens.data.images import frames_note
    from latens.data.planes import Plane, read_planes
    from latens.data.soft_maps import writing_maps
    from latens.data.stacks import TIFF_ENDINGS, count_frames
    from latens.systems.amodal.outputs import Frame, write_outputs

    started = time.perf_counter()
    count = count_frames(job.input)
    planes = iter(read_planes(job.input))
    warned: list[str] = []
    notes: list[str] = []  # on conversions

    def segmented(soft: SoftMaps | None) -> Iterator[Frame]:
        frames = segmenter.segment_frames(job.input, least_score=score, maps=soft is not None, notes=notes)
        for number, (pixels, found) in enumerate(frames, start=1):
            place = f"page {number}: " if count > 1 else ""
            warned.extend(f"{place}{text}" for text in found.facts.get("warnings", ()))
            plane = next(planes, Plane())
            if soft is not None:
                soft.add(found.maps, plane.pixel_um)
            yield Frame(pixels, found, plane)

    info = {"model": segmenter.name, "weights": segmenter.model_id, "trained_on": segmenter.trained_on, "least_score": score}
    source = job.relative or job.input.name
    labels = segmenter.as_label_maps
    with writing_maps(maps, count) as soft:
        written = write_outputs(segmented(soft), job.output, source, count=count, info=info, as_label_maps=labels)
    seconds = time.perf_counter() - started
    note = None if job.input.suffix.lower() in TIFF_ENDINGS else frames_note(job.input)  # all pages of a TIFF are segmented
    notes = list(dict.fromkeys([*([note] if note else []), *notes]))
    for text in warned[:SHOWN]:
        logger.warning("%s: %s", job.input, text)
    if len(warned) > SHOWN:
        logger.warning("%s: %d more pages have such a warning", job.input, len(warned) - SHOWN)
    total = sum(written.objects)
    shown = counted(total, "object") + (f" in {count} frames" if count > 1 else "")
    return {
        "frames": len(written.objects),
        "objects": written.objects,
        "files": [str(path) for path in written.files],
        **({} if maps is None else {"maps": str(maps)}),
        "left_out": list(written.left_out),
        "seconds": round(seconds, 3),
        "notes": [*notes, *warned],
        "text": "; ".join([f"{job.output}: {shown}, {seconds:.2f} s", *notes]),
    }
