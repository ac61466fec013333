"""Folders of label maps and stacks of masks.

A label map has one integer per pixel and cannot represent overlaps, so its objects are fully visible. A stack of masks has one
page per object and represents overlaps.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from latens.data.files import reading
from latens.data.images import IMAGE_ENDINGS
from latens.data.inputs import files_under
from latens.data.instances import Collection, Layers, paint, scene_of
from latens.data.stack_writer import StackWriter
from latens.data.tiff import MAX_FRAMES
from latens.errors import InputError, LimitExceeded, UnreadableInput

LABEL_MARK = re.compile(r"[-_.]?(lab|label|labels|mask|masks)$", re.I)
IMAGE_MARK = re.compile(r"[-_.]?(img|image|images)$", re.I)


def pairs_in(folder: Path) -> list[tuple[Path, Path]]:
    """Images of a folder with their label maps, sorted: a_img.png and a_lab.png, or images/a.png and labels/a.png.

    Subfolders are matched: train/images/a.png belongs to train/labels/a.png. An image without such a label map is matched only
    by name if the name is unique among images and among label maps. Raises UnreadableInput without label maps, InputError for
    an image without a label map and for two images with the same name.
    """
    names = sorted(files_under(folder, IMAGE_ENDINGS))
    is_label = {path: _is_label(path.relative_to(folder)) for path in names}
    labels = _by_key([path for path in names if is_label[path]], folder)
    images = _by_key([path for path in names if not is_label[path]], folder)
    if not labels:
        hint = "name them a_img.png and a_lab.png, or put them into images/ and labels/"
        raise UnreadableInput("no label maps in this folder", where=str(folder), hint=hint)
    once = {name for name, count in Counter(key[-1] for key in images).items() if count == 1}
    by_name = {key[-1]: path for key, path in labels.items()}
    by_name = {name: by_name[name] for name, count in Counter(key[-1] for key in labels).items() if count == 1 and name in once}
    found = {image: labels.get(key) or by_name.get(key[-1]) for key, image in images.items()}
    missing = [image for image, label in found.items() if label is None]
    if missing or not images:
        what = f"{len(missing)} images have no label map" if images else "there are label maps but no images"
        raise InputError(what, where=str(missing[0] if missing else folder), hint="every image needs a label map")
    return [(image, label) for image, label in found.items() if label is not None]


def _is_label(path: Path) -> bool:
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


def read_label_folder(folder: Path, category: str = "cell") -> Collection:
    """Read images with label maps, or with TIFF stacks of masks, as a collection of one class."""
    scenes = []
    for image, labels in pairs_in(folder):
        layers = read_labels(labels)
        scenes.append(scene_of(layers, image.relative_to(folder).as_posix()))
    return Collection(categories=(category,), scenes=tuple(scenes), root=folder, info={"dialect": "labels"})


def read_labels(path: Path) -> Layers:
    """Objects of a label map (integers; 0 is background), or of a stack of masks (one page per object, front to back)."""
    pages = [np.asarray(page) for page in _pages(path)]
    if any(page.ndim != 2 or page.shape != pages[0].shape for page in pages):
        raise InputError("label maps need one channel, and the same size for all pages", where=str(path))
    if len(pages) > 1:
        masks = np.stack([page > 0 for page in pages])
        return paint(masks, np.arange(len(masks)))
    values = np.unique(pages[0])
    masks = np.stack([pages[0] == value for value in values if value]) if values.any() else np.zeros((0, *pages[0].shape), bool)
    n = len(masks)
    return Layers(masks, masks.copy(), np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64))


def _pages(path: Path) -> list[Image.Image]:
    with reading(path):
        try:
            with Image.open(path, formats=("TIFF", "PNG", "BMP", "PPM")) as image:
                if getattr(image, "n_frames", 1) > MAX_FRAMES:
                    raise LimitExceeded(f"more than {MAX_FRAMES:,} pages", where=str(path))
                return [page.copy() for page in ImageSequence.Iterator(image)]
        except (LimitExceeded, FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # the tag parser raises many types of errors
            raise UnreadableInput(f"not a label map ({error})", where=str(path), hint="copy the file again") from None


def write_stack(masks: Sequence[np.ndarray] | np.ndarray) -> bytes:
    """A multi-page TIFF of masks (H, W), one page each, 0 and 255, losslessly compressed. Raises ValueError without masks."""
    if not len(masks):
        raise ValueError("a TIFF file needs at least one page")
    target = io.BytesIO()
    writer = StackWriter(target)
    for mask in masks:
        writer.write(mask.astype(np.uint8) * 255)
    return target.getvalue()
