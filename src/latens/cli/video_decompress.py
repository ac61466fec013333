"""`latens video decompress`"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from latens.cli.batch import FileBatch
from latens.cli.common import PARTIAL, Force, Output, ReadComputeOptions
from latens.cli.video import NEURAL_ENDING
from latens.cli.watching import WatchOptions
from latens.errors import LatensError, UsageError, counted
from latens.launch import announce
from latens.progress import OnProgress

if TYPE_CHECKING:
    from latens.inference.batch import Job
    from latens.systems.video_codec.output import WrittenClip
    from latens.systems.video_codec.predict import VideoCodec

logger = logging.getLogger(__name__)


def decompress(
    inputs: Annotated[list[str], Parameter(help="Files, folders, patterns such as 'small/*.ltv'.")],
    /,
    *,
    out: Output = None,
    model: Annotated[
        str, Parameter(help="Folder of the model that wrote the file, if it is not the bundled one.")
    ] = "video_codec",
    raw: Annotated[
        bool,
        Parameter(show_default=False, help="Write raw RGB frames to standard output, or into the file OUT; for one file."),
    ] = False,
    watching: WatchOptions = WatchOptions(),  # noqa: B008
    force: Force = False,
    options: ReadComputeOptions = ReadComputeOptions(),  # noqa: B008
) -> int:
    """Decompress .ltv files into clips, or into folders of PNG images if OUT has no ending of a clip.

    No mask and no setting is needed. Of a truncated or damaged file the readable frames are written, with exit status 4. With
    --raw, a line on stderr has the size and the rate of the frames, and sound is left out.

        latens video decompress clip.ltv -o clip.mp4
        latens video decompress clip.ltv -o frames/
        latens video decompress clip.ltv --raw > clip.rgb
    """
    from latens.data.clips.formats import CLIP_ENDINGS
    from latens.data.inputs import find_inputs
    from latens.inference.batch import plan_jobs
    from latens.inference.finished import MODEL, Request

    def find() -> list[Job]:
        return plan_jobs(find_inputs(inputs, frozenset({NEURAL_ENDING}), out), out, ".mp4")

    if raw:
        return decompress_raw(inputs, out, model, watching, force, options)
    jobs = watching.jobs(inputs, out, find)
    alone = jobs[0] if isinstance(jobs, list) and len(jobs) == 1 and jobs[0].named else None
    if alone is not None and out is not None and out.suffix.lower() not in CLIP_ENDINGS:
        jobs = [alone._replace(output=out)]
        # Images go into a folder that may exist; its files are checked when they are written.
        batch = FileBatch(jobs, out, options, force=force or out.is_dir(), check=False)
    else:
        batch = FileBatch(jobs, out, options, force=force)
    if batch.to_stdout:
        raise UsageError("a clip cannot go to standard output", where="-o -", hint="name a file with -o, or add --raw")

    from latens.systems.video_codec.predict import load

    codec = load(model, device=options.device, threads=options.threads)
    announce(codec)
    damaged: list[Path] = []

    def work(job: Job, on_progress: OnProgress) -> dict[str, Any]:
        again = job.output.is_file()  # the batch has decided that it is made again
        done = decompress_one(codec, job, options.threads, force=force or again)
        if done.damage:
            damaged.append(job.input)
        return written_record(done)

    # A folder of images is not recorded: it is refused unless it is empty.
    outputs = lambda job: [job.output] if job.output.suffix.lower() in CLIP_ENDINGS else []  # noqa: E731
    report = batch.run(work, Request("decompressing clips", outputs=outputs, ignored=MODEL), with_sizes=True)
    return report.exit_status or (PARTIAL if damaged else 0)


def decompress_raw(
    inputs: list[str], out: Path | None, model: str, watching: WatchOptions, force: bool, options: ReadComputeOptions
) -> int:
    """Write the raw frames of one file to standard output or into a file; return the exit status."""
    from latens.data.clips.formats import CLIP_ENDINGS
    from latens.data.files import STANDARD_STREAM
    from latens.data.inputs import find_inputs
    from latens.inference.batch import plan_jobs
    from latens.inference.finished import MODEL, Request
    from latens.systems.video_codec.predict import load

    files = find_inputs(inputs, frozenset({NEURAL_ENDING}), out)
    if watching.watch or len(files) != 1 or not files[0].named:
        raise UsageError("raw frames are those of one file", where="--raw", hint="name one .ltv file")
    if out is not None and out.suffix.lower() in CLIP_ENDINGS:
        raise UsageError("raw frames have no container", where=f"-o {out}", hint="leave --raw out, or end the name in .rgb")
    batch = FileBatch(plan_jobs(files, out or STANDARD_STREAM, ".rgb"), out, options, force=force)
    codec = load(model, device=options.device, threads=options.threads)
    announce(codec)
    damaged = False

    def work(job: Job, on_progress: OnProgress) -> dict[str, Any]:
        nonlocal damaged
        done = write_raw_frames(codec, job)
        damaged = bool(done.damage)
        return written_record(done)

    report = batch.run(work, Request("decompressing raw frames", ignored=MODEL))
    return report.exit_status or (PARTIAL if damaged else 0)


def write_raw_frames(codec: VideoCodec, job: Job) -> WrittenClip:
    """Write the raw frames of one file to the output of its job; errors name the file."""
    from latens.data.files import STANDARD_STREAM, writing
    from latens.systems.video_codec.output import write_raw

    try:
        with codec.frames(job.input) as decoded:
            header = decoded.header
            size, rate = f"{header.width}x{header.height}", f"{float(header.rate):.6g}"
            ffmpeg = f"-f rawvideo -pix_fmt rgb24 -s {size} -r {rate}"
            logger.info("raw frames of %s, %s frames per second; ffmpeg reads them with %s", size, rate, ffmpeg)
            if job.output == STANDARD_STREAM:
                return write_raw(decoded, sys.stdout.buffer, job.output)
            with writing(job.output) as stream:
                return write_raw(decoded, stream, job.output)
    except LatensError as error:
        raise error.at(str(job.input)) from error


def decompress_one(codec: VideoCodec, job: Job, threads: int | None, *, force: bool) -> WrittenClip:
    """Decompress one file; errors name it."""
    try:
        return codec.decompress(job.input, job.output, force=force, threads=threads or 0)
    except LatensError as error:
        raise error.at(str(job.input)) from error


def written_record(done: WrittenClip) -> dict[str, Any]:
    """The record of a decompressed clip and its line of text."""
    lost = f"; damaged: {'; '.join(done.damage)}" if done.damage else ""
    notes = "".join(f"; {note}" for note in done.notes)
    record = done._asdict() | {"damage": list(done.damage), "notes": list(done.notes)}
    del record["path"]
    text = f"{done.path}: {done.width} x {done.height}, {counted(done.frames, 'frame')}, {done.seconds:.1f} s{lost}{notes}"
    return record | {"text": text}
