"""Training clips of clip files (MP4, MKV, ...): runs of consecutive frames, spread over each file, within a budget of bytes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from latens.data.clips.formats import CLIP_ENDINGS
from latens.data.clips.reader import is_clip, open_clip
from latens.data.inputs import files_under
from latens.data.notes import left_out
from latens.data.origins import without_drawn
from latens.data.streaming import in_memory_or_streamed, memory_budget
from latens.errors import InputError, LimitExceeded
from latens.shapes import UInt8
from latens.systems.video_codec.sizes import reduced

logger = logging.getLogger(__name__)

T = TypeVar("T")
RUN = 32  # frames of a run; a training clip has a few

Run = UInt8[np.ndarray, "T h w 3"]


def clip_files(folder: Path) -> list[Path]:
    """The clip files in a folder and its subfolders, in natural order; a GIF with a single frame is none."""
    return without_drawn([path for path in files_under(folder, CLIP_ENDINGS) if is_clip(path)], folder)


def clips_of_files(
    paths: Sequence[Path], shrink: float, make: Callable[[Path, Run], T | None], size: Callable[[T], int], where: str
) -> Sequence[T]:
    """What `make` makes of the runs of all files, downsampled by `shrink`; None for a run that cannot be used.

    Every file has an equal share of the budget for data. If the first runs of all files do not fit into it, they are streamed.
    Files without a usable run are left out with a warning.
    """
    budget = memory_budget()

    def read(place: int, share: int) -> list[T]:
        try:
            runs = runs_of(paths[place], shrink, share)
        except (InputError, LimitExceeded) as error:
            left_out(error)
            return []
        made = [clip for run in runs if (clip := make(paths[place], run)) is not None]
        if not made:
            logger.warning("left out: %s: its frames are too few or too small for training", paths[place])
        return made

    found: list[T] = []
    for place in range(len(paths)):
        found += read(place, budget // len(paths))
        if sum(map(size, found)) > budget:
            return in_memory_or_streamed(len(paths), lambda place: next(iter(read(place, 0)), None), size, where, budget)
    return found


def runs_of(path: Path, shrink: float, budget: int) -> list[Run]:
    """Runs of RUN consecutive frames, downsampled, evenly spread over a clip, in at most `budget` bytes.

    There is at least the first one, and the last run may be shorter. Raises the errors of `open_clip`.
    """
    held: dict[int, list[np.ndarray]] = {}
    stride = 1
    with open_clip(path) as clip:
        for number, frame in enumerate(clip.frames()):
            index = number // RUN
            if index % stride:
                continue
            held.setdefault(index, []).append(reduced(frame.rgb(), shrink))
            most = max(1, budget // (RUN * held[index][0].nbytes))
            while len(held) > most:  # the number of frames is not known yet, so every second run is dropped
                stride *= 2
                held = {each: run for each, run in held.items() if each % stride == 0}
            if most == 1 and len(held[0]) == RUN:
                break
    return [np.stack(run) for run in held.values()]
