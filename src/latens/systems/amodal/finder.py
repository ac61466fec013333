"""Search for an embryo that fills a part of the image, so that the network sees it at the size that it was trained with.

The whole image comes first. If its cells do not fill it, windows of several sizes with more texture than their surroundings are
tried, and the network judges them: the cells of an embryo touch, have high scores and fill a known share of a good window. The
best window is then centered on its cells and resized until they fill this share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from latens.shapes import Float, UInt8

FILLED = 0.68  # longest extent of the cells of an embryo relative to the side of its window
ACCEPTED = (0.5, 0.9)  # range of this share in which the network is as good as at FILLED
CONFIDENT = 0.5  # score of boxes that count
SURE = 0.97  # soundness of the cells of a whole image that is not searched
SHARES = (0.8, 0.6, 0.45, 0.33, 0.25)  # sides of the windows that are tried, relative to the shorter side of the image
EACH = 2  # windows of every size
SMALL = 160  # longer side of the image in which texture is measured, pixels
FINALISTS, ROUNDS = 3, 2  # windows that are centered, and how often
TOLERANCE = 0.12  # of the share that the cells fill, at which centering ends
COVERED = 0.65  # share of the square of the longest extent that the boxes of an embryo cover at least
CUT, MARGIN = 0.3, 0.02  # factor for a group whose cells come so near to the border of the window
GRID = 64  # side of the grid on which boxes are drawn
SPREAD = 0.25  # tolerated deviation of the logarithm of that share, in the comparison of windows


class Window(NamedTuple):
    """A part of the image, in pixels: [left, right) and [top, bottom)."""

    left: int
    top: int
    right: int
    bottom: int

    def of(self, pixels: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
        return pixels[self.top : self.bottom, self.left : self.right]


class Boxes(NamedTuple):
    """Detected cells of a window, relative to its longer side."""

    corners: Float[np.ndarray, "N 4"]  # x0, y0, x1, y1
    scores: Float[np.ndarray, "N"]
    size: tuple[float, float]  # width and height of the window; the longer one is 1


class Group(NamedTuple):
    """The cells of a window that touch, with the largest sum of scored areas."""

    box: tuple[float, float, float, float]  # around all, relative to the longer side of the window
    score: float  # mean
    covered: float  # by the boxes of the cells, of the square of the longest extent
    cut: bool  # a cell reaches the border of the window

    @property
    def filled(self) -> float:
        """Longest extent relative to the longer side of the window."""
        return max(self.box[2] - self.box[0], self.box[3] - self.box[1])

    @property
    def sound(self) -> float:
        """Mean score, lowered if the cells leave gaps or reach the border."""
        return self.score * min(self.covered / COVERED, 1.0) * (CUT if self.cut else 1.0)

    @property
    def quality(self) -> float:
        """`sound`, lowered as the cells fill more or less than FILLED."""
        return self.sound * math.exp(-0.5 * (math.log(max(self.filled, 1e-3) / FILLED) / SPREAD) ** 2)


class Found(NamedTuple):
    """A window and its best group of cells."""

    window: Window
    group: Group


Detect = Callable[[Sequence[UInt8[np.ndarray, "h w 3"]]], Sequence[Boxes]]


def find_embryo(pixels: UInt8[np.ndarray, "H W 3"], boxes: Boxes, detect: Detect) -> Window | None:
    """The window of the embryo; None if it fills the image, or if no window is better than the image.

    `boxes` are those of the whole image.
    """
    height, width = pixels.shape[:2]
    whole = Window(0, 0, width, height)
    first = grouped(boxes)
    if first is not None and first.sound >= SURE and ACCEPTED[0] <= first.filled <= ACCEPTED[1]:
        return None
    windows = textured(pixels)
    groups = [first, *(grouped(each) for each in detect([window.of(pixels) for window in windows]))]
    found = [Found(window, group) for window, group in zip([whole, *windows], groups, strict=True) if group is not None]
    best = sorted(found, key=lambda each: -each.group.quality)[:FINALISTS]
    settled = [settle(pixels, each, detect) for each in best]
    if not settled:
        return None
    window = max(settled, key=lambda each: each.group.quality).window
    return None if window == whole else window


def settle(pixels: UInt8[np.ndarray, "H W 3"], found: Found, detect: Detect) -> Found:
    """The window centered on its cells and resized until they fill FILLED of it, as long as this improves it."""
    for _ in range(ROUNDS):
        if abs(math.log(found.group.filled / FILLED)) < TOLERANCE and not found.group.cut:
            break
        nearer = centered(found.window, found.group, (pixels.shape[0], pixels.shape[1]))
        (boxes,) = detect([nearer.of(pixels)])
        again = grouped(boxes)
        if again is None or again.quality <= found.group.quality:
            break
        found = Found(nearer, again)
    return found


def centered(window: Window, group: Group, size: tuple[int, int]) -> Window:
    """The square window around a group that it fills to FILLED, inside the image of `size` (H, W)."""
    unit = max(window.right - window.left, window.bottom - window.top)
    side = min(max(round(group.filled * unit / FILLED), 8), *size)
    x = window.left + unit * (group.box[0] + group.box[2]) / 2
    y = window.top + unit * (group.box[1] + group.box[3]) / 2
    return square(x, y, side, size)


def square(x: float, y: float, side: int, size: tuple[int, int]) -> Window:
    """A square window around a point, moved into the image of `size` (H, W)."""
    left, top = (int(min(max(round(value - side / 2), 0), length - side)) for value, length in ((x, size[1]), (y, size[0])))
    return Window(left, top, left + side, top + side)


def grouped(boxes: Boxes) -> Group | None:
    """The best group of touching confident cells; None without two of them."""
    from scipy.sparse.csgraph import connected_components

    sure = boxes.scores >= CONFIDENT
    corners, scores = boxes.corners[sure], boxes.scores[sure]
    if len(corners) < 2:
        return None
    low, high = corners[:, :2], corners[:, 2:]
    touching = ((low[:, None] < high[None]) & (low[None] < high[:, None])).all(axis=2)
    _, number = connected_components(touching, directed=False)
    members = number == np.bincount(number, scores * (high - low).prod(axis=1)).argmax()
    if members.sum() < 2:
        return None
    x0, y0 = low[members].min(axis=0)
    x1, y1 = high[members].max(axis=0)
    box = (float(x0), float(y0), float(x1), float(y1))
    extent = max(x1 - x0, y1 - y0)
    corners = ((corners[members] - (x0, y0, x0, y0)) / extent * GRID).round().astype(int)
    drawn = np.zeros((GRID, GRID), dtype=bool)
    for left, top, right, bottom in corners:
        drawn[top:bottom, left:right] = True
    cut = min(box[:2]) < MARGIN or box[2] > boxes.size[0] - MARGIN or box[3] > boxes.size[1] - MARGIN
    return Group(box, float(scores[members].mean()), float(drawn.mean()), bool(cut))


def textured(pixels: UInt8[np.ndarray, "H W 3"]) -> list[Window]:
    """For every size of SHARES, the square windows whose middle has more texture than the ring around it."""
    import cv2

    height, width = pixels.shape[:2]
    factor = min(1.0, SMALL / max(height, width))
    gray = cv2.resize(pixels.mean(axis=2, dtype=np.float32), None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    slope = np.hypot(cv2.Sobel(gray, cv2.CV_32F, 1, 0), cv2.Sobel(gray, cv2.CV_32F, 0, 1))
    slope = np.minimum(slope, np.quantile(slope, 0.97)).astype(np.float32)  # a sharp edge counts little more than texture
    windows = []
    for share in SHARES:
        side = max(8, round(share * min(height, width)))
        contrast = _contrast(slope, 0.38 * side * factor)
        for _ in range(EACH):
            _, _, _, (x, y) = cv2.minMaxLoc(contrast)
            windows.append(square((x + 0.5) / factor, (y + 0.5) / factor, side, (height, width)))
            cv2.circle(contrast, (x, y), max(1, round(0.38 * side * factor)), -1e9, -1)
    return windows


def _contrast(slope: Float[np.ndarray, "h w"], radius: float) -> Float[np.ndarray, "h w"]:
    """Mean of a disc around every pixel, less that of the ring around the disc."""
    import cv2

    reach = math.ceil(1.5 * radius)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    distance = np.hypot(y, x)
    disc, ring = (distance <= radius).astype(np.float32), ((distance > radius) & (distance <= 1.5 * radius)).astype(np.float32)
    kernel = disc / disc.sum() - ring / max(float(ring.sum()), 1.0)
    return np.asarray(cv2.filter2D(slope, cv2.CV_32F, kernel, borderType=cv2.BORDER_REFLECT))
