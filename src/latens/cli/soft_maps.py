"""`--save-maps` of all verbs with values in [0, 1] for every pixel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from latens.errors import UsageError

if TYPE_CHECKING:
    from latens.data.inputs import InputFile
    from latens.inference.batch import Job

SaveMaps = Annotated[
    Path | None,
    Parameter(help="Folder for soft maps: NAME_maps65535.tif, a page for each map, 16-bit values of 65,535 times 0..1."),
]


def map_file(job: Job, folder: Path | None) -> Path | None:
    """The file of the soft maps of a job, in a folder that mirrors the tree of the inputs; None without a folder."""
    from latens.data.files import fitting_name
    from latens.data.soft_maps import ENDING

    if folder is None:
        return None
    place = folder / (job.relative or job.input.name)
    return place.with_name(fitting_name(place.stem, ENDING))


def map_files(folder: Path | None) -> Callable[[Job], Sequence[Path]]:
    """The function that lists the files of soft maps of a job: one, or none without a folder."""

    def files(job: Job) -> Sequence[Path]:
        path = map_file(job, folder)
        return [] if path is None else [path]

    return files


def check_maps(folder: Path | None, jobs: Sequence[Job]) -> None:
    """Raise UsageError if soft maps cannot be written into the folder, or would replace results of the jobs."""
    from latens.data.folders import check_apart

    files = map_files(folder)
    check_apart(folder, "--save-maps", [job.output for job in jobs], [path for job in jobs for path in files(job)])


def check_map_names(files: Sequence[InputFile], folder: Path | None) -> None:
    """Raise UsageError if the soft maps of two inputs would have the same name."""
    counts = Counter(file.relative.with_suffix("") for file in files)
    twice = next((name for name, count in counts.items() if count > 1), None)
    if folder is not None and twice is not None:
        what = f"two inputs are named {twice}, so their soft maps would have the same name"
        raise UsageError(what, where="--save-maps", hint="rename one of them")
