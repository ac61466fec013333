"""Peak memory of this process and of one call, and how soon freed memory returns to the system."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
HIGH_WATER = "5"  # written to RESET, sets the peak to the present size
# Parameters of mallopt and their values in bytes. Without them, glibc learns from large blocks that are freed to keep blocks of
# up to 32 MiB in its heap, where what lies between them fragments it: of 50 megapixels, decompress takes 0.3 GB more. It also
# returns free memory at the end of the heap at once: every image then pays page faults.
MMAP_THRESHOLD, TRIM_THRESHOLD = (-3, 2**24), (-1, 2**25)


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


def tune_allocator() -> None:
    """From now on, blocks of 16 MiB go back to the system when they are freed, and up to 32 MiB of smaller ones are kept.

    For commands: a library does not change the allocator of its process.
    No effect without glibc, or if the environment has settings of it (MALLOC_...).
    """
    setting = getattr(ctypes.CDLL(None), "mallopt", None)
    if setting is not None and not any(name.startswith("MALLOC_") for name in os.environ):
        for parameter in (MMAP_THRESHOLD, TRIM_THRESHOLD):
            setting(*parameter)


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
