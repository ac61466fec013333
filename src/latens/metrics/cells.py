"""Tables of cells and frames: one line per cell, one line per image, and their union over a folder of results.

| column | value |
|---|---|
| image, frame | file relative to the input folder; page from 1 |
| t, z, c | time, slice and channel from 1; empty if OME or ImageJ do not define the axis |
| cell, class, score, layer | number in the frame from 1; layer 0 is in front |
| ..._px, ..._um, ..._um2 | pixels; micrometers, empty without a pixel size in OME or ImageJ |
| hidden | hidden share of the area, in [0, 1] |
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from latens.data.annotated_sizes import check_sizes
from latens.data.csv_files import csv_bytes
from latens.data.files import STANDARD_STREAM, write_atomic
from latens.data.inputs import natural_key
from latens.data.instances import Collection, Placed, placed_of
from latens.data.planes import Plane, read_planes
from latens.data.stacks import frame_place
from latens.errors import LatensError, OutputExists, UnreadableInput
from latens.metrics.instances import diameter, symmetry

CELL_COLUMNS = (
    "image", "frame", "t", "z", "c", "cell", "class", "score", "layer", "area_px", "area_um2", "diameter_px", "diameter_um",
    "centroid_x", "centroid_y", "centroid_x_um", "centroid_y_um", "eccentricity", "hidden",
)  # fmt: skip
FRAME_COLUMNS = ("image", "frame", "t", "z", "c", "count", "symmetry", "occluded_px", "occluded_um2")
AGAIN = "segment its input again with --force"


class Measured(NamedTuple):
    """The objects of a frame and what its file says about the frame."""

    placed: Sequence[Placed]
    occluded: int  # pixels where an object continues behind or in front of another
    classes: Sequence[str]
    scores: Sequence[float]
    plane: Plane = Plane()


def cell_rows(frame: Measured, number: int) -> list[tuple[Any, ...]]:
    """A row of CELL_COLUMNS, without the image, for every cell of the frame `number` (from 1)."""
    plane = frame.plane
    across, down = plane.pixel_um or (math.nan, math.nan)
    rows = []
    for index, placed in enumerate(frame.placed):
        y, x = np.nonzero(placed.amodal)
        hidden = 1 - int((placed.amodal & placed.visible).sum()) / max(len(x), 1)
        center = (math.nan, math.nan)
        if len(x):
            center = float(x.mean()) + placed.left + 0.5, float(y.mean()) + placed.top + 0.5
        rows.append((
            number, *place_of(plane), index + 1, frame.classes[placed.category],
            round(float(frame.scores[index]), 4), placed.layer, len(x), number_or_empty(len(x) * across * down, 4),
            round(diameter(len(x)), 3), number_or_empty(diameter(len(x) * across * down), 4),
            *(number_or_empty(value, 3) for value in center),
            number_or_empty(center[0] * across, 4), number_or_empty(center[1] * down, 4),
            round(eccentricity(x, y), 4) if len(x) else "", round(hidden, 4),
        ))  # fmt: skip
    return rows


def frame_row(frame: Measured, number: int) -> tuple[Any, ...]:
    """A row of FRAME_COLUMNS, without the image. Symmetry is smallest / largest diameter, empty below two cells."""
    plane, occluded = frame.plane, frame.occluded
    ratio = symmetry([int(placed.amodal.sum()) for placed in frame.placed])
    across, down = plane.pixel_um or (math.nan, math.nan)
    measured = (len(frame.placed), "" if ratio is None else round(ratio, 4))
    return number, *place_of(plane), *measured, occluded, number_or_empty(occluded * across * down, 4)


def place_of(plane: Plane) -> tuple[Any, Any, Any]:
    """Columns t, z and c: empty where they are unknown."""
    t, z, c = ("" if value is None else value for value in (plane.t, plane.z, plane.c))
    return t, z, c


def number_or_empty(value: float, digits: int) -> float | str:
    """The rounded number; empty for NaN."""
    return "" if math.isnan(value) else round(value, digits)


def eccentricity(x: np.ndarray, y: np.ndarray) -> float:
    """Eccentricity of the ellipse with the second moments of these pixels: 0 for a circle, near 1 for a line."""
    xx, yy = x.var(), y.var()
    xy = ((x - x.mean()) * (y - y.mean())).mean()
    spread = math.sqrt((xx - yy) ** 2 / 4 + xy**2)
    middle = (xx + yy) / 2
    return math.sqrt(1 - max(middle - spread, 0.0) / (middle + spread)) if middle else 0.0


# ------------------------------------------------------------------------------------------------- several images


def collection_table(collection: Collection) -> Iterator[bytes]:
    """CSV of the cells of a collection, the first line with CELL_COLUMNS, in natural order of the images.

    Time, slice, channel and pixel size are those of the annotations; without them, those of the image files that exist.
    """
    yield csv_bytes([CELL_COLUMNS])
    known: dict[Path, list[Plane]] = {}
    for scene in sorted(collection.scenes, key=lambda scene: natural_key(scene.file)):
        path, number = frame_place(Path(scene.file)) or (Path(scene.file), 1)
        plane = scene.plane
        if plane is None:
            file, _ = frame_place(collection.path(scene)) or (collection.path(scene), 1)
            planes = known.setdefault(file, _planes(file))
            plane = planes[number - 1] if number <= len(planes) else Plane()
        scores = [instance.score for instance in scene.instances]
        layers = scene.layers()
        measured = Measured(placed_of(layers), int(layers.occlusion.sum()), collection.categories, scores, plane)
        rows = cell_rows(measured, number)
        yield csv_bytes((path.as_posix(), *row) for row in rows)


def write_table(collection: Collection, out: Path, *, force: bool = False) -> Path:
    """Write `collection_table` to the file `out`.

    Raises OutputExists for an existing file without `force`, InputError for images of other sizes than their annotations.
    """
    check_sizes(collection)
    if out != STANDARD_STREAM and os.path.lexists(out) and not force:
        raise OutputExists("the file exists already", where=str(out), hint="choose another -o, or add --force")
    write_atomic(out, b"".join(collection_table(collection)))
    return out


def _planes(path: Path) -> list[Plane]:
    try:
        return read_planes(path)
    except LatensError:  # annotations are useful without their images
        return []


def joined_tables(paths: Iterable[Path], columns: Sequence[str]) -> Iterator[bytes]:
    """CSV of the lines of several tables with `columns`, in natural order of their images; memory holds one line at a time.

    Columns that a table lacks, such as those of an older version, are empty. Raises UnreadableInput for a damaged table.
    """
    named = ((next(read_table(path), None), path) for path in paths)
    filled = [(natural_key(row["image"]), path) for row, path in named if row is not None]
    yield csv_bytes([columns])
    for _, path in sorted(filled):
        for row in read_table(path):
            yield csv_bytes([[row.get(name, "") for name in columns]])


def read_table(path: Path) -> Iterator[dict[str, str]]:
    """The lines of a table by column. Raises UnreadableInput if a line has no image or too many cells."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row.get("image") is None or None in row or None in row.values():
                    raise UnreadableInput("a line of this table is damaged", where=str(path), hint=AGAIN)
                yield row
    except (OSError, UnicodeError, csv.Error) as error:
        raise UnreadableInput(f"the table cannot be read ({error})", where=str(path), hint=AGAIN) from error
