"""Conversion of annotated data sets between formats, for `latens convert`.

| source | format | preserved |
|---|---|---|
| coco:FILE.json,IMAGES | ours, D2SA, COCOA-cls | everything |
| kins: | KINS of 2020 (or, read and as `kins2019`, of 2019) | all but scores; of 2019 all but order and scores |
| cocoa: | COCOA, with classes | all but scores |
| aistron: | aistron's unified files | all but order and scores |
| labelme:FOLDER | labelme's files | all but scores |
| labels:FOLDER | images/ and labels/, a stack of masks for every image, from front to back | one class, order |

Run-length codes are kept unchanged; polygons are rasterized once, by COCO's rules. A folder may stand in for its only JSON
file. Without IMAGES, the images are next to the file or in a folder below it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from latens.data.annotations import read_annotations, to_document
from latens.data.files import STANDARD_STREAM, read_bytes, write_atomic, write_error
from latens.data.image_output import png_bytes
from latens.data.instances import Collection, Scene
from latens.data.labelme import read_labelme, to_labelme
from latens.data.labels import LABEL_MARK, read_label_folder, write_stack
from latens.data.stacks import frame_place, read_frame
from latens.errors import InputError, LatensError, OutputExists, UsageError

logger = logging.getLogger(__name__)

DIALECTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "coco": ("coco",),
        "d2sa": ("coco",),
        "kins": ("kins2020", "kins2019"),
        "kins2019": ("kins2019",),
        "cocoa": ("cocoa", "coco"),  # COCOA-cls is flat
        "aistron": ("aistron",),
    }
)
"""Keywords of annotation files and the dialects that each reads; it writes the first one."""
FOLDERS = ("labelme", "labels")
READABLE = (*DIALECTS, *FOLDERS)
WRITABLE = (*(word for word in DIALECTS if word != "d2sa"), *FOLDERS)
IMAGE_LIMIT = 2**31  # bytes
MAX_NAMED = 6  # files in a message


def read_collection(text: str, classes: Sequence[str] | None = None) -> Collection:
    """The data set of a source such as coco:FILE.json,IMAGES; `classes` sets the classes of labelme files and their order.

    Raises UsageError for an unknown keyword, InputError if the file is in another dialect than the keyword.
    """
    kind, _, place = text.partition(":")
    if kind not in READABLE or not place:
        hint = "write coco:FILE.json,IMAGES (or kins, cocoa, d2sa, aistron), labelme:FOLDER or labels:FOLDER"
        raise UsageError(f"'{text}' is not a source of annotations", hint=hint)
    if classes is not None and kind != "labelme":
        raise UsageError(f"the files of {kind} define the classes", where="--classes", hint="omit it")
    if kind == "labels":
        return read_label_folder(Path(place))
    if kind == "labelme":
        try:
            return read_labelme(sorted(Path(place).glob("*.json")), classes)
        except LatensError as error:
            raise error.at(place) from error
    name, _, root = place.partition(",")
    path = annotation_file(Path(name))
    found = read_annotations(path)
    found = replace(found, root=Path(root) if root else image_folder(found.scenes, path, Path(name)))
    if found.info["dialect"] not in DIALECTS[kind]:
        raise InputError(
            f"this file is in the dialect {found.info['dialect']}, not {kind}",
            where=str(path),
            hint="give the dialect of the file: with other keys an evaluation would silently return zeros",
        )
    return found


def annotation_file(place: Path) -> Path:
    """The file itself, or the only JSON file of a folder. Raises InputError if a folder has none or several."""
    if not place.is_dir():
        return place
    found = sorted(path for path in place.rglob("*.json") if not path.name.startswith("."))
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(place)) for path in found[:MAX_NAMED])
        more = f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
        what = f"this folder has {len(found)} annotation files: {names}{more}" if found else "this folder has no JSON file"
        raise InputError(what, where=str(place), hint=f"give one: {place}/FILE.json, or {place}/FILE.json,IMAGES")
    return found[0]


def image_folder(scenes: Sequence[Scene], file: Path, place: Path) -> Path:
    """Image folder of an annotation file: its own, or the first folder below it that contains the first and last image."""
    top = place if place.is_dir() else file.parent
    if not scenes or (file.parent / scenes[0].file).is_file():
        return file.parent
    for folder in sorted(path for path in top.rglob("*") if path.is_dir()):
        if (folder / scenes[0].file).is_file() and (folder / scenes[-1].file).is_file():
            logger.warning("%s: its images are taken from %s; FILE.json,IMAGES names another folder", file, folder)
            return folder
    return file.parent


def write_collection(collection: Collection, form: str, out: Path, *, force: bool = False) -> list[Path]:
    """Write a data set in a format of `WRITABLE`: a JSON file `out`, or files in the folder `out`. Returns their paths.

    All files are written before the first one is renamed to its path. Raises OutputExists for existing files without `force`,
    UsageError for an unknown format, InputError for data that the format cannot represent.
    """
    if form not in WRITABLE:
        raise UsageError(f"'{form}' cannot be written", where="--to", hint=f"choose {', '.join(WRITABLE)}")
    if form in DIALECTS:
        if out != STANDARD_STREAM:
            _refuse_to_overwrite([out], force=force)
        write_atomic(out, json.dumps(to_document(collection, DIALECTS[form][0])).encode())
        return [out]
    files = _labelme_files(collection, out) if form == "labelme" else _label_files(collection)
    return _write_together(files, out, force=force)


def _write_together(files: Iterator[tuple[Path, bytes]], out: Path, *, force: bool) -> list[Path]:
    """Write files (relative path, content) into a temporary folder next to `out`, and move them when all are written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name[:50]}."))
    except OSError as error:
        raise write_error(out, error) from error
    try:
        names = []
        for name, content in files:
            write_atomic(stage / name, content)
            names.append(name)
        _refuse_to_overwrite([out / name for name in names], force=force)
        for name in names:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(stage / name, out / name)
    except OSError as error:
        raise write_error(out, error) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return [out / name for name in names]


def _refuse_to_overwrite(paths: Sequence[Path], *, force: bool) -> None:
    there = [path for path in paths if path.exists()]
    if there and not force:
        what = "the file exists already" if len(there) == 1 else f"{len(there)} files exist already"
        raise OutputExists(what, where=str(there[0]), hint="choose another -o, or add --force")


def _labelme_files(collection: Collection, out: Path) -> Iterator[tuple[Path, bytes]]:
    """One JSON file per image, all in one folder, with relative image paths; pages of stacks become PNG files."""
    taken: set[str] = set()
    for scene in collection.scenes:
        stem = name = "-".join(part for part in _frame_name(scene).with_suffix("").parts if part not in ("..", "/")) or "image"
        number = 2
        while name in taken:
            name, number = f"{stem}-{number}", number + 1
        taken.add(name)
        document = to_labelme(scene, collection.categories)
        if frame_place(collection.path(scene)) is not None:
            document["imagePath"] = f"{name}.png"
            yield Path(f"{name}.png"), png_bytes(read_frame(collection.path(scene)))
        else:
            document["imagePath"] = Path(os.path.relpath(collection.path(scene), out)).as_posix()
        yield Path(f"{name}.json"), json.dumps(document).encode()


def _label_files(collection: Collection) -> Iterator[tuple[Path, bytes]]:
    """For every image, images/NAME (a copy; a PNG for a page of a stack) and labels/NAME.tif."""
    if len(collection.categories) > 1:
        what = f"label folders support one class, but the data set has {', '.join(collection.categories)}"
        raise InputError(what, where=str(collection.root or ""), hint="convert to coco or labelme")
    taken: set[str] = set()
    for scene in collection.scenes:
        path = collection.path(scene)
        page = frame_place(path) is not None
        source, path = path, _frame_name(scene) if page else path
        if path.stem in taken or LABEL_MARK.search(path.stem):
            what = "another image has the same name" if path.stem in taken else "the name is that of a label map"
            raise InputError(what, where=str(path), hint="rename the image: label folders match files by name")
        taken.add(path.stem)
        yield Path("images") / path.name, png_bytes(read_frame(source)) if page else read_bytes(source, limit=IMAGE_LIMIT)
        yield Path("labels") / f"{path.stem}.tif", write_stack(front_to_back(scene))


def _frame_name(scene: Scene) -> Path:
    """The file of an image; stack-0003.png for stack.tif#3, a page of a stack."""
    place = frame_place(Path(scene.file))
    return Path(scene.file) if place is None else place[0].with_name(f"{place[0].stem}-{place[1]:04d}.png")


def front_to_back(scene: Scene) -> np.ndarray:
    """The amodal masks of an image (N, H, W) from front to back; one empty mask for an image without objects.

    Raises InputError if no depth order of the objects explains their visible masks.
    """
    layers = scene.layers()
    left = sorted(range(len(layers.layer)), key=lambda index: int(layers.layer[index]))
    if not left:
        return np.zeros((1, scene.height, scene.width), dtype=bool)
    taken = np.zeros((scene.height, scene.width), dtype=bool)
    masks = []
    while left:
        front = next((i for i in left if np.array_equal(layers.visible[i], layers.amodal[i] & ~taken)), None)
        if front is None:
            what = "no depth order explains the visible masks, and a stack of masks stores only an order"
            raise InputError(what, where=scene.file, hint="convert to coco or labelme")
        left.remove(front)
        taken |= layers.amodal[front]
        masks.append(layers.amodal[front])
    return np.stack(masks)
