"""Notes on assumptions, omissions and repairs, which are part of a result and logged once."""

from __future__ import annotations

import logging

from latens.errors import LatensError

logger = logging.getLogger(__name__)


def first_line(error: LatensError) -> str:
    """An error without its hint."""
    return str(error).splitlines()[0]


def left_out(error: LatensError, name: str = "") -> str:
    """Log that an unreadable input is left out. Returns the line for the result: the error, or `name` and what happened."""
    line = f"{name}: {error.what}" if name else first_line(error)
    logger.warning("left out: %s", line)
    return line


def note_once(notes: list[str], where: object, text: str) -> None:
    """Adds `text` to `notes` and logs it as a warning about `where`, unless it is there already."""
    if text not in notes:
        notes.append(text)
        logger.warning("%s: %s", where, text)
