"""Training targets of the star model, from the whole outlines of all objects of a canvas.

Letters: C side of the canvas, N objects, R rays, P points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from latens.shapes import Bool, Float, UInt8
from latens.systems.amodal.cells.config import STRIDE

FARTHEST = 64  # iterations of the ray tracing
CONTACT = 5  # side of the window in which two objects are in contact, pixels
OWN_DEPTH = 0.5  # depth of the deepest own pixel, relative to that of the whole object, from which on its center is 1
REPLICATED = 24  # pixels by which an object that the canvas cuts is continued for its distance map


class Thing(NamedTuple):
    """One object of a canvas: its whole mask in the window that starts at (top, left), which may leave the canvas."""

    top: int
    left: int
    mask: Bool[np.ndarray, "h w"]
    front: bool = False  # hides the objects behind it; otherwise it is translucent


class Targets(NamedTuple):
    """Targets of one crop; weights are 0 where nothing is known."""

    center: Float[np.ndarray, "h w"]  # distance to the border in [0, 1], relative to the deepest pixel that is not shared
    overlap: UInt8[np.ndarray, "h w"]
    rays: Float[np.ndarray, "R h w"]  # pixels
    ray_weight: UInt8[np.ndarray, "R h w"]
    foreground: UInt8[np.ndarray, "H W"]
    contact: UInt8[np.ndarray, "H W"]
    known: UInt8[np.ndarray, "H W"]  # 0 beyond the border of the image


def directions(rays: int) -> Float[np.ndarray, "R 2"]:
    """Unit vectors (y, x) of the rays: the first to the right, then clockwise on the screen."""
    angle = 2 * math.pi * np.arange(rays) / rays
    return np.stack((np.sin(angle), np.cos(angle)), axis=1).astype(np.float32)


def targets_of(
    things: Sequence[Thing], canvas: int, crop: int, rays: int, inside: tuple[int, int, int, int] | None = None
) -> Targets:
    """Targets of the central `crop` of a square canvas. `inside` is (top, left, bottom, right) of the image on the canvas."""
    rim = inside or (0, 0, canvas, canvas)
    owner = np.full((canvas, canvas), -1, dtype=np.int32)
    count = np.zeros((canvas, canvas), dtype=np.uint8)
    for index, thing in enumerate(things):
        place, part = _on(thing, canvas)
        covered = thing.mask[part]
        region, number = count[place], owner[place]
        # A translucent object shares its overlap with the one below: no pixel there belongs to either.
        number[covered] = index if thing.front else np.where(region[covered] > 0, -1, index)
        region[covered] += 1
    known = np.zeros((canvas, canvas), dtype=np.uint8)
    known[rim[0] : rim[2], rim[1] : rim[3]] = 1
    center = np.zeros((canvas, canvas), dtype=np.float32)
    maps = [_distance(thing, rim) for thing in things]
    for index, (thing, distance) in enumerate(zip(things, maps, strict=True)):
        place, part = _on(thing, canvas)
        own = owner[place] == index
        deepest = max(float(distance[part][own].max(initial=0)), OWN_DEPTH * float(distance.max()), 1.0)
        center[place][own] = (distance[part] / deepest)[own]
    start = (canvas - crop) // 2
    middle = (slice(start, start + crop), slice(start, start + crop))
    coarse = (slice(start, start + crop, STRIDE), slice(start, start + crop, STRIDE))
    lengths, weight = trace(things, maps, owner, coarse, rays, rim)
    return Targets(
        center[coarse], (count[coarse] > 1).astype(np.uint8), lengths, weight,
        (count[middle] > 0).astype(np.uint8), contacts(owner)[middle], known[middle],
    )  # fmt: skip


def contacts(owner: np.ndarray) -> UInt8[np.ndarray, "C C"]:
    """Pixels whose window of CONTACT pixels holds two objects."""
    kernel = np.ones((CONTACT, CONTACT), dtype=np.uint8)
    high = owner.astype(np.float32)
    low = np.where(owner >= 0, -high, -np.inf).astype(np.float32)
    return np.asarray((cv2.dilate(high, kernel) > -cv2.dilate(low, kernel)), dtype=np.uint8)


def trace(
    things: Sequence[Thing],
    maps: Sequence[np.ndarray],
    owner: np.ndarray,
    coarse: tuple[slice, slice],
    rays: int,
    rim: tuple[int, int, int, int],
) -> tuple[Float[np.ndarray, "R h w"], UInt8[np.ndarray, "R h w"]]:
    """Distances from the points of the coarse grid to the outline of their object, and 1 where they end inside the image.

    A step along a ray is the distance to the nearest border, which cannot overshoot. The result is exact to half a pixel.
    """
    grid = owner[coarse]
    lengths = np.zeros((rays, *grid.shape), dtype=np.float32)
    weight = np.zeros((rays, *grid.shape), dtype=np.uint8)
    row, column = np.nonzero(grid >= 0)
    if not len(row):
        return lengths, weight
    index = grid[row, column]
    atlas = np.concatenate([np.pad(_bounded(each), 1).ravel() for each in maps])  # a ring of zeros ends every ray
    wide = np.array([each.shape[1] + 2 for each in maps])
    tall = np.array([each.shape[0] + 2 for each in maps])
    offset = np.cumsum([0, *(wide * tall)[:-1]])
    y0 = (coarse[0].start + STRIDE * row).astype(np.float32)
    x0 = (coarse[1].start + STRIDE * column).astype(np.float32)
    tops = np.array([thing.top for thing in things], dtype=np.float32)[index] - 1
    lefts = np.array([thing.left for thing in things], dtype=np.float32)[index] - 1
    unit = directions(rays)
    y = np.repeat(y0 - tops, rays) + np.float32(0.5)
    x = np.repeat(x0 - lefts, rays) + np.float32(0.5)
    uy, ux = np.tile(unit[:, 0], len(index)), np.tile(unit[:, 1], len(index))
    width, base = np.repeat(wide[index], rays), np.repeat(offset[index], rays)
    far = np.zeros(len(y), dtype=np.float32)
    active = np.arange(len(y))
    for _ in range(FARTHEST):
        t = far[active]
        distance = atlas[
            base[active] + (y[active] + t * uy[active]).astype(np.int64) * width[active]
            + (x[active] + t * ux[active]).astype(np.int64)
        ]  # fmt: skip
        going = distance > 0
        active = active[going]
        if not len(active):
            break
        far[active] += np.maximum(distance[going] - 1, 0.5)
    far = np.maximum(far - 0.25, 0.5)
    end_y, end_x = np.repeat(y0, rays) + far * uy, np.repeat(x0, rays) + far * ux
    ended = (end_y > rim[0] - 0.5) & (end_y < rim[2] - 0.5) & (end_x > rim[1] - 0.5) & (end_x < rim[3] - 0.5)
    lengths[:, row, column] = far.reshape(-1, rays).T
    weight[:, row, column] = ended.reshape(-1, rays).T
    return lengths, weight


def _on(thing: Thing, canvas: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The part of the canvas that an object covers, and the same part of its window."""
    height, width = thing.mask.shape
    y0, x0 = max(thing.top, 0), max(thing.left, 0)
    y1, x1 = max(min(thing.top + height, canvas), y0), max(min(thing.left + width, canvas), x0)
    inner = (slice(y0 - thing.top, y1 - thing.top), slice(x0 - thing.left, x1 - thing.left))
    return (slice(y0, y1), slice(x0, x1)), inner


def _distance(thing: Thing, rim: tuple[int, int, int, int]) -> Float[np.ndarray, "h w"]:
    """Distance of every pixel of an object to its outline. Sides that the border of the image cuts are no outline."""
    height, width = thing.mask.shape
    ends = (thing.top == rim[0], thing.top + height == rim[2], thing.left == rim[1], thing.left + width == rim[3])
    sides = [REPLICATED if cut else 0 for cut in ends]
    mask = np.pad(thing.mask.astype(np.uint8), (sides[:2], sides[2:]), mode="edge")
    mask = np.pad(mask, 1)
    found = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    return np.asarray(found[1 + sides[0] :, 1 + sides[2] :][:height, :width], dtype=np.float32)


def _bounded(distance: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Distances that do not reach beyond the window."""
    height, width = distance.shape
    y, x = np.arange(1, height + 1, dtype=np.float32), np.arange(1, width + 1, dtype=np.float32)
    return np.minimum(distance, np.minimum(np.minimum(y, y[::-1])[:, None], np.minimum(x, x[::-1])[None]))
