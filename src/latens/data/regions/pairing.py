"""Regions of the frames of a clip, from a shape, a mask, a folder of masks, a mask video, or tracking."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np

from latens.data.clips.clip import Clip, ClipFrame
from latens.data.clips.formats import CLIP_ENDINGS
from latens.data.clips.frame_folder import images_in
from latens.data.clips.reader import open_clip
from latens.data.files import reading
from latens.data.notes import note_once
from latens.data.regions.masks import MaskReader, Weights, draw
from latens.data.regions.track import Tracker
from latens.data.regions.words import Shape
from latens.errors import InputError, UsageError, counted

OpenReader: TypeAlias = Callable[[Callable[[str], None]], MaskReader]  # the argument is the function that records notes
OVERHANG = 0.5  # seconds by which a mask video may end before its clip


class Regions(Protocol):
    """Regions of the frames of a clip, requested in order."""

    notes: list[str]
    lost_at: float | None  # seconds at which tracking lost the region

    def of(self, frame: ClipFrame) -> Weights: ...

    def finish(self, frames: int) -> None:
        """Called after the last frame. `frames` includes unreadable frames. Raises InputError for masks of another clip."""
        ...


class Notes:
    """Base of all regions: notes, and the time at which tracking lost the region."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.notes: list[str] = []
        self.lost_at: float | None = None

    def note(self, text: str) -> None:
        note_once(self.notes, Path(self.where), text)

    def finish(self, frames: int) -> None:
        """Check nothing."""


@contextlib.contextmanager
def open_regions(
    region: Shape | Path, clip: Clip, *, ids: frozenset[int] | None = None, track: bool = False
) -> Iterator[Regions]:
    """The regions of a clip. Raises UsageError, InputError or UnreadableInput."""
    width, height = clip.info.width, clip.info.height
    if isinstance(region, Shape):
        if ids is not None:
            raise UsageError("a box or ellipse has no ids", where=f"--roi {region}", hint="omit --roi-id")
        weights = draw(region, width, height)
        yield Tracked(str(region), weights, is_box=region.kind == "box") if track else Fixed(str(region), weights)
        return
    with reading(region):
        region.stat()
    open_reader = partial(MaskReader, (height, width), ids)
    if region.suffix.lower() in CLIP_ENDINGS and not region.is_dir():
        _refuse_track(track, region)
        with open_clip(region) as masks:
            yield ByTime(region, masks, open_reader)
        return
    if region.is_dir():
        _refuse_track(track, region)
        yield ByOrder(region, images_in(region), open_reader, clip)
        return
    notes = Notes(str(region))
    reader = open_reader(notes.note)
    weights = reader.read(region)
    if not weights.any():
        raise InputError(f"the mask is empty{_ids_found(reader)}", where=str(region), hint="choose another mask or --roi-id")
    made = Tracked(str(region), weights, is_box=False) if track else Fixed(str(region), weights)
    made.notes = notes.notes
    if not track:
        made.note("the mask applies to all frames; --track would follow the object")
    yield made


def _refuse_track(track: bool, region: Path) -> None:
    if track:
        hint = "omit --track, or give only the first mask"
        raise UsageError("every frame has a mask already", where=f"--roi {region}", hint=hint)


def _ids_found(reader: MaskReader) -> str:
    if reader.ids is None:
        return ""
    return f" for the ids {sorted(reader.ids)}; the masks have the ids {sorted(reader.seen)}"


class Fixed(Notes):
    """One region for all frames."""

    def __init__(self, where: str, weights: Weights) -> None:
        super().__init__(where)
        self.weights = weights

    def of(self, frame: ClipFrame) -> Weights:
        return self.weights


class ByOrder(Notes):
    """Mask images of a folder, paired by name if the clip is a folder of images with the same names, otherwise by order."""

    def __init__(self, folder: Path, paths: list[Path], open_reader: OpenReader, clip: Clip) -> None:
        super().__init__(str(folder))
        self.reader, self.any = open_reader(self.note), False
        by_stem = {path.stem: path for path in paths}
        if clip.stems and all(stem in by_stem for stem in clip.stems):
            paths = [by_stem[stem] for stem in clip.stems]
        elif clip.info.frames and clip.info.frames != len(paths):
            what = f"{counted(len(paths), 'mask')} for {counted(clip.info.frames, 'frame')}"
            raise InputError(what, where=str(folder), hint="give one mask per frame, or a mask video, which is paired by time")
        if not paths:
            raise InputError("this folder has no masks", where=str(folder))
        self.paths = paths

    def of(self, frame: ClipFrame) -> Weights:
        if frame.number >= len(self.paths):
            what = f"there are {len(self.paths)} masks, but the clip has more frames"
            raise InputError(what, where=self.where, hint="give one mask per frame, or a mask video, which is paired by time")
        weights = self.reader.read(self.paths[frame.number])
        self.any = self.any or bool(weights.any())
        return weights

    def finish(self, frames: int) -> None:
        if frames < len(self.paths):
            self.note(f"{len(self.paths) - frames} masks are unused: is a frame missing?")
        _refuse_empty(self.any, self.where, self.reader)


def _refuse_empty(any_mask: bool, where: str, reader: MaskReader) -> None:
    if not any_mask:
        hint = "choose other masks, or --roi-id for label maps"
        raise InputError(f"the masks are empty in every frame{_ids_found(reader)}", where=where, hint=hint)


class ByTime(Notes):
    """A mask video. Every frame gets the mask nearest in time, with times relative to the first frames."""

    def __init__(self, path: Path, masks: Clip, open_reader: OpenReader) -> None:
        super().__init__(str(path))
        self.reader, self.masks = open_reader(self.note), masks
        self._frames = masks.frames()
        self._start: Fraction | None = None  # time of the first frame of the clip
        first = next(self._frames)
        self._mask_start = first.time
        self._near: tuple[Fraction, Weights] = (Fraction(0), self._read(first))
        self._next = self._advance()
        self.any = False

    def _read(self, frame: ClipFrame) -> Weights:
        return self.reader.read_video(frame.rgb(), self.where)

    def _advance(self) -> tuple[Fraction, Weights] | None:
        frame = next(self._frames, None)
        if frame is None:
            return None
        return frame.time - self._mask_start, self._read(frame)

    def of(self, frame: ClipFrame) -> Weights:
        self._start = frame.time if self._start is None else self._start
        time = frame.time - self._start
        while self._next is not None and abs(self._next[0] - time) <= abs(self._near[0] - time):
            self._near, self._next = self._next, self._advance()
        if self._next is None and time > self._near[0] + 1 / self.masks.info.rate:
            if time - self._near[0] > OVERHANG:
                what = f"the mask video ends at {float(self._near[0]):.2f} s, before the clip"
                raise InputError(what, where=self.where, hint="provide masks for the whole clip")
            self.note("the mask video ends shortly before the clip: its last mask is repeated")
        self.any = self.any or bool(self._near[1].any())
        return self._near[1]

    def finish(self, frames: int) -> None:
        if self._next is not None and self._start is not None:
            few = int(OVERHANG * self.masks.info.rate)
            if sum(1 for _ in itertools.islice(self._frames, few)) == few:
                self.note("the mask video is longer than the clip")
        self.notes += [f"masks: {text}" for text in self.masks.notes if "not tagged" not in text]
        _refuse_empty(self.any, self.where, self.reader)


class Tracked(Notes):
    """A tracked box or mask of the first frame. After the region is lost, the whole frame is region."""

    def __init__(self, where: str, weights: Weights, *, is_box: bool) -> None:
        super().__init__(where)
        self.tracker = Tracker(weights, is_box=is_box)

    def of(self, frame: ClipFrame) -> Weights:
        if self.lost_at is not None:
            return np.full((frame.image.height, frame.image.width), 255, dtype=np.uint8)
        found = self.tracker.next(frame.rgb())
        if found.weights is None:
            self.lost_at = float(frame.time)
            self.note(f"the region is lost at {self.lost_at:.2f} s ({found.reason}): from there the whole frame is region")
            return self.of(frame)
        return found.weights
