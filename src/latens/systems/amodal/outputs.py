"""Output files of a segmented file: COCO JSON, overlay, tables, a stack of masks, and ROIs for Fiji.

Files for the output out/embryo.json, which is renamed last and marks the input as done:

    embryo.overlay.png   outlines, dashed where a cell is hidden (a multi-page .tif for stacks)
    embryo.cells.csv     one line per cell (columns: `metrics.cells`)
    embryo.frames.csv    one line per image: count, symmetry
    embryo.masks.tif     one page per cell, in the order of the table (models of few cells)
    embryo.labels.tif    one page per image, the number of the cell of every pixel (models of many cells)
    embryo.overlap.tif   one page per image, the number of cells that cover every pixel (models of many cells)
    embryo.rois.zip      ImageJ ROIs, if the extra `micro` is installed

A pixel size in OME or ImageJ is carried into the tables and the JSON (`pixel_um`), and into masks and overlays as their
resolution. A folder of results also has the tables of all its results together, cells.csv and frames.csv.

All files are written frame by frame, so memory does not grow with the length of a stack.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from latens.data.annotations import to_document
from latens.data.csv_files import csv_bytes
from latens.data.files import fitting_name, has_temporary, writing
from latens.data.inputs import files_under
from latens.data.instances import Collection, Placed, label_map
from latens.data.joint_tables import may_replace_table, write_table
from latens.data.masks import encode
from latens.data.planes import Plane
from latens.data.records import Records
from latens.data.stack_writer import StackWriter
from latens.errors import OutputExists, UnreadableInput, counted
from latens.metrics.cells import CELL_COLUMNS, FRAME_COLUMNS, Measured, cell_rows, frame_row, joined_tables
from latens.systems.amodal.draw import overlay_placed
from latens.systems.amodal.segmenter import Found

logger = logging.getLogger(__name__)

FAMILY = ("overlay.png", "overlay.tif", "cells.csv", "frames.csv", "masks.tif", "labels.tif", "overlap.tif", "rois.zip")
MADE_BY = {"made_by": "latens segment"}
MARK = b'"made_by": "latens'
HEAD = 2**14  # bytes of a JSON file that show whether it is ours
SPOOL = 2**24  # bytes of the list of frames that stay in memory
BIG = 2**32 - 2**28  # bytes of pixels above which overlays are BigTIFF (64-bit offsets)
JOINT: Mapping[str, Sequence[str]] = MappingProxyType({"cells.csv": CELL_COLUMNS, "frames.csv": FRAME_COLUMNS})
UM_PER_INCH = 25_400


class Frame(NamedTuple):
    """An image and its objects."""

    pixels: np.ndarray  # (H, W, 3) uint8
    found: Found
    plane: Plane = Plane()

    @property
    def measured(self) -> Measured:
        found = self.found
        return Measured(found.placed, int(found.occlusion.sum()), found.classes, found.scores.tolist(), self.plane)


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

    `count` is the number of frames; `info` goes into the JSON, with the name of this command. With `as_label_maps` a label map
    and an overlap map replace the page for every cell. Raises ValueError for no frame.
    """
    objects: list[int] = []
    there = [path for path in family(output) if path.is_file()]
    earlier = there if there and is_ours(output) else []
    with ExitStack() as stack:
        files = _Files(stack, output, source, count, as_label_maps=as_label_maps)
        for number, frame in enumerate(frames, start=1):
            if number == 1:
                files.begin(frame.found.classes, {**MADE_BY, **(info or {})})
            files.add(frame, number)
            objects.append(len(frame.found))
        if not objects:
            raise ValueError("no frames to write")
    for path in earlier:
        if path not in files.paths:  # of an earlier result with other contents
            path.unlink(missing_ok=True)
    return Written([*files.paths[1:], files.paths[0]], objects, files.left_out)


def is_ours(output: Path) -> bool:
    """True if `write_outputs` wrote this JSON, or would have written it: a kill leaves its temporary file, renamed last."""
    return _is_result(output) or has_temporary(output)  # the second lists the folder


def _is_result(path: Path) -> bool:
    """True if this is a JSON of `write_outputs`."""
    try:
        with path.open("rb") as file:
            start = file.read(HEAD)
    except OSError:
        return False
    return start.startswith(b'{"info": {') and any(mark in start for mark in (MARK, b'"least_score": '))


def family(output: Path) -> list[Path]:
    """The files that may be written next to the JSON `output`."""
    stem = output.with_suffix("")
    return [stem.with_name(fitting_name(stem.name, f".{ending}")) for ending in FAMILY]


def check_foreign(outputs: Iterable[Path]) -> None:
    """Raise OutputExists if results would replace files that no segmentation wrote: hand-drawn annotations, masks, tables."""
    records = Records()
    foreign: list[Path] = []
    for output in outputs:
        unknown = [path for path in (output, *family(output)) if path.is_file() and records.entry(path) is None]
        if unknown and not is_ours(output):  # lists the folder: not for every new output of a batch
            foreign += unknown
    if foreign:
        shown = ", ".join(path.name for path in foreign[:4]) + (", ..." if len(foreign) > 4 else "")
        what = f"{counted(len(foreign), 'file')} would be replaced that latens did not write: {shown}"
        raise OutputExists(
            what, where=str(foreign[0].parent), hint="write into another folder with -o, or add --force to lose them"
        )


def join_tables(folder: Path) -> list[Path]:
    """Write the tables of all results in `folder` and its subfolders together as cells.csv and frames.csv in it.

    Earlier results are included, also of inputs that are gone; unfinished ones are not. Writes nothing for fewer than two
    results. A table of these names that latens did not write, or that was changed since, is kept with a warning. Returns the
    paths of the tables.
    """
    if not folder.is_dir():  # no input could be read
        return []
    results = [path for path in files_under(folder, frozenset({".json"})) if path.is_file() and _is_result(path)]
    written: list[Path] = []
    records = Records()
    for name, columns in JOINT.items() if len(results) > 1 else ():
        parts = [path for result in results for path in family(result) if path.name.endswith(f".{name}") and path.is_file()]
        target = folder / name
        if not may_replace_table(target, columns, records):
            continue
        try:
            write_table(target, joined_tables(parts, columns), records)
        except UnreadableInput as error:
            logger.warning("%s: the joint table was not written: %s", target, error)
            continue
        written.append(target)
    return written


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
        measured = frame.measured
        self._cells.write(csv_bytes((self._source, *row) for row in cell_rows(measured, number)))
        self._frames.write(csv_bytes([(self._source, *frame_row(measured, number))]))
        self._draw(frame)
        if self._as_label_maps:
            self._add_label_maps(frame)
        if len(frame.found):
            self._add_cells(frame, number)

    def _draw(self, frame: Frame) -> None:
        """Write the overlay of a frame."""
        pixel_um = frame.plane.pixel_um
        if self._count == 1:
            scale = {} if pixel_um is None else {"dpi": tuple(UM_PER_INCH / size for size in pixel_um)}
            image = Image.fromarray(overlay_placed(frame.pixels, frame.found.placed))  # a copy; the array is given up
            image.save(self._drawn, "PNG", **scale)
            return
        drawn = overlay_placed(frame.pixels, frame.found.placed)
        if self._overlays is None:
            self._overlays = StackWriter(self._drawn, big=drawn.size * self._count > BIG, pixel_um=pixel_um)
        self._overlays.write(drawn)

    def _add_label_maps(self, frame: Frame) -> None:
        """Write the label map and the overlap map of a frame."""
        if self._labels is None or self._overlap is None:
            big = self._count * frame.pixels[..., 0].size * 4 > BIG
            self._labels = StackWriter(self._open_next_to("labels.tif"), big=big, pixel_um=frame.plane.pixel_um)
            self._overlap = StackWriter(self._open_next_to("overlap.tif"), big=big, pixel_um=frame.plane.pixel_um)
        numbers, coverage = label_map(frame.found.placed, frame.found.size)
        self._labels.write(numbers)
        self._overlap.write(coverage)

    def _add_cells(self, frame: Frame, number: int) -> None:
        """Write masks and ROIs. Their files are opened at the first cell, because neither may be empty."""
        if not self._has_cells:
            self._has_cells = True
            if not self._as_label_maps:
                self._masks = StackWriter(self._open_next_to("masks.tif"), masks=True, pixel_um=frame.plane.pixel_um)
            if importlib.util.find_spec("roifile") is not None:
                file = self._open_next_to("rois.zip")
                self._archive = self._stack.enter_context(zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED))
            else:
                self.left_out = ("ROIs",)
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
        scene = replace(frame.found.scene(name), plane=frame.plane)
        written = to_document(Collection(categories=frame.found.classes, scenes=(scene,)))
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


def add_rois(archive: zipfile.ZipFile, frame: Frame, number: int) -> None:
    """Add ImageJ ROIs of a frame (numbered from 1), one polygon per cell. Needs the extra `micro`."""
    from roifile import ImagejRoi

    for index, placed in enumerate(frame.found.placed, start=1):
        name = f"{number:04d}-cell-{index:02d}"
        roi = ImagejRoi.frompoints(contour(placed), name=name, position=number - 1)  # roifile counts from 0
        entry = zipfile.ZipInfo(f"{name}.roi")  # of a fixed date: the same result gives the same bytes
        archive.writestr(entry, roi.tobytes(), zipfile.ZIP_DEFLATED)


def contour(placed: Placed) -> np.ndarray:
    """The longest outline of an object as (n, 2) columns and rows, in ImageJ's coordinates: pixel i covers [i, i + 1]."""
    from skimage.measure import find_contours

    lines = find_contours(np.pad(placed.amodal, 1).astype(np.float32), 0.5)
    longest = max(lines, key=len)
    return np.asarray(longest[:-1, ::-1] - 0.5 + (placed.left, placed.top), dtype=np.float32)
