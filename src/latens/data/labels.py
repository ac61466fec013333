"""Folders of label maps and stacks of masks.

A label map has one integer per pixel and cannot represent overlaps, so its objects are fully visible. A stack of masks has one
page per object and represents overlaps. Files that may be read in several ways are refused unless the reading is chosen.

| reading | a file is |
|---|---|
| auto | a label map, or a stack of masks if it has several pages; refused if it is ambiguous |
| values | a label map: the pixels of one value are an object, also in pieces |
| components | a binary mask: every connected piece (of 8 neighbors) is an object |
| masks | a stack of masks: every page is an object, from front to back |
| frames | a time-lapse of label maps: one page for every page of its image |
| frames-components | a time-lapse of binary masks |
"""

from __future__ import annotations

import io
import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from latens.data.images import IMAGE_ENDINGS
from latens.data.inputs import files_under
from latens.data.instances import Collection, Layers, Scene, check_masks, paint, scene_of
from latens.data.label_pages import Page, read_pages
from latens.data.origins import without_drawn
from latens.data.stack_writer import StackWriter
from latens.data.stacks import count_frames
from latens.errors import InputError, UnreadableInput, UsageError, counted
from latens.shapes import Int

LABEL_MARK = re.compile(r"(?:[-_.]cp)?[-_.]?(lab|label|labels|mask|masks)$", re.I)  # cellpose writes NAME_cp_masks.png
IMAGE_MARK = re.compile(r"[-_.]?(img|image|images)$", re.I)
CELLPOSE_EXTRA = re.compile(r"[-_.](cp[-_.])?(flows|outlines|cellprob|output)$", re.I)  # images that cellpose writes
READINGS = ("auto", "values", "components", "masks", "frames", "frames-components")

logger = logging.getLogger(__name__)


def pairs_in(folder: Path) -> list[tuple[Path, Path]]:
    """Images of a folder with their label maps, sorted: a_img.png and a_lab.png, or images/a.png and labels/a.png.

    Subfolders are matched: train/images/a.png belongs to train/labels/a.png. An image without such a label map is matched only
    by name if the name is unique among images and among label maps. Raises UnreadableInput without label maps, InputError for
    an image without a label map and for two images with the same name.
    """
    there = files_under(folder, IMAGE_ENDINGS)
    named = {path for path in there if is_label_name(path.relative_to(folder))}  # also those that latens wrote
    every = sorted([*named, *without_drawn(set(there) - named, folder)])
    names = [path for path in every if not CELLPOSE_EXTRA.search(path.stem)]
    if len(every) > len(names):
        logger.warning("%s: left out %s of flows and outlines", folder, counted(len(every) - len(names), "image"))
    is_label = {path: is_label_name(path.relative_to(folder)) for path in names}
    labels = _by_key([path for path in names if is_label[path]], folder)
    images = _by_key([path for path in names if not is_label[path]], folder)
    if not labels:
        hint = _cellpose_hint(folder) or "name them a_img.png and a_lab.png, or put them into images/ and labels/"
        raise UnreadableInput("no label maps in this folder", where=str(folder), hint=hint)
    once = {name for name, count in Counter(key[-1] for key in images).items() if count == 1}
    by_name = {key[-1]: path for key, path in labels.items()}
    by_name = {name: by_name[name] for name, count in Counter(key[-1] for key in labels).items() if count == 1 and name in once}
    found = {image: labels.get(key) or by_name.get(key[-1]) for key, image in images.items()}
    missing = [image for image, label in found.items() if label is None]
    if missing or not images:
        what = f"{counted(len(missing), 'image')} without a label map" if images else "there are label maps but no images"
        hint = "every image needs a label map: one file with a number for each object, not a file for each object"
        hint = _cellpose_hint(folder) or hint
        raise InputError(what, where=str(missing[0] if missing else folder), hint=hint)
    return [(image, label) for image, label in found.items() if label is not None]


def _cellpose_hint(folder: Path) -> str:
    """A hint for folders with cellpose's own files, which hold Python objects that may run code; "" for other folders."""
    there = files_under(folder, frozenset({"_seg.npy"}))
    return "_seg.npy files are not read: save the masks in cellpose as PNG or TIFF (NAME_cp_masks.png)" if there else ""


def is_label_name(path: Path) -> bool:
    """True for a relative path that is named like a label map: a_label.png, labels/a.png."""
    return bool(LABEL_MARK.search(path.stem)) or any(LABEL_MARK.fullmatch(part) for part in path.parent.parts)


def _by_key(paths: Sequence[Path], folder: Path) -> dict[tuple[str, ...], Path]:
    """Files by folder (without images/ and labels/) and name (without marker and ending)."""
    found: dict[tuple[str, ...], Path] = {}
    for path in paths:
        parts = path.relative_to(folder).parent.parts
        kept = [part for part in parts if not (LABEL_MARK.fullmatch(part) or IMAGE_MARK.fullmatch(part))]
        key = (*kept, IMAGE_MARK.sub("", LABEL_MARK.sub("", path.stem)))
        if key in found:
            what = f"this file and {found[key].name} match the same name"
            raise InputError(what, where=str(path), hint="rename one of them")
        found[key] = path
    return found


def read_label_folder(folder: Path, category: str = "cell", how: str = "auto") -> Collection:
    """Read images with label maps, or with TIFF stacks of masks, as a collection of one class; `how` is one of READINGS.

    With "auto", raises InputError for files that may be read in several ways. In folders with a map of several values, one
    value in several pieces is one object.
    """
    _check_reading(how)
    scenes: list[Scene] = []
    pieces: list[InputError] = []
    several = False
    for image, labels in pairs_in(folder):
        name = image.relative_to(folder).as_posix()
        pages = read_pages(labels)
        if how.startswith("frames"):
            scenes += _frames(pages, how, image, labels, name)
            continue
        if how == "auto":
            marked = _is_stack_of_masks(pages)
            if not marked and len(pages) > 1 and count_frames(image) == len(pages):
                raise _ambiguous(f"{len(pages)} pages, like its image {image.name}", labels, "frames", "masks")
            _check_one_value_per_page(pages, labels)
            values = len(np.unique(pages[0].values[pages[0].values > 0])) if len(pages) == 1 else 0
            several |= values > 1
            if values == 1 and not marked and _pieces(pages[0].values) > 1:
                pieces.append(_ambiguous_pieces(pages[0].values, labels))
        _warn_of_values(pages, how, labels)
        scenes.append(scene_of(_layers(pages, how), name))
    if pieces and not several:
        raise pieces[0]
    return Collection(categories=(category,), scenes=tuple(scenes), root=folder, info={"dialect": "labels"})


def read_labels(path: Path, how: str = "auto") -> Layers:
    """Objects of a label map (integers; 0 is background), or of a stack of masks (one page per object, front to back).

    `how` is one of READINGS without frames. With "auto", raises InputError for a page of several values in a stack, and for a
    binary mask (0 and 255) in several pieces.
    """
    _check_reading(how)
    pages = read_pages(path)
    if how.startswith("frames"):
        raise UsageError("a time-lapse is read with its images", where=str(path), hint="use read_label_folder")
    if how == "auto" and not _is_stack_of_masks(pages):
        _check_one_value_per_page(pages, path)
        if len(pages) == 1 and np.array_equal(np.unique(pages[0].values), (0, 255)) and _pieces(pages[0].values) > 1:
            raise _ambiguous_pieces(pages[0].values, path)
    return _layers(pages, how)


def _check_reading(how: str) -> None:
    if how not in READINGS:
        raise UsageError(f"'{how}' is not a reading of label maps", hint=f"choose {', '.join(READINGS)}")


def _is_stack_of_masks(pages: Sequence[Page]) -> bool:
    return all(page.is_mask for page in pages)


def _check_one_value_per_page(pages: Sequence[Page], path: Path) -> None:
    if len(pages) < 2:
        return
    for number, page in enumerate(pages, start=1):
        count = len(np.unique(page.values[page.values != 0]))
        if count > 1:
            raise _ambiguous(f"page {number} of {len(pages)} has {count} values", path, "frames", "masks")


def _warn_of_values(pages: Sequence[Page], how: str, path: Path) -> None:
    """Log that a chosen reading ignores the values of a label map."""
    count = max((len(np.unique(page.values[page.values != 0])) for page in pages), default=0)
    if count > 1 and (how == "masks" or how.endswith("components")):
        unit = "page" if how == "masks" else "piece"
        what = f"a page has {count} values; read as '{how}', every {unit} is one object whatever its values"
        logger.warning("%s: %s", path, what)


def _ambiguous_pieces(values: np.ndarray, path: Path) -> InputError:
    what = f"a mask with one value in {_pieces(values)} pieces"
    return _ambiguous(what, path, "components", "values")


def _ambiguous(what: str, path: Path, *readings: str) -> InputError:
    meanings = {
        "frames": "a label map for every frame",
        "masks": "a mask for every object",
        "components": "every piece is an object",
        "values": "one object in pieces",
    }
    options = " or ".join(f"labels:FOLDER,{reading} ({meanings[reading]})" for reading in readings)
    return InputError(f"ambiguous label map: {what}", where=str(path), hint=f"choose {options}")


def _layers(pages: Sequence[Page], how: str) -> Layers:
    if how == "masks" or (how == "auto" and len(pages) > 1):
        masks = np.stack([page.values != 0 for page in pages])
        masks = masks if len(masks) > 1 else masks[masks.any(axis=(1, 2))]  # an image without objects has one empty page
        return paint(masks, np.arange(len(masks)))
    if len(pages) > 1:
        raise InputError(f"{len(pages)} pages, but '{how}' reads one page", hint="choose frames or masks")
    return _map_layers(pages[0].values, how)


def _map_layers(values: np.ndarray, how: str) -> Layers:
    """Fully visible objects of a label map, or of a binary mask with `components`."""
    numbered = _components(values) if how.endswith("components") else values
    numbers = [each for each in np.unique(numbered) if each]
    check_masks(len(numbers), *values.shape)
    found = [numbered == each for each in numbers]
    masks = np.stack(found) if found else np.zeros((0, *values.shape), bool)
    n = len(masks)
    return Layers(masks, masks.copy(), np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64))


def _components(values: np.ndarray) -> np.ndarray:
    """The numbers from 1 of the connected pieces (8 neighbors) of all values but 0."""
    from scipy.ndimage import label

    return np.asarray(label(values != 0, structure=np.ones((3, 3)))[0])


def _pieces(values: np.ndarray) -> int:
    return int(_components(values).max(initial=0))


def _frames(pages: Sequence[Page], how: str, image: Path, labels: Path, name: str) -> list[Scene]:
    """One scene for every page; images of stacks are named stack.tif#1, stack.tif#2, ..."""
    count = count_frames(image)
    if count != len(pages):
        raise InputError(f"{counted(len(pages), 'label map')} for {counted(count, 'frame')} of {image.name}", where=str(labels))
    names = [name] if count == 1 else [f"{name}#{number}" for number in range(1, count + 1)]
    return [scene_of(_map_layers(page.values, how), each) for page, each in zip(pages, names, strict=True)]


def write_stack(masks: Sequence[np.ndarray] | np.ndarray) -> bytes:
    """A multi-page TIFF of masks (H, W), one page each, 0 and 255, losslessly compressed. Raises ValueError without masks."""
    if not len(masks):
        raise ValueError("a TIFF file needs at least one page")
    target = io.BytesIO()
    writer = StackWriter(target, masks=True)
    for mask in masks:
        writer.write(mask.astype(np.uint8) * 255)
    return target.getvalue()


def read_label_map(path: Path) -> Int[np.ndarray, "H W"]:
    """The label map of a file as int32, with its objects renumbered from 1. Raises as `read_label_values`."""
    found = read_label_values(path)
    values, numbers = np.unique(found, return_inverse=True)
    offset = 0 if values[0] == 0 else 1
    return np.asarray(numbers.reshape(found.shape) + offset, dtype=np.int32)


def read_label_values(path: Path) -> Int[np.ndarray, "H W"]:
    """The values of a label map: whole numbers from 0, of a palette its indices.

    Raises InputError for several pages or channels, UnreadableInput for a file that is no label map.
    """
    pages = read_pages(path)
    if len(pages) != 1:
        raise InputError(f"{len(pages)} pages, but a label map has one", where=str(path))
    return pages[0].values
