"""Append-only files of records, from which stopped work continues, and exclusive claims on shared folders."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from latens.data.files import write_error


class Journal:
    """Records as JSON lines. Several processes may append to one file; truncated lines are ignored.

    Without a path nothing is stored. Raises StorageFull or UnreadableInput if the file cannot be used.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def read(self) -> Iterator[dict[str, Any]]:
        """All whole records, oldest first."""
        if self.path is None or not self.path.is_file():
            return
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield record

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Adds records; they are on the disk when this returns."""
        lines = "".join(json.dumps(record) + "\n" for record in records)
        if self.path is None or not lines:
            return
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                # The leading line break ends a line that a killed process may have truncated.
                os.write(descriptor, ("\n" + lines).encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise write_error(self.path, error) from error


@contextmanager
def claim(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Yield whether this process has the exclusive claim on `folder`, which is created; with `wait`, wait for the claim.

    A claim ends with its process, even if that is killed. Raises StorageFull or UsageError if the folder cannot be used.
    """
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / "claim").open("w")
    except OSError as error:
        raise write_error(folder, error) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
