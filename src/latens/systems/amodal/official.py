"""Folders of amodal data sets as their authors publish them: kins:FOLDER, cocoa:FOLDER, d2sa:FOLDER.

`latens.data.published` lists their files. The whole test file is the test set.
"""

from __future__ import annotations

from typing import NamedTuple

from latens.data.published import LAYOUTS
from latens.data.source import Source
from latens.errors import UnreadableInput

PLACES = ("", "annotations")  # folders of the annotation files


class Official(NamedTuple):
    """The training and the test data of a source; without an official layout, the source itself and None."""

    train: Source
    test: Source | None


def official(source: Source) -> Official:
    """The files of an official folder. Raises UnreadableInput for such a folder without the files."""
    layouts = LAYOUTS.get(source.kind, ())
    if not layouts or not source.path.is_dir():
        return Official(source, None)
    for layout in layouts:
        for place in PLACES:
            train, test = source.path / place / layout.train, source.path / place / layout.test
            if train.is_file() and test.is_file():
                return Official(
                    Source(source.kind, f"{train},{source.path / layout.train_images}"),
                    Source(source.kind, f"{test},{source.path / layout.test_images}"),
                )
    if any(path.suffix == ".json" for path in source.path.iterdir()):  # annotation files of another layout
        return Official(source, None)
    names = "; ".join(f"{layout.train} and {layout.test}" for layout in layouts)
    hint = f"expected {names}; or give {source.kind}:FILE.json,IMAGES"
    raise UnreadableInput("no annotation files of this data set", where=str(source), hint=hint)
