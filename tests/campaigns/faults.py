"""Faults at the system calls that change files: the process dies, receives Ctrl-C, or the call fails.

Calls of the standard library are intercepted: os.open for writing, os.write, os.fsync, os.replace, os.unlink, os.mkdir, and the
same calls through `open`. Libraries that write by themselves (PyAV) are met at the rename of their file.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
KILLED, INTERRUPTED = 137, 130
PATIENCE = 120.0  # seconds until a run counts as hung


class Fault(NamedTuple):
    """What happens at call number `at` (from 0) and, with `lasting`, at all later calls."""

    kind: str  # "kill", "torn" (half of a write, then the kill), "short" (half of a write), "interrupt", or an errno
    at: int
    lasting: bool = False

    def hits(self, number: int) -> bool:
        return number == self.at or (self.lasting and number > self.at)


NONE = Fault("none", -1)


class Run(NamedTuple):
    status: int
    messages: str  # stderr
    calls: int


class _Calls:
    """Counts the calls below `root` and lets the fault happen; installed in a forked child only, and never removed."""

    def __init__(self, root: Path, fault: Fault) -> None:
        self.root, self.fault, self.count = os.path.realpath(root), fault, 0
        self.names: dict[int, str] = {}
        self.write, self.unlink, self.mkdir = os.write, os.unlink, os.mkdir
        self.open, self.builtin_open = os.open, builtins.open

    def within(self, path: Any) -> bool:
        if isinstance(path, int):
            return path in self.names
        return os.path.realpath(os.fsdecode(path)).startswith(self.root)

    def happens(self, name: str) -> bool:
        """Count a call; die or raise if the fault is due. True if half of a write is to be done."""
        number, self.count = self.count, self.count + 1
        if not self.fault.hits(number):
            return False
        if self.fault.kind in ("torn", "short"):
            if name == "write":
                return True
            if self.fault.kind == "short":
                return False
        if self.fault.kind in ("kill", "torn"):
            os._exit(KILLED)
        if self.fault.kind == "interrupt":
            signal.raise_signal(signal.SIGINT)  # KeyboardInterrupt, or what a training does with the signal
            return False
        code = getattr(errno, self.fault.kind)
        raise OSError(code, os.strerror(code))

    def install(self) -> None:
        os.open, os.write = self._open, self._write
        for name in ("fsync", "replace", "rename", "link", "unlink", "remove", "mkdir", "truncate", "ftruncate"):
            setattr(os, name, self._counted(name, getattr(os, name)))
        builtins.open = io.open = self._file

    def _counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(path: Any, *rest: Any, **named: Any) -> Any:
            if self.within(path):
                self.happens(name)
            return call(path, *rest, **named)

        return counted

    def _open(self, path: Any, flags: int, *rest: Any, **named: Any) -> int:
        ours = bool(flags & WRITES) and self.within(path)
        if ours:
            self.happens("open")
        descriptor = self.open(path, flags, *rest, **named)
        self.names.pop(descriptor, None)
        if ours:
            self.names[descriptor] = os.fsdecode(path)
        return descriptor

    def _write(self, descriptor: int, data: Any) -> int:
        if descriptor not in self.names:
            return self.write(descriptor, data)
        return self.part(data, lambda part: self.write(descriptor, part))

    def part(self, data: Any, write: Callable[[Any], int | None]) -> int:
        """Write the data, or half of it if the fault says so."""
        if not self.happens("write"):
            return write(data) or 0
        done = write(memoryview(data)[: (len(data) + 1) // 2]) or 0
        if self.fault.kind == "torn":
            os._exit(KILLED)
        return done

    def _file(self, file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **named: Any) -> Any:
        if not set(mode) & set("wxa+") or not (isinstance(file, int) or self.within(file)):
            return self.builtin_open(file, mode, buffering, *rest, **named)
        self.happens("open")
        raw = _Raw(file, mode.replace("b", "").replace("t", ""), self)
        self.names[raw.fileno()] = str(file)
        stream = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return raw if buffering == 0 else stream
        return io.TextIOWrapper(stream, *rest, **named)


class _Raw(io.FileIO):
    def __init__(self, file: Any, mode: str, calls: _Calls) -> None:
        super().__init__(file, mode)
        self.calls = calls

    def write(self, data: Any) -> int:
        return self.calls.part(data, super().write)


def run(words: list[str], root: Path, log: Path, fault: Fault = NONE) -> Run:
    """Run a verb in a forked child whose files lie below `root`; its stderr goes to the file `log`, outside of it."""
    from latens.cli.main import main

    return run_call(lambda: main(words), f"latens {' '.join(words)}", root, log, fault)


def run_call(call: Callable[[], int], name: str, root: Path, log: Path, fault: Fault = NONE) -> Run:
    """Run a function in a forked child; its value is the exit status. `name` is for messages."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python 3.12, for a fork with threads
        child = os.fork()
    if child == 0:
        _child(call, root, log, fault)
    status = _wait(child, name)
    *messages, last = log.read_text(encoding="utf-8", errors="replace").split("\ncalls: ")
    return Run(status, "\ncalls: ".join([*messages, "" if messages else last]), int(last) if messages else 0)


def _child(call: Callable[[], int], root: Path, log: Path, fault: Fault) -> None:
    status = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        os.dup2(descriptor, 2)
        import sys

        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores it
        calls = _Calls(root, fault)
        calls.install()
        status = call()
        sys.stderr.flush()
        calls.write(2, f"\ncalls: {calls.count}".encode())
    finally:
        os._exit(status)


def _wait(child: int, name: str) -> int:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise AssertionError(f"hung: {name}")
