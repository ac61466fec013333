"""Leaf segmentation of a tray photograph: by color in color images, otherwise by brightness with estimated polarity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from latens.data.images import LoadedImage
from latens.shapes import Bool, Float, UInt8

GREEN_SPREAD = 12  # minimum difference of excess green between leaves and soil (gray values) for the use of color
MIN_BLOB = 9  # minimum area of a blob in pixels
BACKGROUND = 24  # the median filter of the background is the image width divided by this
BAND = 2**20  # pixels of a band of rows
WEAK_CONTRAST = 14  # minimum contrast of leaves to soil in gray values


class Foreground(NamedTuple):
    """Leaf pixels, the method that found them, and their connected components (blobs)."""

    mask: Bool[np.ndarray, "H W"]
    kind: Literal["color", "bright", "dark"]
    blobs: Float[np.ndarray, "n 2"]  # centroids, x and y in pixels
    areas: Float[np.ndarray, "n"]  # pixels
    gray: UInt8[np.ndarray, "H W"]


def gray_of(image: LoadedImage) -> UInt8[np.ndarray, "H W"]:
    """Luma (ITU-R BT.601) of a color image; the plane of a gray image."""
    if image.gray:
        return np.ascontiguousarray(image.pixels[..., 0])
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    return _by_rows(lambda rows: np.rint(image.pixels[rows] @ weights), image.pixels.shape[:2], np.uint8)


def _by_rows(values: Callable[[slice], np.ndarray], size: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
    """An array of `size` (H, W) that is computed in bands of rows, because intermediate values need more bytes a pixel."""
    found: np.ndarray = np.empty(size, dtype)
    step = max(1, BAND // size[1])
    for start in range(0, size[0], step):
        found[start : start + step] = values(slice(start, start + step))
    return found


def find_leaves(image: LoadedImage) -> Foreground:
    """Segments the leaves of a photograph; the mask is empty if nothing stands out from the soil.

    Color images are thresholded by Otsu's method (Otsu 1979) on excess green (Woebbecke et al. 1995). Gray images are
    thresholded on the contrast to the local background, above the level of noise.
    """
    gray = gray_of(image)
    found = _by_color(image.pixels) if not image.gray else None
    if found is not None:
        return _with_blobs(found, "color", gray)
    bright, strength = _by_brightness(gray, 1)
    dark, opposite = _by_brightness(gray, -1)
    if opposite > 1.5 * strength and 0 < dark.mean() < 0.4:
        return _with_blobs(dark, "dark", gray)
    return _with_blobs(bright, "bright", gray)


def _by_color(pixels: np.ndarray) -> np.ndarray | None:
    """Green pixels; None if color does not separate leaves from soil."""
    import cv2

    def excess_green(rows: slice) -> np.ndarray:
        red, green, blue = (pixels[rows, :, plane].astype(np.int16) for plane in range(3))
        return np.clip(2 * green - red - blue, 0, 255)

    excess = cv2.GaussianBlur(_by_rows(excess_green, pixels.shape[:2], np.uint8), (0, 0), 1.0)
    if np.percentile(excess, 99.5) < GREEN_SPREAD:
        return None
    threshold, _ = cv2.threshold(excess, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    above, below = excess[excess > threshold], excess[excess <= threshold]
    if not above.size or float(above.mean()) - float(below.mean()) < GREEN_SPREAD:
        return None
    return excess > threshold


def _by_brightness(gray: np.ndarray, sign: int) -> tuple[np.ndarray, float]:
    """Pixels brighter (sign 1) or darker (-1) than their surroundings, and their contrast in gray values."""
    import cv2

    smooth = cv2.GaussianBlur(gray, (0, 0), 1.2)
    reduced = [max(1, round(side / 8)) for side in gray.shape[::-1]]
    small = cv2.resize(smooth, reduced, interpolation=cv2.INTER_AREA)
    size = max(3, small.shape[1] // BACKGROUND * 2 + 1)
    background = cv2.resize(cv2.medianBlur(small, min(size, 255)), gray.shape[::-1], interpolation=cv2.INTER_LINEAR)

    def difference(rows: slice) -> np.ndarray:
        return smooth[rows].astype(np.int16) - background[rows]

    contrast = _by_rows(lambda rows: np.clip(sign * difference(rows), 0, 255), gray.shape, np.uint8)
    noise = 1.4826 * float(np.median(_by_rows(lambda rows: np.abs(difference(rows)), gray.shape, np.uint8)))
    floor = max(WEAK_CONTRAST, 5 * noise)
    candidates = contrast[contrast > floor]
    if candidates.size < MIN_BLOB:
        return np.zeros(gray.shape, bool), 0.0
    top = float(np.percentile(candidates, 80))  # contrast of leaves
    mask = contrast > max(floor, 0.45 * top)
    return mask, float(np.percentile(contrast, 99.5))


def _with_blobs(mask: np.ndarray, kind: Literal["color", "bright", "dark"], gray: np.ndarray) -> Foreground:
    import cv2

    _, labels, stats, centroids = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA].astype(float)
    kept = areas >= MIN_BLOB
    kept[0] = False  # background
    mask = _by_rows(lambda rows: kept[labels[rows]], mask.shape, np.bool_)  # an index is copied with 8 bytes a pixel
    return Foreground(mask, kind, centroids[kept], areas[kept], gray)
