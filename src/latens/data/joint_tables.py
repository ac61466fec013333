"""Tables of all results of a folder together, built from those of each input."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from latens.data.csv_files import csv_bytes
from latens.data.files import STANDARD_STREAM, writing
from latens.data.records import Records

logger = logging.getLogger(__name__)

JOINING = "joining tables"  # of the record of the joint tables
HEAD = 2**14  # bytes of a table that hold its header
COPIED = 2**20  # bytes that are compared at once
SPOOL = 2**24  # bytes of a table that stay in memory


def may_replace_table(target: Path, columns: Sequence[str], records: Records) -> bool:
    """False, with a warning, for a file that is no table with these columns, and for one that was changed since."""
    if not _is_table(target, columns):
        logger.warning("%s: this file is not a table of latens and is kept; the joint table was not written", target)
        return False
    entry = records.entry(target)
    if entry is not None and entry.state == "done" and target.is_file() and not entry.is_unchanged(target):
        logger.warning("%s: this table was changed since latens wrote it and is kept; move it to get a new one", target)
        return False
    return True


def write_table(target: Path, rows: Iterable[bytes], records: Records) -> None:
    """Write a joint table and record it, but leave one with the same contents as it is."""
    with tempfile.SpooledTemporaryFile(SPOOL) as spool:
        spool.writelines(rows)
        size = spool.tell()
        spool.seek(0)
        if target.is_file() and target.stat().st_size == size:
            with target.open("rb") as file:
                if all(file.read(COPIED) == part for part in iter(lambda: spool.read(COPIED), b"")):
                    return
        spool.seek(0)
        records.start([target], JOINING, STANDARD_STREAM, None, {})
        with writing(target) as file:
            shutil.copyfileobj(spool, file)
        records.finish("done", [target], JOINING, STANDARD_STREAM, None, {})


def _is_table(path: Path, columns: Sequence[str]) -> bool:
    """False for an existing file that is no table with these columns."""
    try:
        with path.open("rb") as file:
            return file.readline(HEAD) == csv_bytes([columns])
    except FileNotFoundError:
        return True
    except OSError:
        return False
