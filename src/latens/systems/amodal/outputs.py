"""What is written for a segmented file: COCO JSON, overlay, tables, a stack of masks, and ROIs for Fiji.

For out/embryo.json, which is written last and marks the file as done:

    embryo.overlay.png   outlines, dashed where a cell is hidden (a multi-page .tif for stacks)
    embryo.cells.csv     one line a cell
    embryo.frames.csv    one line a picture: count, symmetry
    embryo.masks.tif     one page a cell, frame after frame, in the order of the table
    embryo.rois.zip      ImageJ ROIs, where the extra `micro` is installed
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from latens.data.annotations import to_document
from latens.data.files import write_atomic
from latens.data.instances import Collection
from latens.data.labels import write_stack
from latens.data.masks import encode
from latens.metrics.instances import diameter, symmetry
from latens.systems.amodal.draw import overlay
from latens.systems.amodal.predict import Segmentation

CELL_COLUMNS = (
    "frame", "cell", "class", "score", "layer", "area_px", "diameter_px", "centroid_x", "centroid_y", "eccentricity", "hidden",
)  # fmt: skip
FRAME_COLUMNS = ("frame", "count", "symmetry", "occluded_px")


class Frame(NamedTuple):
    """A picture and what was found in it."""

    pixels: np.ndarray  # (H, W, 3) uint8
    found: Segmentation


def write_outputs(frames: Sequence[Frame], output: Path, source: str) -> list[Path]:
    """Writes all files of one input beside `output` (a .json); returns their paths, that one last."""
    stem = output.with_suffix("")
    cells = [row for number, frame in enumerate(frames, start=1) for row in cell_rows(frame, number)]
    files: dict[Path, bytes] = {
        Path(f"{stem}.cells.csv"): table(CELL_COLUMNS, cells),
        Path(f"{stem}.frames.csv"): table(FRAME_COLUMNS, [frame_row(frame, i) for i, frame in enumerate(frames, start=1)]),
    }
    drawn = [Image.fromarray(overlay(frame.pixels, frame.found.layers)) for frame in frames]
    files[Path(f"{stem}.overlay.{'png' if len(drawn) == 1 else 'tif'}")] = pages(drawn)
    masks = [mask for frame in frames for mask in frame.found.layers.amodal]
    if masks:
        files[Path(f"{stem}.masks.tif")] = write_stack(masks)
        if importlib.util.find_spec("roifile") is not None:
            files[Path(f"{stem}.rois.zip")] = rois(frames)
    files[output] = json.dumps(document(frames, source)).encode()
    for path, data in files.items():
        write_atomic(path, data)
    return list(files)


def document(frames: Sequence[Frame], source: str) -> dict[str, Any]:
    """COCO JSON of one file: an image for every frame, with its occlusion map, and all objects."""
    names = [source if len(frames) == 1 else f"{source}#{number}" for number in range(1, len(frames) + 1)]
    scenes = tuple(frame.found.scene(name) for frame, name in zip(frames, names, strict=True))
    written = to_document(Collection(categories=frames[0].found.classes, scenes=scenes))
    for image, frame in zip(written["images"], frames, strict=True):
        image["occlusion"] = encode(frame.found.layers.occlusion)
        image["count"] = len(frame.found)
    return written


def cell_rows(frame: Frame, number: int) -> list[tuple[Any, ...]]:
    """The numbers of every cell of a frame: lengths in pixels, areas in square pixels, hidden fraction in [0, 1]."""
    layers = frame.found.layers
    hidden = layers.hidden_fraction()
    rows = []
    for index, mask in enumerate(layers.amodal):
        y, x = np.nonzero(mask)
        rows.append((
            number, index + 1, frame.found.classes[int(layers.category[index])], round(float(frame.found.scores[index]), 4),
            int(layers.layer[index]), len(x), round(diameter(len(x)), 3), round(float(x.mean()) + 0.5, 3),
            round(float(y.mean()) + 0.5, 3), round(eccentricity(x, y), 4), round(float(hidden[index]), 4),
        ))  # fmt: skip
    return rows


def frame_row(frame: Frame, number: int) -> tuple[Any, ...]:
    """Count, symmetry (smallest over largest diameter; empty below two cells) and occluded pixels of a frame."""
    layers = frame.found.layers
    ratio = symmetry(layers.amodal)
    return number, len(layers.amodal), "" if ratio is None else round(ratio, 4), int(layers.occlusion.sum())


def eccentricity(x: np.ndarray, y: np.ndarray) -> float:
    """Of the ellipse with the same second moments as these pixels: 0 for a circle, near 1 for a line."""
    xx, yy = x.var(), y.var()
    xy = ((x - x.mean()) * (y - y.mean())).mean()
    spread = math.sqrt((xx - yy) ** 2 / 4 + xy**2)
    middle = (xx + yy) / 2
    return math.sqrt(1 - max(middle - spread, 0.0) / (middle + spread)) if middle else 0.0


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    """A CSV file."""
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return target.getvalue().encode()


def pages(images: Sequence[Image.Image]) -> bytes:
    """A PNG of one picture, or a TIFF of several."""
    target = io.BytesIO()
    if len(images) == 1:
        images[0].save(target, "PNG")
    else:
        images[0].save(target, "TIFF", save_all=True, append_images=list(images[1:]), compression="tiff_deflate")
    return target.getvalue()


def rois(frames: Sequence[Frame]) -> bytes:
    """A zip of ImageJ ROIs, one polygon a cell, each on its frame. Needs the extra `micro`."""
    from roifile import ImagejRoi

    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, frame in enumerate(frames, start=1):
            for index, mask in enumerate(frame.found.layers.amodal, start=1):
                name = f"{number:04d}-cell-{index:02d}"
                roi = ImagejRoi.frompoints(contour(mask), name=name, position=number - 1)  # counted from 0 here
                archive.writestr(f"{name}.roi", roi.tobytes())
    return target.getvalue()


def contour(mask: np.ndarray) -> np.ndarray:
    """The longest outline of a mask as (n, 2) columns and rows, in ImageJ's coordinates: pixel i covers [i, i + 1]."""
    from skimage.measure import find_contours

    lines = find_contours(np.pad(mask, 1).astype(np.float32), 0.5)
    longest = max(lines, key=len)
    return np.asarray(longest[:-1, ::-1] - 0.5, dtype=np.float32)
