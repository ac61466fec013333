"""A file of records that grows as work is done, so that stopped work continues where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from latens.data.files import write_error


class Journal:
    """Records as JSON lines. Several processes may append to one file; a line that a kill cut off is passed over.

    Without a path nothing is kept. Raises StorageFull or UnreadableInput where the file cannot be used.
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
                # A line break first: it ends a line that an earlier run may have been killed in.
                os.write(descriptor, ("\n" + lines).encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise write_error(self.path, error) from error
