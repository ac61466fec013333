"""Paths of images that annotation files name. The names are not trusted: only files below the image folder are read."""

from __future__ import annotations

import os
import shlex
from pathlib import Path, PureWindowsPath

from latens.data.files import reading
from latens.data.stacks import frame_place
from latens.errors import InputError, one_line


class OutsideImages(InputError):
    """An annotation names an image outside the image folder. `folder` contains both; `own` contains the image."""

    def __init__(self, root: Path, name: str, place: str) -> None:
        what = f"an annotation names an image outside the image folder {root}: {name[:200]}"
        super().__init__(what, hint="if you trust this file, name a folder that contains its images")
        self.climbs = not os.path.isabs(name)  # with .., so no folder of images contains it
        self.own = os.path.dirname(place)
        self.folder = os.path.commonpath((os.path.abspath(root), self.own))
        if not root.is_absolute():
            self.own, self.folder = os.path.relpath(self.own), os.path.relpath(self.folder)

    def named_by(self, source: str, images: Path | None) -> OutsideImages:
        """The error with the source to pass, as KIND:PLACE,IMAGES; `source` is KIND:PLACE, `images` the folder of the user."""
        folder = self.own if images is None else self.folder
        if self.climbs and not source.startswith("labelme:"):  # whose names start at their own files
            self.hint = "correct the name in the file: it starts at the folder of the images and cannot leave it"
        elif os.path.abspath(folder) == os.path.sep:
            self.hint = "move the images into one folder"
        else:
            self.hint = f"if you trust this file, name the folder of its images: {one_line(shlex.quote(f'{source},{folder}'))}"
        return self


def image_path(root: Path, name: str) -> Path:
    """The path of an image (or page stack.tif#3) that an annotation names, which need not exist.

    Raises OutsideImages for a path outside the folder `root`, InputError for a folder, a pipe or a device. Symbolic links are
    followed.
    """
    path = root / name
    top, place = os.path.abspath(root), os.path.abspath(path)
    if os.path.commonpath((top, place)) != top or place == top:
        raise OutsideImages(root, name, place)
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
