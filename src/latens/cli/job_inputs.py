"""Inputs of jobs: files, folders and patterns, addresses, and lists in text or CSV files."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from latens.errors import UnreadableInput

if TYPE_CHECKING:
    from latens.jobs.job import Input

LISTS = frozenset({".txt", ".csv"})
COLUMNS = ("place", "path", "file", "image", "input", "name")  # of a list in a CSV file, the first that is there


def listed(verb: str, places: Sequence[str]) -> list[Input]:
    """All inputs of a command. Raises UnreadableInput for places without any."""
    from latens.jobs.job import Input

    found: list[Input] = []
    local: list[str] = []
    for place in places:
        if is_address(place):
            found += _below_address(verb, place)
        elif Path(place).suffix.lower() in LISTS and os.path.isfile(place):
            found += _in_list(Path(place))
        else:
            local.append(place)
    if local:
        from latens.data.inputs import find_inputs

        files = find_inputs(local, _endings(verb), skip_results=True)
        found += [Input(file.relative.as_posix(), os.path.abspath(file.path)) for file in files]
    return found


def is_address(place: str | Path) -> bool:
    """True for an address in an object store. Raises UsageError for one of another kind."""
    from latens.jobs.store import uri_of

    return not os.path.lexists(place) and uri_of(place) is not None


def _endings(verb: str) -> frozenset[str]:
    from latens.data.clips.formats import CLIP_ENDINGS
    from latens.data.images import IMAGE_ENDINGS

    if verb == "decompress":
        return frozenset({".ltn"})
    return IMAGE_ENDINGS | CLIP_ENDINGS if verb == "dehaze" else IMAGE_ENDINGS


def _below_address(verb: str, place: str) -> list[Input]:
    """The files of a verb below an address, or the file that it names."""
    from latens.jobs.job import Input
    from latens.jobs.store import open_store, uri_of

    address = (uri_of(place) or "").rstrip("/")
    endings = _endings(verb)
    if os.path.splitext(address)[1].lower() in endings:
        return [Input(address.rpartition("/")[2], address)]
    names = sorted(name for name in open_store(address).names() if os.path.splitext(name)[1].lower() in endings)
    if not names:
        raise UnreadableInput(
            "no file below this address can be read", where=address, hint=f"endings: {', '.join(sorted(endings))}"
        )
    return [Input(name, f"{address}/{name}") for name in names]


def _in_list(path: Path) -> list[Input]:
    """The inputs that a text or CSV file names; relative paths are relative to its folder. Raises UnreadableInput."""
    from latens.data.files import reading
    from latens.jobs.job import Input
    from latens.jobs.store import uri_of

    with reading(path):
        text = path.read_text("utf-8-sig", "surrogateescape")
    names = _column(text, path) if path.suffix.lower() == ".csv" else [line.strip() for line in text.splitlines()]
    names = [name for name in names if name]
    if not names:
        raise UnreadableInput("this list is empty", where=str(path))
    places = [uri_of(name) or os.path.abspath(path.parent / name) for name in names]
    addresses = [place for place in places if is_address(place)]
    if len(addresses) not in (0, len(places)):
        raise UnreadableInput("this list names files and addresses", where=str(path), hint="make a list of each")
    paths = [place.replace("://", ":/") for place in places]
    root = os.path.commonpath([os.path.dirname(one) for one in paths])
    return [Input(os.path.relpath(one, root), place) for one, place in zip(paths, places, strict=True)]


def _column(text: str, path: Path) -> list[str]:
    rows = list(csv.reader(io.StringIO(text)))
    header = [name.strip().lower() for name in rows[0]] if rows else []
    column = next((header.index(name) for name in COLUMNS if name in header), None)
    if column is None:
        raise UnreadableInput("no column of this table names files", where=str(path), hint=f"call it {' or '.join(COLUMNS)}")
    return [row[column].strip() for row in rows[1:] if len(row) > column]
