"""Output files of a segmented file: COCO JSON, overlay, tables, a stack of masks, and ROIs for Fiji.

Files for the output out/embryo.json, which is renamed last and marks the input as done:

    embryo.overlay.png   outlines, dashed where a cell is hidden (a multi-page .tif for stacks)
    embryo.cells.csv     one line per cell
    embryo.frames.csv    one line per image: count, symmetry
    embryo.masks.tif     one page per cell, in the order of the table (models of few cells)
    embryo.labels.tif    one page per image, the number of the cell of every pixel (models of many cells)
    embryo.overlap.tif   one page per image, the number of cells that cover every pixel (models of many cells)
    embryo.rois.zip      ImageJ ROIs, if the extra `micro` is installed

All files are written frame by frame, so memory does not grow with the length of a stack.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from latens.data.annotations import to_document
from latens.data.csv_files import csv_bytes
from latens.data.files import fitting_name, has_temporary, writing
from latens.data.instances import Collection, Placed, label_map
from latens.data.masks import encode
from latens.data.stack_writer import StackWriter
from latens.errors import OutputExists, counted
from latens.metrics.instances import diameter, symmetry
from latens.systems.amodal.draw import overlay_placed
from latens.systems.amodal.segmenter import Found

logger = logging.getLogger(__name__)

CELL_COLUMNS = (
    "image", "frame", "cell", "class", "score", "layer", "area_px", "diameter_px", "centroid_x", "centroid_y", "eccentricity",
    "hidden",
)  # fmt: skip
FRAME_COLUMNS = ("image", "frame", "count", "symmetry", "occluded_px")
FAMILY = ("overlay.png", "overlay.tif", "cells.csv", "frames.csv", "masks.tif", "labels.tif", "overlap.tif", "rois.zip")
HEAD = 2**14  # bytes of a JSON file that show whether it is ours
SPOOL = 2**24  # bytes of the list of frames that stay in memory
BIG = 2**32 - 2**28  # bytes of pixels above which overlays are BigTIFF (64-bit offsets)


class Frame(NamedTuple):
    """An image and its objects."""

    pixels: np.ndarray  # (H, W, 3) uint8
    found: Found


class Written(NamedTuple):
    """The files of one input (the JSON last), and the number of objects of every frame."""

    files: list[Path]
    objects: list[int]
    left_out: tuple[str, ...] = ()  # outputs skipped because a package is missing


def write_outputs(
    frames: Iterable[Frame],
    output: Path,
    source: str,
    *,
    count: int = 1,
    info: dict[str, Any] | None = None,
    as_label_maps: bool = False,
) -> Written:
    """Write all files of one input next to `output` (a .json): all of them, or none if a frame raises.

    `count` is the number of frames; `info` goes into the JSON. With `as_label_maps` a label map and an overlap map replace the
    page for every cell. Raises ValueError for no frame.
    """
    objects: list[int] = []
    earlier = [path for path in family(output) if path.is_file()] if is_ours(output) else []
    with ExitStack() as stack:
        files = _Files(stack, output, source, count, as_label_maps=as_label_maps)
        for number, frame in enumerate(frames, start=1):
            if number == 1:
                files.begin(frame.found.classes, info or {})
            files.add(frame, number)
            objects.append(len(frame.found))
        if not objects:
            raise ValueError("no frames to write")
    for path in earlier:
        if path not in files.paths:  # of an earlier result with other contents
            path.unlink(missing_ok=True)
    return Written([*files.paths[1:], files.paths[0]], objects, files.left_out)


def is_ours(output: Path) -> bool:
    """True if this JSON was written by `write_outputs`, or would have been: a kill leaves its temporary file, renamed last."""
    if has_temporary(output):
        return True
    try:
        with output.open("rb") as file:
            start = file.read(HEAD)
    except OSError:
        return False
    return start.startswith(b'{"info": {') and b'"least_score": ' in start


def family(output: Path) -> list[Path]:
    """The files that may be written next to the JSON `output`."""
    stem = output.with_suffix("")
    return [stem.with_name(fitting_name(stem.name, f".{ending}")) for ending in FAMILY]


def check_foreign(outputs: Iterable[Path]) -> None:
    """Raise OutputExists if results would replace files that no segmentation wrote: hand-drawn annotations, masks, tables."""
    foreign = [
        path
        for output in outputs
        if os.fspath(output) != "-" and not is_ours(output)
        for path in (output, *family(output))
        if path.is_file()
    ]
    if foreign:
        shown = ", ".join(path.name for path in foreign[:4]) + (", ..." if len(foreign) > 4 else "")
        what = f"{counted(len(foreign), 'file')} would be replaced that latens did not write: {shown}"
        raise OutputExists(
            what, where=str(foreign[0].parent), hint="write into another folder with -o, or add --force to lose them"
        )


class _Files:
    """The open files of one input. They are renamed to their names when `stack` closes, the JSON last."""

    def __init__(self, stack: ExitStack, output: Path, source: str, count: int, *, as_label_maps: bool) -> None:
        self._stack = stack
        self._stem = output.with_suffix("")
        self._source = source
        self._count = count
        self._as_label_maps = as_label_maps
        self._masks: StackWriter | None = None
        self._labels: StackWriter | None = None
        self._overlap: StackWriter | None = None
        self._overlays: StackWriter | None = None
        self._archive: zipfile.ZipFile | None = None
        self._has_cells = False
        self.paths: list[Path] = []
        self.left_out: tuple[str, ...] = ()
        self._json = self._open(output)
        self._cells, self._frames = self._open_next_to("cells.csv"), self._open_next_to("frames.csv")
        self._drawn = self._open_next_to("overlay.png" if count == 1 else "overlay.tif")

    def _open(self, path: Path) -> BinaryIO:
        self.paths.append(path)
        return self._stack.enter_context(writing(path))

    def _open_next_to(self, ending: str) -> BinaryIO:
        return self._open(self._stem.with_name(fitting_name(self._stem.name, f".{ending}")))

    def begin(self, classes: Sequence[str], info: dict[str, Any]) -> None:
        """Write the headers of all files."""
        self._document = self._stack.enter_context(_document(self._json, classes, info))
        self._cells.write(csv_bytes([CELL_COLUMNS]))
        self._frames.write(csv_bytes([FRAME_COLUMNS]))

    def add(self, frame: Frame, number: int) -> None:
        """Write a frame, numbered from 1, to every file."""
        self._document.add(frame, self._source if self._count == 1 else f"{self._source}#{number}")
        self._cells.write(csv_bytes((self._source, *row) for row in cell_rows(frame, number)))
        self._frames.write(csv_bytes([(self._source, *frame_row(frame, number))]))
        self._draw(overlay_placed(frame.pixels, frame.found.placed))
        if self._as_label_maps:
            self._add_label_maps(frame)
        if len(frame.found):
            self._add_cells(frame, number)

    def _draw(self, image: np.ndarray) -> None:
        if self._count == 1:
            Image.fromarray(image).save(self._drawn, "PNG")
            return
        if self._overlays is None:
            self._overlays = StackWriter(self._drawn, big=image.size * self._count > BIG)
        self._overlays.write(image)

    def _add_label_maps(self, frame: Frame) -> None:
        """Write the label map and the overlap map of a frame."""
        if self._labels is None or self._overlap is None:
            big = self._count * frame.pixels[..., 0].size * 4 > BIG
            self._labels = StackWriter(self._open_next_to("labels.tif"), big=big)
            self._overlap = StackWriter(self._open_next_to("overlap.tif"), big=big)
        numbers, coverage = label_map(frame.found.placed, frame.found.size)
        self._labels.write(numbers)
        self._overlap.write(coverage)

    def _add_cells(self, frame: Frame, number: int) -> None:
        """Write masks and ROIs. Their files are opened at the first cell, because neither may be empty."""
        if not self._has_cells:
            self._has_cells = True
            if not self._as_label_maps:
                self._masks = StackWriter(self._open_next_to("masks.tif"), masks=True)
            if importlib.util.find_spec("roifile") is not None:
                file = self._open_next_to("rois.zip")
                self._archive = self._stack.enter_context(zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED))
            else:
                self.left_out = ("ROIs",)
                logger.warning("%s: ROIs for Fiji were skipped; install them with pip install 'latens[micro]'", self._source)
        if self._masks is not None:
            for placed in frame.found.placed:
                page = np.zeros(frame.found.size, dtype=np.uint8)
                page[placed.window] = placed.amodal * np.uint8(255)
                self._masks.write(page)
        if self._archive is not None:
            add_rois(self._archive, frame, number)


class _Document:
    """COCO JSON written incrementally: annotations go into the file, frames into a spool that is appended at the end."""

    def __init__(self, target: BinaryIO, images: Any) -> None:
        self._target = target
        self._images = images
        self._frames = self._objects = 0

    def add(self, frame: Frame, name: str) -> None:
        """Write the objects of a frame, and the frame with its occlusion map."""
        written = to_document(Collection(categories=frame.found.classes, scenes=(frame.found.scene(name),)))
        self._frames += 1
        (image,) = written["images"]
        image |= {"id": self._frames, "occlusion": encode(frame.found.occlusion), "count": len(frame.found)}
        image |= frame.found.facts
        self._images.write((", " if self._frames > 1 else "").encode() + json.dumps(image).encode())
        for annotation in written["annotations"]:
            self._objects += 1
            annotation |= {"id": self._objects, "image_id": self._frames}
            self._target.write((", " if self._objects > 1 else "").encode() + json.dumps(annotation).encode())


@contextmanager
def _document(target: BinaryIO, classes: Sequence[str], info: dict[str, Any]) -> Iterator[_Document]:
    categories = to_document(Collection(categories=tuple(classes), scenes=()))["categories"]
    target.write(f'{{"info": {json.dumps(info)}, "categories": {json.dumps(categories)}, "annotations": ['.encode())
    with tempfile.SpooledTemporaryFile(SPOOL) as images:
        yield _Document(target, images)
        images.seek(0)
        target.write(b'], "images": [')
        shutil.copyfileobj(images, target)
        target.write(b"]}")


def cell_rows(frame: Frame, number: int) -> list[tuple[Any, ...]]:
    """Measurements of every cell of a frame: lengths in pixels, areas in square pixels, hidden fraction in [0, 1]."""
    rows = []
    for index, (placed, score) in enumerate(zip(frame.found.placed, frame.found.scores, strict=True)):
        y, x = np.nonzero(placed.amodal)
        hidden = 1 - int((placed.amodal & placed.visible).sum()) / max(len(x), 1)
        rows.append((
            number, index + 1, frame.found.classes[placed.category], round(float(score), 4),
            placed.layer, len(x), round(diameter(len(x)), 3), round(float(x.mean()) + placed.left + 0.5, 3),
            round(float(y.mean()) + placed.top + 0.5, 3), round(eccentricity(x, y), 4), round(hidden, 4),
        ))  # fmt: skip
    return rows


def frame_row(frame: Frame, number: int) -> tuple[Any, ...]:
    """Number of cells, symmetry (smallest / largest diameter; empty below two cells) and occluded pixels of a frame."""
    placed = frame.found.placed
    ratio = symmetry([int(each.amodal.sum()) for each in placed])
    return number, len(placed), "" if ratio is None else round(ratio, 4), int(frame.found.occlusion.sum())


def eccentricity(x: np.ndarray, y: np.ndarray) -> float:
    """Eccentricity of the ellipse with the second moments of these pixels: 0 for a circle, near 1 for a line."""
    xx, yy = x.var(), y.var()
    xy = ((x - x.mean()) * (y - y.mean())).mean()
    spread = math.sqrt((xx - yy) ** 2 / 4 + xy**2)
    middle = (xx + yy) / 2
    return math.sqrt(1 - max(middle - spread, 0.0) / (middle + spread)) if middle else 0.0


def add_rois(archive: zipfile.ZipFile, frame: Frame, number: int) -> None:
    """Add ImageJ ROIs of a frame (numbered from 1), one polygon per cell. Needs the extra `micro`."""
    from roifile import ImagejRoi

    for index, placed in enumerate(frame.found.placed, start=1):
        name = f"{number:04d}-cell-{index:02d}"
        roi = ImagejRoi.frompoints(contour(placed), name=name, position=number - 1)  # roifile counts from 0
        archive.writestr(f"{name}.roi", roi.tobytes())


def contour(placed: Placed) -> np.ndarray:
    """The longest outline of an object as (n, 2) columns and rows, in ImageJ's coordinates: pixel i covers [i, i + 1]."""
    from skimage.measure import find_contours

    lines = find_contours(np.pad(placed.amodal, 1).astype(np.float32), 0.5)
    longest = max(lines, key=len)
    return np.asarray(longest[:-1, ::-1] - 0.5 + (placed.left, placed.top), dtype=np.float32)
