"""Image folders of annotation files, and several annotation files as one data set."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from latens.data.image_paths import is_there
from latens.data.instances import Collection, check_classes
from latens.data.published import published_images
from latens.errors import InputError, LatensError

logger = logging.getLogger(__name__)

MAX_NAMED = 6  # files in a message


def with_images(
    found: Sequence[Collection], files: Sequence[Path], *, keyword: str, place: Path, images: Path | None
) -> Collection:
    """The data sets of annotation files as one, with the folder of its images.

    `place` is the file, or the folder of the files; `images` is the folder that the user named. The images of a file are there
    or next to the file, in the folder of its published layout (`keyword`), or in a folder below. If the files have
    different folders, names of images become relative to the folder of all.
    Raises InputError for different classes, for images outside of these folders, and for two files with the same image.
    """
    top = images or (place if place.is_dir() else place.parent)
    folders = list(_folders_of(found, files, keyword, top, images))
    _check_distinct(found, files, folders, place)
    parts = []
    for each, file, folder in zip(found, files, folders, strict=True):
        check_classes(found[0].categories, each.categories, str(file))
        part = replace(each, root=folder or images or file.parent)
        try:
            for scene in part.scenes:
                part.path(scene)
        except LatensError as error:
            raise error.at(str(file)) from error
        parts.append(part)
    if len({part.root for part in parts}) > 1:
        parts = [_relative_to(top, part) for part in parts]
    return replace(parts[0], scenes=tuple(scene for part in parts for scene in part.scenes))


def _folders_of(
    found: Sequence[Collection], files: Sequence[Path], keyword: str, top: Path, images: Path | None
) -> Iterator[Path | None]:
    """The folder with the first and the last image of every file; None if there is none."""
    below: list[Path] | None = None
    searched: list[Path] = []  # folders that were found by the search
    for each, file in zip(found, files, strict=True):
        home, published = images or file.parent, published_images(keyword, file.name)
        known = [home, *([top / published] if published else []), *searched]
        folder = next((folder for folder in known if _holds(folder, each)), None)
        if folder is None:
            below = sorted(Path(place) for place, _, _ in os.walk(top)) if below is None else below
            folder = next((folder for folder in below if _holds(folder, each)), None)
            if folder is not None:
                searched.append(folder)
                logger.warning("%s: its images are taken from %s; FILE.json,IMAGES names another folder", file, folder)
        yield folder


def _holds(folder: Path, found: Collection) -> bool:
    """True if the first and the last image are in this folder; true without images."""
    return all(is_there(folder / scene.file) for scene in (*found.scenes[:1], *found.scenes[-1:]))


def _check_distinct(found: Sequence[Collection], files: Sequence[Path], folders: Sequence[Path | None], place: Path) -> None:
    """Raise InputError if two files have an image in common: its objects would count twice. Missing images match by name."""
    seen: dict[str, set[Path | None]] = {}
    for each, folder in zip(found, folders, strict=True):
        for name in {scene.file for scene in each.scenes}:
            others = seen.setdefault(name, set())
            if others and (folder in others or None in others or folder is None):
                names = ", ".join(path.relative_to(place).as_posix() for path in files[:MAX_NAMED])
                more = f" and {len(files) - MAX_NAMED} more" if len(files) > MAX_NAMED else ""
                what = f"this folder has {len(files)} annotation files with the same image ({name}): {names}{more}"
                raise InputError(what, where=str(place), hint=f"give one: {place}/FILE.json, or {place}/FILE.json,IMAGES")
            others.add(folder)


def _relative_to(top: Path, part: Collection) -> Collection:
    """A data set with `top` as the folder of its images."""
    assert part.root is not None
    below = part.root.relative_to(top)
    return replace(part, root=top, scenes=tuple(replace(scene, file=(below / scene.file).as_posix()) for scene in part.scenes))
