"""Paths of images that annotation files name. The names are not trusted: only files below the image folder are read."""

from __future__ import annotations

import os
from pathlib import Path, PureWindowsPath

from latens.data.files import reading
from latens.data.stacks import frame_place
from latens.errors import InputError


def image_path(root: Path, name: str) -> Path:
    """The path of an image (or page stack.tif#3) that an annotation names, which need not exist.

    Raises InputError for a path outside the folder `root` and for a folder, a pipe or a device. Symbolic links are followed.
    """
    path = root / name
    top, place = os.path.abspath(root), os.path.abspath(path)
    if os.path.commonpath((top, place)) != top or place == top:
        what = f"an annotation names an image outside the image folder {root}: {name[:200]}"
        shared = os.path.commonpath((top, place))
        above = "" if shared == os.path.sep else f", such as {shared}"
        hint = (
            f"if you trust this file, name a folder that contains the images{above}: FILE.json,IMAGES or labelme:FOLDER,IMAGES"
        )
        raise InputError(what, hint=hint)
    with reading(path):
        stack = frame_place(path)
        file = path if stack is None else stack[0]
        if os.path.exists(file) and not os.path.isfile(file):
            raise InputError("an annotation names an image that is not a regular file", where=str(path))
    return path


def is_there(path: Path) -> bool:
    """True if the file of an image exists, or the stack of a page."""
    stack = frame_place(path)
    return os.path.isfile(path if stack is None else stack[0])


def portable_name(name: str, folder: Path) -> str:
    """The name of an image with / for the backslashes of Windows, unless `folder` has a file with this very name."""
    return PureWindowsPath(name).as_posix() if "\\" in name and not is_there(folder / name) else name
