"""Folders of label maps, stacks of masks, and the frames of TIFF files.

A label map holds one number per pixel, so it cannot hold overlaps: its objects are wholly visible. A stack of masks, one page
an object, can.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from latens.data.files import reading
from latens.data.images import PICTURE_ENDINGS, ImageLimits, Pixels, read_picture
from latens.data.instances import Collection, Layers, Scene, paint, scene_of
from latens.errors import InputError, LatensError, LimitExceeded, UnreadableInput

LABEL_MARK = re.compile(r"[-_.]?(lab|label|labels|mask|masks)$", re.I)
IMAGE_MARK = re.compile(r"[-_.]?(img|image|images)$", re.I)
MOST_FRAMES = 100_000
TIFF_ENDINGS = frozenset({".tif", ".tiff"})


def pairs_in(folder: Path) -> list[tuple[Path, Path]]:
    """Pictures of a folder with their label maps: a_img.png and a_lab.png, or images/a.png and labels/a.png, sorted.

    Raises UnreadableInput when there is no pair, InputError when a picture has no label map.
    """
    with reading(folder):
        names = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_ENDINGS)
    labels = {_stem(path): path for path in names if _is_label(path)}
    pictures = {_stem(path): path for path in names if not _is_label(path)}
    if not labels:
        hint = "name them a_img.png and a_lab.png, or put them into images/ and labels/"
        raise UnreadableInput("no label maps in this folder", where=str(folder), hint=hint)
    missing = sorted(set(pictures) - set(labels))
    if missing or not pictures:
        what = f"{len(missing)} pictures have no label map" if pictures else "there are label maps and no pictures"
        raise InputError(what, where=str(pictures[missing[0]] if missing else folder), hint="every picture needs one")
    return [(pictures[stem], labels[stem]) for stem in sorted(pictures)]


def _is_label(path: Path) -> bool:
    return bool(LABEL_MARK.search(path.stem)) or bool(LABEL_MARK.fullmatch(path.parent.name))


def _stem(path: Path) -> str:
    return IMAGE_MARK.sub("", LABEL_MARK.sub("", path.stem))


def read_label_folder(folder: Path, category: str = "cell") -> Collection:
    """Pictures with label maps, or with stacks of masks in TIFF, as a collection of one class."""
    scenes = []
    for picture, labels in pairs_in(folder):
        layers = read_labels(labels)
        scenes.append(scene_of(layers, picture.relative_to(folder).as_posix()))
    return Collection(categories=(category,), scenes=tuple(scenes), root=folder, info={"dialect": "labels"})


def read_labels(path: Path) -> Layers:
    """Objects of a label map (any integers, 0 is ground), or of a stack of masks (one page each, the front one first)."""
    pages = [np.asarray(page) for page in _pages(path)]
    if any(page.ndim != 2 or page.shape != pages[0].shape for page in pages):
        raise InputError("label maps have one channel, and one size for all pages", where=str(path))
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
                if getattr(image, "n_frames", 1) > MOST_FRAMES:
                    raise LimitExceeded(f"more than {MOST_FRAMES:,} pages", where=str(path))
                return [page.copy() for page in ImageSequence.Iterator(image)]
        except (LimitExceeded, FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # the parser of the tags raises whatever it meets
            raise UnreadableInput(f"not a label map ({error})", where=str(path), hint="copy the file again") from None


# ----------------------------------------------------------------------------------------------------------- frames


def read_frames(path: Path, limits: ImageLimits | None = None) -> Iterator[Pixels]:
    """The frames of a TIFF stack, or the one picture of any other file, as (H, W, 3) bytes, read one by one.

    A grey page of more than 8 bits is stretched from its 0.1 to its 99.9 percentile, as microscopes fill only part of the
    range. Raises what `read_picture` does, and LimitExceeded for too many pages.
    """
    limits = limits or ImageLimits()
    if path.suffix.lower() not in TIFF_ENDINGS:
        yield read_picture(path, limits=limits).pixels
        return
    with reading(path), _open_tiff(path) as image:
        count = getattr(image, "n_frames", 1)
        if count > MOST_FRAMES:
            raise LimitExceeded(f"{count:,} pages are more than the limit of {MOST_FRAMES:,}", where=str(path))
        for number in range(count):
            yield _page(image, number, path, limits)


def _open_tiff(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=("TIFF",))
    except FileNotFoundError:
        raise
    except Exception as error:  # the parser of the tags raises whatever it meets
        raise UnreadableInput(f"not a TIFF file ({error})", where=str(path), hint="copy the file again") from None


def _page(image: Image.Image, number: int, path: Path, limits: ImageLimits) -> Pixels:
    try:
        image.seek(number)
        if image.width * image.height > limits.pixels:
            raise LimitExceeded(f"page {number + 1} is larger than {limits.pixels:,} pixels", where=str(path))
        if image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
            return stretch(np.asarray(image, dtype=np.float64))
        return read_picture(image.copy(), limits=limits).pixels
    except LatensError as error:
        raise error.at(str(path)) from None
    except Exception as error:  # parsers raise whatever they meet in damaged data
        raise UnreadableInput(f"page {number + 1} is damaged ({error})", where=str(path), hint="copy the file again") from None


def stretch(values: np.ndarray) -> Pixels:
    """(H, W) values of any range as (H, W, 3) bytes, from the 0.1 to the 99.9 percentile; a flat page becomes black."""
    low, high = np.percentile(values, (0.1, 99.9))
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    grey = np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def write_stack(masks: Sequence[np.ndarray] | np.ndarray) -> bytes:
    """A multi-page TIFF of masks (H, W), one page each, 0 and 255, losslessly packed. Raises ValueError for none."""
    if not len(masks):
        raise ValueError("a TIFF file needs a page")
    pages = [Image.fromarray(mask.astype(np.uint8) * 255) for mask in masks]
    target = io.BytesIO()
    pages[0].save(target, "TIFF", save_all=True, append_images=pages[1:], compression="tiff_deflate")
    return target.getvalue()


def scenes_of_stack(path: Path) -> Scene:
    """The stack of masks that `write_stack` wrote, as a scene."""
    return scene_of(read_labels(path), path.name)
