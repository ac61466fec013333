"""Marked images for names: labelme files (areas and strokes), or label maps beside their images.

Values of a label map are named by labels.txt in the same folder, one line a value: `3 tree`, or `tree` alone for the values
from 1 on. Values that it does not list are unmarked. Without that file, value n is named "n" and 0 is unmarked.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from latens.data.files import read_bytes
from latens.data.image_paths import OutsideImages
from latens.data.images import IMAGE_ENDINGS
from latens.data.inputs import files_under
from latens.data.labelme import is_labelme, read_labelme
from latens.data.labels import is_label_name, pairs_in, read_label_values
from latens.data.masks import decode
from latens.errors import InputError, UnreadableInput
from latens.systems.parts.naming.namer import MAX_NAMES, Marked

LABELS = "labels.txt"
MAX_TEXT = 1 << 20  # bytes of labels.txt
STROKE = 0.015  # width of a stroke, relative to the shorter side of its image

logger = logging.getLogger(__name__)


class Examples(NamedTuple):
    """Marked images and the names in the order of their numbers."""

    marked: list[Marked]
    names: tuple[str, ...]


def read_examples(folder: Path) -> Examples:
    """Marked images of a folder. Raises UnreadableInput without any, InputError for files that cannot be used."""
    if not folder.is_dir():
        raise UnreadableInput("this is not a folder of marked images", where=str(folder), hint="see `latens parts --help`")
    drawn = sorted(path for path in files_under(folder, frozenset({".json"})) if is_labelme(path))
    maps = any(is_label_name(path.relative_to(folder)) for path in files_under(folder, IMAGE_ENDINGS))
    if drawn and maps:
        what = "this folder holds labelme files and label maps; only one kind can be read at a time"
        raise InputError(what, where=str(folder), hint="keep them in two folders, and teach with one")
    if not drawn and not maps:
        hint = "mark images in labelme (polygons or lines), or put label maps beside them: a.jpg and a_label.png"
        raise UnreadableInput("no marked images in this folder", where=str(folder), hint=hint)
    return _drawn(drawn, folder) if drawn else _label_maps(folder)


def _drawn(paths: Sequence[Path], folder: Path) -> Examples:
    """Areas and strokes of labelme; a later shape covers an earlier one."""
    try:
        found = read_labelme(paths, root=folder, stroke=STROKE)
    except OutsideImages as error:
        error.hint = "if you trust this file, move it into the folder of its images"
        raise
    names = _checked(found.categories, folder)  # labels have eight bits
    marked = []
    for scene in found.scenes:
        labels = np.zeros((scene.height, scene.width), np.uint8)
        for instance in scene.instances:
            labels[decode(instance.amodal)] = instance.category + 1
        marked.append(Marked(found.path(scene), labels))
    return Examples(marked, names)


def _label_maps(folder: Path) -> Examples:
    listed = read_names(folder / LABELS) if (folder / LABELS).is_file() else None
    read = [(image, read_label_values(labels)) for image, labels in pairs_in(folder)]
    there = sorted({int(value) for _, values in read for value in np.unique(values)})
    if listed is None:
        named = {value: str(value) for value in there if value > 0}
        what = "values of label maps are their names, and 0 is unmarked; %s, with lines such as `3 tree`, names them"
        logger.warning("%s: " + what, folder, LABELS)
    else:
        named = {value: name for value, name in listed.items() if value in there}
        if len(named) < len(listed):
            missing = [name for value, name in listed.items() if value not in named]
            logger.warning("%s: in no label map: %s", folder / LABELS, ", ".join(missing))
        unnamed = [str(value) for value in there if value > 0 and value not in named]
        if unnamed:
            logger.warning("%s: values without a name are unmarked: %s", folder / LABELS, ", ".join(unnamed))
    names = _checked(tuple(dict.fromkeys(named.values())), folder)
    marked = []
    for image, values in read:
        labels = np.zeros(values.shape, np.uint8)
        for value, name in named.items():
            labels[values == value] = names.index(name) + 1
        marked.append(Marked(image, labels))
    return Examples(marked, names)


def read_names(path: Path) -> dict[int, str]:
    """Names of label values. Raises InputError for a value that is named twice, and for a file that is not UTF-8."""
    named: dict[int, str] = {}
    try:
        text = read_bytes(path, limit=MAX_TEXT).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError("the text is not UTF-8", where=str(path), hint="save it again as UTF-8") from error
    lines = [line.strip() for line in text.splitlines()]
    for number, line in enumerate([line for line in lines if line and not line.startswith("#")], start=1):
        first, _, rest = line.replace(",", " ", 1).replace(":", " ", 1).partition(" ")
        value, name = (int(first), rest.strip()) if first.isdecimal() and rest.strip() else (number, line)
        if value in named:
            raise InputError(f"value {value} is named twice: {named[value]} and {name}", where=str(path))
        named[value] = name
    return named


def _checked(names: Sequence[str], folder: Path) -> tuple[str, ...]:
    if len(names) > MAX_NAMES:
        hint = "mark kinds of objects, not single ones; labels.txt gives several values one name"
        raise InputError(f"{len(names)} names; at most {MAX_NAMES} are possible", where=str(folder), hint=hint)
    return tuple(names)
