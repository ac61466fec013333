"""Frames in memory as a clip: an array, a tensor, or an iterator of images."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from latens.data.clips.clip import FOLDER_RATE, Clip, ClipFrame, ClipInfo, frame_rate, limit_size
from latens.data.clips.color import REC709
from latens.data.clips.reader import open_clip
from latens.data.images import LoadedImage, read_each_frame
from latens.errors import InputError

MEMORY = Path("frames in memory")
FramesLike: TypeAlias = "str | Path | np.ndarray[Any, Any] | torch.Tensor | Iterable[Any]"


def open_frames(frames: FramesLike, *, fps: Fraction | float | None = None) -> AbstractContextManager[Clip]:
    """A clip of a path, or of frames: uint8 (T, H, W, 3), a float tensor (T, 3, H, W) in [0, 1], or an iterator of images.

    `fps` applies to frames without time stamps (default 25). Raises InputError unless all frames have the same size.
    """
    if isinstance(frames, str | Path):
        return open_clip(Path(frames), fps=fps)
    return nullcontext(_in_memory(read_each_frame(frames), fps))


def _in_memory(frames: Iterator[LoadedImage], fps: Fraction | float | None) -> Clip:
    first = next(frames, None)
    if first is None:
        raise InputError("there are no frames")
    height, width = first.pixels.shape[:2]
    limit_size(MEMORY, width, height)
    rate = FOLDER_RATE if fps is None else frame_rate(fps)
    info = ClipInfo(width, height, rate, 0, None, 1 / rate, 0, 8, REC709, True, False, False, Fraction(1))
    clip = Clip(MEMORY, info)
    if fps is None:
        clip.note(f"{float(rate):g} frames per second are assumed")
    clip.source = _frames(clip, itertools.chain([first], frames))
    return clip


def _frames(clip: Clip, frames: Iterable[LoadedImage]) -> Iterator[ClipFrame]:
    import av

    for number, image in enumerate(frames):
        for text in image.notes:
            clip.note(text)
        if image.alpha is not None:
            clip.note("transparency is ignored")
        stored = av.VideoFrame.from_ndarray(np.ascontiguousarray(image.pixels), format="rgb24")
        yield ClipFrame(stored, number / clip.info.rate, 1 / clip.info.rate, number)
