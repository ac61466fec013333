"""What a run was started with: data, command, versions. A continued run compares its data with those of its start."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist

from latens.data.files import write_atomic
from latens.data.source import Source, split_place
from latens.errors import counted
from latens.settings import to_dict
from latens.training.config import AnyTrainConfig

logger = logging.getLogger(__name__)

CONFIG, ENVIRONMENT = "config.json", "environment.json"


class DataState(NamedTuple):
    """Files of all sources: two states with equal hashes have the same names and sizes."""

    files: int
    bytes: int
    sha256: str


def data_state(sources: Sequence[Source], run: Path) -> DataState:
    """Names and sizes of all files of the sources, without hidden ones and those of the folder `run`."""
    digest, files, size = hashlib.sha256(), 0, 0
    for source in sources:
        for name, length in _files(Path(split_place(source.place)[0]), os.path.realpath(run)):
            files, size = files + 1, size + length
            digest.update(os.fsencode(name) + b"\0" + str(length).encode() + b"\n")
        digest.update(b"\n")
    return DataState(files, size, digest.hexdigest())


def _files(place: Path, run: str) -> Iterator[tuple[str, int]]:
    """Relative names and sizes of the files of a folder, or the size of a file."""
    if place.is_file():
        yield "", place.stat().st_size
    for folder, folders, names in os.walk(place):
        folders[:] = sorted(name for name in folders if name[0] != "." and os.path.realpath(os.path.join(folder, name)) != run)
        for name in sorted(names):
            path = os.path.join(folder, name)
            if name[0] != "." and os.path.isfile(path):
                yield os.path.relpath(path, place), os.path.getsize(path)


def warn_of_changed_data(earlier: Path, now: DataState) -> None:
    """A line if the run in the folder `earlier` was started with other files; earlier versions noted none."""
    try:
        before = DataState(**json.loads((earlier / ENVIRONMENT).read_bytes())["files"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    if before.sha256 != now.sha256:
        had, have = (f"{counted(state.files, 'file')} of {state.bytes:,} bytes" for state in (before, now))
        what = f"{had} before, {have} now" if had != have else "other names or sizes"
        logger.warning("%s: the data have changed since this run last started: %s", earlier, what)


def describe_run(folder: Path, config: AnyTrainConfig, sources: Sequence[Source], state: DataState, init: Path | None) -> None:
    """Write environment.json (data, command, versions), then config.json (all settings), which marks the folder as a run."""
    import numpy

    environment = {
        "command": sys.argv,
        "folder": os.getcwd(),  # relative paths are relative to it
        "data": [str(source) for source in sources],
        "files": state._asdict(),
        "init": None if init is None else str(init),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "processes": dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1,
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    write_atomic(folder / ENVIRONMENT, json.dumps(environment, indent=2).encode())
    write_atomic(folder / CONFIG, json.dumps(to_dict(config), indent=2).encode())
