"""Parser of `--roi`: box:x0,y0,x1,y1, ellipse:x0,y0,x1,y1, or a path of masks. Standard library only."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal, NamedTuple

from latens.errors import UsageError

BARE_NUMBERS = re.compile(r"-?[\d.]+(,-?[\d.]+){3}")


class Shape(NamedTuple):
    """A box, or the ellipse inscribed in it, in pixels of the upright frame."""

    kind: Literal["box", "ellipse"]
    x0: float
    y0: float
    x1: float
    y1: float

    def inside(self, width: int, height: int) -> Shape:
        """The part of the box inside a frame. Raises UsageError if it is empty."""
        held = Shape(self.kind, max(0.0, self.x0), max(0.0, self.y0), min(float(width), self.x1), min(float(height), self.y1))
        if held.x0 >= held.x1 or held.y0 >= held.y1:
            raise UsageError(f"the {self.kind} is outside the frames of {width} x {height}", where=f"--roi {self}")
        return held

    def __str__(self) -> str:
        return f"{self.kind}:{self.x0:g},{self.y0:g},{self.x1:g},{self.y1:g}"


def parse_region(word: str | Path) -> Shape | Path:
    """Parse a value of `--roi`. An existing path takes precedence over a shape. Raises UsageError."""
    text = str(word)
    kind, colon, numbers = text.partition(":")
    if BARE_NUMBERS.fullmatch(text) and not os.path.exists(text):
        raise UsageError("these numbers have no shape", where=f"--roi {text}", hint=f"write box:{text} or ellipse:{text}")
    if not colon or os.path.exists(text) or kind not in ("box", "ellipse"):
        return Path(text)
    try:
        x0, y0, x1, y1 = (float(number) for number in numbers.split(","))
    except ValueError:
        raise UsageError(
            "a box or ellipse needs four numbers x0,y0,x1,y1", where=f"--roi {text}", hint="for example box:100,80,400,300"
        ) from None
    if not (x0 < x1 and y0 < y1):
        hint = "the second corner is right of and below the first: x0,y0,x1,y1, not x,y,width,height"
        raise UsageError("this box has no area", where=f"--roi {text}", hint=hint)
    return Shape("box" if kind == "box" else "ellipse", x0, y0, x1, y1)


def parse_ids(text: str | None) -> frozenset[int] | None:
    """Parse comma-separated ids: "2,5" gives {2, 5}. Raises UsageError."""
    if text is None:
        return None
    try:
        ids = frozenset(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError("ids must be integers separated by commas", where=f"--roi-id {text}", hint="for example 2,5") from None
    if not ids or min(ids) < 1:
        raise UsageError("ids start at 1; 0 is the background", where=f"--roi-id {text}")
    return ids
