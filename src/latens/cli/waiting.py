"""How the threads of a command wait for each other."""

from __future__ import annotations

import os

LOAD = "/proc/loadavg"
SPINS = "1000"  # turns of the loop


def set_waiting() -> None:
    """Set the environment of OpenMP, which reads it when torch is imported, unless it has a policy already.

    Threads that wait in a loop take the cores from other programs and then wait for these: on a busy machine, `latens demo`
    took six times as long. They sleep instead, but waking them takes a tenth of the time of compress and decompress; on a quiet
    machine, they therefore loop for a moment first.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        if is_quiet():
            os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def is_quiet() -> bool:
    """True if at most an eighth of the cores is busy, as far as the kernel tells."""
    try:
        with open(LOAD) as stream:  # "0.79 1.94 1.74 1/321 12345": one program runs or waits for a core, this one
            running = int(stream.read().split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):
        return False
    return 8 * (running - 1) <= (os.cpu_count() or 1)
