"""Files that latens made from other files, according to the records of their folders. Standard library only."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from latens.data.records import DRAWING, Entry, Records
from latens.errors import UnreadableInput, counted

logger = logging.getLogger(__name__)

DRAWN = "figures, label maps or depth maps that latens wrote"
SOFT_MAPS = "_maps65535"  # after the name of an input, in the name of its file of soft maps
NO_IMAGES = {  # by the command of a record: endings of its results that show or label images
    DRAWING: "",
    "segmenting": "",
    "mapping parts of": "",
    "finding parts": "",
    "naming parts": "",
    "hazing": "_depth256.png",
    "dehazing": f"{SOFT_MAPS}.tif",
}


def drawn(names: Sequence[str]) -> list[str]:
    """Figures, overlays, label maps, masks and depth maps of latens among absolute paths, also if they were edited since."""
    records = Records()
    known = {folder: records.entries(Path(folder)) for folder in set(map(os.path.dirname, names))}  # one read a folder
    entries = ((name, known[os.path.dirname(name)].get(os.path.basename(name))) for name in names)
    return [name for name, entry in entries if entry is not None and name.endswith(NO_IMAGES.get(entry.what, "\0"))]


def without_drawn(paths: Iterable[Path], folder: Path) -> list[Path]:
    """The paths without those of `drawn`, which a warning on `folder` counts."""
    every = list(paths)
    names = [os.path.abspath(path) for path in every]
    results = set(drawn(names))
    if not results:
        return every
    logger.warning("%s: left out %s, %s", folder, counted(len(results), "file"), DRAWN)
    return [path for path, name in zip(every, names, strict=True) if name not in results]


def with_origin(names: Sequence[str]) -> list[str]:
    """Results of latens among absolute paths whose input, or the input of this input and so on, is among them as well."""
    records, given = Records(), set(names)
    return [name for name in names if _comes_from(name, given, records)]


def _comes_from(name: str, given: Collection[str], records: Records) -> bool:
    chain = [name]
    while (entry := records.entry(Path(chain[-1]))) is not None and _is_result(Path(chain[-1]), entry):
        origin = os.path.abspath(entry.input)
        if origin in chain:  # files that were made from each other: each is an input
            return False
        chain.append(origin)
    return any(origin in given for origin in chain[1:])


def _is_result(path: Path, entry: Entry) -> bool:
    """False for a file that was changed since; true for one that was removed: its results have an origin all the same."""
    try:
        return entry.state == "started" or not path.exists() or entry.is_unchanged(path)
    except UnreadableInput:
        return False
