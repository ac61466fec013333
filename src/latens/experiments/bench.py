"""Speed and memory on this machine. Cases run interleaved, so that other load on the machine affects all of them.

A history is a file of JSON lines, one for each report, with date, version and machine.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from io import RawIOBase
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

from latens.errors import UsageError, counted
from latens.inference.memory import peak_increase, peak_memory
from latens.inference.page import Table

REPEATS = 7
CPU_INFO = Path("/proc/cpuinfo")


class Case(NamedTuple):
    """An operation to time: `act` is called repeatedly; one call processes `work` units of `unit`."""

    name: str
    act: Callable[[], object]
    work: float = 1.0
    unit: str = "images"
    bits: float | None = None  # of the result, a pixel or a value
    peer: bool = False  # another program or method for the same task


class Timing(NamedTuple):
    """Seconds of one call: median and best of the wall clock, median of the CPU time of all threads.

    `memory` is the rise of resident memory during the first call in bytes; None where the kernel does not tell.
    """

    name: str
    wall: float
    best: float
    cpu: float
    work: float
    unit: str
    memory: int | None = None
    bits: float | None = None
    peer: bool = False


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """Timings, with model, machine and memory."""

    about: str  # model, weights, device, precision
    threads: int
    repeats: int
    timings: tuple[Timing, ...]
    peak_memory: int  # bytes; peak of this process since its start, libraries included
    peak_device_memory: int | None  # bytes allocated on the accelerator

    def table(self) -> str:
        """Text for a terminal."""
        memory = f"peak memory {self.peak_memory / 1e6:.0f} MB"
        if self.peak_device_memory is not None:
            memory += f", on the device {self.peak_device_memory / 1e6:.0f} MB"
        caption = (
            f"Medians of {self.repeats} interleaved runs, {counted(self.threads, 'thread')}; {memory}. 'memory': rise during "
            "the first call. * another method or program for the same task."
        )
        with_bits = any(timing.bits is not None for timing in self.timings)
        columns = ["case", "wall ms", "best ms", "CPU ms", "speed", "memory MB", *(["bits"] if with_bits else [])]
        rows = [_cells(timing, with_bits=with_bits) for timing in self.timings]
        return f"{self.about}\n\n{Table(columns, rows, caption).text()}"

    def to_dict(self) -> dict[str, Any]:
        """All numbers, in seconds and bytes."""
        return {**asdict(self), "timings": [timing._asdict() for timing in self.timings]}


def bench(
    cases: Sequence[Case],
    about: str,
    device: torch.device,
    *,
    repeats: int = REPEATS,
    on_call: Callable[[int, str], object] = lambda calls, case: None,
) -> BenchReport:
    """Time every case `repeats` times after one warm-up call. Raises UsageError for `repeats` below 1.

    `on_call` is called outside of the timing, with the number of finished calls and the name of the next case.
    """
    if repeats < 1:
        raise UsageError("at least one repeat is needed", where=f"repeats {repeats}")
    samples: dict[str, list[tuple[float, float]]] = {case.name: [] for case in cases}
    memory: dict[str, int | None] = {}
    for repeat in range(repeats + 1):
        for number, case in enumerate(cases):
            on_call(repeat * len(cases) + number, case.name)
            if repeat:
                samples[case.name].append(_time(case.act, device))
            else:  # the first call selects kernels and allocates memory
                memory[case.name] = peak_increase(case.act)
    return BenchReport(
        about=about,
        threads=torch.get_num_threads(),
        repeats=repeats,
        timings=tuple(_timing(case, samples[case.name], memory[case.name]) for case in cases),
        peak_memory=peak_memory(),
        peak_device_memory=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    )


def _time(act: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Wall and CPU seconds of one call, including work on the accelerator."""
    synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    act()
    synchronize(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _timing(case: Case, samples: Sequence[tuple[float, float]], memory: int | None) -> Timing:
    walls = [wall for wall, _ in samples]
    cpu = median(cpu for _, cpu in samples)
    return Timing(case.name, median(walls), min(walls), cpu, case.work, case.unit, memory, case.bits, case.peer)


def _cells(timing: Timing, *, with_bits: bool) -> list[str]:
    """The cells of a row of the table."""
    cells = [f"{timing.name} *" if timing.peer else timing.name]
    cells += [f"{1e3 * seconds:.1f}" for seconds in (timing.wall, timing.best, timing.cpu)]
    cells.append(f"{timing.work / timing.wall:.2f} {timing.unit}/s")
    cells.append("-" if timing.memory is None else f"{timing.memory / 1e6:.0f}")
    return cells + (["-" if timing.bits is None else f"{timing.bits:.3f}"] if with_bits else [])


# ----------------------------------------------------------------------------------------------------------- history


def check_history(path: Path) -> None:
    """Raises UsageError or StorageFull if the path cannot hold a history, or if its last line is no report of a benchmark."""
    from latens.data.files import STANDARD_STREAM
    from latens.data.folders import check_writable

    check_writable(path.parent)
    if not os.path.lexists(path) and path != STANDARD_STREAM:
        return
    try:  # pipes and devices cannot be read to their end
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else [""]
        known = os.access(path, os.W_OK) and (not lines or {"date", "machine", "timings"} <= json.loads(lines[-1]).keys())
    except (OSError, ValueError, AttributeError):
        known = False
    if not known:
        hint = "choose another -o: reports are appended to a file of earlier ones"
        raise UsageError("this is no history of benchmarks that can be continued", where=str(path), hint=hint)


def append_history(path: Path, system: str, report: BenchReport, *, version: str) -> None:
    """Append a report as one line of JSON with system, date (UTC), `version` of latens and machine."""
    from latens.data.files import write_error

    line = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "latens": version,
        "machine": machine(),
        "system": system,
        **report.to_dict(),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as stream:
            _append(stream, (json.dumps(line) + "\n").encode())
    except OSError as error:
        raise write_error(path, error) from error


def _append(stream: RawIOBase, line: bytes) -> None:
    """Append a whole line or nothing, also next to other processes and on a full disk. An unended last line is ended."""
    import fcntl

    fcntl.flock(stream, fcntl.LOCK_EX)
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(size - 1, 0))
    ended = stream.read() in (b"", b"\n")
    whole = line if ended else b"\n" + line
    try:
        if stream.write(whole) != len(whole):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        os.ftruncate(stream.fileno(), size)
        raise


def machine() -> dict[str, Any]:
    """Processor, cores, and versions of Python and torch."""
    names = [line.partition(":")[2].strip() for line in _lines(CPU_INFO) if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    return {"processor": processor, "cores": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__}


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []
