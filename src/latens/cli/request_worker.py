"""Workers of `latens serve`: a command with a request's body as standard input and the result as standard output."""

from __future__ import annotations

import csv
import functools
import io
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from inspect import BoundArguments
from pathlib import Path
from typing import Any

from latens.cli.common import NAME, PARTIAL, last_message
from latens.errors import LatensError, LimitExceeded, StorageFull

LONGEST_RESULT = 3000  # characters of the record of a result in a header
CACHED = 256  # command lines whose arguments are kept


def open_worker(prepare: dict[str, Any]) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    """Load models of (name, system) in a worker process; returns the function that answers its tasks. Raises LatensError."""
    import warnings

    from latens.contract import open_system
    from latens.inference.kept import keeping_models

    warnings.simplefilter("ignore")  # of libraries, for programmers
    keeping_models().__enter__()  # until this process ends
    for model, system in prepare["models"]:
        open_system(system).load(model, device=prepare["device"], threads=prepare["threads"])
    return answers


def answers(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The answers to tasks with the same words: together if there are several, else or after an error one by one."""
    return (scored_together(tasks) if len(tasks) > 1 else None) or [answer(task) for task in tasks]


def scored_together(tasks: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """Run `density` once on the bodies of several tasks, and give each its row of the table; None if one cannot be scored."""
    from latens.cli import main
    from latens.data.csv_files import csv_bytes

    bodies = [Path(task["folder"]) / "body" for task in tasks]
    verb, _, *others = tasks[0]["words"]
    command, bound = main.parsed([verb, *map(str, bodies), *others])
    messages, result = io.StringIO(), Path(tasks[0]["folder"]) / "result"
    with streams(bodies[0], result, messages), temporary_files(result.parent):
        status, error = _called(main.call, command, bound)
    with result.open(newline="", encoding="utf-8") as file:
        header, *table = csv.reader(file) if error is None and status == 0 else [[]]
    rows = [row for row in map(_json, messages.getvalue().splitlines()) if row is not None]
    if len(table) != len(tasks) or len(rows) != len(tasks):
        return None
    for body, cells in zip(bodies, table, strict=True):
        (body.parent / "result").write_bytes(csv_bytes([header, ("-", *cells[1:])]))
    return [{"status": "done", "result": _header([row], [])} for row in rows]


def answer(task: dict[str, Any]) -> dict[str, Any]:
    """Run the command of a task with FOLDER/body as standard input and FOLDER/result as standard output.

    Returns `status` (done, partial) and `result` (the record of the verb as JSON), or `error` and `message`.
    """
    from latens.cli import main

    command, bound = _parsed(tuple(task["words"]))
    folder, messages = Path(task["folder"]), io.StringIO()
    result = folder / "result"
    with streams(folder / "body", result, messages), temporary_files(folder):
        status, error = _called(main.call, command, bound)
    if error is not None:
        return error
    lines = messages.getvalue().splitlines()
    rows = [row for row in map(_json, lines) if row is not None]
    failed = next((row for row in rows if row.get("status") == "failed"), None)
    if failed is not None:
        return {"error": failed["error"], "message": failed["message"]}
    if status not in (0, PARTIAL) or not result.stat().st_size:
        return {"error": "InputError", "message": last_message(lines) or "there is no result"}
    return {"status": "partial" if status == PARTIAL else "done", "result": _header(rows, lines)}


@functools.lru_cache(CACHED)
def _parsed(words: tuple[str, ...]) -> tuple[Callable[..., Any], BoundArguments]:
    from latens.cli import main

    return main.parsed(words)


def _called(call: Callable[..., int], command: Callable[..., Any], bound: BoundArguments) -> tuple[int, dict[str, str] | None]:
    """The exit status of a verb, or its error by class and text."""
    from latens.cli.main import SYSTEM_ERRORS

    try:
        return call(command, bound), None
    except LatensError as error:
        return 0, {"error": type(error).__name__, "message": str(error)}
    except MemoryError:
        return 0, {"error": LimitExceeded.__name__, "message": "the service has too little memory for this"}
    except OSError as error:
        if SYSTEM_ERRORS.get(error.errno or 0) != StorageFull.exit_status:
            raise
        return 0, {"error": StorageFull.__name__, "message": f"a temporary file cannot be written: {error.strerror}"}


@contextmanager
def streams(body: Path, result: Path, messages: io.StringIO) -> Iterator[None]:
    """Context with files as standard input and output."""
    before = sys.stdin
    with body.open("rb") as source, result.open("wb") as target:
        sys.stdin = io.TextIOWrapper(source)
        output = io.TextIOWrapper(target, encoding="utf-8", write_through=True)
        try:
            with redirect_stdout(output), redirect_stderr(messages):
                yield
        finally:
            output.flush()
            output.detach()
            sys.stdin.detach()
            sys.stdin = before


@contextmanager
def temporary_files(folder: Path) -> Iterator[None]:
    """Context whose temporary files lie in a folder, which the service removes even if this process is killed."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _json(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _header(rows: Sequence[dict[str, Any]], lines: Sequence[str]) -> str:
    """The record of a result as ASCII JSON, with warnings.

    A record that is too long for a header loses its longest values, but short notes and warnings last; `omitted` names them.
    """
    record = {name: value for row in rows for name, value in row.items() if name not in ("input", "output", "status", "files")}
    warned = [line.removeprefix(NAME) for line in lines if line.startswith(NAME)]
    if warned:
        record["warnings"] = warned
    omitted: list[str] = []
    while len(text := json.dumps({**record, **({"omitted": omitted} if omitted else {})})) > LONGEST_RESULT and record:
        sizes = {name: len(json.dumps(value)) for name, value in record.items()}
        last = max(
            sizes, key=lambda name: (name not in ("notes", "warnings") or sizes[name] > LONGEST_RESULT // 2, sizes[name])
        )
        omitted.append(last)
        del record[last]
    return text
