"""`latens compress`"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from latens.catalogue import TUNES
from latens.cli.batch import FileBatch
from latens.cli.common import PARTIAL, Force, ImageComputeOptions, Output, human_size, parse_size
from latens.cli.engines import EngineOptions
from latens.cli.pipes import Name, check_name
from latens.cli.watching import WatchOptions
from latens.errors import InputError, UsageError, counted
from latens.launch import announce
from latens.progress import OnProgress

if TYPE_CHECKING:
    from pathlib import Path

    from latens.codes.annealing import Refine
    from latens.inference.batch import Job
    from latens.systems.image_codec.predict import ImageCodec

logger = logging.getLogger(__name__)
ENDING = ".ltn"
TIME_PARTS = 100  # parts of the progress of a file whose refinement has a time


def compress(
    inputs: Annotated[list[str], Parameter(help="Images, folders, patterns such as 'album/*.jpg', or -.")],
    /,
    *,
    out: Output = None,
    quality: Annotated[
        float | None,
        Parameter(validator=Number(gte=1, lte=8), help="1 (small) to 8 (fine); fractions are allowed.  [default: 4]"),
    ] = None,
    bpp: Annotated[float | None, Parameter(validator=Number(gt=0), help="Target rate in bits per pixel.")] = None,
    psnr: Annotated[float | None, Parameter(validator=Number(gt=0), help="Target PSNR in dB, met to 0.05 dB.")] = None,
    size: Annotated[
        str | None,
        Parameter(help="Largest size of each file, such as 200kB; at least 97 % are used, unless quality 8 takes less."),
    ] = None,
    refine: Annotated[
        str | None,
        Parameter(
            help="Optimize the latents of each image (slow, smaller files): steps such as 200, or a time such as 20s or 2m. "
            "The time is per file. It includes analysis, search for a target, steps and measurements, but not loading, reading "
            "and writing. The number of steps is fixed after the first ones. The result names it; with this number, --refine "
            "gives the same bytes.",
        ),
    ] = None,
    method: Annotated[
        str | None, Parameter(help="Rounding of --refine: ssl, linear, cosine, atanh, ste, uniform or deterministic.")
    ] = None,
    classes: Annotated[
        int | None, Parameter(help="With --refine: number of neighbors to round to, 2 or 3.  [default: 2]")
    ] = None,
    strip: Annotated[
        bool, Parameter(show_default=False, help="Leave out EXIF and XMP (date, place, camera), which are carried otherwise.")
    ] = False,
    tune: Annotated[
        Literal["psnr", "perceptual"] | None,
        Parameter(help="Bundled model: psnr (lowest squared error) or perceptual (higher SSIMULACRA2).  [default: psnr]"),
    ] = None,
    model: Annotated[
        str | None, Parameter(help="A name from `latens models`, the folder of a trained model, or hub:OWNER/NAME.")
    ] = None,
    name: Name = None,
    watching: WatchOptions = WatchOptions(),  # noqa: B008
    force: Force = False,
    engine: EngineOptions = EngineOptions(),  # noqa: B008
    options: ImageComputeOptions = ImageComputeOptions(),  # noqa: B008
) -> int:
    """Compress photographs into small .ltn files.

    Without -o each result is written next to its input. A folder is mirrored into OUT. Finished files
    (same input, same settings) are skipped. In folders, results larger than their source are refused without --force, and an
    image that cannot reach --bpp, --psnr or --size gets the nearest possible rate (exit status 4).

        latens compress photo.jpg -o photo.ltn --quality 4
        latens compress album/ -o small/
        latens compress inbox/ -o small/ --watch
        latens compress photo.png -o quarter.ltn --bpp 0.25
        latens compress photo.jpg -o mail.ltn --size 200kB
        latens compress photo.png -o fine.ltn --quality 4 --refine 500
        latens compress photo.png -o fine.ltn --quality 4 --refine 20s
        latens compress photo.png -o sharp.ltn --tune perceptual
    """
    asked = {"quality": quality, "bpp": bpp, "psnr": psnr, "size": None if size is None else parse_size(size)}
    targets = {name: value for name, value in asked.items() if value is not None}
    if len(targets) > 1:
        raise UsageError(f"{' and '.join('--' + name for name in targets)} exclude each other", hint="give one of them")
    settings = refinement(refine, method, classes)
    if tune is not None and model is not None:
        raise UsageError("--tune and --model exclude each other", hint="give one of them")

    from latens.data.images import IMAGE_ENDINGS
    from latens.data.inputs import find_inputs
    from latens.inference.batch import plan_jobs
    from latens.inference.finished import Request

    check_name(name, inputs)

    def find() -> list[Job]:
        return plan_jobs(find_inputs(inputs, IMAGE_ENDINGS, out, skip_results=True, name=name), out, ENDING)

    batch = FileBatch(watching.jobs(inputs, out, find), out, options, force=force)
    if any(job.output.suffix.lower() in IMAGE_ENDINGS for job in batch.jobs):
        raise UsageError("the result is not an image", where=str(out), hint=f"choose a name that ends in {ENDING}")

    from latens.systems.image_codec.predict import load

    codec = load(model or TUNES[tune or "psnr"], device=options.device, threads=options.threads)
    announce(codec)
    if settings is not None:
        codec.check_refinable()
    if quality is not None and quality > codec.best_quality:
        raise UsageError(f"this model has qualities 1 to {codec.best_quality:g}", where=f"--quality {quality:g}")

    alone = len(batch.jobs) == 1 and batch.jobs[0].named

    def work(job: Job, on_progress: OnProgress) -> dict[str, Any]:
        return compress_one(codec, job, targets, settings, on_progress, force=force, strip=strip, nearest=not alone)

    parts = 1 if settings is None else settings.steps if settings.seconds is None else TIME_PARTS
    request = {"model": codec.model_id, **targets, "refine": asked_refinement(settings), "method": method, "classes": classes}
    request |= {"strip": True} if strip else {}
    request |= options.choice()
    defaults = {"quality": codec.default_quality, "method": "ssl", "classes": 2}
    done = batch.run(work, Request("compressing", request, defaults=defaults), parts=parts, with_sizes=True)
    return done.exit_status or (PARTIAL if batch.missed else 0)


def refinement(refine: str | None, method: str | None, classes: int | None) -> Refine | None:
    """Settings of refinement from --refine, --method and --classes; None without --refine. Raises UsageError."""
    from latens.codes.annealing import Refine

    if refine is None:
        if method is not None or classes is not None:
            raise UsageError("--method and --classes are options of --refine", hint="add --refine STEPS")
        return None
    return replace(Refine.of(refine), method=method or "ssl", classes=classes or 2)  # type: ignore[arg-type]


def asked_refinement(settings: Refine | None) -> int | str | None:
    """--refine in the settings of a result: a number of steps, or a time as 20s."""
    if settings is None or settings.seconds is None:
        return None if settings is None else settings.steps
    return f"{settings.seconds:g}s"


def compress_one(
    codec: ImageCodec,
    job: Job,
    targets: dict[str, float],
    settings: Refine | None,
    on_progress: OnProgress,
    *,
    force: bool = False,
    strip: bool = False,
    nearest: bool = False,
) -> dict[str, Any]:
    """Compress one image; return the record of the result. `nearest` as in `ImageCodec.encode`.

    Raises InputError if the result would be larger than the file, unless the user named this file or `force` is set.
    """
    from latens.data.files import write_atomic
    from latens.data.images import read_image

    started = time.perf_counter()
    image = read_image(job.input)

    def on_step(step: int, loss: float, true_loss: float) -> None:
        if settings is None or settings.seconds is None:
            on_progress(step, f"(loss {true_loss:.4f})")
        else:
            share = min((time.perf_counter() - started) / settings.seconds, 1)
            on_progress(int(TIME_PARTS * share), f"(step {step}, loss {true_loss:.4f})")

    made = codec.encode(image, **targets, refine=settings, strip=strip, nearest=nearest, on_step=on_step)
    if made.refine_steps == 0:
        what = "%s: not refined: no time for a step after %.3g s; give --refine more time"
        logger.warning(what, job.input, made.refine_seconds)
    larger = larger_than_source(job.input, len(made.data))
    if larger and not job.named and not force:
        raise InputError(larger, where=str(job.input), hint="keep the file as it is, lower the rate, or add --force")
    write_atomic(job.output, made.data)
    seconds = time.perf_counter() - started
    psnr = "" if made.psnr is None else f", {made.psnr:.2f} dB"
    refined = "" if not made.refine_steps else f", {counted(made.refine_steps, 'step')} in {made.refine_seconds:.2f} s"
    found = [*made.notes, larger] if larger else list(made.notes)
    notes = "".join(f"; {note}" for note in found)
    return {
        "bytes": len(made.data),
        "bpp": round(made.bpp, 5),
        "psnr": None if made.psnr is None else round(made.psnr, 4),
        "missed": made.missed,
        "width": made.width,
        "height": made.height,
        "quality": made.quality,
        "refine_steps": made.refine_steps,
        "refine_seconds": None if made.refine_seconds is None else round(made.refine_seconds, 3),
        "seconds": round(seconds, 3),
        "notes": found,
        "text": f"{job.output}: {human_size(len(made.data))}, {made.bpp:.3f} bpp{psnr}, {made.width} x {made.height}, "
        f"quality {made.quality:g}{refined}, {seconds:.2f} s{notes}",
    }


def larger_than_source(source: Path, size: int) -> str:
    """Report that `size` bytes are more than the file has; empty if they are not, or if it is no file."""
    try:
        before = source.stat().st_size if source.is_file() else size
    except OSError:
        return ""
    return f"the result is larger than its source ({human_size(size)} for {human_size(before)})" if size > before else ""
