"""Commands of the page: each runs in its own process, which a cancelled run kills; files are complete or absent.

One process waits with torch loaded, so that a command starts at once.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple

POLL = 0.2  # seconds between looks at a running command
KEPT_LINES = 40  # last lines of stderr that are shown
WORKER = (sys.executable, "-m", "latens.app.worker")


class Step(NamedTuple):
    """What a running command has written so far. `status` is None while it runs."""

    rows: list[dict[str, Any]]  # results, as with --format json
    lines: list[str]  # last lines of stderr
    status: int | None


class Runner:
    """Runs commands one at a time for every caller; `close` ends all processes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: subprocess.Popen[str] | None = None
        self._running: set[subprocess.Popen[str]] = set()
        self._closed = False

    def warm(self) -> None:
        """Start the process that waits, if there is none."""
        with self._lock:
            if not self._closed and (self._waiting is None or self._waiting.poll() is not None):
                self._waiting = _start()

    def run(self, words: Sequence[str]) -> Generator[Step]:
        """Run `latens WORDS --format json`; yield several times a second while it runs, and at its end.

        Closing the generator kills the command.
        """
        process = self._take([*words, "--format", "json"])
        texts: queue.SimpleQueue[tuple[str, str | None]] = queue.SimpleQueue()
        readers = [
            threading.Thread(target=_read, args=(stream, name, texts), daemon=True)
            for name, stream in (("out", process.stdout), ("err", process.stderr))
        ]
        try:
            for reader in readers:
                reader.start()
            yield from _steps(process, texts)
        finally:
            _end(process)
            with self._lock:
                self._running.discard(process)
            self.warm()

    def close(self) -> None:
        """End the waiting process and the running ones; no other one starts."""
        with self._lock:
            self._closed = True
            for process in self._running:  # their pipes are closed by `run`
                process.kill()
                process.wait()
            if self._waiting is not None:
                _end(self._waiting)
                self._waiting = None

    def _take(self, words: Sequence[str]) -> subprocess.Popen[str]:
        """A process that has been given the words: the waiting one, or a new one if that has ended."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the page is closed")
            found, self._waiting = self._waiting, None
            if found is None or not _given(found, words):
                found = _start()
                _given(found, words)  # one that ends at once says why on stderr
            self._running.add(found)
            return found


def _start() -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(WORKER, stdin=pipe, stdout=pipe, stderr=pipe, text=True, encoding="utf-8", errors="replace")


def _given(process: subprocess.Popen[str], words: Sequence[str]) -> bool:
    """Give a process its words; False if it has ended."""
    assert process.stdin is not None
    if process.poll() is not None:
        _end(process)
        return False
    try:
        process.stdin.write(json.dumps(list(words)) + "\n")
        process.stdin.close()
    except OSError:
        _end(process)
        return False
    return True


def _end(process: subprocess.Popen[str]) -> None:
    """Kill a process that still runs, and close its pipes."""
    if process.poll() is None:
        process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.close()


def _read(stream: Any, name: str, texts: queue.SimpleQueue[tuple[str, str | None]]) -> None:
    with contextlib.suppress(OSError, ValueError):
        for line in stream:
            texts.put((name, line.rstrip("\n")))
    texts.put((name, None))


def _steps(process: subprocess.Popen[str], texts: queue.SimpleQueue[tuple[str, str | None]]) -> Iterator[Step]:
    rows: list[dict[str, Any]] = []
    lines: list[str] = []
    open_streams = 2
    while open_streams:
        with contextlib.suppress(queue.Empty):
            name, text = texts.get(timeout=POLL)
            if text is None:
                open_streams -= 1
            elif name == "err":
                lines = [*lines, text][-KEPT_LINES:]
            else:
                rows.append(_row(text))
        yield Step(list(rows), lines, None)
    yield Step(rows, lines, process.wait())


def _row(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {"text": text}
    return found if isinstance(found, dict) else {"text": text}
