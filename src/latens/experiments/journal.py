"""A file of records that grows during an experiment, so that a stopped experiment continues."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from latens.data.files import write_error
from latens.legacy import upgrade_run
from latens.settings import SettingsError, decode_like, is_settings, to_dict


class Journal:
    """Records as JSON lines. Several processes may append to one file; truncated lines are ignored.

    Without a path nothing is stored. Raises StorageFull or UsageError if the file cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def read(self) -> Iterator[dict[str, Any]]:
        """All complete records, oldest first."""
        if self.path is None or not self.path.is_file():
            return
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield record

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Append records; they are on the disk when this returns."""
        lines = "".join(json.dumps(record) + "\n" for record in records)
        if self.path is None or not lines:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                # The leading line break ends a line that a killed process may have left unfinished.
                data = ("\n" + lines).encode()
                while data:
                    data = data[os.write(descriptor, data) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise write_error(self.path, error) from error

    def recorded(self, key: Mapping[str, Any]) -> list[Any] | None:
        """[value] of the measurement `once` has recorded for this key, or None."""
        for record in self.read():  # not cached: another process may have added it
            if isinstance(record.get("key"), dict) and "value" in record and same(key, record["key"]):
                return [record["value"]]
        return None

    def once(self, key: Mapping[str, Any], measure: Callable[[], Any]) -> Any:
        """The JSON-able value of `measure`, read from the journal if it was measured before.

        `key` holds all that determines the value: instances of settings classes and JSON-able values.
        """
        found = self.recorded(key)
        if found is None:
            found = [measure()]
            self.append([{"key": plain_of(key), "value": found[0]}])
        return found[0]


def digest(key: Mapping[str, Any]) -> str:
    """A file name for a key: 20 hexadecimal digits of its hash."""
    return hashlib.sha256(json.dumps(plain_of(key), sort_keys=True).encode()).hexdigest()[:20]


def plain_of(key: Mapping[str, Any]) -> dict[str, Any]:
    """A key as JSON-able values."""
    return {name: to_dict(value) if is_settings(value) else value for name, value in key.items()}


def same(key: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    """True if a record was written for this key.

    Settings are compared after decoding, so records made before a setting was added or renamed still count.
    """
    if key.keys() != record.keys():
        return False
    settings = {name: value for name, value in key.items() if is_settings(value)}
    plain = {name: value for name, value in key.items() if name not in settings}
    if json.loads(json.dumps(plain)) != {name: record[name] for name in plain}:
        return False  # before any decoding: most records differ here
    return all(_decodes_to(value, record[name]) for name, value in settings.items())


def _decodes_to(value: Any, plain: Any) -> bool:
    if to_dict(value) == plain:
        return True
    try:
        return bool(decode_like(value, upgrade_run(plain)) == value)
    except (SettingsError, TypeError, ValueError, AttributeError):
        return False
