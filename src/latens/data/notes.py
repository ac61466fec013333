"""Notes on assumptions, omissions and repairs, which are part of a result and logged once."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)


def note_once(notes: list[str], where: object, text: str) -> None:
    """Adds `text` to `notes` and logs it as a warning about `where`, unless it is there already."""
    if text not in notes:
        notes.append(text)
        logger.warning("%s: %s", where, text)
