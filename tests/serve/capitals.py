"""Workers that write bodies in capitals, wait, fail or crash."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latens.errors import Corrupt, ModelMissing


def open_worker(prepare: dict[str, Any]) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    if prepare.get("missing"):
        raise ModelMissing("no such model", where="toy", hint="name another")
    return lambda tasks: [answer(task, len(tasks)) for task in tasks]


def answer(task: dict[str, Any], together: int) -> dict[str, Any]:
    options = dict(word.split("=") for word in task["words"])
    body = (Path(task["folder"]) / "body").read_bytes()
    time.sleep(float(options.get("seconds", 0)))
    if "exit" in options:
        os._exit(int(options["exit"]))
    if options.get("fail") == "bug":
        raise ZeroDivisionError("by intention")
    if options.get("fail") == "input":
        return {"error": Corrupt.__name__, "message": "stdin: damaged\ncopy it again"}
    (Path(task["folder"]) / "result").write_bytes(body.upper())
    return {"status": "done", "result": json.dumps({"pid": os.getpid(), "together": together})}
