"""Clips as plain RGB arrays, for what needs no time stamps; everything else is in `latens.data.clips`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

from latens.data.clips.formats import CLIP_ENDINGS
from latens.data.clips.reader import open_clip
from latens.data.clips.rewrite import clip_info, fine_coding
from latens.data.clips.writer import info_of_frames, open_writer
from latens.data.images import Pixels
from latens.errors import UsageError

__all__ = ["CLIP_ENDINGS", "clip_info", "read_clip", "write_clip"]


def read_clip(path: Path) -> Iterator[Pixels]:
    """The frames (H, W, 3) in order, upright. Raises UnreadableInput or LimitExceeded."""
    with open_clip(path) as clip:
        for frame in clip.frames():
            yield frame.rgb()


def write_clip(path: Path, frames: Iterable[Pixels], rate: Fraction) -> int:
    """Writes frames of one size at a constant rate, and returns their number; odd sides are padded by a line.

    Raises StorageFull; UsageError for a wrong ending or no frames.
    """
    import av
    import numpy as np

    coding = fine_coding(path)
    every = iter(frames)
    first = next(every, None)
    if first is None:
        raise UsageError("there are no frames to write", where=str(path))
    height, width = first.shape[:2]
    with open_writer(path, info_of_frames(width, height, rate), coding) as writer:
        pixels: Pixels | None = first
        while pixels is not None:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            writer.write(writer.fit(frame), writer.frames / rate, 1 / rate)
            pixels = next(every, None)
        return writer.frames
