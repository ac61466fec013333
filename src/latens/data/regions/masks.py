"""Reading of mask files as weights: binary masks, soft masks, and label maps and palettes with instance ids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from PIL import Image, ImageOps

from latens.data.files import reading
from latens.data.images import decoding
from latens.data.limits import current_limits
from latens.data.regions.words import Shape
from latens.errors import InputError
from latens.shapes import UInt8

Weights = UInt8[np.ndarray, "H W"]
Kind = Literal["binary", "ids", "soft"]

LARGEST_ID = 31  # 8-bit gray images with all values up to this are label maps
VOID = 255  # palette index of void pixels, by convention
ASPECT_SLACK = 0.02
CLEAN = 24  # gray levels; deviations from 0 and 255 up to this are treated as coding noise of a mask video
_GRAY = frozenset({"L", "LA"})


class MaskReader:
    """Reads the masks of one clip with consistent rules.

    8-bit masks with a palette or only gray values below 32 hold instance ids, of which `ids` are selected (all ids without it;
    255 of a palette is void). Masks of only 0 and 255 are binary; other gray values are soft weights. 16-bit masks hold ids.
    After a soft mask, all masks of the clip are soft. `note` is called with every assumption.
    """

    def __init__(self, size: tuple[int, int], ids: frozenset[int] | None, note: Callable[[str], None]) -> None:
        self.height, self.width = size
        self.ids, self.note = ids, note
        self.kind: Kind | None = None
        self.seen: set[int] = set()  # all ids so far

    def read(self, path: Path) -> Weights:
        """The mask of an image file, at the size of the clip. Raises UnreadableInput, InputError or LimitExceeded."""
        values, palette = _values(path, self.note)
        return self.fit(self.weigh(values, palette, str(path)), str(path))

    def weigh(self, values: np.ndarray[Any, Any], palette: bool, where: str) -> Weights:
        """Weights of gray values or ids (H, W)."""
        if values.dtype == np.bool_:
            return self._whole(values)
        present = np.flatnonzero(np.bincount(values.ravel())) if values.dtype.itemsize <= 2 else np.unique(values)
        found = self._kind(present, palette or values.dtype.itemsize > 1)
        if found == "soft" and self.kind == "ids":
            self.note("the masks have gray values above 31: they are read as soft masks from here on")
        if present[-1] and (self.kind is None or found == "soft"):
            self.kind = found
        if self.kind == "soft":
            found = "soft"
        if found == "ids":
            return self._chosen(values, {int(value) for value in present} - {0}, palette)
        if self.ids is not None and present[-1] and not self.ids <= {1, 255}:
            raise InputError(f"this is a {found} mask without instance ids", where=where, hint="omit --roi-id")
        return values.astype(np.uint8, copy=False)

    def _kind(self, present: np.ndarray[Any, Any], labels: bool) -> Kind:
        if labels or present[-1] <= LARGEST_ID:
            return "ids"
        return "binary" if set(present.tolist()) <= {0, 255} else "soft"

    def _chosen(self, values: np.ndarray[Any, Any], found: set[int], palette: bool) -> Weights:
        self.seen |= found
        if self.ids is not None:
            return self._whole(np.isin(values, list(self.ids)))
        if palette and VOID in found and len(found) > 1:
            self.note("the palette value 255 is treated as void, not as part of the region")
            return self._whole((values > 0) & (values != VOID))
        if len(found) > 1:
            self.note(f"the region consists of all ids of the masks ({_listed(found)}); --roi-id selects some")
        return self._whole(values > 0)

    def _whole(self, mask: np.ndarray[Any, Any]) -> Weights:
        return cast(Weights, mask.view(np.uint8) * np.uint8(255))

    def fit(self, weights: Weights, where: str) -> Weights:
        """The mask scaled to the size of the clip by nearest neighbor. Raises InputError for another aspect ratio."""
        height, width = weights.shape
        if (height, width) == (self.height, self.width):
            return weights
        if abs((width * self.height) / (height * self.width) - 1) > ASPECT_SLACK:
            what = f"the mask is {width} x {height}, the upright clip {self.width} x {self.height}: the aspect ratios differ"
            raise InputError(what, where=where, hint="masks refer to the upright frame as players show it; rotate or crop them")
        import cv2

        self.note(f"masks of {width} x {height} scaled to {self.width} x {self.height}")
        return cast(Weights, cv2.resize(weights, (self.width, self.height), interpolation=cv2.INTER_NEAREST_EXACT))

    def read_video(self, pixels: UInt8[np.ndarray, "H W 3"], where: str) -> Weights:
        """The mask of a frame of a mask video. Without ids, values near 0 and 255 are cleaned of coding noise."""
        gray = pixels[..., 0]
        if self.ids is not None:
            self.seen |= {int(value) for value in np.flatnonzero(np.bincount(gray.ravel()))} - {0}
            return self.fit(self._whole(np.isin(gray, list(self.ids))), where)
        return self.fit(_CLEANED[gray], where)


_CLEANED = np.arange(256, dtype=np.uint8)
_CLEANED[:CLEAN], _CLEANED[-CLEAN:] = 0, 255


def _listed(ids: set[int], limit: int = 8) -> str:
    shown = ", ".join(str(value) for value in sorted(ids)[:limit])
    return shown + (", ..." if len(ids) > limit else "")


def _values(path: Path, note: Callable[[str], None]) -> tuple[np.ndarray[Any, Any], bool]:
    """(values (H, W) of an upright mask image, with palettes as indices; True if it has a palette)."""
    with reading(path), open(path, "rb") as stream, decoding(str(path)), Image.open(stream) as opened:
        current_limits().check(opened.width, opened.height, "the mask", str(path))
        image = ImageOps.exif_transpose(opened)
        return _plane(image, path, note), image.mode == "P"


def _plane(image: Image.Image, path: Path, note: Callable[[str], None]) -> np.ndarray[Any, Any]:
    if image.mode == "1":
        return np.asarray(image)
    if image.mode in ("P", "L", "I;16", "I;16B", "I;16L"):
        values = np.asarray(image)
        return values if values.dtype.itemsize == 1 else values.astype(np.uint16)
    if image.mode in _GRAY:
        return np.asarray(image)[..., 0]
    if image.mode in ("I", "F"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > np.iinfo(np.uint16).max or (values != np.rint(values)).any():
            raise InputError("label maps must have integer values from 0 to 65535", where=str(path))
        return values.astype(np.uint16)
    colors = np.asarray(image.convert("RGB"))
    if (colors[..., 0] == colors[..., 1]).all() and (colors[..., 0] == colors[..., 2]).all():
        return np.ascontiguousarray(colors[..., 0])
    note("the masks are colored: every pixel that is not black is region, and there are no ids")
    return cast(np.ndarray[Any, Any], colors.any(axis=2))


def draw(shape: Shape, width: int, height: int) -> Weights:
    """Mask of a box or ellipse: pixels whose centers are inside. Raises UsageError if the shape is outside the frame."""
    held = shape.inside(width, height)
    x = np.arange(width) + 0.5
    y = np.arange(height)[:, None] + 0.5
    if held.kind == "box":
        inside = (x >= held.x0) & (x < held.x1) & (y >= held.y0) & (y < held.y1)
        if not inside.any():  # thinner than a pixel
            inside[min(int(held.y0), height - 1), min(int(held.x0), width - 1)] = True
    else:
        center_x, center_y = (shape.x0 + shape.x1) / 2, (shape.y0 + shape.y1) / 2
        inside = ((x - center_x) / (shape.x1 - shape.x0)) ** 2 + ((y - center_y) / (shape.y1 - shape.y0)) ** 2 <= 0.25
    return cast(Weights, inside.view(np.uint8) * np.uint8(255))


def box_of(weights: Weights) -> tuple[int, int, int, int] | None:
    """The tight box x0, y0, x1, y1 of a mask; None for an empty mask."""
    filled = weights >= 128
    rows, columns = np.flatnonzero(filled.any(axis=1)), np.flatnonzero(filled.any(axis=0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
