"""From maps to objects: candidates, suppression that spares true overlaps, and borders refined by the full-size maps.

Outlines are star-convex polygons (Schmidt et al. 2018). Predicted overlap is left out of the comparison of two outlines, as in
Walter et al. 2021.

Coordinates of candidates and outlines are (y, x) of pixel centers in the resampled image of the network ("frame"); those of
objects are pixels of the user's image. Letters: K candidates, N objects, R rays.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from latens.data.masks import window_of
from latens.shapes import Bool, Float, Int, UInt8
from latens.systems.amodal.cells.config import STRIDE
from latens.systems.amodal.cells.targets import directions

MIN_CENTER = 0.25  # smallest object probability of a candidate
OVERLAPPING = 0.5  # overlap probability above which two objects may share a pixel
SHARED = 0.35  # share of the smaller of two outlines, without predicted overlap, above which the weaker is suppressed
SAME = 0.6  # IoU above which it is suppressed in any case
FOREGROUND = 0.5  # foreground probability of the pixels of an object
REACH = 1.3  # a pixel may be this far from the center of its object, relative to the outline
SMALLEST = 12  # pixels of the smallest object in the frame of the network
OVERLAP_BYTE = round(255 * OVERLAPPING)


class Candidates(NamedTuple):
    """Local maxima of the object probability."""

    center: Float[np.ndarray, "K 2"]
    score: Float[np.ndarray, "K"]
    rays: Float[np.ndarray, "K R"]
    overlap: Float[np.ndarray, "K"]  # overlap probability there

    def take(self, index: np.ndarray) -> Candidates:
        return Candidates(*(each[index] for each in self))


def candidates_of(
    center: Float[np.ndarray, "h w"], overlap: Float[np.ndarray, "h w"], log_rays: Float[np.ndarray, "R h w"]
) -> Candidates:
    """The local maxima of a map of probabilities (smoothed by 3 x 3 pixels) of at least MIN_CENTER."""
    smooth = cv2.GaussianBlur(center, (3, 3), 0.8)
    peak = (smooth >= cv2.dilate(smooth, np.ones((3, 3), dtype=np.uint8))) & (smooth >= MIN_CENTER)
    row, column = np.nonzero(peak)
    place = STRIDE * np.stack((row, column), axis=1).astype(np.float32)
    rays = np.exp(log_rays[:, row, column].T.astype(np.float32))
    return Candidates(place, smooth[row, column], np.ascontiguousarray(rays), overlap[row, column])


def outlines(candidates: Candidates) -> Float[np.ndarray, "K R 2"]:
    """Corners (y, x) of the outlines."""
    unit = directions(candidates.rays.shape[1])
    return candidates.center[:, None] + candidates.rays[..., None] * unit


def suppressed(candidates: Candidates, overlap: UInt8[np.ndarray, "h w"], size: tuple[int, int]) -> Int[np.ndarray, "N"]:
    """Indices of the candidates that remain, by decreasing score.

    `overlap` is the overlap probability (0 to 255) at stride 2, `size` that of the frame. A candidate is dropped if its center
    lies in an accepted outline where no overlap is predicted, or if it shares too many such pixels with an accepted one. Pixels
    of predicted overlap do not count, so that two objects that cover them both remain.
    """
    height, width = -(-size[0] // STRIDE), -(-size[1] // STRIDE)
    owner = np.full((height, width), -1, dtype=np.int32)
    kept: list[int] = []
    whole: list[int] = []  # pixels of each accepted outline, and those without overlap
    alone: list[int] = []
    corners = outlines(candidates) / STRIDE
    low = np.floor(corners.min(axis=1)).astype(int)
    high = np.ceil(corners.max(axis=1)).astype(int) + 1
    low, high = np.maximum(low, 0), np.minimum(high, (height, width))
    home = np.minimum((candidates.center / STRIDE).round().astype(int), (height - 1, width - 1))
    for index in np.argsort(-candidates.score, kind="stable"):
        (y0, x0), (y1, x1) = low[index], high[index]
        if y1 - y0 < 1 or x1 - x0 < 1:
            continue
        if owner[tuple(home[index])] >= 0 and candidates.overlap[index] < OVERLAPPING:
            continue
        mask = filled(corners[index] - (y0, x0), (y1 - y0, x1 - x0)).astype(bool)
        area = int(mask.sum())
        if area * STRIDE**2 < SMALLEST:
            continue
        free = mask & (overlap[y0:y1, x0:x1] < OVERLAP_BYTE)
        region = owner[y0:y1, x0:x1]
        free_area = int(free.sum())
        if _covered(region, mask, free, area, free_area, whole, alone):
            continue
        region[mask & ((region < 0) | free)] = len(kept)
        kept.append(int(index))
        whole.append(area)
        alone.append(free_area)
    return np.array(kept, dtype=np.int64)


def _covered(
    region: np.ndarray, mask: np.ndarray, free: np.ndarray, area: int, free_area: int, whole: list[int], alone: list[int]
) -> bool:
    """True if an accepted outline covers too much of a new one, of `area` pixels and `free_area` without overlap."""
    others = region[mask]
    others = others[others >= 0]
    if not len(others):
        return False
    number, both = np.unique(others, return_counts=True)
    if any(int(b) / (area + whole[n] - int(b)) > SAME for n, b in zip(number, both, strict=True)):
        return True
    others = region[free]
    others = others[others >= 0]
    number, both = np.unique(others, return_counts=True)
    return any(int(b) > SHARED * max(min(free_area, alone[n]), 1) for n, b in zip(number, both, strict=True))


def filled(corners: Float[np.ndarray, "R 2"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """A polygon with corners (y, x), filled with 1."""
    mask = np.zeros(size, dtype=np.uint8)
    cv2.fillPoly(mask, [np.round(corners[:, ::-1] * 16).astype(np.int32)], 1, shift=4)
    return mask


class Piece(NamedTuple):
    """One object: masks in the window that starts at (top, left) of the image."""

    top: int
    left: int
    amodal: Bool[np.ndarray, "h w"]  # the whole object
    visible: Bool[np.ndarray, "h w"]  # pixels that belong to it alone or first: those of a label map
    agreement: float  # IoU of the outline and the refined border
    certainty: float  # mean of |2 p - 1| of the foreground over the object


def relative_distance(
    center: Float[np.ndarray, "2"], rays: Float[np.ndarray, "R"], window: tuple[int, int, int, int]
) -> Float[np.ndarray, "h w"]:
    """Distance from the center relative to the outline, which is 1, in a window (top, left, bottom, right)."""
    y = np.arange(window[0], window[2], dtype=np.float32)[:, None] - center[0]
    x = np.arange(window[1], window[3], dtype=np.float32)[None] - center[1]
    shape = (window[2] - window[0], window[3] - window[1])
    if 0 in shape:
        return np.zeros(shape, dtype=np.float32)
    radius, angle = cv2.cartToPolar(
        np.ascontiguousarray(np.broadcast_to(x, shape)), np.ascontiguousarray(np.broadcast_to(y, shape))
    )
    count = len(rays)
    place = angle * np.float32(count / (2 * math.pi))
    before = place.astype(np.int32)
    share = place - before
    before %= count
    # The outline between two rays is a straight line, so that reciprocal distances are nearly linear.
    inverse = 1 / np.maximum(rays, np.float32(0.5))
    return radius * ((1 - share) * inverse[before] + share * inverse[(before + 1) % count])


def refined(
    centers: Float[np.ndarray, "N 2"],
    rays: Float[np.ndarray, "N R"],
    foreground: UInt8[np.ndarray, "H W"],
    overlap: UInt8[np.ndarray, "H W"],
) -> list[Piece | None]:
    """Objects of an image from outlines and the maps of the image (0 to 255). None for an object without pixels.

    Every foreground pixel belongs to the object whose center is nearest relative to its outline. Pixels of predicted overlap
    belong to all objects that contain them.
    """
    height, width = foreground.shape
    unit = directions(rays.shape[1]) if len(rays) else np.zeros((0, 2), dtype=np.float32)
    best = np.full((height, width), REACH, dtype=np.float32)
    owner = np.full((height, width), -1, dtype=np.int32)
    windows, levels = [], []
    for index in range(len(rays)):
        corners = centers[index] + REACH * rays[index][:, None] * unit
        y0, x0 = np.maximum(np.floor(corners.min(axis=0)).astype(int), 0)
        y1, x1 = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 1, (height, width))
        y0, x0 = min(y0, height), min(x0, width)
        window = (int(y0), int(x0), max(int(y1), int(y0)), max(int(x1), int(x0)))
        place = (slice(window[0], window[2]), slice(window[1], window[3]))
        level = relative_distance(centers[index], rays[index], window)
        nearer = level < best[place]
        best[place][nearer] = level[nearer]
        owner[place][nearer] = index
        windows.append(place)
        levels.append(level)
    owner[foreground < round(255 * FOREGROUND)] = -1
    return [
        _piece(owner[place] == index, level, foreground[place], overlap[place], place)
        for index, (place, level) in enumerate(zip(windows, levels, strict=True))
    ]


def _piece(
    own: np.ndarray, level: np.ndarray, foreground: np.ndarray, overlap: np.ndarray, place: tuple[slice, slice]
) -> Piece | None:
    if not own.any():
        return None
    own = largest_part(own)
    shared = (level <= 1) & (overlap >= OVERLAP_BYTE) & (foreground >= round(255 * FOREGROUND))
    amodal = own | shared
    inside = level <= 1
    agreement = float((amodal & inside).sum() / max(int((amodal | inside).sum()), 1))
    certainty = float(np.abs(foreground[amodal].astype(np.float32) / 127.5 - 1).mean())
    rows, columns = window_of(amodal)
    top, left = place[0].start + rows.start, place[1].start + columns.start
    return Piece(top, left, amodal[rows, columns], own[rows, columns], agreement, certainty)


def largest_part(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The largest connected part of a mask, with its holes filled."""
    padded = np.pad(mask, 1).astype(np.uint8)
    count, numbers, stats, _ = cv2.connectedComponentsWithStats(padded, connectivity=4)
    if count > 2:
        padded = (numbers == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())).astype(np.uint8)
    outside = padded.copy()
    cv2.floodFill(outside, None, (0, 0), 2)
    return np.asarray(outside != 2)[1:-1, 1:-1]
