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
from latens.cli.engines import EngineOptions
from latens.cli.pipes import Emit, Name, through_pipe
from latens.cli.soft_maps import SaveMaps, check_map_names, check_maps, map_file, map_files
from latens.cli.watching import WatchOptions
from latens.errors import LimitExceeded, UsageError, counted
from latens.launch import announce
from latens.progress import OnProgress

if TYPE_CHECKING:
    from latens.data.inputs import InputFile
    from latens.inference.batch import Job
    from latens.systems.parts.predict import Measured, Parts

ENDING = ".parts.png"
SUMMARIZING = "finding parts"  # name of the summary's request in the folder
DEFAULT_OUT = Path("parts-found")
PRODUCTS = {"map": "*.parts.png", "gallery": "gallery.png", "json": "parts.json", "page": "index.html"}  # of --emit
NAMED = {  # the same with names
    "labels": "*_labels.png",
    "arrays": "*.npz",
    "names": "names.csv",
    "images": "images.csv",
    "page": "names.html",
}

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
    teach: Annotated[
        Path | None,
        Parameter(help="Folder of marked images: labelme files, or label maps such as a_label.png; name every image."),
    ] = None,
    names: Annotated[Path | None, Parameter(help="Folder of names that --teach or --clusters wrote.")] = None,
    clusters: Annotated[int | None, Parameter(help="Number of clusters of your images, as a start for names.")] = None,
    sure: Annotated[float, Parameter(help="Probability below which a pixel gets no name.")] = 0.0,
    find: Annotated[str | None, Parameter(help="Print the images that this selects, such as 'sky and not tree > 5%'.")] = None,
    save_maps: SaveMaps = None,
    export: Annotated[str | None, Parameter(help="Write the names for another tool, too: coco, labelme or cvat.")] = None,
    model: Model = "parts",
    emit: Emit = None,
    name: Name = None,
    watching: WatchOptions = WatchOptions(),  # noqa: B008
    force: Force = False,
    engine: EngineOptions = EngineOptions(),  # noqa: B008
    options: ImageComputeOptions = ImageComputeOptions(),  # noqa: B008
) -> int:
    """Find parts that repeat in your images, without labels.

    Written are a map of part occurrences for every image; and for all images gallery.png (patches of every part), swaps.png
    (the appearance of one part moved between images), parts.json and index.html.

        latens parts photos/ -o found/ --model runs/parts/best
        latens parts photo.jpg -o finer/ --model runs/parts/best --resolution 128

    With names, every pixel gets one. Mark a few images in labelme (areas or lines), and teach the rest; or begin with clusters
    of your images and name those in names/config.json. Written are a label map and an NPZ file for every image, names.csv (area
    and pieces for every image and name), images.csv (certainty, outliers), names.html and the names themselves.

        latens parts photos/ --teach marked/ -o named/
        latens parts photos/ --clusters 12 -o clusters/
        latens parts more/ --names named/names -o more-named/ --find 'sky and not tree > 5%' --export coco
        latens parts - -o - --emit json < photo.jpg > parts.json

    --save-maps saves the probability of every part, a pixel for each cell of the network; with names, the NPZ files have those
    of the names. --emit is map (default), gallery, json or page; with names labels (default), arrays, names, images or page.
    """
    from latens.cli.parts_names import Naming, name_images

    def run(inputs: list[str], out: Path | None) -> int:
        return parts(
            inputs, out=out or DEFAULT_OUT, most=most, resolution=resolution, teach=teach, names=names, clusters=clusters,
            sure=sure, find=find, export=export, save_maps=save_maps, model=model, force=force, options=options,
        )  # fmt: skip

    naming = Naming(teach, names, clusters, sure, find, export)
    watching.check(inputs, out)
    watching.check_outside(inputs, save_maps, "--save-maps")
    piped = through_pipe(run, inputs, out, NAMED if naming.asked else PRODUCTS, emit, name)
    if piped is not None:
        return piped
    from latens.data.folders import check_request, check_writable, earlier_request, note_request
    from latens.data.images import IMAGE_ENDINGS
    from latens.data.inputs import InputFile, find_inputs
    from latens.inference.batch import SOME_FAILED, plan_jobs
    from latens.inference.finished import Request
    from latens.systems.parts.predict import load
    from latens.systems.parts.report import check_folder, is_earlier_summary

    naming.check()
    if naming.asked:
        if save_maps is not None:
            what = "with names, the probabilities are in the NPZ file of every image"
            raise UsageError(what, where="--save-maps", hint="leave it out")
        loaded = load(model, device=options.device, threads=options.threads)
        finder = loaded if resolution is None else loaded.at(resolution)
        return name_images(inputs, naming, out, finder, watching=watching, force=force, options=options)

    def plan() -> list[Job]:
        files = without_results(find_inputs(inputs, IMAGE_ENDINGS, out, skip_results=True), out)
        check_map_names(files, save_maps)
        return plan_jobs(files, f"{out}/", ENDING)

    batch = FileBatch(watching.jobs(inputs, out, plan), out, options, force=force, check=False)
    check_writable(out)
    check_maps(save_maps, batch.jobs)
    earlier = is_earlier_summary(out)
    check_folder(out, [job.input for job in batch.jobs], force=force)
    loaded = load(model, device=options.device, threads=options.threads)
    try:
        finder = loaded if resolution is None else loaded.at(resolution)
    except LimitExceeded as error:
        raise error.at(f"--resolution {resolution}") from None
    announce(finder)

    measured: dict[Path, Measured] = {}

    def work(job: Job, on_progress: OnProgress) -> dict[str, Any]:
        record, measured[job.input] = map_one(finder, job, map_file(job, save_maps))
        return record

    request = {"model": finder.model_id, "resolution": finder.resolution, **options.choice()}
    whole = {**request, "most": most, "images": sorted(job.relative for job in batch.jobs)}  # decides the summary
    if watching.watch:
        whole["images"] = ["*"]  # the summary of a watched folder grows
    if any(map(os.path.isabs, (earlier_request(out, SUMMARIZING) or {}).get("images", []))):  # of an earlier version
        whole["images"] = sorted(os.path.realpath(job.input) for job in batch.jobs if str(job.input) != "-")
    check_request(out, SUMMARIZING, whole, force=force)
    maps = map_files(save_maps)
    asked = Request("mapping parts of", request, lambda job: [*maps(job), job.output], is_ours=lambda job: earlier, needed=maps)
    report = batch.run(work, asked)
    if report.stopped is not None:
        return report.exit_status
    failed = {failure.input for failure in report.failed}
    kept = {job.input: job.relative for job in batch.jobs if str(job.input) not in {*failed, "-"}}
    skipped = [
        InputFile(job.input, Path(job.relative), job.named)
        for job in batch.jobs
        if job.input in kept and job.input not in measured
    ]
    again = Readable(skipped, lambda file: finder.measure(file.path), batch.reporter)
    measured |= {file.path: value for file, value in again}
    good = {path: name for path, name in kept.items() if path in measured}
    if good:
        note_request(out, SUMMARIZING, whole)
        summarize(finder, good, [measured[path] for path in good], out, most, batch.reporter)
    return report.exit_status or (SOME_FAILED if again.failed else 0)


def without_results(found: list[InputFile], out: Path) -> list[InputFile]:
    """The inputs without summaries, and without maps of versions that kept no records; a file that is named alone is taken."""
    from latens.systems.parts.report import SUMMARY, is_earlier_summary

    if len(found) == 1 and found[0].named:
        return found
    places = {file.path.parent for file in found}
    ours = {place for place in places if is_earlier_summary(place) or (out in place.parents and is_earlier_summary(out))}
    files = [
        file
        for file in found
        if file.path.parent not in ours or not (file.path.name.endswith(ENDING) or file.path.name in SUMMARY)
    ]
    if len(files) < len(found):
        logger.warning("left out %s, which earlier runs wrote", counted(len(found) - len(files), "file"))
    return files


def map_one(finder: Parts, job: Job, maps: Path | None) -> tuple[dict[str, Any], Measured]:
    """Write the map of one image; return the record of the result, and the measurements for the summary.

    The probabilities of all parts are written to the file `maps`, if it is given.
    """
    from PIL import Image

    from latens.data.images import read_image
    from latens.data.soft_maps import write_maps
    from latens.systems.parts.drawing import occurrence_sheet

    started = time.perf_counter()
    image = read_image(job.input)
    measured = finder.measure(image)
    code = measured.code
    if maps is not None:
        write_maps(maps, {f"part {n}": values for n, values in enumerate(code.occurrence)})
    save_image(job, Image.fromarray(occurrence_sheet(image.pixels, code)))
    found, seconds = code.present(), time.perf_counter() - started
    notes = image.notes_without_alpha()
    record = {
        "parts": found,
        "probability": [round(float(code.occurrence[n].max()), 4) for n in found],
        "seconds": round(seconds, 3),
        "notes": list(notes),
        "text": "; ".join([f"{job.output}: {counted(len(found), 'part')}, {seconds:.2f} s", *notes]),
    }
    return record | ({} if maps is None else {"maps": str(maps)}), measured


def summarize(
    finder: Parts, images: dict[Path, str], measured: list[Measured], out: Path, most: int, reporter: Reporter
) -> None:
    """Galleries, swaps and statistics over all images, given by path and name."""
    from latens.data.records import Records
    from latens.systems.parts.report import describe, write_report

    paths, names = list(images), list(images.values())
    report = describe(finder, paths, names, measured, most=most)
    written = write_report(finder, report, paths, out)
    images_of_report = [path for path in written if path.suffix == ".png"]  # so that no verb takes them for inputs
    Records().draw(images_of_report)
    s = report.statistics
    files = ", ".join(path.name for path in written)
    text = f"{out}: {s.active} of {len(s.share)} parts occur in {counted(len(names), 'image')}; {files}"
    reporter.result({"output": str(out), "files": [str(path) for path in written], **s.to_dict()}, text)
