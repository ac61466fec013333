"""Containers by file ending, and limits of the encoders. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from latens.errors import UsageError

CONTAINERS: Mapping[str, str] = {  # ending -> FFmpeg's name of the container
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "avi",
    ".gif": "gif",
}
CLIP_ENDINGS = frozenset(CONTAINERS)
# FFmpeg's readers that are allowed: single files that hold their frames, whatever their ending says. Playlists are not.
DEMUXERS = "mov,matroska,webm,avi,gif,apng,mpegts,mpeg,mpegvideo,m4v,h264,hevc,av1,obu,ivf,flv,ogg,asf,mxf,dv,nut"
APPLE_ENDINGS = frozenset({".mp4", ".m4v", ".mov"})  # Apple's players need the tag hvc1 for HEVC in these


class Encoder(NamedTuple):
    """Limits of an encoder of FFmpeg."""

    library: str
    deepest: int  # largest number of bits per sample
    smallest: int  # smallest number of pixels per side
    containers: frozenset[str]


_ALL = frozenset({"mp4", "mov", "matroska", "webm", "avi"})
ENCODERS: Mapping[str, Encoder] = {
    encoder.library: encoder
    for encoder in (
        # High 10 exists for H.264, but no phone, browser or television plays it.
        Encoder("libx264", 8, 2, _ALL - {"webm"}),
        Encoder("libx265", 10, 32, _ALL - {"webm", "avi"}),
        Encoder("libsvtav1", 10, 16, _ALL - {"avi"}),
        Encoder("libvpx-vp9", 8, 2, _ALL - {"avi", "mov"}),
        Encoder("mpeg4", 8, 2, _ALL - {"webm"}),
        Encoder("gif", 8, 1, frozenset({"gif"})),
    )
}


def container_of(path: Path) -> str:
    """FFmpeg's name of the container for the ending of `path`. Raises UsageError for an unknown ending."""
    kind = CONTAINERS.get(path.suffix.lower())
    if path.suffix.lower() == ".ltv":
        hint = "omit the encoder (--codec), or give a file with another ending"
        raise UsageError("standard encoders cannot write .ltv, the format of the neural codec", where=str(path), hint=hint)
    if kind is None:
        raise UsageError(
            f"clips cannot be written as {path.suffix or 'a file without an ending'}",
            where=str(path),
            hint=f"use one of {', '.join(sorted(CLIP_ENDINGS))}",
        )
    return kind


def check_container(path: Path, library: str) -> str:
    """`container_of`, which also raises UsageError if the container does not support the encoder."""
    kind = container_of(path)
    if kind not in ENCODERS[library].containers:
        fitting = sorted(ending for ending, name in CONTAINERS.items() if name in ENCODERS[library].containers)
        raise UsageError(f"{path.suffix} does not support {library}", where=str(path), hint=f"use {', '.join(fitting)}")
    return kind
