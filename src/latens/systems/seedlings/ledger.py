"""Record of graded photographs in the output folder, from which an interrupted experiment resumes.

Each photograph is one line of JSON. Numbers are stored exactly, so tables do not depend on interruptions.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latens.data.files import write_error
from latens.experiments.journal import Journal
from latens.systems.seedlings.lattice import Lattice
from latens.systems.seedlings.names import Shot
from latens.systems.seedlings.predict import GradedTray

logger = logging.getLogger(__name__)

LEDGER = "graded.jsonl"
ARRAYS = ("areas", "seen", "p_seen", "p_success")


class Ledger:
    """Journal of graded photographs; thread-safe."""

    def __init__(self, folder: Path, *, fresh: bool = False) -> None:
        self.path = folder / LEDGER
        try:
            if fresh:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            raise write_error(self.path, error) from error
        self._journal = Journal(self.path)
        self._records = _read(self._journal)

    def find(self, path: Path, shot: Shot, overlay: Path) -> list[GradedTray] | None:
        """Recorded trays of an unchanged file with the same tray and day; None without a record or without its overlay."""
        record = self._records.get(str(path.absolute()))
        if record is None or record["file"] != _state(path) or record["shot"] != list(shot) or not overlay.is_file():
            return None
        return [_graded(path, plain) for plain in record["trays"]]

    def add(self, path: Path, shot: Shot, trays: Sequence[GradedTray]) -> None:
        """Appends one photograph. Raises StorageFull or UsageError if the file cannot be written."""
        plain = [_plain(one) for one in trays]
        self._journal.append([{"path": str(path.absolute()), "file": _state(path), "shot": list(shot), "trays": plain}])

    def others(self, paths: Sequence[Path]) -> int:
        """Number of recorded photographs that are not among `paths`."""
        return len(set(self._records) - {str(path.absolute()) for path in paths})


def _state(path: Path) -> list[int]:
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


def _read(journal: Journal) -> dict[str, dict[str, Any]]:
    """Last valid record of each photograph."""
    found: dict[str, dict[str, Any]] = {}
    bad = 0
    for record in journal.read():
        try:
            for tray in record["trays"]:
                _graded(Path(record["path"]), tray)
            found[record["path"]] = {name: record[name] for name in ("file", "shot", "trays")}
        except (ValueError, KeyError, TypeError, AttributeError):
            bad += 1
    if bad:
        logger.warning("%s: %d lines are damaged or of an older version; their photographs are graded again", journal.path, bad)
    return found


def _plain(one: GradedTray) -> dict[str, Any]:
    lattice = {**one.lattice._asdict(), "homography": one.lattice.homography.tolist()}
    arrays = {name: getattr(one, name).tolist() for name in ARRAYS}
    found = {"shot": list(one.shot), "lattice": lattice, **arrays, "warnings": list(one.warnings)}
    return {**found, "out_of_distribution": one.out_of_distribution}


def _graded(path: Path, plain: dict[str, Any]) -> GradedTray:
    stored = plain["lattice"]
    lattice = Lattice(
        **{
            **stored,
            "homography": np.array(stored["homography"]),
            "estimate": tuple(stored["estimate"]),
            "notes": tuple(stored["notes"]),
        }
    )
    areas, seen, p_seen, p_success = (np.array(plain[name]) for name in ARRAYS)
    warnings, outside = tuple(plain["warnings"]), bool(plain["out_of_distribution"])
    return GradedTray(path, Shot(*plain["shot"]), lattice, areas, seen, p_seen, p_success, warnings, outside)
