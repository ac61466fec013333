"""Masks of objects: run-length codes for files, and aligned cropping and pasting for networks.

Run-length codes are those of COCO: {"size": [H, W], "counts": text}, in column-major order. Boxes are (x0, y0, x1, y1) in
pixels; pixel i covers [i, i + 1), so a mask of one pixel at (row, column) has the box (column, row, column + 1, row + 1).

Letters: N masks, H W image, S side of a crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latens.errors import InputError
from latens.shapes import Bool, Float, Int


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


def read_segmentation(value: Any, size: tuple[int, int]) -> Rle:
    """Mask of size (H, W) from a segmentation in JSON: polygons, one flat polygon, or a run-length code, packed or not.

    Raises InputError for other values, and for a code of another size.
    """
    from pycocotools import mask as coco

    if isinstance(value, dict) and "counts" in value:
        if list(value.get("size", ())) != list(size):
            raise InputError(f"a mask has the size {value.get('size')}, its image {list(size)} (height, width)")
        if isinstance(value["counts"], list):
            value = coco.frPyObjects(value, *size)
        counts = value["counts"]
        rle: Rle = {"size": list(size), "counts": counts.decode("ascii") if isinstance(counts, bytes) else str(counts)}
        runs(rle)
        return rle
    if isinstance(value, list) and value and isinstance(value[0], int | float):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(part, list) for part in value):
        raise InputError(f"a segmentation must be polygons or a run-length code, not {str(value)[:40]!r}")
    if any(len(part) < 6 or len(part) % 2 for part in value):
        raise InputError("a polygon must be a list x, y, x, y, ... of at least three points")
    if not value:
        return encode(np.zeros(size, dtype=bool))
    merged = coco.merge(coco.frPyObjects(value, *size))
    return {"size": list(size), "counts": merged["counts"].decode("ascii")}


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


# ------------------------------------------------------------------------------------------------- crops and pastes


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
    height, width = size
    x = torch.arange(width, device=grids.device, dtype=grids.dtype) + 0.5
    y = torch.arange(height, device=grids.device, dtype=grids.dtype) + 0.5
    extent = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)
    u = (x - boxes[:, :1]) / extent[:, :1] * 2 - 1  # (N, W), -1 and 1 at the sides of the box
    v = (y - boxes[:, 1:2]) / extent[:, 1:] * 2 - 1
    grid = torch.stack((u[:, None, :].expand(-1, height, -1), v[:, :, None].expand(-1, -1, width)), dim=3)
    return F.grid_sample(grids[:, None], grid.to(grids.dtype), align_corners=False)[:, 0]
