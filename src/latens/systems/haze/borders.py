"""Borders that are no part of a photograph: black or white bars and frames, and transparent margins.

A border is cut only if its color is constant, and if its inner edge is sharp. A plain sky passes the first test and fails the
second, because roofs and trees begin in different rows. Borders of one, two or three sides are near black or white; a frame
around the image may have any color. A border may contain text, such as subtitles, a caption or a date.

Letters: H W image size.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from latens.data.images import Pixels
from latens.data.masks import window_of
from latens.shapes import Bool

DARKEST, BRIGHTEST = 20, 235  # gray levels; borders are at most the one or at least the other
TOLERANCE = 12  # gray levels between a pixel and the color of its border; JPEG noise is less
UNIFORM = 0.98  # share of the pixels of a line of a border that have its color
SHARP = 0.5  # at most this share of the first line of the content has the color of the border
BLUR = 4  # lines between border and content at most; resizing and JPEG mix both there
THINNEST = 2  # lines; a single line is left


class Box(NamedTuple):
    """Rows and columns of the content of an image; the ends are exclusive."""

    top: int
    bottom: int
    left: int
    right: int

    def of(self, image: np.ndarray) -> np.ndarray:
        """The content (h, w, ...) of an image (H, W, ...), as a view."""
        return image[self.top : self.bottom, self.left : self.right]

    def covers(self, image: np.ndarray) -> bool:
        """True if the box is the whole image."""
        return self == whole(image)

    def joined(self, other: Box) -> Box:
        """The smallest box that contains both."""
        return Box(
            min(self.top, other.top),
            max(self.bottom, other.bottom),
            min(self.left, other.left),
            max(self.right, other.right),
        )

    def note(self, image: np.ndarray) -> str:
        """A line for people: the width of every border."""
        height, width = image.shape[:2]
        sides = {"top": self.top, "bottom": height - self.bottom, "left": self.left, "right": width - self.right}
        return f"border left as it is ({', '.join(f'{name} {size}' for name, size in sides.items() if size)} pixels)"


def whole(image: np.ndarray) -> Box:
    """The box of an image without borders."""
    return Box(0, image.shape[0], 0, image.shape[1])


def content_box(pixels: Pixels, visible: Bool[np.ndarray, "H W"] | None = None) -> Box:
    """The image without transparent margins and uniform borders; the whole image if nothing would remain."""
    box = whole(pixels)
    if visible is not None and visible.any():
        rows, columns = window_of(visible)
        box = Box(rows.start, rows.stop, columns.start, columns.stop)
    for _ in range(2):  # a frame may lie inside bars
        color = frame_color(box.of(pixels))
        top, bottom = ends(box.of(pixels), color)
        inner = Box(box.top + top, box.bottom - bottom, box.left, box.right)
        left, right = ends(inner.of(pixels).swapaxes(0, 1), color)
        if color is None or (top and bottom and left and right):
            box = Box(inner.top, inner.bottom, box.left + left, box.right - right)
    return box


def frame_color(pixels: Pixels) -> np.ndarray | None:
    """The color of a frame around the image that is neither black nor white; None without one."""
    if min(pixels.shape[:2]) < 2 * THINNEST:
        return None
    ring = np.concatenate(
        [pixels[:THINNEST], pixels[-THINNEST:], pixels[:, :THINNEST].swapaxes(0, 1), pixels[:, -THINNEST:].swapaxes(0, 1)], 1
    ).reshape(-1, 3)
    color = np.median(ring, axis=0)
    return None if is_plain(color) or share_of_color(ring, color) < UNIFORM else color


def is_plain(color: np.ndarray) -> bool:
    """True near black and near white."""
    near = color.max() <= DARKEST or color.min() >= BRIGHTEST
    return bool(near and np.ptp(color) <= TOLERANCE)


def ends(lines: Pixels, color: np.ndarray | None = None) -> tuple[int, int]:
    """Number of border lines at the start and at the end of lines (n, m, 3); (0, 0) if less than a quarter would remain.

    Without a `color`, that of the border is near black or white.
    """
    first, last = border_lines(lines, color), border_lines(lines[::-1], color)
    return (first, last) if 4 * (len(lines) - first - last) >= len(lines) else (0, 0)


def border_lines(lines: Pixels, given: np.ndarray | None = None) -> int:
    """Number of lines of the border at the start of lines (n, m, 3); 0 without one."""
    color = np.median(lines[0], axis=0) if given is None else given
    if given is None and not is_plain(color):
        return 0
    number = 0
    for index, line in enumerate(lines):
        share = share_of_color(line, color)
        if share >= UNIFORM:
            number = index + 1
        elif share <= SHARP or not number:  # between both are lines of text
            break
    if number < THINNEST or number == len(lines):
        return 0
    for after in range(number, min(number + BLUR + 1, len(lines))):
        if share_of_color(lines[after], color) <= SHARP:
            return after
    return 0


def share_of_color(line: Pixels, color: np.ndarray) -> float:
    """Share of the pixels (m, 3) within `TOLERANCE` of a color."""
    return float((np.abs(line - color).max(1) <= TOLERANCE).mean())


class SteadyBorders:
    """Borders of a clip: those of its first frame that has some; a border with content in a later frame is given up.

    So the box never flickers: it is found once, and from then on only grows.
    """

    def __init__(self) -> None:
        self.box: Box | None = None

    def of(self, frame: Pixels) -> Box:
        """The box of the next frame. Raises nothing for frames of another size: their borders are found anew."""
        if int(frame.max()) <= DARKEST or int(frame.min()) >= BRIGHTEST:  # faded out: borders are unknown
            return whole(frame) if self.box is None or not fits(self.box, frame) else self.box
        found = content_box(frame)
        if self.box is None or not fits(self.box, frame):
            self.box = found
        elif not empty_outside(self.box, frame):
            self.box = self.box.joined(found)
        return self.box


def fits(box: Box, frame: Pixels) -> bool:
    return box.bottom <= frame.shape[0] and box.right <= frame.shape[1]


def empty_outside(box: Box, frame: Pixels) -> bool:
    """True if everything outside of the box is near black or white; BLUR lines around the box may be mixed."""
    outside = np.ones(frame.shape[:2], bool)
    outside[max(box.top - BLUR, 0) : box.bottom + BLUR, max(box.left - BLUR, 0) : box.right + BLUR] = False
    values = frame[outside]
    if not len(values):
        return True
    return bool(((values <= DARKEST + TOLERANCE) | (values >= BRIGHTEST - TOLERANCE)).all(1).mean() >= UNIFORM)
