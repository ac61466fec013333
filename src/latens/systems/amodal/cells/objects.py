"""Objects of a frame in pixels of the user's image, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from latens.shapes import Float, UInt8
from latens.systems.amodal.cells.config import STRIDE
from latens.systems.amodal.cells.decode import REACH, Candidates, Piece, refined
from latens.systems.amodal.cells.frame import Frame

BLOCK = 1024  # side of a block in which objects are refined together, pixels of the image


class Objects(NamedTuple):
    """Objects of an image by decreasing object probability."""

    pieces: list[Piece]
    center: np.ndarray  # (N,) object probability
    diameter: np.ndarray  # (N,) of the outline, pixels of the frame


def objects_of(frame: Frame, size: tuple[int, int]) -> Objects:
    """The objects of an image of `size` (H, W)."""
    kept = frame.candidates
    scale = np.array(frame.scale, dtype=np.float32)
    centers = (kept.center + 0.5) / scale - 0.5
    rays = kept.rays / np.float32(np.sqrt(scale[0] * scale[1]))
    found: dict[int, Piece] = {}
    for block in _blocks(size):
        for index, piece in _in_block(frame, centers, rays, block, size):
            if piece is not None:
                found[index] = piece
    order = sorted(found)
    chosen = kept.take(np.array(order, dtype=np.int64))
    return Objects([found[index] for index in order], chosen.score, diameters(chosen))


def image_map(map_: UInt8[np.ndarray, "h w"], size: tuple[int, int], stride: int = 1) -> Float[np.ndarray, "H W"]:
    """A map of the frame, at a stride, as probabilities of the pixels of an image: those that decide its objects."""
    whole = np.empty(size, dtype=np.float32)
    for top, left, bottom, right in _blocks(size):
        whole[top:bottom, left:right] = _of_window(map_, (top, left, bottom, right), size, stride) / np.float32(255)
    return whole


def diameters(candidates: Candidates) -> np.ndarray:
    """Diameters of the outlines of candidates, pixels of the frame."""
    return np.asarray(2 * np.sqrt((candidates.rays**2).mean(axis=1)))


def _blocks(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    for y in range(0, size[0], BLOCK):
        for x in range(0, size[1], BLOCK):
            yield y, x, min(y + BLOCK, size[0]), min(x + BLOCK, size[1])


def _in_block(
    frame: Frame, centers: np.ndarray, rays: np.ndarray, block: tuple[int, int, int, int], size: tuple[int, int]
) -> Iterator[tuple[int, Piece | None]]:
    """The objects whose center lies in a block. Objects around it take part, so that blocks do not change the result."""
    y, x = np.clip(centers[:, 0], 0, size[0] - 1), np.clip(centers[:, 1], 0, size[1] - 1)
    mine = (y >= block[0] - 0.5) & (y < block[2] - 0.5) & (x >= block[1] - 0.5) & (x < block[3] - 0.5)
    if not mine.any():
        return
    reach = REACH * rays.max(axis=1)
    margin = int(np.ceil(reach[mine].max())) + 2
    window = (
        max(block[0] - margin, 0), max(block[1] - margin, 0), min(block[2] + margin, size[0]), min(block[3] + margin, size[1])
    )  # fmt: skip
    near = np.flatnonzero((y + reach > window[0]) & (y - reach < window[2]) & (x + reach > window[1]) & (x - reach < window[3]))
    foreground = _of_window(frame.foreground, window, size, 1)
    overlap = _of_window(frame.overlap, window, size, STRIDE)
    start = np.array(window[:2], dtype=np.float32)
    pieces = refined(centers[near] - start, rays[near], foreground, overlap)
    for index, piece in zip(near, pieces, strict=True):
        if mine[index]:
            moved = None if piece is None else piece._replace(top=piece.top + window[0], left=piece.left + window[1])
            yield int(index), moved


def _of_window(map_: np.ndarray, window: tuple[int, int, int, int], size: tuple[int, int], stride: int) -> np.ndarray:
    """A map of the frame, at a stride, resampled to the pixels of a window of the image."""
    height, width = window[2] - window[0], window[3] - window[1]
    if map_.shape == size and stride == 1:
        return map_[window[0] : window[2], window[1] : window[3]]
    rows, columns = map_.shape[0] / size[0], map_.shape[1] / size[1]
    low = (max(int(window[0] * rows) - 4, 0), max(int(window[1] * columns) - 4, 0))
    high = (int(window[2] * rows) + 5, int(window[3] * columns) + 5)
    part = map_[low[0] : high[0], low[1] : high[1]]
    if min(rows, columns) > 1.3:
        part = cv2.GaussianBlur(part, (0, 0), sigmaX=0.4 * columns, sigmaY=0.4 * rows)
    matrix = np.array(
        [
            [columns, 0, (window[1] + 0.5) * columns - 0.5 - low[1]],
            [0, rows, (window[0] + 0.5) * rows - 0.5 - low[0]],
        ]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(part, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE))
