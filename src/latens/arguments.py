"""Numbers, texts and paths that Python callers pass as options: a wrong type raises UsageError, which names the option."""

from __future__ import annotations

import json
import math
import operator
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from latens.errors import UsageError

SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?)b?", re.IGNORECASE)
PREFIXES = ("", "k", "m", "g")  # of thousands


def real(value: Any, name: str) -> float:
    """A number as a float: of Python, numpy or torch, with one element. Raises UsageError for other types and for NaN."""
    if not isinstance(value, str | bytes | bytearray):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError, RuntimeError):
            number = math.nan
        if not math.isnan(number):
            return number
    raise UsageError(f"{_shown(value)} is not a number", where=name, hint=f"give a number: {name}=4.0")


def whole(value: Any, name: str) -> int:
    """An integer of Python, numpy or torch. Raises UsageError for other types, also for floats."""
    try:
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"{_shown(value)} is not an integer", where=name, hint=f"give an integer: {name}=4") from None


def optional_real(value: Any, name: str) -> float | None:
    """`real`, or None for None."""
    return None if value is None else real(value, name)


def optional_whole(value: Any, name: str) -> int | None:
    """`whole`, or None for None."""
    return None if value is None else whole(value, name)


def byte_size(value: Any, name: str) -> float:
    """Bytes of a number, or of "8MB", "500kB" or "1200"; thousands, not 1024s. Raises UsageError."""
    match = SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    try:
        size = real(value, name) if match is None else round(float(match[1]) * 1000 ** PREFIXES.index(match[2].lower()))
    except UsageError:
        size = 0
    if size <= 0:
        raise UsageError(f"{_shown(value)} is not a size", where=name, hint="write 8MB, 500kB or a number of bytes")
    return size


def path(value: Any, name: str) -> Path:
    """A path of a str or a path object. Raises UsageError for other types, for an empty one and for null characters."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise UsageError(f"{_shown(value)} is not a path", where=name, hint=f"give a path: {name}='file'")
    found = Path(value)
    if "\0" in str(found):
        raise UsageError("a path cannot have a null character", where=name, hint="give another path")
    return found


def text(value: Any, name: str) -> str:
    """A str. Raises UsageError for other types."""
    if not isinstance(value, str):
        raise UsageError(f"{_shown(value)} is not a text", where=name, hint=f"give a text: {name}='...'")
    return value


def several(value: Any, name: str) -> tuple[str, ...]:
    """Texts of one str or path, or of several. Raises UsageError for other types."""
    values = (value,) if isinstance(value, str | os.PathLike) else value
    if not isinstance(values, Iterable) or isinstance(values, bytes | bytearray | Mapping):
        raise UsageError(f"{_shown(value)} is not a list", where=name, hint=f"give a list: {name}=['folder']")
    found = tuple(os.fspath(each) if isinstance(each, os.PathLike) else each for each in values)
    return tuple(text(each, name) for each in found)


def changes(value: Any, name: str) -> dict[str, str]:
    """Texts by name of a mapping; other values than texts are written as JSON. Raises UsageError for other types."""
    if not isinstance(value, Mapping):
        raise UsageError(f"{_shown(value)} is not a mapping", where=name, hint=f"give a dict: {name}={{'run.steps': '500'}}")
    try:
        return {text(key, name): each if isinstance(each, str) else json.dumps(each) for key, each in value.items()}
    except (TypeError, ValueError) as error:
        raise UsageError(f"a value is no text ({error})", where=name, hint="give texts, as on the command line") from None


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else f"an object of the type {type(value).__name__}"
