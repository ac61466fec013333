"""Record of graded photographs in the output folder, from which an interrupted experiment resumes.

One line of JSON for each photograph. Numbers are stored exactly, so that tables do not depend on interruptions.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latens.data.files import write_error
from latens.systems.seedlings.lattice import Lattice
from latens.systems.seedlings.names import Shot
from latens.systems.seedlings.predict import GradedTray

logger = logging.getLogger(__name__)

LEDGER = "graded.jsonl"
ARRAYS = ("areas", "seen", "p_seen", "p_success")


class Ledger:
    """The file; safe to add to from several threads."""

    def __init__(self, folder: Path, *, fresh: bool = False) -> None:
        self.path = folder / LEDGER
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if fresh:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            raise write_error(self.path, error) from error
        self._lines = _read(self.path)
        self._torn = self.path.is_file() and not self.path.read_bytes().endswith(b"\n")  # a line cut short

    def find(self, path: Path, shot: Shot, overlay: Path) -> list[GradedTray] | None:
        """What an earlier run graded of this very file as this tray and day; None where nothing, or its overlay is gone."""
        line = self._lines.get(str(path.absolute()))
        if line is None or line["file"] != _state(path) or line["shot"] != list(shot) or not overlay.is_file():
            return None
        return [_graded(path, plain) for plain in line["trays"]]

    def add(self, path: Path, shot: Shot, trays: Sequence[GradedTray]) -> None:
        """Appends one photograph. Raises StorageFull or UsageError where the file cannot be written."""
        line = {
            "path": str(path.absolute()),
            "file": _state(path),
            "shot": list(shot),
            "trays": [_plain(one) for one in trays],
        }
        data = ("\n" * self._torn + json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "surrogateescape")
        with self._lock:
            try:
                descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
                try:
                    os.write(descriptor, data)  # one call: an interrupted run leaves whole lines
                finally:
                    os.close(descriptor)
                self._torn = False
            except OSError as error:
                raise write_error(self.path, error) from error

    def others(self, paths: Sequence[Path]) -> int:
        """Number of photographs in the file that are not among these."""
        return len(set(self._lines) - {str(path.absolute()) for path in paths})


def _state(path: Path) -> list[int]:
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """The last line of each photograph; a damaged line counts as none."""
    found: dict[str, dict[str, Any]] = {}
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return found
    except OSError as error:
        raise write_error(path, error) from error
    bad = 0
    for line in text.splitlines():
        try:
            plain = json.loads(line)
            for tray in plain["trays"]:
                _graded(Path(plain["path"]), tray)
            found[plain["path"]] = {name: plain[name] for name in ("file", "shot", "trays")}
        except (ValueError, KeyError, TypeError, AttributeError):
            bad += 1
    if bad:
        logger.warning("%s: %d damaged lines left out; their photographs are graded again", path, bad)
    return found


def _plain(one: GradedTray) -> dict[str, Any]:
    lattice = {**one.lattice._asdict(), "homography": one.lattice.homography.tolist()}
    arrays = {name: getattr(one, name).tolist() for name in ARRAYS}
    return {"shot": list(one.shot), "lattice": lattice, **arrays, "warnings": list(one.warnings)}


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
    return GradedTray(path, Shot(*plain["shot"]), lattice, areas, seen, p_seen, p_success, tuple(plain["warnings"]))
