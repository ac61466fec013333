"""Sizes of annotated images: those of the files and those of the annotations must be the same."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image

from latens.data.instances import Collection
from latens.data.stacks import frame_place
from latens.errors import InputError, counted

ORIENTATION, QUARTER_TURNS = 0x0112, (5, 6, 7, 8)  # EXIF


def check_sizes(collection: Collection) -> None:
    """Raise InputError for annotations of another size than their image; only the headers of the images are read.

    Images that do not exist, pages of stacks, and files that Pillow cannot open are not checked.
    """
    wrong = []
    for scene in collection.scenes:
        path = collection.path(scene)
        size = None if frame_place(path) is not None else size_of(path)
        if size is not None and size != (scene.height, scene.width):
            wrong.append((path, size, (scene.height, scene.width)))
    if not wrong:
        return
    path, size, annotated = wrong[0]
    what = f"the image has {size[1]} x {size[0]} pixels, its annotations {annotated[1]} x {annotated[0]}"
    more = f" ({counted(len(wrong), 'image')} of other sizes)" if len(wrong) > 1 else ""
    hint = "annotate this image, or put the annotated one there; EXIF orientation counts"
    raise InputError(what + more, where=str(path), hint=hint)


def size_of(path: Path) -> tuple[int, int] | None:
    """(height, width) of an image file as it is shown; None if it cannot be opened."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large images, of which no pixel is read here
            with Image.open(path) as image:
                turned = image.getexif().get(ORIENTATION) in QUARTER_TURNS
                return (image.width, image.height) if turned else (image.height, image.width)
    except Exception:  # Pillow raises many types of errors; readers of pixels report them
        return None
