"""Masks given as arrays, masks written to files, and masks cached between encoding passes."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from latens.data.clips.clip import Clip, ClipFrame
from latens.data.files import write_atomic
from latens.data.image_arrays import plain_array
from latens.data.image_output import png_bytes
from latens.data.records import Records
from latens.data.regions.masks import MaskReader, Weights
from latens.data.regions.pairing import Notes, Regions
from latens.errors import InputError, OutputExists, counted


class GivenMasks(Notes):
    """Masks of an array: (T, H, W), one per frame, or (H, W) for all frames; bool, or uint8 with the meaning of mask files.

    `ids` selects instances of label maps (see `MaskReader`). Raises InputError for other types and shapes, a wrong number of
    masks, and masks that are empty in every frame.
    """

    def __init__(self, masks: np.ndarray[Any, Any], clip: Clip, ids: frozenset[int] | None = None) -> None:
        masks = plain_array(masks)
        if masks.ndim not in (2, 3) or masks.dtype not in (np.dtype(bool), np.dtype(np.uint8)):
            what = f"masks of shape {masks.shape} and type {masks.dtype}"
            raise InputError(what, hint="give (T, H, W) or (H, W), bool or uint8")
        if masks.ndim == 3 and clip.info.frames and clip.info.frames != len(masks):
            raise InputError(f"{counted(len(masks), 'mask')} for {counted(clip.info.frames, 'frame')}", where=str(clip.path))
        if not masks.any():
            raise InputError("the masks are empty in every frame")
        super().__init__("masks")
        self.masks = masks
        self._reader = MaskReader((clip.info.height, clip.info.width), ids, self.note)

    def of(self, frame: ClipFrame) -> Weights:
        if self.masks.ndim == 3 and frame.number >= len(self.masks):
            raise InputError(f"there are {len(self.masks)} masks, and the clip has more frames")
        mask = self.masks if self.masks.ndim == 2 else self.masks[frame.number]
        return self._reader.fit(self._reader.weigh(mask, palette=False, where="masks"), "masks")


class MaskFiles:
    """A folder of masks as PNG files. Raises OutputExists if the folder contains files, unless `force` is set."""

    def __init__(self, folder: Path, *, force: bool) -> None:
        if not force and folder.is_dir() and any(folder.iterdir()):
            raise OutputExists("the folder is not empty", where=str(folder), hint="choose another folder, or add --force")
        self.folder = folder
        self._written: list[Path] = []

    def write(self, weights: Weights, name: str) -> None:
        path = self.folder / f"{name}.png"
        write_atomic(path, png_bytes(weights))
        self._written.append(path)

    def finish(self) -> None:
        """Record the masks, so that no command takes them for images."""
        Records().draw(self._written)


class Recorded:
    """Masks of the first pass, compressed in memory (about 1 kB each), so that tracking runs only once."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.lost_at: float | None = None
        self.complete = False
        self._packed: dict[int, bytes] = {}
        self._inner: Regions | None = None

    def around(self, regions: Regions) -> Regions:
        """Wrap `regions`: return their masks and record them."""
        self._inner, self._packed = regions, {}
        return self

    def of(self, frame: ClipFrame) -> Weights:
        if self.complete:
            flat = np.frombuffer(zlib.decompress(self._packed[frame.number]), dtype=np.uint8)
            return flat.reshape(frame.image.height, frame.image.width)
        assert self._inner is not None
        weights = self._inner.of(frame)
        self._packed[frame.number] = zlib.compress(weights.tobytes(), 1)
        return weights

    def finish(self, frames: int) -> None:
        if self._inner is not None and not self.complete:
            self._inner.finish(frames)
            self.notes, self.lost_at = self._inner.notes, self._inner.lost_at
        self.complete = True
