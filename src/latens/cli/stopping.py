"""Signals that stop a command as Ctrl-C does. Loads nothing, so that they are caught while other modules are imported."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """End as with Ctrl-C when the process is terminated or its terminal is closed, so that no temporary file remains.

    Signals that the caller ignores, as under nohup, stay ignored.
    """
    heard = [one for one in SIGNALS if signal.getsignal(one) is not signal.SIG_IGN]
    earlier = {one: signal.signal(one, signal.default_int_handler) for one in heard}
    try:
        yield
    finally:
        for one, handler in earlier.items():
            signal.signal(one, handler)


@contextmanager
def until_stopped() -> Iterator[None]:
    """Ignore further signals once the block has ended: files are being removed."""
    try:
        yield
    finally:
        for one in SIGNALS:
            signal.signal(one, signal.SIG_IGN)
