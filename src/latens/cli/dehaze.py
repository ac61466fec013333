"""`latens dehaze`"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from latens.cli.batch import FileBatch, save_image
from latens.cli.common import PARTIAL, Force, ImageComputeOptions, Model, Output, Reporter, To
from latens.cli.engines import EngineOptions
from latens.cli.pipes import Name, check_name
from latens.cli.soft_maps import SaveMaps, check_map_names, check_maps, map_file, map_files
from latens.cli.watching import WatchOptions
from latens.errors import UsageError, counted
from latens.launch import announce
from latens.progress import OnProgress

if TYPE_CHECKING:
    from latens.data.inputs import InputFile
    from latens.inference.batch import Job
    from latens.systems.haze.predict import Haze

logger = logging.getLogger(__name__)


def dehaze(
    inputs: Annotated[list[str], Parameter(help="Images, clips, folders, patterns such as 'album/*.jpg', or -.")],
    /,
    *,
    out: Output = None,
    to: To = None,
    method: Annotated[
        str | None,
        Parameter(help="dcp, bccr, physical, mmd, unit, cyclegan or dehazenet.  [default: the model's, or physical]"),
    ] = None,
    strength: Annotated[
        float,
        Parameter(
            validator=Number(gte=0, lte=1), help="Share of the haze that is removed, as a power of t; 0 changes nothing."
        ),
    ] = 1.0,
    keep_brightness: Annotated[
        float,
        Parameter(validator=Number(gte=0, lte=1), help="Share of the lost mean brightness that a tone curve restores."),
    ] = 0.0,
    raw: Annotated[
        str | None,
        Parameter(help="Size of raw RGB frames from standard input, WIDTHxHEIGHT; the result is raw frames of this size."),
    ] = None,
    save_maps: SaveMaps = None,
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
    """Remove haze from images and clips.

    Without -o each result is written next to its input as NAME.clear.png (or .clear.mp4). A folder is mirrored into OUT.
    Finished files (same input, same settings) are skipped. dcp and bccr need no weights. Borders and transparent pixels stay
    as they are. Of a damaged clip the readable frames are written, with exit status 4. --save-maps saves the transmission of
    images, to the power of --strength.

        latens dehaze foggy.jpg -o clear.png
        latens dehaze foggy.jpg -o clear.jpg --strength 0.6 --keep-brightness 0.5
        latens dehaze foggy/ clip.mp4 -o clear/ --method dcp
        latens dehaze foggy/ -o clear/ --save-maps transmission/
        latens dehaze - --raw 1280x720 < foggy.rgb > clear.rgb
    """
    from latens.data.clips.formats import CLIP_ENDINGS
    from latens.data.clips.raw import parse_geometry
    from latens.data.clips.reader import is_clip
    from latens.data.files import STANDARD_STREAM
    from latens.data.images import IMAGE_ENDINGS
    from latens.data.inputs import find_inputs
    from latens.inference.finished import Request

    check_name(name, inputs)
    watching.check_outside(inputs, save_maps, "--save-maps")
    given = to is not None or strip or name is not None or save_maps is not None
    if raw is not None and (given or list(map(Path, inputs)) != [STANDARD_STREAM]):
        what = "raw frames come from standard input alone, and have no format, metadata, maps or name"
        raise UsageError(what, where=f"--raw {raw}", hint="write latens dehaze - --raw 1280x720")
    if raw is not None and out not in (None, STANDARD_STREAM):
        raise UsageError("raw frames go to standard output", where=f"-o {out}", hint="leave -o out, and redirect with > or |")
    size = None if raw is None else parse_geometry(raw)

    def find() -> list[Job]:
        files = find_inputs(inputs, IMAGE_ENDINGS | CLIP_ENDINGS, out, skip_results=True, marks=[".clear"], name=name)
        check_map_names(files, save_maps)
        return plan(files, out, to)

    batch = FileBatch(watching.jobs(inputs, out, find), out, options, force=force)
    if batch.jobs and not is_clip(batch.jobs[0].input):
        batch.check_image_ending(to)
    check_maps(save_maps, batch.jobs)

    from latens.systems.haze.config import CLASSICAL, TRANSLATORS
    from latens.systems.haze.predict import load

    haze = load(model, device=options.device, threads=options.threads)
    chosen = method or haze.default_method
    check_method(haze, chosen)
    announce(haze.used(chosen))
    logger.info(f"method {chosen}")
    if save_maps is not None and chosen in TRANSLATORS:
        raise UsageError(f"the method {chosen} estimates no transmission", where="--save-maps", hint="choose another --method")

    incomplete: list[Path] = []
    look: dict[str, Any] = {"method": chosen, "strength": strength, "keep_brightness": keep_brightness}
    if size is not None:
        dehaze_raw(haze, size, look, batch.reporter)
        return 0

    def work(job: Job, on_progress: OnProgress) -> dict[str, Any]:
        if not is_clip(job.input):
            return dehaze_image(haze, job, look, strip=strip, to=to, maps=map_file(job, save_maps))
        if save_maps is not None:
            raise UsageError("maps of clips are not saved", where="--save-maps", hint="give a folder of the frames")
        found = dehaze_clip(haze, job, look)
        if found["damaged"] or found["missing"]:
            incomplete.append(job.input)
        return found

    request: dict[str, Any] = {"model": haze.hash_of(chosen) if chosen not in CLASSICAL else None, "method": chosen}
    request |= {"strength": strength} if strength != 1 else {}
    request |= {"keep_brightness": keep_brightness} if keep_brightness else {}
    request |= {"strip": True} if strip else {}
    request |= options.choice()
    maps = map_files(save_maps)
    asked = Request("dehazing", request, lambda job: [*maps(job), job.output], needed=maps)
    return batch.run(work, asked).exit_status or (PARTIAL if incomplete else 0)


def check_method(haze: Haze, method: str | None) -> None:
    """Raise ModelMissing for a method without weights, UsageError for one that does not use the model of --model.

    `method` is None if haze is made from a given depth map.
    """
    if method is not None and not haze.has(method):
        haze.model(method)  # raises ModelMissing, before any work
    if haze.learned and method not in haze.learned:
        own = ", ".join(haze.learned)
        what = f"this model is for the method {own}; {method or 'haze from a given depth map'} does not use it"
        raise UsageError(what, where=f"--model {haze.name}", hint=f"leave --model out, or give --method {own}")


def plan(files: list[InputFile], out: Path | None, to: str | None = None) -> list[Job]:
    """Jobs for images and clips in the order of the inputs; images get the ending `to` (default png).

    Raises UsageError for several inputs with one output file, and for the format of an image without images.
    """
    from latens.data.clips.reader import is_clip
    from latens.data.files import STANDARD_STREAM
    from latens.inference.batch import plan_jobs

    kinds: dict[bool, list[InputFile]] = {False: [], True: []}
    for file in files:
        kinds[is_clip(file.path)].append(file)
    if all(kinds.values()) and out is not None and out.suffix and not out.is_dir():
        raise UsageError("several results cannot go into one file", where=str(out), hint="name a folder with -o")
    if kinds[True] and out == STANDARD_STREAM:
        raise UsageError("a clip cannot go to standard output", where="-o -", hint="name a file with -o")
    if to is not None and not kinds[False]:
        raise UsageError("there is no image among the inputs; clips become .mp4", where=f"--to {to}", hint="leave it out")
    mark = "" if out is not None else ".clear"
    planned = {
        job.input: job
        for is_clip, group in kinds.items()
        for job in plan_jobs(group, out, mark + (".mp4" if is_clip else f".{to or 'png'}"))
    }
    return [planned[file.path] for file in files]


def dehaze_image(
    haze: Haze, job: Job, look: dict[str, Any], *, strip: bool, to: str | None = None, maps: Path | None = None
) -> dict[str, Any]:
    """Dehaze one image; return the record of the result. `look` holds the method and the controls of `Haze.remove`.

    The transmission is written to the file `maps`, if it is given.
    """
    import numpy as np

    from latens.data.images import read_image
    from latens.data.soft_maps import write_maps

    started = time.perf_counter()
    loaded = read_image(job.input)
    transmission = None if maps is None else np.ones(loaded.pixels.shape[:2], np.float32)
    image, notes = haze.remove(loaded, **look, strip=strip, transmission=transmission)
    if maps is not None and transmission is not None:
        write_maps(maps, {"transmission": transmission})
    notes = (*notes, *save_image(job, image, to))
    found = record(job, image.width, image.height, look["method"], time.perf_counter() - started, notes)
    return {**look, **found, **({} if maps is None else {"maps": str(maps)})}


def dehaze_clip(haze: Haze, job: Job, look: dict[str, Any]) -> dict[str, Any]:
    """Dehaze one clip, keeping time stamps and sound; return the record of the result."""
    from latens.data.clips.rewrite import rewrite_clip

    started = time.perf_counter()
    notes: list[str] = []
    done = rewrite_clip(job.input, job.output, lambda frames: haze.dehaze_clip(frames, **look, notes=notes))
    seconds = time.perf_counter() - started
    length = f"{counted(done.frames, 'frame')}, "
    found = record(job, done.width, done.height, look["method"], seconds, (*done.notes, *notes), length)
    return {
        **look,
        **found,
        "frames": done.frames,
        "damaged": done.damaged,
        "missing": done.missing,
    }


def dehaze_raw(haze: Haze, size: tuple[int, int], look: dict[str, Any], reporter: Reporter) -> None:
    """Dehaze raw frames of a width and height from standard input to standard output. Raises UnreadableInput."""
    from latens.data.clips.raw import RawFrames

    started = time.perf_counter()
    frames = RawFrames(sys.stdin.buffer, *size)
    notes: list[str] = []
    for frame in haze.dehaze_clip(frames, **look, notes=notes):
        sys.stdout.buffer.write(frame.tobytes())
        sys.stdout.buffer.flush()
    seconds = time.perf_counter() - started
    added = "".join(f"; {note}" for note in notes)
    text = f"-: {counted(frames.count, 'frame')} of {size[0]} x {size[1]}, {look['method']}, {seconds:.2f} s{added}"
    reporter.result({**look, "frames": frames.count, "seconds": round(seconds, 3), "notes": notes}, text)
    frames.check()


def record(
    job: Job, width: int, height: int, method: str, seconds: float, notes: tuple[str, ...], length: str = ""
) -> dict[str, Any]:
    """The record of a result and its line of text; `length` is the part of the line that a clip adds."""
    added = "".join(f"; {note}" for note in notes)
    return {
        "width": width,
        "height": height,
        "method": method,
        "seconds": round(seconds, 3),
        "notes": list(notes),
        "text": f"{job.output}: {width} x {height}, {length}{method}, {seconds:.2f} s{added}",
    }
