"""Notes on what was assumed, left out or repaired: kept for the result and logged, each once."""

from __future__ import annotations

import functools
import logging

logger = logging.getLogger(__name__)


def note_once(notes: list[str], where: object, text: str) -> None:
    """Adds `text` to `notes` and logs it as a warning about `where`, unless it is there already."""
    if text not in notes:
        notes.append(text)
        logger.warning("%s: %s", where, text)


@functools.lru_cache(maxsize=4096)
def warn_once(where: object, text: str) -> None:
    """Logs a warning about `where`, unless it was logged before: a file may be read in several passes.

    `warn_once.cache_clear()` begins a new run.
    """
    logger.warning("%s: %s", where, text)
