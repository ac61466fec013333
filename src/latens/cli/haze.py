"""`latens haze`"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from latens.cli.batch import FileBatch, save_image
from latens.cli.common import Force, ImageComputeOptions, Model, Output, To
from latens.cli.depth_maps import DepthMaps
from latens.cli.engines import EngineOptions
from latens.cli.pipes import Name, check_name
from latens.cli.watching import WatchOptions
from latens.errors import UsageError
from latens.launch import announce
from latens.progress import OnProgress

if TYPE_CHECKING:
    from latens.data.depth import DepthFormat
    from latens.data.inputs import InputFile
    from latens.inference.batch import Job

MAX_SAVED_DEPTH = 255  # meters; largest value of a depth map in KITTI's units


def haze(
    inputs: Annotated[list[str], Parameter(help="Clear images, folders, patterns such as 'album/*.jpg', or -.")],
    /,
    *,
    out: Output = None,
    to: To = None,
    visibility: Annotated[
        float | None,
        Parameter(validator=Number(gt=0), help="Distance in meters at which contrast falls to 5 %.  [default: a light haze]"),
    ] = None,
    beta: Annotated[
        float | None, Parameter(validator=Number(gt=0), help="Scattering coefficient per meter, in place of --visibility.")
    ] = None,
    depth: Annotated[
        Path | None, Parameter(help="A depth map (PNG, NPY, EXR), or a folder of maps named like the images.")
    ] = None,
    depth_format: Annotated[
        str | None,
        Parameter(
            help="Unit of the depth map, larger is farther: meters, meters_nan, relative, kitti, nyu (millimeters), nyu8 or "
            "apolloscape; inverse is relative with larger nearer (MiDaS); cityscapes is disparity, (p - 1) / 256 pixels, 0 "
            "missing.  [default: meters in NPY and EXR, relative in PNG]"
        ),
    ] = None,
    camera: Annotated[
        str | None,
        Parameter(
            help="Camera of disparity maps: FOCAL,BASELINE in pixels and meters, a Cityscapes JSON file, or a folder of them.  "
            "[default: X_camera.json next to X_disparity.png, or in camera/ for disparity/]"
        ),
    ] = None,
    depth_channel: Annotated[str | None, Parameter(help="Channel of EXR depth maps, such as Depth.Z.")] = None,
    max_depth: Annotated[
        float | None,
        Parameter(validator=Number(gt=0), help="Distance in meters of the farthest point, for relative or predicted depth."),
    ] = None,
    save_depth: Annotated[
        Path | None, Parameter(help="Folder for predicted depth: NAME_depth256.png, in meters times 256, up to 255 m.")
    ] = None,
    refine_depth: Annotated[
        bool, Parameter(show_default=False, help="Align the edges of --depth with those of the image.")
    ] = False,
    airlight: Annotated[tuple[float, float, float], Parameter(help="Color of the haze: red, green, blue in 0..1.")] = (
        0.9,
        0.9,
        0.9,
    ),
    method: Annotated[
        str | None, Parameter(help="mmd, unit or cyclegan: use the learned translation; visibility cannot be set.")
    ] = None,
    strip: Annotated[
        bool, Parameter(show_default=False, help="Leave out EXIF and XMP (date, place, camera), which are carried otherwise.")
    ] = False,
    model: Model = "haze",
    name: Name = None,
    watching: WatchOptions = WatchOptions(),  # noqa: B008
    force: Force = False,
    engine: EngineOptions = EngineOptions(),  # noqa: B008
    options: ImageComputeOptions = ImageComputeOptions(),  # noqa: B008
) -> int:
    """Add haze of a chosen visibility to clear images.

    Depth is read from --depth or predicted. Without -o each result is written next to its input as NAME.hazy.png.

        latens haze street.jpg -o foggy.png --visibility 150
        latens haze street.jpg --visibility 80 --depth street.npy
        latens haze streets/ -o foggy/ --beta 0.02 --depth depth/ --depth-format kitti
        latens haze leftImg8bit/train/aachen/ -o foggy/ --depth disparity/train/aachen/ --depth-format cityscapes
        latens haze streets/ -o foggy/ --save-depth depth/
    """
    from latens.data.clips.reader import is_clip
    from latens.data.depth import COMPANIONS
    from latens.data.folders import check_apart
    from latens.data.images import IMAGE_ENDINGS
    from latens.data.inputs import find_inputs
    from latens.inference.batch import plan_jobs
    from latens.inference.finished import Request

    if visibility is not None and beta is not None:
        raise UsageError("--visibility and --beta exclude each other", hint="give one of them")
    if any(not 0 <= value <= 1 for value in airlight):
        raise UsageError("colors are in 0..1", where=f"--airlight {' '.join(map(str, airlight))}")
    if depth is None and (refine_depth or any(given is not None for given in (depth_format, camera, depth_channel))):
        what = "--refine-depth, --depth-format, --camera and --depth-channel need a depth map"
        raise UsageError(what, hint="add --depth, or leave them out")
    if save_depth is not None and (depth is not None or method is not None):
        raise UsageError("--save-depth saves predicted depth only", hint="leave --depth and --method out")
    if save_depth is not None and max_depth is not None and max_depth > MAX_SAVED_DEPTH:
        raise UsageError(f"depth beyond {MAX_SAVED_DEPTH} m does not fit into the file", where=f"--max-depth {max_depth:g}")
    maps = None if depth is None else DepthMaps(place=depth, form=depth_format, camera=camera, channel=depth_channel)
    check_name(name, inputs)
    watching.check_outside(inputs, save_depth, "--save-depth")
    ending = f"{'' if out is not None else '.hazy'}.{to or 'png'}"

    def find() -> list[Job]:
        files = find_inputs(inputs, IMAGE_ENDINGS, out, skip_results=True, marks=[".hazy"], companions=COMPANIONS, name=name)
        if save_depth is not None:
            check_stems(files)
        return plan_jobs(files, out, ending)

    batch = FileBatch(watching.jobs(inputs, out, find), out, options, force=force)
    if batch.single and is_clip(batch.jobs[0].input):
        raise UsageError("haze is added to images, not to clips", where=inputs[0], hint="give a folder of its frames")
    batch.check_image_ending(to)
    results, saved = (
        [job.output for job in batch.jobs],
        [path for job in batch.jobs for path in outputs_of(job, save_depth)[:-1]],
    )
    check_apart(save_depth, "--save-depth", results, saved)

    from latens.cli.dehaze import check_method, record
    from latens.data.depth import png_of_depth
    from latens.data.files import write_atomic
    from latens.data.images import read_image
    from latens.systems.haze.config import TRANSLATORS
    from latens.systems.haze.formation import scattering, visibility_of_beta
    from latens.systems.haze.predict import MAX_DEPTH, load

    coefficient = scattering(visibility, beta, max_depth or MAX_DEPTH)
    how = method or f"visibility {visibility_of_beta(coefficient):.4g} m"
    loaded = load(model, device=options.device, threads=options.threads)
    used = method or ("physical" if depth is None else None)
    if used is not None and used != "physical" and used not in TRANSLATORS:
        hint = f"use {', '.join(TRANSLATORS)}, or leave it out"
        raise UsageError(f"the method {used} cannot add haze", where="--method", hint=hint)
    check_method(loaded, used)
    announce(loaded.used(used))

    def work(job: Job, on_progress: OnProgress) -> dict[str, Any]:
        started = time.perf_counter()
        image = read_image(job.input)
        path, form = (None, None) if maps is None else maps.of(job)
        notes = image.notes if method in TRANSLATORS else (*image.notes, depth_note(path, form, max_depth))
        predicted = None
        if save_depth is not None:
            predicted = loaded.depth(image, max_depth=max_depth or MAX_DEPTH)
            write_atomic(saved_depth(job, save_depth), png_of_depth(predicted))
        hazy = loaded.haze(
            image,
            visibility=visibility,
            beta=beta,
            depth=path if predicted is None else predicted,
            depth_format=form,
            airlight=airlight,
            max_depth=max_depth or MAX_DEPTH,
            method=method,
            refine_depth=refine_depth,
            strip=strip,
        )
        notes = (*notes, *save_image(job, hazy, to))
        return record(job, hazy.width, hazy.height, how, time.perf_counter() - started, notes)

    request = {
        "model": loaded.model_id,
        "haze": how,
        "depth_given": depth is not None,  # the map itself is one of the sources
        "depth_format": depth_format,
        "camera": camera,
        "depth_channel": depth_channel,
        "max_depth": max_depth,
        "refine_depth": refine_depth,
        "airlight": list(airlight),
        **options.choice(),
    }
    request |= {"strip": True} if strip else {}
    outputs, sources = (lambda job: outputs_of(job, save_depth)), (lambda job: sources_of(job, maps))
    needed = lambda job: outputs(job)[:-1]  # noqa: E731
    return batch.run(work, Request("hazing", request, outputs, sources, needed=needed)).exit_status


def check_stems(files: list[InputFile]) -> None:
    """Raise UsageError if depth maps of several images would have the same name."""
    stems = [file.path.stem for file in files]
    if len(set(stems)) < len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise UsageError(f"two images are named {twice}, so their depth maps would have the same name", where="--save-depth")


def saved_depth(job: Job, folder: Path) -> Path:
    """The file of --save-depth for a job."""
    return folder / f"{job.input.stem}_depth256.png"


def outputs_of(job: Job, save_depth: Path | None) -> list[Path]:
    """The files that the work on a job writes."""
    return [job.output] if save_depth is None else [saved_depth(job, save_depth), job.output]


def sources_of(job: Job, maps: DepthMaps | None) -> list[Path]:
    """The files that decide the result of a job: the image and its depth map, if there is one."""
    if maps is None:
        return [job.input]
    try:
        return [job.input, maps.of(job)[0]]
    except UsageError:  # it is raised by the work, for this job only
        return [job.input]


def depth_note(depth: Path | None, form: DepthFormat | None, max_depth: float | None) -> str:
    """A note on the source of the depth. Raises UsageError for `max_depth` with depth in meters."""
    from latens.systems.haze.predict import MAX_DEPTH

    if depth is None or form is None:
        return f"predicted depth, farthest point at {max_depth or MAX_DEPTH:g} m"
    if form.relative:
        return f"relative depth, farthest point at {max_depth or MAX_DEPTH:g} m"
    if max_depth is not None:
        what = "--max-depth is for relative or predicted depth, and this one is in meters"
        raise UsageError(what, where=str(depth), hint="leave --max-depth out, or give --depth-format relative")
    return "depth in meters"
