"""Notes on assumptions, omissions and repairs. They are part of a result and logged once."""

from __future__ import annotations

import logging
from pathlib import Path

from latens.errors import LatensError

logger = logging.getLogger(__name__)


def first_line(error: LatensError) -> str:
    """The message of an error, without its hint."""
    return str(error).splitlines()[0]


def left_out(error: LatensError, name: str = "") -> str:
    """Log that an unreadable input is omitted. Returns the line for the result: the error, or `name` and its message."""
    line = f"{name}: {error.what}" if name else first_line(error)
    logger.warning("left out: %s", line)
    return line


def note_once(notes: list[str], where: Path, text: str) -> None:
    """Add `text` to `notes` and log it as a warning about `where`, unless `notes` contains it."""
    if text not in notes:
        notes.append(text)
        logger.warning("%s: %s", where, text)
