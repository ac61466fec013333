"""Compress a clip with higher quality in a region of interest."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from latens.arguments import byte_size, optional_real, path
from latens.data.clips.clip import Clip, ClipFrame
from latens.data.clips.reader import open_clip
from latens.data.clips.writer import ClipWriter, Coding, open_writer
from latens.data.files import replace_durably, temporary_beside
from latens.data.folders import check_apart
from latens.data.notes import logged_once
from latens.data.placing import only_new
from latens.data.regions.masks import Weights
from latens.data.regions.pairing import Regions, open_regions
from latens.errors import OutputExists, UsageError
from latens.video.background import LowPass
from latens.video.blocks import RegionSideData
from latens.video.codecs import CODECS, CodecName
from latens.video.guard import check_regions
from latens.video.masks import GivenMasks, MaskFiles, Recorded
from latens.video.rate import guess, search
from latens.video.request import (
    DEFAULT_QUALITY,
    DEFAULT_STRENGTH,
    Request,
    Roi,
    check_region_options,
    check_targets,
    choose_codec,
    ids_of,
    region_of,
    thread_count,
)

if TYPE_CHECKING:
    from latens.data.clips.memory import FramesLike

logger = logging.getLogger(__name__)


class Compressed(NamedTuple):
    """Result for one clip."""

    path: Path
    bytes: int  # size of the file, sound included
    width: int
    height: int
    frames: int
    duration: float  # seconds
    codec: str
    rate_factor: float
    kbps: float  # mean bit rate of the whole file
    region: float | None  # mean share of the region in the frame, None without a region
    without_region: int  # frames with an empty region
    lost_at: float | None  # seconds at which --track lost the region
    damaged: int  # packets or images that could not be decoded
    missing: int  # frames that the file declares but does not contain
    trials: int  # number of encodings in the search for a size
    seconds: float  # processing time
    notes: tuple[str, ...]  # assumptions, conversions, omissions and repairs


class Pass(NamedTuple):
    """One encoding."""

    bytes: int
    writer: ClipWriter
    clip: Clip
    duration: float
    region: float | None
    without_region: int
    lost_at: float | None
    region_notes: tuple[str, ...]


def compress_clip(
    source: FramesLike,
    out: str | Path,
    *,
    roi: Roi | None = None,
    roi_ids: Iterable[int] | None = None,
    track: bool = False,
    save_masks: str | Path | None = None,
    codec: CodecName | None = None,
    quality: float | None = None,
    size: float | str | None = None,
    kbps: float | None = None,
    strength: float | None = None,
    fps: Fraction | float | None = None,
    encoder_options: Mapping[str, str] | None = None,
    threads: int = 0,
    force: bool = False,
) -> Compressed:
    """Compress `source` (a file, or a folder of images with `fps`) to `out` with H.264, H.265 or AV1.

    Frames in memory are taken as well: an array (T, H, W, 3) uint8, a tensor (T, 3, H, W) in [0, 1], or an iterator of images,
    which is read once and does not go with `size` and `kbps`.
    `roi` is box:x0,y0,x1,y1, ellipse:x0,y0,x1,y1, a mask image, a folder of masks, a mask video, or an array of masks (T, H, W)
    or (H, W), bool or uint8 weights. `quality`, 1 to 8, applies to the region, or to whole frames without a region; `strength`
    above 0, at most 1, sets how much the background is degraded. `size` in bytes (or such as "8MB") or `kbps` start a
    search for the quality; the file is up to 3 % smaller. `encoder_options` are options of FFmpeg. Existing files are
    overwritten only with `force`, and `out` appears only when it is complete.

    Raises UsageError, InputError, UnreadableInput, LimitExceeded or StorageFull.
    """
    started = time.perf_counter()
    size = None if size is None else byte_size(size, "size")
    quality, kbps = optional_real(quality, "quality"), optional_real(kbps, "kbps")
    strength, ids, region = optional_real(strength, "strength"), ids_of(roi_ids), region_of(roi)
    target = path(out, "out")
    saved = None if save_masks is None else path(save_masks, "save_masks")
    if encoder_options is not None and not isinstance(encoder_options, Mapping):
        raise UsageError("these are no options of an encoder", where="encoder_options", hint="give a dict: {'preset': 'slow'}")
    check_targets({"quality": quality, "size": size, "kbps": kbps})
    check_region_options(region, ids, track, strength)
    request = Request(
        source=Path(source) if isinstance(source, str) else source,
        out=target,
        roi=region,
        roi_ids=ids,
        track=track,
        codec=choose_codec(codec, target),
        strength=DEFAULT_STRENGTH if strength is None else strength,
        fps=fps,
        encoder_options={name: str(value) for name, value in (encoder_options or {}).items()},
        threads=thread_count(threads),
    )
    if isinstance(source, str | Path) and os.path.realpath(source) == os.path.realpath(out):
        raise UsageError("the output would overwrite the input", where=str(source), hint="choose another output with -o")
    if request.out.exists() and not force:
        raise OutputExists("the file exists already", where=str(out), hint="choose another output, or add --force")
    if isinstance(source, Iterator) and not (size is None and kbps is None):
        raise UsageError("an iterator can be read only once, and size and kbps need several passes", hint="give an array")
    check_apart(saved, "--save-masks", [request.out])
    masks = MaskFiles(saved, force=force) if saved is not None else None
    if masks is not None and roi is None:
        raise UsageError("there are no masks to save without a region", where="--save-masks", hint="add --roi")
    with only_new(() if force else [request.out]), logged_once():
        if size is None and kbps is None:
            factor = request.codec.rate_factor(DEFAULT_QUALITY if quality is None else quality)
            done, trials, note = _encode(request, factor, request.out, masks), 1, None
        else:
            done, factor, trials, note = _to_size(request, size, kbps, masks)
    if masks is not None:
        masks.finish()
    if note is not None:
        logger.warning("%s: %s", request.out, note)
    return _result(request, done, factor, trials, note, time.perf_counter() - started)


# ------------------------------------------------------------------------------------------------------------ encoding


def _encode(request: Request, factor: float, place: Path, masks: MaskFiles | None, recorded: Recorded | None = None) -> Pass:
    """Encode the clip once, into `place`."""
    codec = request.codec
    options = codec.encoder_options(factor, request.encoder_options, request.threads)
    coding = Coding(codec.library, options)
    with _opened(request) as clip, _regions(request, clip, recorded) as regions:
        sound = clip.path if clip.info.sound else None
        with open_writer(request.out, clip.info, coding, sound=sound, threads=request.threads, rename_to=place) as writer:
            reducer = BackgroundReducer(request, writer, options) if regions is not None else None
            last, duration = -1, Fraction(0)
            for frame in clip.frames():
                image = writer.fit(frame.image)
                if regions is not None and reducer is not None:
                    image = reducer(image, _region_of(regions, frame, clip, masks))
                writer.write(image, frame.time, frame.duration)
                last, duration = frame.number, duration + frame.duration
            if regions is not None:
                regions.finish(last + 1)
    return Pass(
        place.stat().st_size,
        writer,
        clip,
        float(duration),
        reducer.region / max(writer.frames, 1) if reducer is not None else None,
        reducer.empty if reducer is not None else 0,
        regions.lost_at if regions is not None else None,
        tuple(regions.notes) if regions is not None else (),
    )


def _opened(request: Request) -> AbstractContextManager[Clip]:
    if isinstance(request.source, str | Path):
        return open_clip(Path(request.source), fps=request.fps)
    from latens.data.clips.memory import open_frames  # imports torch

    return open_frames(request.source, fps=request.fps)


@contextlib.contextmanager
def _regions(request: Request, clip: Clip, recorded: Recorded | None) -> Iterator[Regions | None]:
    if recorded is not None and recorded.complete:
        yield recorded
    elif request.roi is None:
        yield None
    else:
        with contextlib.ExitStack() as stack:
            regions: Regions
            if isinstance(request.roi, np.ndarray):
                regions = GivenMasks(request.roi, clip, request.roi_ids)
            else:
                regions = stack.enter_context(open_regions(request.roi, clip, ids=request.roi_ids, track=request.track))
            yield regions if recorded is None else recorded.around(regions)


def _region_of(regions: Regions, frame: ClipFrame, clip: Clip, masks: MaskFiles | None) -> Weights:
    weights = regions.of(frame)
    if masks is not None:
        masks.write(weights, clip.stems[frame.number] if clip.stems else f"{frame.number:05d}")
    return weights


class BackgroundReducer:
    """Reduces the bits of the background by quantizer offsets or a low-pass filter."""

    def __init__(self, request: Request, writer: ClipWriter, options: dict[str, str]) -> None:
        codec, strength = request.codec, request.strength
        self._library, self._options, self._format = codec.library, options, writer.fit.format
        self._outside = codec.outside * strength
        self._side_data = RegionSideData(0.0, self._outside) if self._outside else None
        self._low_pass = LowPass(codec.sigma * strength, writer.fit.height) if codec.sigma else None
        self._checked = False
        self.region, self.empty = 0.0, 0

    def __call__(self, image: Any, weights: Weights) -> Any:
        mean = float(weights.mean()) / 255
        self.region += mean
        self.empty += mean == 0
        if not self._checked and self._outside:
            check_regions(self._library, self._options, self._format, self._outside)
            self._checked = True
        if self._low_pass is not None:
            image = self._low_pass(image, weights)
        return self._side_data(image, weights) if self._side_data is not None else image


def _to_size(
    request: Request, size: float | None, kbps: float | None, masks: MaskFiles | None
) -> tuple[Pass, float, int, str | None]:
    """Search for the rate factor. Trials are temporary files next to the output; the best one replaces it."""
    target = Path(os.path.realpath(request.out))
    trial, best = temporary_beside(target), temporary_beside(target)
    passes: dict[float, Pass] = {}
    recorded = Recorded() if request.track else None

    def encode(factor: float) -> int:
        passes[factor] = _encode(request, factor, trial, None if passes else masks, recorded)
        return passes[factor].bytes

    try:
        with _opened(request) as clip:
            info = clip.info
        length = info.seconds or (info.frames / float(info.rate) if info.frames else None)
        if length is None:
            with _opened(request) as clip:
                length = float(sum(frame.duration for frame in clip.frames()))
        wanted = float(size) if size is not None else 125.0 * (kbps or 0) * length
        pixels = info.width * info.height * max(1.0, length * float(info.rate))
        found = search(
            encode, request.codec, wanted, guess(request.codec, 8 * wanted / pixels), lambda: os.replace(trial, best)
        )
        replace_durably(best, target)
    finally:
        for path in (trial, best):
            with contextlib.suppress(OSError):
                path.unlink()
    return passes[found.rate_factor], found.rate_factor, found.trials, found.note


def _result(request: Request, done: Pass, factor: float, trials: int, note: str | None, seconds: float) -> Compressed:
    notes = (*done.clip.notes, *done.writer.notes, *done.region_notes, *([note] if note else []))
    return Compressed(
        request.out,
        done.bytes,
        done.writer.fit.width,
        done.writer.fit.height,
        done.writer.frames,
        round(done.duration, 6),
        next(name for name, codec in CODECS.items() if codec is request.codec),
        round(factor, 3),
        round(8e-3 * done.bytes / max(done.duration, 1e-6), 3),
        None if done.region is None else round(done.region, 5),
        done.without_region,
        done.lost_at,
        done.clip.damaged,
        done.clip.missing,
        trials,
        round(seconds, 3),
        notes,
    )
