"""A checked request for the compression of a clip."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from latens.data.clips.formats import check_container, container_of
from latens.data.regions.words import Shape
from latens.errors import UsageError
from latens.video.codecs import BEST_QUALITY, CODECS, Codec, CodecName

if TYPE_CHECKING:
    from latens.data.clips.memory import FramesLike

DEFAULT_QUALITY, DEFAULT_STRENGTH = 5.0, 0.5
Roi: TypeAlias = "str | Path | Shape | np.ndarray[Any, Any]"


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
    name = codec or ("av1" if container_of(out) == "webm" else "h264")
    if name not in CODECS:
        raise UsageError(f"unknown codec '{name}'", where="--codec", hint=f"choose one of {', '.join(CODECS)}")
    check_container(out, CODECS[name].library)
    return CODECS[name]
