"""What a tab shows of the results of a command: two images to compare, a gallery, a clip, a table, and the files."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from latens.data.clips.formats import CLIP_ENDINGS
from latens.data.images import Pixels, read_image
from latens.errors import LatensError

SHOWN_SIDE = 1600  # longer side of previews in pixels; downloads are the files of the command
SHOWN_ROWS = 500  # of a table
SHOWN_IMAGES = 24  # of a gallery


@dataclass(frozen=True, kw_only=True)
class View:
    """Contents of the right half of a tab; empty parts are hidden."""

    compared: tuple[Pixels, Pixels] | None = None
    gallery: Sequence[tuple[Pixels, str]] = ()
    clip: Path | None = None
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    files: Sequence[Path] = ()


def preview(path: Path) -> Pixels | None:
    """An image or the first frame of a clip as 8-bit RGB, reduced to SHOWN_SIDE; None if it cannot be read."""
    if is_clip(path):
        pixels = first_frame(path)
        return None if pixels is None else reduced(pixels)
    try:
        return reduced(read_image(path).pixels)
    except LatensError:
        return None


def is_clip(path: Path) -> bool:
    """True for files that the page shows in a player."""
    return path.suffix.lower() in CLIP_ENDINGS - {".gif"}


def first_frame(path: Path) -> Pixels | None:
    """The first frame of a clip as RGB; None if it cannot be read."""
    from latens.data.clips.reader import open_clip

    try:
        with open_clip(path) as clip:
            return next((frame.rgb() for frame in clip.frames()), None)
    except LatensError:
        return None


def reduced(pixels: Pixels) -> Pixels:
    """The image with a longer side of at most SHOWN_SIDE pixels."""
    longer = max(pixels.shape[:2])
    if longer <= SHOWN_SIDE:
        return pixels
    factor = SHOWN_SIDE / longer
    size = (max(1, round(pixels.shape[1] * factor)), max(1, round(pixels.shape[0] * factor)))
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.LANCZOS))


def pair(before: Path, after: Path) -> tuple[Pixels, Pixels] | None:
    """Two images, or first frames of two clips, to compare at the size of the first."""
    one, other = preview(before), preview(after)
    if one is None or other is None:
        return None
    if one.shape != other.shape:
        other = np.asarray(Image.fromarray(other).resize((one.shape[1], one.shape[0]), Image.Resampling.LANCZOS))
    return one, other


def images(paths: Sequence[Path]) -> list[tuple[Pixels, str]]:
    """A gallery of the images that can be read."""
    found = ((preview(path), path.name) for path in paths[:SHOWN_IMAGES])
    return [(pixels, name) for pixels, name in found if pixels is not None]


def table_of(path: Path) -> tuple[list[str], list[list[str]]]:
    """First rows of a CSV file, and the columns that are not empty in them; nothing without a file."""
    if not path.is_file():
        return [], []
    with path.open(newline="", encoding="utf-8") as stream:
        lines = csv.reader(stream)
        columns = next(lines, [])
        rows = [row for row, _ in zip(lines, range(SHOWN_ROWS), strict=False)]
    used = [place for place in range(len(columns)) if any(row[place] for row in rows if place < len(row))]
    return [columns[place] for place in used], [[row[place] for place in used] for row in rows]


def table(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Columns and cells of the results of a command; only names that occur."""
    columns = [name for name in names if any(row.get(name) is not None for row in rows)]
    return columns, [[_cell(name, row.get(name)) for name in columns] for row in rows[:SHOWN_ROWS]]


def _cell(name: str, value: Any) -> str:
    if name in ("input", "output"):
        return Path(str(value)).name
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def files_below(folder: Path) -> list[Path]:
    """All files of a folder that are meant for people, in order."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
