"""Conversion of annotated data sets between formats, for `latens convert`.

| source | format | preserved |
|---|---|---|
| coco:FILE.json,IMAGES | ours, D2SA, COCOA-cls | everything |
| kins: | KINS of 2020 (or, read and as `kins2019`, of 2019) | all but scores; of 2019 all but order and scores |
| cocoa: | COCOA, with classes | all but scores |
| aistron: | aistron's unified files | all but order and scores |
| labelme:FOLDER,IMAGES | labelme's files, also in subfolders | all but scores |
| labels:FOLDER | images/ and labels/, a stack of masks for every image, from front to back | one class, order |

Run-length codes are kept unchanged; polygons are rasterized once, by COCO's rules. A folder may be given for its JSON files,
which are read as one data set, as from `latens segment`. Without IMAGES, the images are next to the file, in the folder of the
published layout, or in a folder below; those of several files may be in several folders. Images outside IMAGES are never read.
labels:FOLDER,HOW chooses the reading of ambiguous label maps (`labels.READINGS`).
"""

from __future__ import annotations

import filecmp
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from latens.data.annotated_sizes import check_sizes
from latens.data.annotation_tools import export_hint
from latens.data.annotations import read_annotations, to_document
from latens.data.files import (
    STANDARD_STREAM,
    prepare_folder,
    read_bytes,
    sweep_stale,
    temporary_beside,
    write_atomic,
    write_error,
)
from latens.data.folders import MADE_WITH, refuse_file_name
from latens.data.image_folders import with_images
from latens.data.image_output import png_bytes
from latens.data.image_paths import OutsideImages, is_there, portable_name
from latens.data.images import read_image
from latens.data.inputs import files_under
from latens.data.instances import Collection, Scene
from latens.data.labelme import is_labelme, read_labelme, to_labelme
from latens.data.labels import LABEL_MARK, read_label_folder, write_stack
from latens.data.records import Records
from latens.data.source import split_place
from latens.data.stacks import frame_place, read_frame
from latens.errors import InputError, LatensError, OutputExists, UnreadableInput, UsageError, counted

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
LABELS = "labels"  # folder of the label maps


def read_collection(text: str, classes: Sequence[str] | None = None) -> Collection:
    """The data set of a source such as coco:FILE.json,IMAGES; `classes` sets the classes of labelme files and their order.

    Raises UsageError for an unknown keyword, InputError if the file is in another dialect than the keyword.
    """
    kind, _, place = text.partition(":")
    if kind not in READABLE or not place:
        hint = export_hint(Path(text))
        hint = hint or "write coco:FILE.json,IMAGES (or kins, cocoa, d2sa, aistron), labelme:FOLDER or labels:FOLDER"
        raise UsageError(f"'{text}' is not a source of annotations", hint=hint)
    if classes is not None and kind != "labelme":
        raise UsageError(f"the files of {kind} define the classes", where="--classes", hint="omit it")
    name, rest = split_place(place)
    if kind == "labels":
        if Path(name).is_file():
            hint = export_hint(Path(name)) or "give the folder with the images and their label maps"
            raise UnreadableInput("this is a file, not a folder", where=name, hint=hint)
        return read_label_folder(Path(name), how=rest or "auto")
    images = Path(rest) if rest else None
    try:
        if kind == "labelme":
            return _labelme_folder(Path(name), classes, images)
        return _annotation_file(Path(name), kind, images)
    except OutsideImages as error:
        raise error.named_by(f"{kind}:{name}", images) from error


def _annotation_file(place: Path, kind: str, images: Path | None) -> Collection:
    """The data set of a JSON file, or of those of a folder."""
    files = annotation_files(place)
    found = [_read_file(path, kind, images or path.parent) for path in files]
    try:
        return with_images(found, files, keyword=kind, place=place, images=images)
    except LatensError as error:
        raise error.at(str(place)) from error


def _labelme_folder(folder: Path, classes: Sequence[str] | None, images: Path | None) -> Collection:
    """labelme's files in a folder and its subfolders; other JSON files are left out with a note."""
    files = _json_files(folder) if folder.is_dir() else [folder] if folder.is_file() else []
    with_shapes = [path for path in files if is_labelme(path)] if files else []
    if folder.is_file() and not with_shapes and (hint := export_hint(folder)):
        raise InputError("this is not a file of labelme", where=str(folder), hint=hint)
    if others := len(files) - len(with_shapes):
        logger.warning("%s: left out %s without labelme's keys", folder, counted(others, "JSON file"))
    try:
        return read_labelme(with_shapes, classes, root=images or (folder if folder.is_dir() else folder.parent))
    except LatensError as error:
        raise error.at(str(folder)) from error


def _read_file(path: Path, kind: str, images: Path) -> Collection:
    found = read_annotations(path)
    found = replace(found, scenes=tuple(replace(scene, file=portable_name(scene.file, images)) for scene in found.scenes))
    dialect = found.info["dialect"]  # "" without objects
    if dialect and dialect not in DIALECTS[kind]:
        raise InputError(
            f"this file is in the dialect {dialect}, not {kind}",
            where=str(path),
            hint="give the dialect of the file: with other keys an evaluation would silently return zeros",
        )
    return found if dialect else replace(found, info={"dialect": DIALECTS[kind][0]})


def _json_files(folder: Path) -> list[Path]:
    """JSON files of a folder and its subfolders in natural order, without hidden files and records of latens."""
    return [path for path in files_under(folder, frozenset({".json"})) if path.name != MADE_WITH]


def annotation_files(place: Path) -> list[Path]:
    """The file itself, or the JSON files of a folder, without those of labelme. Raises InputError if a folder has none."""
    if not place.is_dir():
        return [place]
    every = _json_files(place)
    found = [path for path in every if len(every) == 1 or not is_labelme(path)]
    if not found:
        hint = f"convert them as labelme:{place}" if every else f"give one: {place}/FILE.json"
        raise InputError("this folder has no JSON file" + " but those of labelme" * bool(every), where=str(place), hint=hint)
    if others := len(every) - len(found):
        logger.warning("%s: left out %s of labelme", place, counted(others, "file"))
    return found


def write_collection(collection: Collection, form: str, out: Path, *, force: bool = False) -> list[Path]:
    """Write a data set in a format of `WRITABLE`: a JSON file `out`, or files in the folder `out`. Returns their paths.

    All files are written before the first one is renamed to its path. Raises OutputExists for existing files without `force`,
    UsageError for an unknown format, InputError for data that the format cannot represent and for images of other sizes.
    """
    if form not in WRITABLE:
        raise UsageError(f"'{form}' cannot be written", where="--to", hint=f"choose {', '.join(WRITABLE)}")
    check_sizes(collection)
    missing = [scene.file for scene in collection.scenes if not is_there(collection.path(scene))]
    if missing and form in DIALECTS:
        where = collection.root or "annotations"
        logger.warning("%s: %s not found, such as %s", where, counted(len(missing), "image"), missing[0])
    elif missing:
        what = f"no such file; {counted(len(missing), 'image')} of {len(collection.scenes):,} missing"
        where = str(collection.path(next(scene for scene in collection.scenes if scene.file == missing[0])))
        raise InputError(what, where=where, hint="name the folder of the images: coco:FILE.json,IMAGES")
    if form in DIALECTS:
        if out != STANDARD_STREAM:
            _refuse_to_overwrite([out], force=force)
        write_atomic(out, json.dumps(to_document(collection, DIALECTS[form][0])).encode())
        return [out]
    files = _labelme_files(collection, out) if form == "labelme" else _label_files(collection)
    written = _write_together(files, out, force=force)
    Records().draw(path for path in written if path.parent == out / LABELS)
    return written


def _write_together(files: Iterator[tuple[Path, bytes]], out: Path, *, force: bool) -> list[Path]:
    """Write files (relative path, content) into a temporary folder, and move them into `out` when all are written.

    A file that exists with the same content is no conflict: an interrupted run moved it. The temporary folder is in `out` if
    that is a folder, which may be the current one, a mounted one, or in a folder that is not writable; otherwise next to it.
    """
    refuse_file_name(out)
    try:
        place = out / "converted" if out.is_dir() else out
        prepare_folder(place.parent)
        sweep_stale(out.parent, out.name)  # of a killed run for which `out` was no folder yet
        stage = temporary_beside(place)
        stage.mkdir()
    except OSError as error:
        raise write_error(out, error) from error
    try:
        names = []
        for name, content in files:
            write_atomic(stage / name, content)
            names.append(name)
        changed = [name for name in names if not _same(stage / name, out / name)]
        _refuse_to_overwrite([out / name for name in changed], force=force)
        for name in names:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(stage / name, out / name)
    except OSError as error:
        raise write_error(out, error) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return [out / name for name in names]


def _same(new: Path, old: Path) -> bool:
    return old.is_file() and filecmp.cmp(new, old, shallow=False)


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
        if not page:
            read_image(source)  # a file that is not an image is not copied
        yield Path("images") / path.name, png_bytes(read_frame(source)) if page else read_bytes(source, limit=IMAGE_LIMIT)
        yield Path(LABELS) / f"{path.stem}.tif", write_stack(front_to_back(scene))


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
