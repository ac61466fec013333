"""`latens video compress`"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from cyclopts import Parameter
from cyclopts.validators import Number

from latens.cli.batch import FileBatch
from latens.cli.common import PARTIAL, Force, Output, ReadOptions, human_size, parse_size
from latens.cli.watching import WatchOptions
from latens.errors import UsageError, counted
from latens.launch import announce
from latens.progress import OnProgress

if TYPE_CHECKING:
    from latens.data.clips.memory import FramesLike
    from latens.data.clips.raw import RawFrames
    from latens.inference.batch import Job
    from latens.systems.video_codec.predict import EncodedClip
    from latens.video.compress import Compressed

logger = logging.getLogger(__name__)

ENDING = ".small.mp4"
NEURAL, NEURAL_ENDING = "latens", ".ltv"


def compress(
    clips: Annotated[list[str], Parameter(help="Clips, folders of images (each is one clip), folders of clips, patterns.")],
    /,
    *,
    out: Output = None,
    roi: Annotated[
        str | None,
        Parameter(
            help="Region to keep sharp: box:x0,y0,x1,y1 or ellipse:x0,y0,x1,y1 in pixels of the upright frame, a mask image, "
            "a folder of masks, or a mask video. For several clips: a folder with a mask folder or file named like each clip."
        ),
    ] = None,
    roi_id: Annotated[str | None, Parameter(help="Instance ids in label maps and palettes, such as 2,5.")] = None,
    track: Annotated[bool, Parameter(show_default=False, help="Follow the box or mask of the first frame.")] = False,
    save_masks: Annotated[Path | None, Parameter(help="Folder for the masks that were used, as PNG.")] = None,
    codec: Annotated[
        Literal["h264", "h265", "av1", "latens"] | None,
        Parameter(
            help="h264 plays everywhere; h265 and av1 are smaller; latens is the neural codec, which only latens decodes."
            "  [default: h264; av1 for .webm, latens for .ltv]"
        ),
    ] = None,
    quality: Annotated[
        float | None,
        Parameter(
            validator=Number(gte=1, lte=8),
            help="Quality of the region, 1 (small) to 8 (fine); fractions are allowed.  [default: 5; .ltv: 4]",
        ),
    ] = None,
    size: Annotated[str | None, Parameter(help="Target file size such as 8MB; reached within 3 %, never exceeded.")] = None,
    kbps: Annotated[float | None, Parameter(validator=Number(gt=0), help="Target bit rate in kbit/s; likewise.")] = None,
    strength: Annotated[
        float | None,
        Parameter(
            validator=Number(gt=0, lte=1), help="How much coarser the background is than the region, up to 1.  [default: 0.5]"
        ),
    ] = None,
    gain: Annotated[
        float | None,
        Parameter(
            validator=Number(gte=1, lte=64),
            help=".ltv: factor by which errors in the background count less; larger is coarser.",
        ),
    ] = None,
    fps: Annotated[
        float | None, Parameter(validator=Number(gt=0), help="Frames per second of a folder of images or of --raw.")
    ] = None,
    raw: Annotated[
        str | None, Parameter(help="Size of raw RGB frames from standard input, WIDTHxHEIGHT; needs --fps and -o.")
    ] = None,
    threads: Annotated[
        int | None, Parameter(validator=Number(gte=1, lte=1024), help="CPU threads.  [default: all cores]")
    ] = None,
    model: Annotated[str, Parameter(help=".ltv: the model, a name from `latens models` or a folder.")] = "video_codec",
    device: Annotated[str, Parameter(help=".ltv: auto, cpu, cuda or cuda:N; only auto may fall back.")] = "auto",
    watching: WatchOptions = WatchOptions(),  # noqa: B008
    force: Force = False,
    options: ReadOptions = ReadOptions(),  # noqa: B008
) -> int:
    """Compress clips into small clips for any player, or into .ltv files, with a sharp region of interest.

    Without -o each result is written next to its input as NAME.small.mp4. Sound is copied. A folder of clips is mirrored into
    OUT. Finished files (same input, same settings) are skipped.

        latens video compress clip.mp4 --roi masks/ -o small.mp4
        latens video compress clip.mp4 --roi box:100,80,400,300 --track --size 8MB
        latens video compress frames/ --fps 25 --roi labels/ --roi-id 2,5 --codec h265
        latens video compress clip.mp4 --roi masks/ --quality 4 --gain 8 -o clip.ltv
        latens video compress clip.mp4 --kbps 1500 -o clip.ltv
        latens video compress - --raw 1280x720 --fps 25 -o small.mp4 < clip.rgb
    """
    from latens.data.files import STANDARD_STREAM
    from latens.data.inputs import STDIN, InputFile
    from latens.data.regions.words import parse_ids
    from latens.inference.batch import plan_jobs
    from latens.inference.finished import Request

    neural = codec == NEURAL or (codec is None and out is not None and out.suffix.lower() == NEURAL_ENDING)

    frames = None if raw is None else raw_frames(raw, clips, fps)

    def find() -> list[Job]:
        if frames is not None:
            return plan_jobs([InputFile(STANDARD_STREAM, STDIN)], out, NEURAL_ENDING if neural else ENDING)
        found = clip_inputs(clips, out, folders=not watching.watch)
        return plan_jobs(found, out, NEURAL_ENDING if neural else ENDING)

    batch = FileBatch(watching.jobs(clips, out, find), out, options, force=force)
    if save_masks is not None and not batch.single:
        raise UsageError("masks of several clips cannot go into one folder", where="--save-masks", hint="give one clip")
    if batch.to_stdout:
        raise UsageError("a clip cannot go to standard output", where="-o -", hint="name a file with -o")
    if neural:
        for option, value in (("--strength", strength), ("--save-masks", save_masks)):
            if value is not None:
                raise UsageError("this option is for --codec h264, h265 and av1", where=option, hint="use --quality and --gain")
        wanted = None if size is None else parse_size(size)
        choice = Choice(roi, parse_ids(roi_id), track, quality, wanted, kbps, gain, fps)
        return compress_neural(batch, choice, model, device, threads, frames)
    for option, given in (("--gain", gain is not None), ("--model", model != "video_codec"), ("--device", device != "auto")):
        if given:
            raise UsageError("this option is for .ltv files", where=option, hint="add -o NAME.ltv or --codec latens")
    from latens.video.request import DEFAULT_QUALITY, DEFAULT_STRENGTH

    ordinary = None if codec == "latens" else codec
    ids, wanted_bytes = parse_ids(roi_id), None if size is None else parse_size(size)
    incomplete: list[Path] = []

    def work(job: Job, on_progress: OnProgress) -> dict[str, Any]:
        from latens.video.compress import compress_clip

        region = roi if roi is None or batch.single else region_for(roi, job.input)
        done = compress_clip(
            frames_of(job, frames, several_passes=size is not None or kbps is not None),
            job.output,
            roi=region,
            roi_ids=ids,
            track=track,
            save_masks=save_masks,
            codec=ordinary,
            quality=quality,
            size=wanted_bytes,
            kbps=kbps,
            strength=strength,
            fps=fps,
            threads=threads or 0,
            force=force or job.output.is_file(),  # the batch has decided that it is made again
        )
        if done.damaged or done.missing:
            incomplete.append(job.input)
        return record(done)

    def sources(job: Job) -> list[Path]:
        return sources_of(job.input, roi, single=batch.single)

    request = {
        **region_setting(roi),
        "roi_id": roi_id,
        "track": track,
        "codec": codec,
        "quality": quality,
        "size": size,
        "kbps": kbps,
        "strength": strength,
        "fps": fps,
    }
    defaults = {"quality": DEFAULT_QUALITY, "strength": DEFAULT_STRENGTH, "codec": "h264"}
    asked = Request("compressing clips", request, sources=sources, defaults=defaults)
    status = batch.run(work, asked, with_sizes=True).exit_status or (PARTIAL if incomplete else 0)
    if frames is not None:
        frames.check()
    return status


def raw_frames(raw: str, clips: list[str], fps: float | None) -> RawFrames:
    """The raw frames of standard input. Raises UsageError."""
    from latens.data.clips.raw import RawFrames, parse_geometry
    from latens.data.files import STANDARD_STREAM

    if list(map(Path, clips)) != [STANDARD_STREAM]:
        what = "raw frames come from standard input alone"
        raise UsageError(what, where=f"--raw {raw}", hint="write latens video compress - --raw 1280x720 --fps 25")
    if fps is None:
        raise UsageError("raw frames have no times", where=f"--raw {raw}", hint="add their rate, such as --fps 25")
    return RawFrames(sys.stdin.buffer, *parse_geometry(raw))


def frames_of(job: Job, raw: RawFrames | None, *, several_passes: bool) -> FramesLike:
    """What is compressed: the input of a job, or raw frames, which are stored if they are read several times."""
    if raw is None:
        return job.input
    return raw.stored() if several_passes else iter(raw)


class Choice(NamedTuple):
    """Options of the neural codec."""

    roi: str | None
    roi_ids: frozenset[int] | None
    track: bool
    quality: float | None
    size: int | None  # bytes
    kbps: float | None
    gain: float | None
    fps: float | None


def compress_neural(
    batch: FileBatch, choice: Choice, model: str, device: str, threads: int | None, frames: RawFrames | None
) -> int:
    """Compress every clip, or the raw frames, with the neural codec; return the exit status."""
    if any(job.output.suffix.lower() != NEURAL_ENDING for job in batch.jobs):
        raise UsageError("the neural codec writes .ltv files", where=str(batch.jobs[0].output), hint="end the name in .ltv")
    from latens.inference.finished import Request
    from latens.systems.video_codec.predict import load

    codec = load(model, device=device, threads=threads)
    announce(codec)
    incomplete: list[Path] = []

    def work(job: Job, on_progress: OnProgress) -> dict[str, Any]:
        from latens.data.files import writing

        roi = choice.roi if choice.roi is None or batch.single else region_for(choice.roi, job.input)
        source = frames_of(job, frames, several_passes=choice.size is not None or choice.kbps is not None)
        with writing(job.output) as stream:
            done = codec.encode(source, stream, **(choice._asdict() | {"roi": roi}))
        if done.damaged or done.missing:
            incomplete.append(job.input)
        return neural_record(done, job)

    def sources(job: Job) -> list[Path]:
        return sources_of(job.input, choice.roi, single=batch.single)

    others = {name: value for name, value in choice._asdict().items() if name not in ("roi", "roi_ids")}
    request = {"model": codec.model_id, **region_setting(choice.roi), **others}
    request["roi_ids"] = None if choice.roi_ids is None else sorted(choice.roi_ids)
    defaults = {"quality": codec.default_quality}
    asked = Request("compressing to .ltv", request, sources=sources, defaults=defaults)
    status = batch.run(work, asked, with_sizes=True).exit_status or (PARTIAL if incomplete else 0)
    if frames is not None:
        frames.check()
    return status


def neural_record(done: EncodedClip, job: Job) -> dict[str, Any]:
    """The record of a compressed clip and its line of text."""
    notes = "".join(f"; {note}" for note in done.notes)
    region = "" if done.region is None else f", region {100 * done.region:.1f} %"
    wanted = "" if done.wanted is None else f" ({100 * done.bytes / max(done.wanted, 1):.1f} % of the wanted size)"
    quality = f"quality {done.quality:.4g}"
    if done.wanted is not None:
        quality += f" ({done.lowest_quality:.3g} to {done.highest_quality:.3g})"
    return done._asdict() | {
        "notes": list(done.notes),
        "text": f"{job.output}: {human_size(done.bytes)}{wanted}, {done.kbps:.0f} kbit/s, {done.width} x {done.height}, "
        f"{counted(done.frames, 'frame')}, {quality}{region}, {done.seconds:.1f} s{notes}",
    }


def clip_inputs(words: list[str], out: Path | None = None, *, folders: bool = True) -> list[Any]:
    """Clips named by the arguments: files, all clips in folders and patterns; with `folders`, a folder of images is a clip."""
    from latens.data.clips.formats import CLIP_ENDINGS
    from latens.data.clips.frame_folder import is_frame_folder
    from latens.data.inputs import InputFile, find_inputs

    of_images = [Path(word) for word in words if folders and is_frame_folder(Path(word))]
    rest = [word for word in words if Path(word) not in of_images]
    found = [InputFile(folder.resolve(), Path(folder.resolve().name)) for folder in of_images]
    return found + (find_inputs(rest, CLIP_ENDINGS, out, skip_results=True, marks=[".small"]) if rest or not found else [])


def region_setting(roi: str | None) -> dict[str, str | None]:
    """The region as a setting: a shape, or that there are masks, whose files are sources."""
    from latens.data.regions.words import parse_region

    return {"region": None if roi is None else "masks" if isinstance(parse_region(roi), Path) else roi}


def sources_of(clip: Path, roi: str | None, *, single: bool) -> list[Path]:
    """The files that decide a result: the clip, and the masks of its region."""
    from latens.data.regions.words import parse_region

    region = None if roi is None else parse_region(roi if single else str(region_for(roi, clip)))
    return [clip, region] if isinstance(region, Path) else [clip]


def region_for(roi: str, clip: Path) -> str | Path:
    """The region of one of several clips: a shape applies to all clips; a folder holds masks named like the clips."""
    from latens.data.regions.words import Shape, parse_region
    from latens.errors import InputError

    region = parse_region(roi)
    if isinstance(region, Shape):
        return roi
    if region.is_dir():
        for found in sorted(region.iterdir()):
            if clip.stem in (found.stem, found.name):
                return found
    hint = f"put its masks there as {clip.stem}/ or {clip.stem}.mp4"
    raise InputError(f"there are no masks for {clip.name}", where=str(region), hint=hint)


def record(done: Compressed) -> dict[str, Any]:
    """The record of a clip of an ordinary codec and its line of text."""
    notes = "".join(f"; {note}" for note in done.notes)
    region = "" if done.region is None else f", region {100 * done.region:.1f} %"
    found = done._asdict()
    del found["path"]
    return found | {
        "notes": list(done.notes),
        "text": f"{done.path}: {human_size(done.bytes)}, {done.kbps:.0f} kbit/s, {done.width} x {done.height}, "
        f"{counted(done.frames, 'frame')}, {done.codec}{region}, {done.seconds:.1f} s{notes}",
    }
