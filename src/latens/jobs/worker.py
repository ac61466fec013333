"""A process that works on shards: tasks on standard input, results on standard output, one line of JSON each.

python -m latens.jobs.worker                  of the engine `local`
python -m latens.jobs.worker TARGET FOLDER    one input that has ended a worker
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from pathlib import Path

from latens.errors import LatensError
from latens.jobs.job import Task, as_job
from latens.jobs.shard import Ran, RunFailed, runner, work_on


def answer(text: str) -> str:
    """The result of a task as a line of JSON: what `work_on` returns, or an error that ends the job."""
    try:
        return json.dumps(work_on(Task.parse(text)))
    except LatensError as error:
        return json.dumps({"error": str(error), "status": error.exit_status})
    except Exception as error:
        traceback.print_exc()
        return json.dumps({"error": f"internal error (please report): {type(error).__name__}: {error}", "status": 70})


def serve() -> None:
    """Answer tasks until standard input ends, which it does when the driver dies."""
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with results
    with contextlib.suppress(BrokenPipeError):  # the driver has died; the journal is written
        for line in sys.stdin:
            print(answer(line), file=results, flush=True)


def one(target: str, folder: Path) -> None:
    """Run the command on the one file of a folder; the job is on standard input."""
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    job = as_job(json.load(sys.stdin))
    try:
        ran = runner(target)(job, folder / "in", folder / "out")
    except RunFailed as error:
        name = next(path for path in (folder / "in").rglob("*") if not path.is_dir()).relative_to(folder / "in").as_posix()
        ran = Ran([{"input": name, "status": "failed", "error": "InternalError", "message": str(error)}], {}, [])
    print(json.dumps(ran._asdict(), default=str), file=results, flush=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        one(sys.argv[1], Path(sys.argv[2]))
    else:
        serve()
