"""Limits of images for reading and writing: one set for a process, which `raised_limits` replaces for a time.

Standard library only. The limits protect from files whose header promises more pixels than memory holds.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

from latens.errors import LimitExceeded, UsageError

LARGEST = {"pixels": 2**31, "side": 2**20, "file_bytes": 2**40}  # what --limit accepts


@dataclass(frozen=True, kw_only=True)
class ImageLimits:
    """Limits of an image: number of pixels, pixels per side, bytes of its file."""

    pixels: int = 64 * 2**20
    side: int = 16384
    file_bytes: int = 2**30

    def check(self, width: int, height: int, what: str = "the image", where: str | None = None) -> None:
        """Raises LimitExceeded for a size above the limits, with the option that raises them."""
        needed: list[str] = []
        if width * height > self.pixels:
            message = f"{what} has {width} x {height} pixels, more than the limit of {self.pixels:,}"
            needed.append(f"pixels={width * height}")
        if max(width, height) > self.side:
            message = f"{what} has {width} x {height} pixels, more than the limit of {self.side:,} per side"
            needed.append(f"side={max(width, height)}")
        if needed:
            raise LimitExceeded(message, where=where, hint=hint(needed))


def hint(needed: Sequence[str]) -> str:
    """The next step for limits such as "side=20000"."""
    options = " ".join(f"--limit {value}" for value in needed)
    return f"if you trust it: {options} (in Python: raised_limits, or ImageLimits({', '.join(needed)}))"


def too_many_pixels(error: Exception, where: str | None = None) -> LimitExceeded:
    """The error for Pillow's DecompressionBombError, with the option that raises the limit."""
    found = re.search(r"\((\d+) pixels\)", str(error))
    if found is None:
        return LimitExceeded(" ".join(str(error).split()), where=where)
    count = int(found[1])
    what = f"the image has {count:,} pixels, more than the limit of {current_limits().pixels:,}"
    return LimitExceeded(what, where=where, hint=hint([f"pixels={count}"]))


_DEFAULT = ImageLimits()
_raised: list[ImageLimits] = []


def current_limits() -> ImageLimits:
    """The limits of this process: the defaults, or those of the innermost `raised_limits`."""
    return _raised[-1] if _raised else _DEFAULT


@contextlib.contextmanager
def raised_limits(limits: ImageLimits) -> Iterator[None]:
    """Context in which all reading and writing of images, in all threads of the process, has these limits.

    Pillow's own limit, which is global too, is raised with them and restored.
    """
    from PIL import Image

    before = Image.MAX_IMAGE_PIXELS
    _raised.append(limits)
    Image.MAX_IMAGE_PIXELS = max(before or 0, limits.pixels)
    try:
        yield
    finally:
        _raised.remove(limits)
        Image.MAX_IMAGE_PIXELS = before


def parse_limits(texts: Sequence[str]) -> ImageLimits:
    """The limits of options such as "side=65500" or "pixels=2e8,side=65500". Raises UsageError."""
    found = current_limits()
    names = [each.name for each in fields(ImageLimits)]
    for text in ",".join(texts).split(","):
        name, _, value = (part.strip() for part in text.partition("="))
        if name not in names:
            what = f"'{text}' does not name a limit of images"
            raise UsageError(what, where="--limit", hint=f"write {', '.join(f'{name}=NUMBER' for name in names)}")
        try:
            number = float(value.replace("_", ""))
        except ValueError:
            number = -1.0
        if not 1 <= number <= LARGEST[name] or not number.is_integer():
            what = f"'{value}' is not a number of {'bytes' if name == 'file_bytes' else 'pixels'} from 1 to {LARGEST[name]:,}"
            raise UsageError(what, where=f"--limit {name}")
        found = replace(found, **{name: int(number)})
    return found
