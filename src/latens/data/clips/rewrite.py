"""Apply a function to the RGB frames of a clip; time stamps, orientation and sound are preserved."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from latens.data.clips.clip import Clip, ClipInfo
from latens.data.clips.color import REC709
from latens.data.clips.formats import container_of
from latens.data.clips.reader import open_clip
from latens.data.clips.writer import Coding, open_writer
from latens.data.images import Pixels

FINE = {  # visually lossless
    "libx264": {"crf": "16"},
    "libvpx-vp9": {"crf": "16", "b": "0", "row-mt": "1"},
    "mpeg4": {"qscale": "2"},
    "gif": {},
}

Change = Callable[[Iterator[Pixels]], Iterable[Pixels]]


class Rewritten(NamedTuple):
    """Result for one clip."""

    width: int
    height: int
    frames: int
    damaged: int  # decoding errors
    missing: int  # frames that the file declares but does not contain
    notes: tuple[str, ...]  # assumptions, omissions and conversions


def fine_coding(path: Path) -> Coding:
    """Encoder for visually lossless output: H.264, VP9 for .webm, GIF for .gif. Raises UsageError."""
    kind = container_of(path)
    preferred = {"webm": "libvpx-vp9", "gif": "gif"}.get(kind, "libx264")
    library = preferred if preferred in av.codecs_available else "mpeg4"
    return Coding(library, FINE[library])


def rewrite_clip(source: Path, out: Path, change: Change, *, fps: Fraction | float | None = None) -> Rewritten:
    """Write the 8-bit RGB frames (H, W, 3) that `change` yields for the frames of a clip, one for one and of one size.

    `change` may look ahead; an output frame has the time stamp of its input frame. Raises the errors of `open_clip` and
    `open_writer`.
    """
    with open_clip(source, fps=fps) as clip:
        times: deque[tuple[Fraction, Fraction]] = deque()
        changed = iter(change(_pixels(clip, times)))
        first = next(changed, None)
        info = clip.info
        size = (info.height, info.width) if first is None else first.shape[:2]
        reduced = depth_note(info)
        rgb = info._replace(height=size[0], width=size[1], bits=8, rgb=True, color=REC709)
        with open_writer(out, rgb, fine_coding(out), sound=source if info.sound else None) as writer:
            while first is not None:
                writer.write(writer.fit(_frame(first)), *times.popleft())
                first = next(changed, None)
        notes = (*clip.notes, *reduced, *writer.notes)
        return Rewritten(writer.fit.width, writer.fit.height, writer.frames, clip.damaged, clip.missing, notes)


def depth_note(info: ClipInfo) -> tuple[str, ...]:
    """The note on the conversion of a clip to 8-bit RGB, if anything is lost."""
    if not info.rgb and info.color.wide:
        return ("HDR or BT.2020 color converted to BT.709 with 8 bits",)
    return (f"{info.bits} bits reduced to 8",) if info.bits > 8 else ()


def _pixels(clip: Clip, times: deque[tuple[Fraction, Fraction]]) -> Iterator[Pixels]:
    for frame in clip.frames():
        times.append((frame.time, frame.duration))
        yield frame.rgb()


def _frame(pixels: Pixels) -> object:
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
