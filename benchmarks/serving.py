"""A process that answers each request with one JSON line, with times and memory. Standard library only, for both sides."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

Answer = dict[str, Any]


def serve(handlers: Mapping[str, Callable[..., Answer]]) -> None:
    """Read {"do": name, ...} from standard input until it ends; other prints go to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(handlers[request.pop("do")](**request)), file=answers, flush=True)


class Server:
    """Client: starts the process and sends requests."""

    def __init__(self, command: list[str], threads: int) -> None:
        environment = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def ask(self, do: str, **request: Any) -> Answer:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise SystemExit(f"the process {self.process.args!r} died at {do!r}; see its messages above")
        answer: Answer = json.loads(line)
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):  # of a process that died; `ask` has reported it
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def timed(call: Callable[[], Any]) -> tuple[Any, Answer]:
    """The result of `call`, and its wall and CPU time in seconds (CPU time of all threads of the process)."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = call()
    return result, {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def memory() -> Answer:
    """Resident memory of this process in MiB: now, and the peak since `forget_peak`.

    ru_maxrss is not used, because a process inherits it from a larger parent process.
    """
    with open("/proc/self/status") as lines:
        fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[key].split()[0]) / 1024 for name, key in (("now", "VmRSS"), ("peak", "VmHWM"))}


def forget_peak() -> None:
    with open("/proc/self/clear_refs", "w") as control:
        control.write("5")
