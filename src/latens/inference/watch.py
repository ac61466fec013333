"""Watched folders: files that are complete, each time that they are new or have changed.

Folders are polled, because events of the file system come before a file is complete. A file is taken when its size and
modification time have not changed for a while. Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, NamedTuple

from latens.errors import UnreadableInput

if TYPE_CHECKING:
    from latens.inference.batch import Job

POLL = 1.0  # seconds between two looks at the folders
UNFINISHED = (".part", ".tmp", ".crdownload")  # endings of files that another program is writing


class Key(NamedTuple):
    """State of a file; another key is another content."""

    size: int
    time: int  # of the last change, in nanoseconds


class Watch:
    """Files of folders and their subfolders that have not changed for `settle` seconds, without hidden and unfinished ones."""

    def __init__(self, folders: Sequence[Path], settle: float, *, clock: Callable[[], float] = monotonic) -> None:
        self.folders, self.settle, self.clock = folders, settle, clock
        self._taken: dict[str, Key] = {}
        self._waiting: dict[str, tuple[Key, float]] = {}  # key, and since when

    def settled(self) -> set[str]:
        """Absolute paths of the files that have not changed and were not returned with this key before."""
        now = self.clock()
        waiting: dict[str, tuple[Key, float]] = {}
        found: set[str] = set()
        seen: set[tuple[int, int]] = set()
        for path, key in (file for folder in self.folders for file in _files(os.path.abspath(folder), seen)):
            if self._taken.get(path) == key:
                continue
            before, since = self._waiting.get(path, (key, now))
            if before != key:
                since = now
            if now - since >= self.settle:
                self._taken[path] = key
                found.add(path)
            else:
                waiting[path] = key, since
        self._waiting = waiting
        return found


class Watching(NamedTuple):
    """A watch and the function that plans the jobs of all files that are in the folders now."""

    watch: Watch
    find: Callable[[], list[Job]]

    def groups(self) -> Iterator[list[Job]]:
        """Yield the jobs of settled files, in the order of `find`; never ends."""
        while True:
            settled = self.watch.settled()
            jobs = [job for job in self._found() if os.path.abspath(job.input) in settled] if settled else []
            if jobs:
                yield jobs
            sleep(POLL)

    def _found(self) -> list[Job]:
        try:
            return self.find()
        except UnreadableInput:  # no file with an ending of the verb yet, or only results
            return []


def _files(folder: str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, Key]]:
    """Files below a folder, with their keys. Links are followed, every folder once; unreadable ones are left out."""
    try:
        status = os.stat(folder)
        entries = list(os.scandir(folder))
    except OSError:
        return
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower().endswith(UNFINISHED):
            continue
        try:
            if entry.is_dir():
                yield from _files(entry.path, seen)
            elif entry.is_file():
                found = entry.stat()
                yield entry.path, Key(found.st_size, found.st_mtime_ns)
        except OSError:
            continue
