"""A checked request for the compression of a clip."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from latens.arguments import text, whole
from latens.data.clips.formats import check_container, container_of
from latens.data.regions.words import Shape, parse_region
from latens.errors import UsageError
from latens.video.codecs import BEST_QUALITY, CODECS, Codec, CodecName

if TYPE_CHECKING:
    from latens.data.clips.memory import FramesLike

DEFAULT_QUALITY, DEFAULT_STRENGTH = 5.0, 0.5
Roi: TypeAlias = "str | Path | Shape | np.ndarray[Any, Any]"


def region_of(roi: Roi | None) -> Shape | Path | np.ndarray[Any, Any] | None:
    """The region of a caller. Raises UsageError for other types and for a shape that cannot be read."""
    if isinstance(roi, str | Path):
        return parse_region(roi)
    if roi is None or isinstance(roi, Shape | np.ndarray):
        return roi
    what = f"an object of the type {type(roi).__name__} is no region"
    raise UsageError(what, where="roi", hint="give 'box:x0,y0,x1,y1', a path, or an array of masks (T, H, W) or (H, W)")


def ids_of(ids: Iterable[int] | None) -> frozenset[int] | None:
    """The ids of instances of a caller. Raises UsageError for anything but integers."""
    if ids is None:
        return None
    if not isinstance(ids, Iterable):
        raise UsageError(f"{ids!r} are no ids", where="roi_ids", hint="give a set of integers: roi_ids={2, 5}")
    return frozenset(whole(each, "roi_ids") for each in ids)


def thread_count(threads: int) -> int:
    """The threads of an encoder or decoder, 0: all cores. Raises UsageError for other types and below 0."""
    if (count := whole(threads, "threads")) < 0:
        raise UsageError("the number of threads must be at least 0", where=f"threads {count}", hint="0 takes all cores")
    return count


class Request(NamedTuple):
    """Checked options of a compression."""

    source: FramesLike
    out: Path
    roi: Shape | Path | np.ndarray[Any, Any] | None
    roi_ids: frozenset[int] | None
    track: bool
    codec: Codec
    strength: float
    fps: Fraction | float | None
    encoder_options: Mapping[str, str]
    threads: int


def check_targets(targets: Mapping[str, float | None]) -> None:
    """At most one of quality, size and kbps, within its range. Raises UsageError otherwise."""
    given = [name for name, value in targets.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other", hint="give one of them")
    for name, value in targets.items():
        if value is not None and (value <= 0 or (name == "quality" and not 1 <= value <= BEST_QUALITY)):
            raise UsageError(f"{name} {value:g} is out of range", hint="quality is 1 to 8; sizes and rates are positive")


def check_region_options(roi: Roi | None, ids: frozenset[int] | None, track: bool, strength: float | None) -> None:
    """Raises UsageError for region options without a region, and for a strength out of range."""
    if roi is None and (ids is not None or track or strength is not None):
        option = "--roi-id" if ids is not None else "--track" if track else "--strength"
        raise UsageError(f"{option} needs a region", hint="add --roi")
    if isinstance(roi, np.ndarray) and track:
        raise UsageError("tracking does not apply to an array, which has the masks of all frames", hint="omit track")
    if strength is not None and not 0 < strength <= 1:
        raise UsageError(f"strength {strength:g} is out of range", where="--strength", hint="it must be above 0 and at most 1")


def choose_codec(codec: CodecName | None, out: Path) -> Codec:
    """The codec of this name, by default the one that suits the container of `out`. Raises UsageError if they do not match."""
    if codec is not None:
        text(codec, "codec")
    name = codec or ("av1" if container_of(out) == "webm" else "h264")
    if name not in CODECS:
        raise UsageError(f"unknown codec '{name}'", where="--codec", hint=f"choose one of {', '.join(CODECS)}")
    check_container(out, CODECS[name].library)
    return CODECS[name]
