"""Training scenes: real crops at a random scale, with cut-out nuclei pasted over others, and scenes without cells.

Pixels are normalized (`fields.Contrast`): the background of fluorescence is near 0, that of stained tissue near 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from scipy.ndimage import find_objects

from latens.data.masks import window_of
from latens.shapes import Bool, Float
from latens.systems.amodal.cells.fields import MIN_AREA, FieldImage, Kind
from latens.systems.amodal.cells.targets import Thing

MARGIN = 32  # pixels around a crop on which objects are known, so that their rays are
TYPICAL, SPREAD = 24.0, 0.55  # median diameter of the objects of a crop: log-normal
SMALLEST, LARGEST = 8.0, 90.0  # of the median diameter, pixels
SCALES = (0.5, 4.0)  # smallest and largest scale of a real image
STRETCH = 0.12  # standard deviation of the logarithm of the aspect ratio
PASTED = (1, 6)  # smallest and largest number of pasted nuclei
FEATHER = 1.0  # standard deviation of the soft edge of a pasted nucleus, pixels


class Canvas(NamedTuple):
    """A square scene. `inside` is (top, left, bottom, right) of the image on it."""

    pixels: Float[np.ndarray, "C C 3"]
    things: list[Thing]
    kind: Kind | None  # None: no cells
    inside: tuple[int, int, int, int]


def real_canvas(rng: np.random.Generator, image: FieldImage, crop: int, *, paste: bool) -> Canvas:
    """A random part of an annotated image at a random scale, rotated by quarters and mirrored."""
    side = crop + 2 * MARGIN
    wanted = float(np.clip(TYPICAL * math.exp(SPREAD * rng.standard_normal()), SMALLEST, LARGEST))
    scale = float(np.clip(wanted / image.diameter if image.diameter else 1.0, *SCALES))
    stretch = math.exp(STRETCH * rng.standard_normal() / 2)
    factors = (scale * stretch, scale / stretch)  # rows, columns
    near = _object_pixel(rng, image) if rng.random() < 0.7 else (None, None)
    window = [
        _window(rng, length, factor, crop, pixel)
        for length, factor, pixel in zip(image.labels.shape, factors, near, strict=True)
    ]
    pixels, labels, inside = _resampled(image, window, factors, side)
    things = _things(labels)
    if paste and image.whole:
        for _ in range(int(rng.integers(*PASTED, endpoint=True))):
            _paste(rng, image, factors, pixels, things, inside)
    turn, mirror = int(rng.integers(4)), bool(rng.random() < 0.5)
    return _turned(Canvas(pixels, things, image.kind, inside), turn, mirror=mirror)


def _object_pixel(rng: np.random.Generator, image: FieldImage) -> tuple[float | None, float | None]:
    """Row and column of a random pixel of an object."""
    covered = np.flatnonzero(image.labels)
    if not len(covered):
        return None, None
    row, column = divmod(int(covered[int(rng.integers(len(covered)))]), image.labels.shape[1])
    return float(row), float(column)


def _window(rng: np.random.Generator, length: int, factor: float, crop: int, near: float | None) -> float:
    """Start of the canvas on one axis of the image, in its pixels. The crop lies inside the image if it fits.

    It holds the pixel `near`, if given.
    """
    need = crop / factor
    low, high = (0.0, length - need) if length > need else (length - need, 0.0)
    start = rng.uniform(low, high) if near is None else min(max(near - rng.uniform(0, need), low), high)
    return float(start) - MARGIN / factor


def _resampled(
    image: FieldImage, window: Sequence[float], factors: tuple[float, float], side: int
) -> tuple[np.ndarray, np.ndarray, tuple[int, int, int, int]]:
    """Normalized pixels and labels of a canvas; beyond the image, its last pixels are repeated and labels are 0."""
    height, width = image.labels.shape
    reach = [side / factor for factor in factors]
    y0, x0 = (max(math.floor(start) - 2, 0) for start in window)
    y1, x1 = (min(math.ceil(s + r) + 2, n) for s, r, n in zip(window, reach, (height, width), strict=True))
    source = image.contrast.apply(image.pixels[y0:y1, x0:x1])
    if min(factors) < 0.9:  # area sampling below, bilinear above
        blur = [max(0.0, 0.5 / factor - 0.4) for factor in factors]
        source = cv2.GaussianBlur(source, (0, 0), sigmaX=max(blur[1], 0.05), sigmaY=max(blur[0], 0.05))
    matrix = np.array(
        [
            [1 / factors[1], 0, window[1] - x0 + 0.5 / factors[1] - 0.5],
            [0, 1 / factors[0], window[0] - y0 + 0.5 / factors[0] - 0.5],
        ]
    )
    inverse = cv2.WARP_INVERSE_MAP
    smooth = cv2.INTER_CUBIC if max(factors) > 1 else cv2.INTER_LINEAR
    pixels = cv2.warpAffine(source, matrix, (side, side), flags=smooth | inverse, borderMode=cv2.BORDER_REPLICATE)
    labels = image.labels[y0:y1, x0:x1].astype(np.float32)
    nearest = cv2.warpAffine(labels, matrix, (side, side), flags=cv2.INTER_NEAREST | inverse)
    inside = (
        max(0, math.ceil(-window[0] * factors[0])), max(0, math.ceil(-window[1] * factors[1])),
        min(side, math.floor((height - window[0]) * factors[0])), min(side, math.floor((width - window[1]) * factors[1])),
    )  # fmt: skip
    numbers = nearest.astype(np.int32)
    if max(factors) > 1.5:
        numbers = _smoothed(numbers)
    outside = np.ones((side, side), dtype=bool)
    outside[inside[0] : inside[2], inside[1] : inside[3]] = False
    numbers[outside] = 0
    return pixels, numbers, inside


def _smoothed(labels: np.ndarray) -> np.ndarray:
    """Enlarged labels without the steps of their pixels: a median filter."""
    if labels.max(initial=0) >= 2**15:
        return labels
    return np.asarray(cv2.medianBlur(labels.astype(np.int16), 5), dtype=np.int32)


def _things(labels: np.ndarray) -> list[Thing]:
    things = []
    for number, place in enumerate(find_objects(labels), start=1):
        if place is not None:
            mask = labels[place] == number
            if mask.sum() >= MIN_AREA:
                things.append(Thing(place[0].start, place[1].start, mask))
    return things


def _paste(
    rng: np.random.Generator,
    image: FieldImage,
    factors: tuple[float, float],
    pixels: np.ndarray,
    things: list[Thing],
    inside: tuple[int, int, int, int],
) -> None:
    """Paste a whole nucleus of the image, mostly over the outline of an object that is there."""
    cut = _cut(rng, image, factors)
    if cut is None:
        return
    mask, change = cut
    height, width = mask.shape
    if things and rng.random() < 0.8:
        under = things[int(rng.integers(len(things)))]
        around = rng.uniform(0, 2 * math.pi)
        reach = rng.uniform(0.35, 0.95) * (math.sqrt(under.mask.sum()) + math.sqrt(mask.sum())) / 2
        y = under.top + under.mask.shape[0] / 2 + reach * math.sin(around)
        x = under.left + under.mask.shape[1] / 2 + reach * math.cos(around)
    else:
        y, x = rng.uniform(inside[0], inside[2]), rng.uniform(inside[1], inside[3])
    thing = Thing(round(y - height / 2), round(x - width / 2), mask, front=bool(rng.random() < 0.4))
    top, left = max(thing.top, inside[0]), max(thing.left, inside[1])
    bottom, right = min(thing.top + height, inside[2]), min(thing.left + width, inside[3])
    if bottom - top < 3 or right - left < 3:
        return
    part = (slice(top - thing.top, bottom - thing.top), slice(left - thing.left, right - thing.left))
    kept = Thing(top, left, mask[part], thing.front)
    if kept.mask.sum() < MIN_AREA or any(_hides(kept, other) for other in things):
        return
    things.append(kept)
    blend(pixels[top:bottom, left:right], kept.mask, change[part], image.ground, image.kind, front=thing.front)


def _hides(above: Thing, below: Thing) -> bool:
    """True if one of two objects has less than a third of itself outside the other."""
    top, left = max(above.top, below.top), max(above.left, below.left)
    bottom = min(above.top + above.mask.shape[0], below.top + below.mask.shape[0])
    right = min(above.left + above.mask.shape[1], below.left + below.mask.shape[1])
    if bottom <= top or right <= left:
        return False
    a = above.mask[top - above.top : bottom - above.top, left - above.left : right - above.left]
    b = below.mask[top - below.top : bottom - below.top, left - below.left : right - below.left]
    return int((a & b).sum()) > 0.67 * min(int(above.mask.sum()), int(below.mask.sum()))


def blend(region: np.ndarray, mask: np.ndarray, source: np.ndarray, ground: np.ndarray, kind: Kind, *, front: bool) -> None:
    """Draw an object in place: light adds in fluorescence and multiplies in stains; an object in front replaces."""
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), FEATHER)[..., None]
    if front:
        region += soft * (source - region)
    elif kind == "fluorescent":
        region += soft * (source - ground)
    else:
        region *= 1 + soft * (source / np.maximum(ground, 0.2) - 1)


def _cut(
    rng: np.random.Generator, image: FieldImage, factors: tuple[float, float]
) -> tuple[Bool[np.ndarray, "h w"], Float[np.ndarray, "h w 3"]] | None:
    """A whole nucleus of the image at a scale, rotated by any angle: mask and normalized pixels."""
    number = image.whole[int(rng.integers(len(image.whole)))]
    place = window_of(image.labels == number)
    pad = 2
    y0, x0 = max(place[0].start - pad, 0), max(place[1].start - pad, 0)
    region = (slice(y0, place[0].stop + pad), slice(x0, place[1].stop + pad))
    mask = (image.labels[region] == number).astype(np.float32)
    pixels = image.contrast.apply(image.pixels[region])
    angle, size = rng.uniform(0, 2 * math.pi), rng.uniform(0.8, 1.25)
    sy, sx = factors[0] * size, factors[1] * size
    height, width = mask.shape
    reach = math.hypot(height * sy, width * sx)
    side = max(5, math.ceil(reach) + 2)
    if side > 200:
        return None
    c, s = math.cos(angle), math.sin(angle)
    linear = np.array([[c * sx, -s * sy], [s * sx, c * sy]])
    shift = np.array([side / 2, side / 2]) - linear @ np.array([width / 2, height / 2])
    matrix = np.concatenate((linear, shift[:, None]), axis=1)
    turned = cv2.warpAffine(mask, matrix, (side, side), flags=cv2.INTER_LINEAR) > 0.5
    drawn = cv2.warpAffine(pixels, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    if turned.sum() < MIN_AREA:
        return None
    tight = window_of(turned)
    return turned[tight], drawn[tight]


def _turned(canvas: Canvas, quarters: int, *, mirror: bool) -> Canvas:
    """The canvas rotated by quarters of a turn, then mirrored."""
    side = len(canvas.pixels)
    pixels, things, inside = canvas.pixels, canvas.things, canvas.inside
    for _ in range(quarters):  # counterclockwise, as np.rot90: (y, x) -> (side - 1 - x, y)
        pixels = np.rot90(pixels)
        things = [Thing(side - t.left - t.mask.shape[1], t.top, np.rot90(t.mask), t.front) for t in things]
        inside = (side - inside[3], inside[0], side - inside[1], inside[2])
    if mirror:
        pixels = pixels[:, ::-1]
        things = [Thing(t.top, side - t.left - t.mask.shape[1], t.mask[:, ::-1], t.front) for t in things]
        inside = (inside[0], side - inside[3], inside[2], side - inside[1])
    return Canvas(np.ascontiguousarray(pixels), things, canvas.kind, inside)
