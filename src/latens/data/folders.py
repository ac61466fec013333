"""Output folders: whether they can be written, who works in them, and what their results were made with."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from latens.data.files import temporary_beside, write_atomic, write_error
from latens.errors import OutputExists

MADE_WITH = "made-with.json"


def check_writable(folder: Path) -> None:
    """Raises UsageError or StorageFull where no file can be written into `folder`, which need not exist; leaves nothing behind.

    For every verb with an output folder, before its long work. A file is tried out: permission bits do not tell of /proc, of
    read-only mounts and of quotas.
    """
    place = Path(os.path.abspath(folder))
    while not os.path.lexists(place):
        place = place.parent
    probe = temporary_beside(place / "probe")
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        os.unlink(probe)
    except OSError as error:
        raise write_error(folder, error) from error


@contextmanager
def claim(folder: Path, *, wait: bool, name: str = "claim") -> Iterator[bool]:
    """Yields whether this process alone may work in `folder`, which is made if need be; with `wait`, waits until it may.

    Claims of different names are independent. A claim ends with its process, however that ends; its file stays. Raises
    StorageFull or UsageError where the folder cannot be used.
    """
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / name).open("w")
    except OSError as error:
        raise write_error(folder, error) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def check_request(
    folder: Path, what: str, request: Mapping[str, Any], *, results: Sequence[str] = (), force: bool = False
) -> None:
    """Refuses to replace results of another request, or to add to them. Raises OutputExists.

    `what` names the results in `folder` (a verb or a report), `request` all that decides them, JSON-able. The names `results`
    are files that are written anew: where they exist and no record tells of their request, they are not ours to replace.
    """
    if force:
        return
    earlier = _requests(folder).get(what)
    if earlier is None:
        there = next((name for name in results if os.path.lexists(folder / name)), None)
        if there is not None:
            what_is = "the file is there already, and nothing tells how it was made"
            raise OutputExists(what_is, where=str(folder / there), hint="choose another -o, or add --force")
        return
    changed = _differences(json.loads(json.dumps(earlier)), json.loads(json.dumps(dict(request), default=str)))
    if changed:
        said = f"this folder holds results of another request: {'; '.join(changed)}"
        raise OutputExists(said, where=str(folder), hint="choose another -o, or add --force to make them anew")


def note_request(folder: Path, what: str, request: Mapping[str, Any]) -> None:
    """Records what the results named `what` in `folder` are made with, for `check_request`."""
    noted = {**_requests(folder), what: dict(request)}
    write_atomic(folder / MADE_WITH, (json.dumps(noted, indent=1, default=str) + "\n").encode())


def _requests(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / MADE_WITH).read_bytes())
    except (OSError, ValueError):
        return {}
    return {name: request for name, request in found.items() if isinstance(request, dict)} if isinstance(found, dict) else {}


def _differences(earlier: Mapping[str, Any], now: Mapping[str, Any], group: str = "") -> list[str]:
    """At most three settings that differ, with both values."""
    found: list[str] = []
    for name in dict.fromkeys([*earlier, *now]):
        old, new = earlier.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{group}{name}.")
        elif isinstance(old, list) and isinstance(new, list) and old != new:
            other = [item for item in [*old, *new] if (item in old) != (item in new)]
            found.append(f"{group}{name} differ" + (f" by {_shown(other[0])}" if other else " in order"))
        elif old != new:
            found.append(f"{group}{name} was {_shown(old)} and is {_shown(new)}")
    return found[:3]


def _shown(value: Any) -> str:
    text = ":".join(map(str, value)).lstrip(":") if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else "..." + text[-57:]
