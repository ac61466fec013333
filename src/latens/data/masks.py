"""Masks of objects: run-length codes for files, and aligned cropping and pasting for networks.

Run-length codes are those of COCO: {"size": [H, W], "counts": text}, in column-major order. Boxes are (x0, y0, x1, y1) in
pixels; pixel i covers [i, i + 1), so a mask of one pixel at (row, column) has the box (column, row, column + 1, row + 1).

Letters: N masks, H W image, S side of a crop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latens.data.limits import current_limits, hint
from latens.errors import InputError, LimitExceeded
from latens.shapes import Bool, Float, Int

MAX_PIXELS = 2**28  # of one mask, whatever the limits of images
MAX_OVERLAPS = 250_000  # pairs of masks of one image that have pixels in common
MAX_OUTLINE = 10**7  # pixels; rasterizing takes about 50 bytes for each
BEYOND = 2  # how far a polygon may extend beyond its image, in longer sides of the image


class Rle(TypedDict):
    """A run-length coded mask, as in COCO's JSON files."""

    size: list[int]  # [H, W]
    counts: str


# ------------------------------------------------------------------------------------------------- run-length codes


def encode(mask: Bool[np.ndarray, "H W"]) -> Rle:
    """Run-length code of a mask."""
    from pycocotools import mask as coco

    found = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in found["size"]], "counts": found["counts"].decode("ascii")}


def encode_window(mask: Bool[np.ndarray, "h w"], top: int, left: int, size: tuple[int, int]) -> Rle:
    """Run-length code of a mask in the window that starts at (top, left) of an image of `size` (H, W).

    The time depends on the window, not on the image.
    """
    from pycocotools import mask as coco

    height, width = size
    column, row = np.nonzero(mask.T)  # in column-major order
    place = (column + left).astype(np.int64) * height + (row + top)
    if not len(place):
        lengths = [height * width]
    else:
        breaks = np.flatnonzero(np.diff(place) != 1)
        starts, ends = place[np.append(0, breaks + 1)], place[np.append(breaks, len(place) - 1)] + 1
        edges = np.append(np.stack((starts, ends), axis=1).ravel(), height * width)
        lengths = np.diff(edges, prepend=0).tolist()
        lengths = lengths[:-1] if lengths[-1] == 0 else lengths
    found = coco.frPyObjects({"size": [height, width], "counts": lengths}, height, width)
    return {"size": [height, width], "counts": found["counts"].decode("ascii")}


def decode(rle: Rle) -> Bool[np.ndarray, "H W"]:
    """Mask of a run-length code. Raises InputError for a damaged code."""
    height, width = rle["size"]
    values = np.repeat(np.arange(len(lengths := runs(rle))) % 2 == 1, lengths)
    return values.reshape(width, height).T


def runs(rle: Rle) -> Int[np.ndarray, "R"]:
    """Run lengths of a code, starting with background, unpacked and checked. Raises InputError for a damaged code.

    COCO packs each length (from the third run on, its difference from the length two runs before) into characters of five bits,
    low bits first. Bit 0x20 marks continuation; bit 0x10 of the last character is the sign.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in rle["counts"]:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise InputError("a run-length code is damaged", hint="write the annotations again")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        value -= (1 << shift) if bits & 0x10 else 0
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    if shift or any(length < 0 for length in lengths) or sum(lengths) != rle["size"][0] * rle["size"][1]:
        raise InputError("a run-length code does not fill its image", hint="write the annotations again")
    return np.array(lengths, dtype=np.int64)


def image_size(height: Any, width: Any) -> tuple[int, int]:
    """(H, W) of an image of JSON values. Raises InputError unless they are positive integers.

    Raises LimitExceeded above the limit of pixels of images, and above MAX_PIXELS.
    """
    sides = []
    for name, value in (("height", height), ("width", width)):
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53 else 0.0
        if number < 1 or number != int(number):
            raise InputError(f"the {name} of an image must be a positive integer, not {_shown(value)}")
        sides.append(int(number))
    pixels, limit = sides[0] * sides[1], min(current_limits().pixels, MAX_PIXELS)
    if pixels > limit:
        what = f"an image of {sides[1]:,} x {sides[0]:,} pixels is larger than the limit of {limit:,}"
        raise LimitExceeded(what, hint=hint([f"pixels={pixels}"]) if pixels <= MAX_PIXELS else None)
    return sides[0], sides[1]


def check_coordinates(values: Sequence[Any], size: tuple[int, int]) -> list[float]:
    """Coordinates in pixels as floats. Raises InputError unless they are finite numbers within a few sizes of the image.

    Rasterizers written in C crash on other values, or allocate memory for the length of the outline.
    """
    side = max(size)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"a coordinate is not a number: {_shown(value)}")
        if not -BEYOND * side <= value <= (1 + BEYOND) * side:  # false for NaN
            what = f"the coordinate {_shown(value)} is far outside the image of {size[1]} x {size[0]} pixels"
            raise InputError(what, hint="coordinates are in pixels of the image; correct or remove this object")
    return [float(value) for value in values]


def _shown(value: Any) -> str:
    if isinstance(value, int):
        return f"{value}" if abs(value) < 10**15 else "an integer of more than 15 digits"
    return f"{value:g}" if isinstance(value, float) else f"{str(value)[:40]!r}"


def read_segmentation(value: Any, size: tuple[int, int]) -> Rle:
    """Mask of size (H, W) from a segmentation in JSON: polygons, one flat polygon, or a run-length code, packed or not.

    Raises InputError for other values, for a code of another size, and for coordinates far outside the image.
    """
    from pycocotools import mask as coco

    if isinstance(value, dict) and "counts" in value:
        return _read_code(value, size)
    if isinstance(value, list) and value and isinstance(value[0], int | float):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(part, list) for part in value):
        raise InputError(f"a segmentation must be polygons or a run-length code, not {_shown(value)}")
    if any(len(part) < 6 or len(part) % 2 for part in value):
        raise InputError("a polygon must be a list x, y, x, y, ... of at least three points")
    if not value:
        return encode(np.zeros(size, dtype=bool))
    polygons = [check_coordinates(part, size) for part in value]
    if sum(_outline(part) for part in polygons) > MAX_OUTLINE:
        raise InputError(f"the outline of an object is longer than {MAX_OUTLINE:,} pixels", hint="simplify its polygons")
    merged = coco.merge(coco.frPyObjects(polygons, *size))
    return {"size": list(size), "counts": merged["counts"].decode("ascii")}


def _outline(polygon: list[float]) -> float:
    """Length of a polygon in steps of the rasterizer."""
    points = np.array(polygon).reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())


def _read_code(value: dict[str, Any], size: tuple[int, int]) -> Rle:
    """A run-length code of an image of `size`; lists of lengths are packed. Raises InputError for a damaged code."""
    from pycocotools import mask as coco

    if not isinstance(value.get("size"), list) or value["size"] != list(size):
        raise InputError(f"a mask has the size {str(value.get('size'))[:40]}, its image {list(size)} (height, width)")
    counts = value["counts"]
    if isinstance(counts, list):
        if any(isinstance(run, bool) or not isinstance(run, int) or not 0 <= run <= MAX_PIXELS for run in counts):
            raise InputError("a run-length code has a length that is not an integer from 0 to the size of the image")
        if sum(counts) != size[0] * size[1]:
            raise InputError("a run-length code does not fill its image", hint="write the annotations again")
        counts = coco.frPyObjects({"size": list(size), "counts": counts}, *size)["counts"].decode("ascii")
    rle: Rle = {"size": list(size), "counts": counts.decode("ascii") if isinstance(counts, bytes) else str(counts)}
    runs(rle)
    return rle


def union(parts: Sequence[Rle]) -> Rle:
    """The union of coded masks of one size; a single mask is returned unchanged."""
    return parts[0] if len(parts) == 1 else _merged(parts, intersect=False)


def intersection(left: Rle, right: Rle) -> Rle:
    """The common pixels of two coded masks of one size."""
    return _merged((left, right), intersect=True)


def complement(rle: Rle) -> Rle:
    """The pixels of the image that are not in a coded mask."""
    from pycocotools import mask as coco

    lengths = runs(rle).tolist()
    lengths = lengths[1:] if lengths[0] == 0 else [0, *lengths]
    found = coco.frPyObjects({"size": rle["size"], "counts": lengths}, *rle["size"])
    return {"size": rle["size"], "counts": found["counts"].decode("ascii")}


def _merged(parts: Sequence[Rle], *, intersect: bool) -> Rle:
    from pycocotools import mask as coco

    found = coco.merge(list(parts), intersect=intersect)
    return {"size": [int(side) for side in found["size"]], "counts": found["counts"].decode("ascii")}


def area(rle: Rle) -> int:
    """Number of pixels of a coded mask."""
    from pycocotools import mask as coco

    return int(coco.area(rle))


def corner_box(rle: Rle) -> tuple[float, float, float, float]:
    """COCO's (x, y, width, height) of a coded mask; zeros for an empty mask."""
    from pycocotools import mask as coco

    x, y, width, height = (float(value) for value in coco.toBbox(rle))
    return x, y, width, height


def overlaps(left: Sequence[Rle], right: Sequence[Rle]) -> Float[np.ndarray, "L R"]:
    """Intersection over union of every pair of coded masks."""
    from pycocotools import mask as coco

    if not left or not right:
        return np.zeros((len(left), len(right)))
    matrix: np.ndarray = np.asarray(coco.iou(list(left), list(right), [0] * len(right)), dtype=np.float64)
    return matrix


def overlapping_pairs(masks: Sequence[Rle]) -> Iterator[tuple[int, int]]:
    """Pairs (a, b) with a < b of the numbers of coded masks that have pixels in common, in order.

    Memory grows with the number of masks, not with its square. Raises LimitExceeded above MAX_OVERLAPS.
    """
    from pycocotools import mask as coco

    if not masks:
        return
    left, top, width, height = np.asarray(coco.toBbox(list(masks))).T
    right, bottom = left + width, top + height
    count = 0
    for a in range(len(masks)):
        rest = slice(a + 1, None)
        near = (left[rest] < right[a]) & (right[rest] > left[a]) & (top[rest] < bottom[a]) & (bottom[rest] > top[a])
        numbers = (a + 1 + np.flatnonzero(near)).tolist()
        for b, common in zip(numbers, overlaps([masks[a]], [masks[b] for b in numbers]).ravel(), strict=True):
            if common > 0:
                count += 1
                if count > MAX_OVERLAPS:
                    raise LimitExceeded(f"more than {MAX_OVERLAPS:,} pairs of outlines overlap in one image")
                yield a, b


# ------------------------------------------------------------------------------------------------- crops and pastes


def window_of(mask: Bool[np.ndarray, "H W"]) -> tuple[slice, slice]:
    """Rows and columns of the tight box around a mask; a single pixel for an empty mask."""
    lines = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    rows, columns = (slice(int(each[0]), int(each[-1]) + 1) if len(each) else slice(0, 1) for each in lines)
    return rows, columns


def boxes_of(masks: Float[Tensor, "N H W"]) -> Float[Tensor, "N 4"]:
    """Tight boxes (x0, y0, x1, y1) of masks; zeros for an empty mask."""
    filled = masks > 0
    sides = []
    for axis in (1, 2):  # reduce over rows for columns, then over columns for rows
        line = filled.any(dim=axis)
        length = line.shape[1]
        first = line.float().argmax(1)
        last = length - line.flip(1).float().argmax(1)
        sides.append((first, torch.where(line.any(1), last, first)))
    (x0, x1), (y0, y1) = sides
    return torch.stack((x0, y0, x1, y1), dim=1).float()


def crop(masks: Float[Tensor, "N H W"], boxes: Float[Tensor, "N 4"], size: int) -> Float[Tensor, "N S S"]:
    """Area coverage in [0, 1] of each mask on an S x S grid over its box; the outside of the image is empty.

    Exact for any box, because coverage is separable in rows and columns. Boxes need a positive extent.
    """
    masks = masks if masks.is_floating_point() else masks.float()
    rows = _cover(boxes[:, 1], boxes[:, 3], size, masks.shape[1]).to(masks.dtype)
    columns = _cover(boxes[:, 0], boxes[:, 2], size, masks.shape[2]).to(masks.dtype)
    return (rows @ masks @ columns.mT).clamp(0, 1)


def _cover(start: Float[Tensor, "N"], end: Float[Tensor, "N"], size: int, length: int) -> Float[Tensor, "N S L"]:
    """Share of each of S cells between start and end that lies on each of `length` pixels."""
    edges = torch.linspace(0, 1, size + 1, device=start.device)
    pixels = torch.arange(length, device=start.device, dtype=torch.float32)
    edge = start[:, None].float() + edges * (end - start)[:, None].float()
    below = (edge[:, :, None] - pixels).clamp(0, 1)  # share of every pixel before the edge
    return below.diff(dim=1) * (size / (end - start).float())[:, None, None]


def paste(grids: Float[Tensor, "N S S"], boxes: Float[Tensor, "N 4"], size: tuple[int, int]) -> Float[Tensor, "N H W"]:
    """Sample grids on their boxes bilinearly at the pixel centers of an image of size (H, W); 0 outside.

    `crop`, then `paste` and a threshold of 0.5 restore masks to within a fraction of a pixel.
    """
    return paste_part(grids, boxes, slice(0, size[0]), slice(0, size[1]))


def paste_part(
    grids: Float[Tensor, "N S S"], boxes: Float[Tensor, "N 4"], rows: slice, columns: slice
) -> Float[Tensor, "N h w"]:
    """The values of `paste` in some rows and columns."""
    x = torch.arange(columns.start, columns.stop, device=grids.device, dtype=grids.dtype) + 0.5
    y = torch.arange(rows.start, rows.stop, device=grids.device, dtype=grids.dtype) + 0.5
    extent = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)
    u = (x - boxes[:, :1]) / extent[:, :1] * 2 - 1  # (N, w), -1 and 1 at the sides of the box
    v = (y - boxes[:, 1:2]) / extent[:, 1:] * 2 - 1
    grid = torch.stack((u[:, None, :].expand(-1, len(y), -1), v[:, :, None].expand(-1, -1, len(x))), dim=3)
    return F.grid_sample(grids[:, None], grid.to(grids.dtype), align_corners=False)[:, 0]
