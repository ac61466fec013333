"""Peak memory of this process, and of one call."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
HIGH_WATER = "5"  # written to RESET, sets the peak to the present size


def peak_memory() -> int:
    """Peak memory in bytes, from the kernel if available: the value of getrusage includes the parent of a forked process."""
    found = _status("VmHWM")
    if found is not None:
        return found
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_increase(act: Callable[[], object]) -> int | None:
    """Bytes by which resident memory rises at most during a call; None where the kernel does not tell."""
    _release()
    try:
        RESET.write_text(HIGH_WATER)
    except OSError:
        before = None
    else:
        before = _status("VmRSS")
    act()
    peak = _status("VmHWM")
    return None if before is None or peak is None else max(0, peak - before)


def _release() -> None:
    """Give memory that is free inside of the process back to the system, so that its next use counts as a rise."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)


def _status(name: str) -> int | None:
    """A size in the status of this process, in bytes."""
    if not STATUS.is_file():
        return None
    lines = (line.split() for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return next((int(words[1]) * 1024 for words in lines), None)
