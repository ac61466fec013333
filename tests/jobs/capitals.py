"""A command for tests of jobs: every text of the inputs in capitals, and a table of lengths.

Texts that are commands: `bad` fails, `crash` ends with an internal error, `die` kills the process, `wait` takes a minute.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from latens.jobs.job import Job
from latens.jobs.shard import Ran, RunFailed

TARGET = "tests.jobs.capitals:run"


def run(job: Job, inputs: Path, outputs: Path) -> Ran:
    rows: list[dict[str, Any]] = []
    owners, lines = {}, ["file,length"]
    for path in sorted(path for path in inputs.rglob("*") if path.is_file()):
        name, text = path.relative_to(inputs).as_posix(), path.read_text()
        if text == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if text == "wait":
            time.sleep(60)
        if text == "crash":
            raise RunFailed("internal error")
        if text == "bad":
            rows.append({"input": name, "status": "failed", "error": "Corrupt", "message": f"{name}: bad"})
            continue
        result = Path(name).with_suffix(".up")
        (outputs / result).parent.mkdir(parents=True, exist_ok=True)
        (outputs / result).write_text(text.upper())
        owners[result.as_posix()] = name
        rows.append({"input": name, "status": "done", "length": len(text)})
        lines.append(f"{name},{len(text)}")
    (outputs / "lengths.csv").write_text("\n".join(lines) + "\n")
    return Ran(rows, owners, [])
