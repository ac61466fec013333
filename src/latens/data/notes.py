"""Notes on assumptions, omissions and repairs. They are part of a result and logged once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

from latens.errors import InputError, LatensError, LimitExceeded

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


def first_line(error: LatensError) -> str:
    """The message of an error, without its hint."""
    return str(error).splitlines()[0]


_collected: ContextVar[list[str] | None] = ContextVar("collected", default=None)


@contextmanager
def collecting_left_out() -> Iterator[list[str]]:
    """Context with the lines of `left_out` in it, each once, for a result that names all omitted inputs."""
    lines: list[str] = []
    token = _collected.set(lines)
    try:
        yield lines
    finally:
        _collected.reset(token)


def left_out(error: LatensError, name: str = "") -> str:
    """Log that an unreadable input is omitted. Returns the line for the result: the error, or `name` and its message."""
    line = f"{name}: {error.what}" if name else first_line(error)
    logger.warning("left out: %s", line)
    collected = _collected.get()
    if collected is not None and line not in collected:
        collected.append(line)
    return line


def readable(items: Iterable[T], read: Callable[[T], R]) -> Iterator[R]:
    """The value of `read` for every item; one that cannot be read is left out with a warning."""
    for item in items:
        try:
            yield read(item)
        except (InputError, LimitExceeded) as error:
            left_out(error)


@contextmanager
def logged_once() -> Iterator[None]:
    """Log each note once, while a file is read in several passes."""
    logged: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        new = text not in logged
        logged.add(text)
        return new

    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)


def note_once(notes: list[str], where: Path, text: str) -> None:
    """Add `text` to `notes` and log it as a warning about `where`, unless `notes` contains it."""
    if text not in notes:
        notes.append(text)
        logger.warning("%s: %s", where, text)
