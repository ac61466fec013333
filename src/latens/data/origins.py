"""Files that latens made from other files, according to the records of their folders. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from latens.data.records import Entry, Records
from latens.errors import UnreadableInput


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
