"""Reading of JSON files whose top level is an object, within a size limit and without errors of the parser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from latens.data.annotation_tools import export_hint
from latens.data.files import read_bytes
from latens.errors import InputError

FILE_LIMIT = 4 * 2**30  # bytes


def read_json_object(path: Path, what: str, hint: str | None = None) -> dict[str, Any]:
    """The object of a JSON file.

    Raises InputError for other text, another top level (not `what`), deep nesting, and a key that occurs twice in an object.
    """
    try:
        document = json.loads(read_bytes(path, limit=FILE_LIMIT), object_pairs_hook=_distinct)
    except InputError as error:
        raise error.at(str(path)) from None
    except ValueError as error:
        raise InputError(f"not a JSON file ({error})", where=str(path), hint=export_hint(path) or hint) from None
    except RecursionError:
        raise InputError("the JSON is nested too deeply", where=str(path), hint=hint) from None
    if not isinstance(document, dict):
        hint = export_hint(path, document) or hint
        raise InputError(f"not {what}: its top level is not an object", where=str(path), hint=hint)
    return document


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object with these keys, of which the parser would keep the last of several equal ones."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InputError(f"the key '{twice[:100]}' occurs twice in one object", hint="join both values, or remove one")
    return found
