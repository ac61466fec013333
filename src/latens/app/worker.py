"""A process of the page that runs one command: it loads torch, waits for the words of a command, runs it, and ends.

    python -m latens.app.worker

The words are one line of JSON on stdin; an empty stdin ends the process. It also ends with the process that started it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

WATCH = 1.0  # seconds between looks at the parent


def main() -> int:
    """Run the command of the first line of stdin; its exit status."""
    _end_with_parent()
    import torch  # noqa: F401  loaded before the words are known, so that a command starts at once

    from latens.cli.main import main as run

    line = sys.stdin.readline()
    return run([str(word) for word in json.loads(line)]) if line.strip() else 0


def _end_with_parent() -> None:
    """End this process soon after its parent, which may be killed. The kernel's own signal follows threads, not processes."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    raise SystemExit(main())
