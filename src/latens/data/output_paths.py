"""Paths of the outputs of input files.

Standard library only. The path `-` is standard output.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from latens.data.files import STANDARD_STREAM, fitting_name, is_file
from latens.data.inputs import InputFile
from latens.data.records import Entry, Records
from latens.errors import UsageError


def plan_outputs(files: Sequence[InputFile], out: str | Path | None, ending: str) -> list[Path]:
    """Distinct output paths of all files; see `output_path`.

    Inputs with the same output (photo.jpg and photo.png) keep their endings: photo.jpg.ltn. An input whose result has one of
    the two names already keeps that name, so a new file does not change the results of other files.
    """
    several = len(files) > 1 or not all(file.named for file in files)
    paths = [output_path(file, out, ending, several) for file in files]
    if not several:
        return paths
    results = _Results()
    longer = [path.with_name(fitting_name(file.relative.name, ending)) for path, file in zip(paths, files, strict=True)]
    settled = {i for i, file in enumerate(files) if results.holds(paths[i], file)}
    keeping = {i for i, file in enumerate(files) if i not in settled and results.holds(longer[i], file)}
    while True:
        for i in keeping:
            paths[i] = longer[i]
        counts = Counter(paths)
        clashing = {i for i, path in enumerate(paths) if counts[path] > 1} - keeping
        if not clashing:
            return paths
        keeping |= clashing - settled or clashing


class _Results:
    """The records of output folders, each read once."""

    def __init__(self) -> None:
        self._records = Records()
        self._folders: dict[Path, Mapping[str, Entry]] = {}

    def holds(self, path: Path, file: InputFile) -> bool:
        """True if `path` exists and was made from `file`."""
        if path == STANDARD_STREAM:
            return False
        if path.parent not in self._folders:
            self._folders[path.parent] = self._records.entries(path.parent)
        entry = self._folders[path.parent].get(path.name)
        return entry is not None and os.path.abspath(entry.input) == os.path.abspath(file.path) and path.is_file()


def output_path(file: InputFile, out: str | Path | None, ending: str, several: bool) -> Path:
    """Output path of one file.

    Without `out`, it is the input path with another `ending` (for standard input, standard output). For a single file, `out` is
    the path itself if it has an ending and is not a folder. Otherwise `out` is a folder that mirrors the tree of the inputs.
    Raises UsageError for several files and one output, and if the output would overwrite the input.
    """
    if out is None:
        place = STANDARD_STREAM if file.path == STANDARD_STREAM else _renamed(file.path, ending)
    else:
        place = _place_in(Path(out), file, ending, several, folder=os.fspath(out).endswith(("/", os.sep)))
    if place != STANDARD_STREAM and os.path.realpath(place) == os.path.realpath(file.path):
        is_one = f"it ends in {ending}, as results of this command do; if it is none, choose a folder with -o"
        hint = is_one if out is None else "choose a folder with -o"
        raise UsageError("the output would overwrite the input", where=str(file.path), hint=hint)
    return place


def _place_in(out: Path, file: InputFile, ending: str, several: bool, *, folder: bool) -> Path:
    one_file = not several and not folder and not os.path.isdir(out)
    if one_file and (out == STANDARD_STREAM or out.suffix or is_file(out)):
        return out
    if out == STANDARD_STREAM or is_file(out):
        raise UsageError("several results cannot be written to one file", where=str(out), hint="give a folder with -o")
    return out / _renamed(file.relative, ending)


def _renamed(path: Path, ending: str) -> Path:
    return path.with_name(fitting_name(path.stem, ending))
