"""Tracking of a region of the first frame through a clip by dense optical flow.

DIS flow (Kroeger et al. 2016) is computed forward and backward at a reduced size. The backward flow warps the mask of the
previous frame. Where the two flows are inconsistent (occlusions), and along the outline, color histograms of region and
surroundings classify the pixels. In a box, GrabCut (Rother et al. 2004) segments the object; the box moves by the similarity
transform that fits the flow of the object, and is pulled towards the box of the mask.

The region is lost if the flows are inconsistent, if the area or the colors change too much, if the colors are closer to those
of the surroundings, or if the two boxes drift apart, because flow and color then follow different objects.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple, cast

import numpy as np

from latens.data.images import Pixels
from latens.data.regions.masks import Weights, box_of, draw
from latens.data.regions.words import Shape
from latens.shapes import Float

LONG_SIDE = 432  # pixels; longer side of the frames for optical flow
CONSISTENT = 1.0  # largest difference between forward and backward flow, in pixels at that size
MIN_CONSISTENT = 0.5  # smallest consistent share of the region; below it the region is lost
MIN_AREA, MAX_GROWTH = 0.3, 6.0  # smallest and largest area relative to that in the first frame
MIN_MATCH = 0.25  # smallest overlap of the color histograms of the region now and in the first frame
MIN_OVERLAP, OVERLAP_FRAMES = 0.6, 5  # smallest IoU of the box and the box of the mask, averaged over this many frames
BINS = 12  # histogram bins per color channel
MEMORY = 0.02  # update rate of the histograms
POINTS, REPROJECTION, MAX_ZOOM = 400, 1.5, 0.06  # similarity fit: points, RANSAC threshold in pixels, largest zoom per frame
PULL = 0.1  # rate per frame at which the box moves towards the box of the mask
MAX_EXTENT = 0.15  # distance by which the mask may extend beyond the box, relative to its sides
SMOOTH, EPSILON = 4, 1e-3  # radius in pixels and regularization of the guided filter
FILLED = (0.1, 0.97)  # share of its box that a mask of GrabCut may fill

Map = Float[np.ndarray, "H W"]


class TrackedRegion(NamedTuple):
    """The region in a frame at full size, or None and the reason if it is lost."""

    weights: Weights | None
    reason: str = ""


class Tracker:
    """Tracks the region given by `weights` in the first frame. `next` takes all frames in order, including the first."""

    def __init__(self, weights: Weights, *, is_box: bool) -> None:
        self.size = weights.shape
        self.first, self.is_box = weights, is_box
        self.scale = min(1.0, LONG_SIDE / max(self.size))
        self._mask: Any = None  # (h, w) float in [0, 1]
        self._gray: Any = None
        self._flow: Any = None

    def next(self, pixels: Pixels) -> TrackedRegion:
        """The region in the next frame (H, W, 3)."""
        import cv2

        shape = (max(16, round(self.size[1] * self.scale)), max(16, round(self.size[0] * self.scale)))
        small: Any = cv2.resize(pixels, shape, interpolation=cv2.INTER_AREA)
        gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        if self._mask is None:
            self._start(small)
            self._gray = gray
            return TrackedRegion(self.first)
        consistency = self._carry(gray)
        self._gray = gray
        reason = self._refine(small, consistency)
        return TrackedRegion(None, reason) if reason else TrackedRegion(self._full())

    # -------------------------------------------------------------------------------------------------------- first frame

    def _start(self, small: Pixels) -> None:
        import cv2

        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        mask = cv2.resize(self.first, (small.shape[1], small.shape[0]), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        if self.is_box:
            mask = object_in(small, mask)
        self._mask = mask
        self._area = max(float(mask.sum()), 1.0)
        inside, outside = histogram(small, mask), histogram(small, _surroundings(mask))
        self._inside, self._outside, self._first_inside = inside, outside, inside
        self._margins = self._box_margins()
        self._box = np.array(box_of(self.first) or (0, 0, 1, 1)) * self.scale
        self._overlaps: deque[float] = deque(maxlen=OVERLAP_FRAMES)

    def _box_margins(self) -> tuple[float, ...]:
        """Distances between the sides of the user's box and the mask, relative to the width and height of the mask."""
        box, held = box_of(self.first), self._mask_box()
        if box is None or held is None:
            return (0.0, 0.0, 0.0, 0.0)
        width, height = held[2] - held[0], held[3] - held[1]
        return tuple((b - h) / side for b, h, side in zip(box, held, (width, height) * 2, strict=True))

    def _mask_box(self) -> tuple[float, float, float, float] | None:
        """Box of the mask at full size, from the 1st to the 99th percentile of its pixels."""
        sides = []
        for axis in (0, 1):
            profile = np.cumsum((self._mask > 0.5).sum(axis=axis))
            if not profile[-1]:
                return None
            low, high = np.searchsorted(profile, (0.01 * profile[-1], 0.99 * profile[-1]))
            sides.append((low / self.scale, (high + 1) / self.scale))
        (x0, x1), (y0, y1) = sides
        return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)

    # -------------------------------------------------------------------------------------------------------- later frames

    def _carry(self, gray: Any) -> Map:
        """Warp the mask to this frame; return the consistency of the flows at every pixel, 0 to 1."""
        import cv2

        forward = self._flow.calc(self._gray, gray, None)
        backward = self._flow.calc(gray, self._gray, None)
        y, x = np.mgrid[0 : gray.shape[0], 0 : gray.shape[1]].astype(np.float32)
        from_x, from_y = x + backward[..., 0], y + backward[..., 1]
        there = cv2.remap(forward, from_x, from_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        error = np.linalg.norm(backward + there, axis=2)
        limit = CONSISTENT + 0.05 * np.linalg.norm(backward, axis=2)
        consistency: Map = np.exp(-((error / limit) ** 2)).astype(np.float32)
        self._move_box(forward, x, y)
        self._mask = cv2.remap(self._mask, from_x, from_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        return consistency

    def _move_box(self, forward: Any, x: Map, y: Map) -> None:
        """Move the box by the similarity transform that fits the flow of the pixels of the mask."""
        import cv2

        inside = self._mask > 0.5
        if not inside.any():
            return
        step = max(1, int(np.sqrt(inside.sum() / POINTS)))
        inside[np.arange(inside.shape[0]) % step != 0] = False
        inside[:, np.arange(inside.shape[1]) % step != 0] = False
        before = np.stack([x[inside], y[inside]], axis=1)
        if len(before) < 8:
            return
        after = before + forward[inside]
        cv2.setRNGSeed(0)
        matrix, _ = cv2.estimateAffinePartial2D(before, after, ransacReprojThreshold=REPROJECTION)
        if matrix is None:
            return
        scale = float(np.clip(np.hypot(matrix[0, 0], matrix[1, 0]), 1 - MAX_ZOOM, 1 + MAX_ZOOM))
        x0, y0, x1, y1 = self._box
        center = matrix @ np.array([(x0 + x1) / 2, (y0 + y1) / 2, 1])
        half = np.array([x1 - x0, y1 - y0]) / 2 * scale
        self._box = np.concatenate([center - half, center + half])

    def _refine(self, small: Pixels, consistency: Map) -> str:
        """Refine the warped mask by color and image edges; return the reason if the region is lost, else ""."""
        carried = self._mask
        area = float(carried.sum())
        if area < MIN_AREA * self._area:
            return "it left the frame or is hidden"
        agreed = float((carried * consistency).sum()) / max(area, 1e-6)
        if agreed < MIN_CONSISTENT:
            return "forward and backward motion are inconsistent"
        prior = np.clip(consistency * carried + (1 - consistency) * _spread(carried), 0.02, 0.98)
        odds = np.log(prior / (1 - prior)) + self._color_odds(small)
        near = _spread(carried, 9) > 0.02  # the region does not appear far from its previous position
        near &= self._allowed(near.shape)
        refined = guided(small, np.where(near, 1 / (1 + np.exp(-odds)), 0).astype(np.float32))
        self._mask = np.clip(sharpen(refined), 0, 1)
        wanted = self._box_of_mask()
        if wanted is not None:
            self._box += PULL * (wanted - self._box)
            self._overlaps.append(overlap(wanted, self._box))
        return self._check(small)

    def _allowed(self, shape: tuple[int, ...]) -> Any:
        x0, y0, x1, y1 = self._box
        extent_x, extent_y = MAX_EXTENT * (x1 - x0) + 2, MAX_EXTENT * (y1 - y0) + 2
        y, x = np.ogrid[0 : shape[0], 0 : shape[1]]
        return (x >= x0 - extent_x) & (x <= x1 + extent_x) & (y >= y0 - extent_y) & (y <= y1 + extent_y)

    def _box_of_mask(self) -> Any:
        held = self._mask_box()
        if held is None:
            return None
        sides = (held[2] - held[0], held[3] - held[1]) * 2
        return np.array([h + m * side for h, m, side in zip(held, self._margins, sides, strict=True)]) * self.scale

    def _check(self, small: Pixels) -> str:
        area = float(self._mask.sum())
        if not MIN_AREA * self._area <= area <= MAX_GROWTH * self._area:
            return "its area changed too much"
        now = histogram(small, self._mask)
        match = float(np.sqrt(now * self._first_inside).sum())
        if match < MIN_MATCH:
            return "its colors changed too much"
        if self.is_box and len(self._overlaps) == OVERLAP_FRAMES and np.mean(self._overlaps) < MIN_OVERLAP:
            return "the motion and the colors of the box are inconsistent"
        around = histogram(small, _surroundings(self._mask))
        if match < float(np.sqrt(now * around).sum()):  # the mask has drifted off the object
            return "its colors are closer to the surroundings than to the region in the first frame"
        self._inside = (1 - MEMORY) * self._inside + MEMORY * now
        self._outside = (1 - 3 * MEMORY) * self._outside + 3 * MEMORY * around
        return ""

    def _color_odds(self, small: Pixels) -> Map:
        cells = cell_of(small)
        inside, outside = self._inside[cells] + 1e-4, self._outside[cells] + 1e-4
        return cast(Map, np.clip(np.log(inside / outside), -4, 4).astype(np.float32))

    def _full(self) -> Weights:
        """The region at full size: a box with the margins of the first one, or the mask."""
        import cv2

        height, width = self.size
        if not self.is_box:
            large = cv2.resize(self._mask, (width, height), interpolation=cv2.INTER_LINEAR)
            return np.where(large > 0.5, np.uint8(255), np.uint8(0))
        weights = np.zeros((height, width), dtype=np.uint8)
        x0, y0, x1, y1 = (round(value / self.scale) for value in self._box)
        weights[max(0, y0) : max(0, y1), max(0, x0) : max(0, x1)] = 255
        return weights


def object_in(small: Pixels, box_mask: Map) -> Map:
    """The object inside a box by GrabCut; the inscribed ellipse if GrabCut marks almost nothing or everything."""
    import cv2

    box = box_of((box_mask * 255).astype(np.uint8))
    assert box is not None
    x0, y0, x1, y1 = box
    inside = box_mask > 0.5
    height, width = box_mask.shape
    ellipse: Map = (draw(Shape("ellipse", x0, y0, x1, y1), width, height) / 255).astype(np.float32)
    labels: Any = np.where(inside, np.uint8(cv2.GC_PR_FGD), np.uint8(cv2.GC_BGD))
    if inside.all():
        return ellipse
    cv2.setRNGSeed(0)
    cv2.grabCut(small, labels, (0, 0, 1, 1), np.zeros((1, 65)), np.zeros((1, 65)), 4, cv2.GC_INIT_WITH_MASK)
    mask = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
    share = float(mask.sum()) / max(1, (x1 - x0) * (y1 - y0))
    if not FILLED[0] <= share <= FILLED[1]:
        return ellipse
    found: Map = mask
    return found


def overlap(a: Float[np.ndarray, "4"], b: Float[np.ndarray, "4"]) -> float:
    """Intersection over union of two boxes (x0, y0, x1, y1)."""
    width, height = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    both = float(width * height)
    return both / max(float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - both, 1e-9)


def cell_of(small: Pixels) -> Any:
    """Index of the histogram cell of every pixel."""
    cells = small.astype(np.int32) * BINS // 256
    return (cells[..., 0] * BINS + cells[..., 1]) * BINS + cells[..., 2]


def histogram(small: Pixels, weights: Map) -> Any:
    """Smoothed weighted color histogram with sum 1."""
    from scipy.ndimage import gaussian_filter

    counts = np.bincount(cell_of(small).ravel(), weights=weights.ravel(), minlength=BINS**3).reshape(BINS, BINS, BINS)
    smooth = gaussian_filter(counts, 0.7, mode="constant").ravel()
    return smooth / max(float(smooth.sum()), 1e-9)


def _spread(mask: Map, radius: int = 3) -> Map:
    import cv2

    return cast(Map, cv2.blur(mask, (2 * radius + 1, 2 * radius + 1)))


def _surroundings(mask: Map) -> Map:
    """Weights of the surroundings of a region; they decrease with the distance."""
    side = 2 * int(np.sqrt(mask.sum()) / 2) + 3
    weights: Map = (1 - mask) * (_spread(mask, min(side, max(mask.shape) // 2)) + 0.02)
    return weights


def guided(small: Pixels, values: Map) -> Map:
    """Guided filter (He et al. 2013) of values, guided by the gray image."""
    import cv2

    guide = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    mean = _spread(guide, SMOOTH)
    mean_values = _spread(values, SMOOTH)
    slope = (_spread(guide * values, SMOOTH) - mean * mean_values) / (_spread(guide * guide, SMOOTH) - mean**2 + EPSILON)
    return cast(Map, _spread(slope, SMOOTH) * guide + _spread(mean_values - slope * mean, SMOOTH))


def sharpen(values: Map) -> Map:
    """Double the distance from 1/2, so that a mask does not blur when it is warped through many frames."""
    return cast(Map, 2 * values - 0.5)
