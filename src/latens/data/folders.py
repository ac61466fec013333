"""Output folders: write checks, locks between processes, and records of the requests behind reports."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from latens.data.files import STANDARD_STREAM, discard, sweep_stale, temporary_beside, write_atomic, write_error
from latens.data.records import Records
from latens.errors import OutputExists, UsageError

FILE_ENDINGS = frozenset(
    ".avif .avi .bmp .csv .gif .gz .html .jfif .jpe .jpeg .jpg .json .ltn .ltp .ltv .mkv .mov .mp4 .npy .npz .onnx .pdf .png "
    ".ppm .safetensors .tar .tif .tiff .tsv .txt .webm .webp .xlsx .zip".split()
)
MADE_WITH = "made-with.json"
DRAWN_ENDINGS = frozenset({".png", ".jpg", ".gif", ".webp"})  # of figures in reports
GROWING = ".jsonl"  # ending of files that several requests write to


def check_writable(folder: Path) -> None:
    """Raises UsageError or StorageFull if no file can be written into `folder`, which need not exist; leaves no files.

    Every command with an output folder calls this before its long work. It writes a test file, because permission bits do not
    show read-only mounts, /proc and quotas.
    """
    if folder == STANDARD_STREAM:
        what = "the results are several files, which standard output cannot carry"
        raise UsageError(what, where="-o -", hint="name a folder with -o")
    refuse_file_name(folder)
    place = Path(os.path.abspath(folder))
    while not os.path.lexists(place):
        place = place.parent
    sweep_stale(place, "probe")
    probe = temporary_beside(place / "probe")
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        os.unlink(probe)
    except OSError as error:
        raise write_error(folder, error) from error
    except BaseException:  # Ctrl-C
        discard(probe)
        raise


def refuse_file_name(folder: Path) -> None:
    """Raise UsageError if a new folder has the name of a file: `-o out.png` for several images made a folder of this name."""
    if folder.suffix.lower() in FILE_ENDINGS and not os.path.lexists(folder):
        what = "the results go into a folder, but this is the name of a file"
        raise UsageError(what, where=str(folder), hint="name a folder with -o, or make one of this name first")


def check_apart(folder: Path | None, option: str, results: Iterable[Path], files: Iterable[Path] = ()) -> None:
    """Raise UsageError if the folder of a second output, which `option` names, cannot be used together with the `results`.

    It cannot be a file or named as one, be or lie in a result, or get one of the results as one of its `files`.
    """
    if folder is None:
        return
    where = f"{option} {folder}"
    taken = {os.path.realpath(path) for path in results}
    for path in (folder, *files):
        place = Path(os.path.realpath(path))
        both = next((one for one in (place, *place.parents) if str(one) in taken), None)
        if both is not None:
            raise UsageError(f"a result of the same command is written to {both}", where=where, hint="name another folder")
    try:
        check_writable(folder)
    except UsageError as error:
        error.where, error.hint = where, "name a folder"
        raise


@contextmanager
def claim(folder: Path, *, wait: bool, name: str = "claim") -> Iterator[bool]:
    """Lock `folder`, which is created if necessary. Yields True if this process holds the lock; with `wait`, waits for it.

    Locks of different names are independent. The operating system releases a lock when its process ends; the lock file remains.
    Raises StorageFull or UsageError if the folder cannot be used.
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
    """Raises OutputExists if `folder` has results of another request, or changed ones, unless `force` is set.

    `what` names the results in `folder` (a command or a report). `request` holds everything that determines them, serializable
    as JSON. `results` are names and patterns of files that will be written; existing ones without a record are not replaced.
    """
    if force:
        return
    place = folder / MADE_WITH
    if not _is_ours(place):
        hint = "choose another -o, or add --force to replace this file"
        raise OutputExists("this file is needed for a record, and latens did not write it", where=str(place), hint=hint)
    earlier = earlier_request(folder, what)
    if earlier is None:
        there = _existing(folder, results)
        if there:
            message = "the file exists already, and there is no record of its request"
            raise OutputExists(message, where=str(there[0]), hint="choose another -o, or add --force")
        return
    changed = differences(earlier, plain(request))
    if changed:
        message = f"this folder holds results of another request: {'; '.join(changed)}"
        raise OutputExists(message, where=str(folder), hint="choose another -o, or add --force to replace them")
    records = Records()
    for path in _documents(folder, results):
        entry = records.entry(path)
        if entry is not None and entry.state == "done" and not entry.is_unchanged(path):
            message = "this result has changed since latens wrote it"
            raise OutputExists(message, where=str(path), hint="choose another -o, or add --force to replace it")


def note_request(folder: Path, what: str, request: Mapping[str, Any]) -> None:
    """Record the request behind the results named `what` in `folder`, for `check_request`.

    A file of that name that latens did not write is replaced (`check_request` refuses it without force), and a link is not
    written through.
    """
    place = folder / MADE_WITH
    noted = {**_requests(folder), what: dict(request)}
    if place.is_symlink():
        place.unlink()
    write_atomic(place, (json.dumps(noted, indent=1, default=str) + "\n").encode())


@contextmanager
def noting_request(folder: Path, what: str, request: Mapping[str, Any], *, results: Sequence[str]) -> Iterator[None]:
    """Record a request while its results are made, and the figures among them, so that no command takes them for images.

    The record is taken back if an error leaves none of `results`. A killed run leaves it, so that the same request continues.
    """
    earlier, existed = _requests(folder), folder.is_dir()
    note_request(folder, what, request)
    try:
        with noting_results(folder, what, results):
            yield
        Records().draw(_figures(folder, results))
    except Exception:
        if not _existing(folder, results):
            with contextlib.suppress(OSError):
                if earlier:
                    write_atomic(folder / MADE_WITH, (json.dumps(earlier, indent=1) + "\n").encode())
                else:
                    (folder / MADE_WITH).unlink()
                if not existed:
                    folder.rmdir()
        raise


@contextmanager
def noting_results(folder: Path, what: str, results: Sequence[str]) -> Iterator[None]:
    """Record the contents of results that are written meanwhile, which `check_request` does not replace if they change."""
    records, before = Records(), _documents(folder, results)
    if before:  # a killed run may leave some old and some new ones
        records.start(before, what, STANDARD_STREAM, None, {})
    try:
        yield
    except Exception:
        records.release(before)
        raise
    records.finish("done", _documents(folder, results), what, STANDARD_STREAM, None, {})


def _documents(folder: Path, results: Sequence[str]) -> list[Path]:
    """Files among the results that someone may edit: no figures, and none that several requests write to."""
    endings = {*DRAWN_ENDINGS, GROWING}
    return [path for path in _existing(folder, results) if path.suffix not in endings and path.is_file()]


def _existing(folder: Path, results: Sequence[str]) -> list[Path]:
    """Files and links of `folder` whose names are in `results` or match a pattern there."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [folder / name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in results)]


def _figures(folder: Path, results: Sequence[str]) -> list[Path]:
    """Images among the results, also in folders of these names."""
    found = _existing(folder, results)
    inside = [Path(place) / name for top in found if top.is_dir() for place, _, names in os.walk(top) for name in names]
    return [path for path in (*found, *inside) if path.suffix in DRAWN_ENDINGS and path.is_file()]


def earlier_request(folder: Path, what: str) -> dict[str, Any] | None:
    """The recorded request of the results named `what`; None without one."""
    return _requests(folder).get(what)


def plain(request: Mapping[str, Any]) -> dict[str, Any]:
    """A request as it is read from a record."""
    found: dict[str, Any] = json.loads(json.dumps(dict(request), default=str))
    return found


def _requests(folder: Path) -> dict[str, dict[str, Any]]:
    place = folder / MADE_WITH
    return {} if not _is_ours(place) or not place.exists() else dict(json.loads(place.read_bytes()))


def _is_ours(place: Path) -> bool:
    """False for an existing link, folder or file that is not of the form of `note_request`."""
    if not os.path.lexists(place):
        return True
    if place.is_symlink() or not place.is_file():
        return False
    try:
        found = json.loads(place.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and all(isinstance(request, dict) for request in found.values())


def differences(earlier: Mapping[str, Any], now: Mapping[str, Any], group: str = "") -> list[str]:
    """At most three settings in which two requests differ, with both values."""
    found: list[str] = []
    for name in dict.fromkeys([*earlier, *now]):
        old, new = earlier.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{group}{name}.")
        elif isinstance(old, list) and isinstance(new, list) and old != new:
            other = [item for item in [*old, *new] if (item in old) != (item in new)]
            found.append(f"{group}{name} differ" + (f" by {_shown(other[0])}" if other else " in order"))
        elif old != new:
            found.append(f"{group}{name} was {_shown(old)} and is {_shown(new)}")
    return found[:3]


def _shown(value: Any) -> str:
    text = ":".join(map(str, value)).lstrip(":") if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else "..." + text[-57:]
