"""A clip and its region, as a caller passes them. They can be opened repeatedly unless frames come from an iterator."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from latens.data.clips.clip import Clip
from latens.data.clips.memory import FramesLike, open_frames
from latens.data.regions.pairing import Regions, open_regions
from latens.data.regions.words import Shape
from latens.errors import UsageError
from latens.video.masks import GivenMasks, Recorded


class Source(NamedTuple):
    """Frames and region of a caller. `recorded` keeps the tracked masks of a first pass for the next."""

    frames: FramesLike
    roi: Shape | Path | np.ndarray[Any, Any] | None
    roi_ids: frozenset[int] | None
    track: bool
    fps: Fraction | float | None
    recorded: Recorded | None = None

    def check(self) -> None:
        """Raise UsageError for options without effect."""
        if self.roi is None and (self.roi_ids is not None or self.track):
            raise UsageError(f"{'--roi-id' if self.roi_ids is not None else '--track'} needs a region", hint="add --roi")
        if isinstance(self.roi, np.ndarray) and self.track:
            raise UsageError("an array of masks is not tracked", hint="leave track out")

    @contextlib.contextmanager
    def open(self) -> Iterator[tuple[Clip, Regions | None]]:
        """Open clip and regions. Raises UsageError, InputError, UnreadableInput or LimitExceeded."""
        with open_frames(self.frames, fps=self.fps) as clip:
            if self.recorded is not None and self.recorded.complete:
                yield clip, self.recorded
                return
            with self._regions(clip) as regions:
                yield clip, regions if regions is None or self.recorded is None else self.recorded.around(regions)

    @contextlib.contextmanager
    def _regions(self, clip: Clip) -> Iterator[Regions | None]:
        if self.roi is None:
            yield None
        elif isinstance(self.roi, np.ndarray):
            yield GivenMasks(self.roi, clip, self.roi_ids)
        else:
            with open_regions(self.roi, clip, ids=self.roi_ids, track=self.track) as regions:
                yield regions
