"""Reading of JSON files whose top level is an object, within a size limit and without errors of the parser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from latens.data.files import read_bytes
from latens.errors import InputError

FILE_LIMIT = 4 * 2**30  # bytes


def read_json_object(path: Path, what: str, hint: str | None = None) -> dict[str, Any]:
    """The object of a JSON file. Raises InputError for other text, for another top level (not `what`), and for deep nesting."""
    try:
        document = json.loads(read_bytes(path, limit=FILE_LIMIT))
    except ValueError as error:
        raise InputError(f"not a JSON file ({error})", where=str(path), hint=hint) from None
    except RecursionError:
        raise InputError("the JSON is nested too deeply", where=str(path), hint=hint) from None
    if not isinstance(document, dict):
        raise InputError(f"not {what}: its top level is not an object", where=str(path), hint=hint)
    return document
