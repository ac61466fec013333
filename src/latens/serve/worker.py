"""A worker process of the service: python -m latens.serve.worker TARGET < tasks > answers, one line of JSON each.

The first line on stdin is the argument of the function that TARGET names. It returns the function that answers a list of tasks
with a list of answers. The first line on stdout says that the worker is ready, or why it cannot be.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from latens.errors import LatensError

Answer = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


def serve(target: str) -> None:
    """Answer tasks until stdin ends, which it does when the service ends or dies."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not mix with answers

    def say(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    with contextlib.suppress(BrokenPipeError):
        line = sys.stdin.readline()
        if not line:  # the service ended before it sent anything
            return
        try:
            answer = opened(target, json.loads(line))
        except LatensError as error:
            say({"error": type(error).__name__, "message": str(error)})
            return
        say({"ready": True})
        for line in sys.stdin:
            say({"answers": _safely(answer, json.loads(line)["tasks"])})


def opened(target: str, prepare: dict[str, Any]) -> Answer:
    module, _, name = target.partition(":")
    found: Answer = getattr(importlib.import_module(module), name)(prepare)
    return found


def _safely(answer: Answer, tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Answers, also of a function that fails: tasks that fail together are worked on one by one."""
    try:
        return answer(tasks)
    except Exception as error:
        if len(tasks) > 1:
            return [_safely(answer, [task])[0] for task in tasks]
        traceback.print_exc()
        what = " ".join(f"{type(error).__name__}: {error}".split())
        return [{"error": "InternalError", "message": f"internal error (please report): {what}"}]


if __name__ == "__main__":
    serve(sys.argv[1])
