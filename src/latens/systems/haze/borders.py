"""Borders that are no part of a photograph: black or white bars and frames, and transparent margins.

A border is cut only if its color is constant, and if its inner edge is sharp. A plain sky passes the first test and fails the
second, because roofs and trees begin in different rows. Borders of one, two or three sides are near black or white, or have
exactly one color, as no photographed wall or sky has; a frame around the image may have any color. Where three sides of a frame
have sharp edges, the fourth is as wide: a white sky hides its edge. A border may contain text, such as a caption or a date.

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
EXACT, EXACTLY = 1, 0.995  # gray levels of a band of any color on one side, share of its pixels within them
THINNEST_BAND = 8  # lines of such a band: one row of blocks of JPEG
RINGING = 16  # lines next to the content in which JPEG changes the color of a band: blocks of halved colors


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
            found = Box(inner.top, inner.bottom, box.left + left, box.right - right)
            box = found if color is not None else with_fourth_side(pixels, box, found)
    return without_bands(pixels, box)


def with_fourth_side(pixels: Pixels, outer: Box, found: Box) -> Box:
    """A white frame of three sides with its fourth, whose edge a white sky hides, if it is white over the mean width."""
    widths = (found.top - outer.top, outer.bottom - found.bottom, found.left - outer.left, outer.right - found.right)
    three = [width for width in widths if width]
    if len(three) != 3 or max(three) - min(three) > max(2 * BLUR, max(three) // 4):
        return found
    width = max(three)
    side = widths.index(0)
    whole_side = outer.of(pixels)
    lines = (whole_side, whole_side[::-1], whole_side.swapaxes(0, 1), whole_side.swapaxes(0, 1)[::-1])[side][:width]
    if share_of_color(lines.reshape(-1, 3), np.full(3, 255)) < UNIFORM or 4 * width > min(whole_side.shape[:2]):
        return found
    signs = (1, -1, 1, -1)
    return Box(*(edge + signs[i] * width * (i == side) for i, edge in enumerate(found)))


def without_bands(pixels: Pixels, box: Box) -> Box:
    """The box without bands of exactly one color at single sides, such as a logo strip or the background of a scan."""
    for turn in range(4):
        part = box.of(pixels)
        lines = (part, part[::-1], part.swapaxes(0, 1), part.swapaxes(0, 1)[::-1])[turn]
        width = band_lines(lines)
        if width and 4 * (len(lines) - width) >= len(lines):
            box = Box(*(edge + (width, -width, width, -width)[turn] * (i == turn) for i, edge in enumerate(box)))
    return box


def band_lines(lines: Pixels) -> int:
    """Number of lines of a band of exactly one color, neither black nor white, at the start of lines (n, m, 3); 0 without."""
    color = np.median(lines[0], axis=0)
    if is_plain(color):
        return 0
    exact = 0
    while exact < len(lines) and (np.abs(lines[exact] - color).max(1) <= EXACT).mean() >= EXACTLY:
        exact += 1
    if exact < THINNEST_BAND or exact == len(lines):
        return 0
    similar = exact
    while similar < min(exact + RINGING, len(lines)) and share_of_color(lines[similar], color) >= UNIFORM:
        similar += 1
    for after in range(similar, min(similar + BLUR + 1, len(lines))):  # a gradient of fog takes longer to leave the color
        if share_of_color(lines[after], color, 2 * TOLERANCE) <= SHARP:
            return after
    return 0


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


def share_of_color(line: Pixels, color: np.ndarray, tolerance: int = TOLERANCE) -> float:
    """Share of the pixels (m, 3) within `tolerance` gray levels of a color."""
    return float((np.abs(line - color).max(1) <= tolerance).mean())


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
