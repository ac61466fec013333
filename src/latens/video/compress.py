"""Compress a clip with higher quality in a region of interest."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from latens.data.clips.formats import check_container, container_of
from latens.data.clips.reader import Clip, ClipFrame, open_clip
from latens.data.clips.writer import ClipWriter, Coding, open_writer
from latens.data.files import temporary_beside
from latens.data.regions.masks import Weights
from latens.data.regions.pairing import Regions, open_regions
from latens.data.regions.words import Shape, parse_region
from latens.errors import OutputExists, UsageError
from latens.video.background import LowPass
from latens.video.blocks import RegionSideData
from latens.video.codecs import BEST_QUALITY, CODECS, Codec, CodecName
from latens.video.guard import check_regions
from latens.video.masks import GivenMasks, MaskFiles, Recorded
from latens.video.rate import guess, search

logger = logging.getLogger(__name__)

DEFAULT_QUALITY, DEFAULT_STRENGTH = 5.0, 0.5
Roi: TypeAlias = "str | Path | Shape | np.ndarray[Any, Any]"


class Compressed(NamedTuple):
    """Result for one clip."""

    path: Path
    bytes: int  # of the file, sound included
    width: int
    height: int
    frames: int
    duration: float  # seconds
    codec: str
    rate_factor: float
    kbps: float  # of the whole file
    region: float | None  # mean share of the frame that is region, None without one
    without_region: int  # frames whose region is empty: all of them is background
    lost_at: float | None  # seconds at which --track lost the region
    damaged: int  # packets or images that could not be decoded
    missing: int  # frames that the file promises beyond its end
    trials: int  # encodings it took to reach a size
    seconds: float  # of work
    notes: tuple[str, ...]  # what was assumed, converted, dropped or repaired


class Request(NamedTuple):
    """A compression, checked."""

    source: Path
    out: Path
    roi: Shape | Path | np.ndarray[Any, Any] | None
    roi_ids: frozenset[int] | None
    track: bool
    codec: Codec
    strength: float
    fps: Fraction | float | None
    encoder_options: Mapping[str, str]
    threads: int


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
    source: str | Path,
    out: str | Path,
    *,
    roi: Roi | None = None,
    roi_ids: frozenset[int] | None = None,
    track: bool = False,
    save_masks: str | Path | None = None,
    codec: CodecName | None = None,
    quality: float | None = None,
    size: int | None = None,
    kbps: float | None = None,
    strength: float | None = None,
    fps: Fraction | float | None = None,
    encoder_options: Mapping[str, str] | None = None,
    threads: int = 0,
    force: bool = False,
) -> Compressed:
    """Writes `source` (a file, or a folder of images with `fps`) as H.264, H.265 or AV1 into `out`.

    `roi` is box:x0,y0,x1,y1, ellipse:x0,y0,x1,y1, a mask image, a folder of masks, a mask video, or an array of masks (T, H, W)
    or (H, W), bool or uint8 weights. `quality`, 1 to 8, is about that of the region, or of the whole without one; `strength`, 0
    to 1, says how much cheaper the rest is. `size` in bytes or `kbps` search for the quality: the file ends up to 3 % below.
    `encoder_options` are FFmpeg's. Nothing is overwritten without `force`, and `out` appears whole or not at all.

    Raises UsageError, InputError, UnreadableInput, LimitExceeded or StorageFull.
    """
    started = time.perf_counter()
    _check_targets({"quality": quality, "size": size, "kbps": kbps})
    _check_region_options(roi, roi_ids, track, strength)
    request = Request(
        source=Path(source),
        out=Path(out),
        roi=parse_region(roi) if isinstance(roi, str | Path) else roi,
        roi_ids=roi_ids,
        track=track,
        codec=_codec(codec, Path(out)),
        strength=DEFAULT_STRENGTH if strength is None else strength,
        fps=fps,
        encoder_options=encoder_options or {},
        threads=threads,
    )
    if os.path.realpath(source) == os.path.realpath(out):
        raise UsageError("the result would replace its input", where=str(source), hint="choose another place with -o")
    if request.out.exists() and not force:
        raise OutputExists("the file is there already", where=str(out), hint="choose another place, or force it")
    masks = MaskFiles(Path(save_masks), force=force) if save_masks is not None else None
    if masks is not None and roi is None:
        raise UsageError("there are no masks to save without a region", where="--save-masks", hint="add --roi")
    if size is None and kbps is None:
        factor = request.codec.rate_factor(DEFAULT_QUALITY if quality is None else quality)
        done, trials, note = _encode(request, factor, request.out, masks), 1, None
    else:
        done, factor, trials, note = _to_size(request, size, kbps, masks)
    if note is not None:
        logger.warning(f"{out}: {note}")
    return _result(request, done, factor, trials, note, time.perf_counter() - started)


def _check_targets(targets: Mapping[str, float | None]) -> None:
    given = [name for name, value in targets.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other", hint="give one of them")
    for name, value in targets.items():
        if value is not None and (value <= 0 or (name == "quality" and not 1 <= value <= BEST_QUALITY)):
            raise UsageError(f"{name} {value:g} is out of range", hint="quality is 1 to 8; sizes and rates are positive")


def _check_region_options(roi: Roi | None, ids: frozenset[int] | None, track: bool, strength: float | None) -> None:
    if roi is None and (ids is not None or track or strength is not None):
        option = "--roi-id" if ids is not None else "--track" if track else "--strength"
        raise UsageError(f"{option} needs a region", hint="add --roi")
    if isinstance(roi, np.ndarray) and track:
        raise UsageError("an array has the masks of all frames; nothing is tracked", hint="leave track out")
    if strength is not None and not 0 < strength <= 1:
        raise UsageError(f"strength {strength:g} is not above 0 and up to 1", where="--strength")


def _codec(codec: CodecName | None, out: Path) -> Codec:
    name = codec or ("av1" if container_of(out) == "webm" else "h264")
    if name not in CODECS:
        raise UsageError(f"'{name}' is no codec", where="--codec", hint=f"one of {', '.join(CODECS)}")
    check_container(out, CODECS[name].library)
    return CODECS[name]


# ------------------------------------------------------------------------------------------------------------ encoding


def _encode(request: Request, factor: float, place: Path, masks: MaskFiles | None, recorded: Recorded | None = None) -> Pass:
    """One pass over the clip, written to `place`."""
    codec = request.codec
    options = codec.encoder_options(factor, request.encoder_options, request.threads)
    coding = Coding(codec.library, options)
    with open_clip(request.source, fps=request.fps) as clip, _regions(request, clip, recorded) as regions:
        sound = request.source if clip.info.sound else None
        with open_writer(request.out, clip.info, coding, sound=sound, threads=request.threads, rename_to=place) as writer:
            cheapen = Cheapen(request, writer, options) if regions is not None else None
            last, duration = -1, Fraction(0)
            for frame in clip.frames():
                image = writer.fit(frame.image)
                if regions is not None and cheapen is not None:
                    image = cheapen(image, _region_of(regions, frame, clip, masks))
                writer.write(image, frame.time, frame.duration)
                last, duration = frame.number, duration + frame.duration
            if regions is not None:
                regions.finish(last + 1)
    return Pass(
        place.stat().st_size,
        writer,
        clip,
        float(duration),
        cheapen.region / max(writer.frames, 1) if cheapen is not None else None,
        cheapen.empty if cheapen is not None else 0,
        regions.lost_at if regions is not None else None,
        tuple(regions.notes) if regions is not None else (),
    )


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


class Cheapen:
    """Reduces background bits by quantizer offsets or a low-pass."""

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
    request: Request, size: int | None, kbps: float | None, masks: MaskFiles | None
) -> tuple[Pass, float, int, str | None]:
    """Searches the rate factor; trials are files beside the output, the best one takes its place."""
    trial, best = temporary_beside(request.out), temporary_beside(request.out)
    passes: dict[float, Pass] = {}
    recorded = Recorded() if request.track else None

    def encode(factor: float) -> int:
        passes[factor] = _encode(request, factor, trial, None if passes else masks, recorded)
        return passes[factor].bytes

    try:
        with open_clip(request.source, fps=request.fps) as clip:
            info = clip.info
        length = info.seconds or (info.frames / float(info.rate) if info.frames else None)
        if length is None:
            with open_clip(request.source, fps=request.fps) as clip:
                length = float(sum(frame.duration for frame in clip.frames()))
        wanted = float(size) if size is not None else 125.0 * (kbps or 0) * length
        pixels = info.width * info.height * max(1.0, length * float(info.rate))
        found = search(
            encode, request.codec, wanted, guess(request.codec, 8 * wanted / pixels), lambda: os.replace(trial, best)
        )
        os.replace(best, request.out)
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
