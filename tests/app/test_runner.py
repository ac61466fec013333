"""Commands of the page: results while they run, cancelled ones end, and no process outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latens.app import runner
from latens.app.runner import Runner
from latens.errors import InputError


def write_images(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_results_failures_and_cancelled_commands(tmp_path: Path) -> None:
    paths = write_images(tmp_path / "images", 3)
    running = Runner()
    try:
        running.warm()
        *_, last = running.run(["dehaze", *map(str, paths[:1]), "-o", f"{tmp_path / 'out'}/", "--method", "dcp"])
        assert last.status == 0
        assert [Path(row["output"]) for row in last.rows] == [tmp_path / "out" / "0.png"]
        *_, last = running.run(["dehaze", str(tmp_path / "missing.png")])
        assert last.status == InputError.exit_status
        assert any("missing.png" in line for line in last.lines)
        # A closed generator kills its command; what is there is complete.
        process = running._waiting
        assert process is not None
        steps = running.run(["dehaze", *map(str, paths), "-o", f"{tmp_path / 'cut'}/", "--method", "dcp"])
        next(steps)
        steps.close()
        assert not alive(process.pid)
        for made in (tmp_path / "cut").glob("*.png"):
            Image.open(made).load()
        # A waiting process that was killed is replaced.
        assert running._waiting is not None
        running._waiting.kill()
        running._waiting.wait()
        *_, last = running.run(["models"])
        assert last.status == 0
        # A command that runs ends with the page.
        steps = running.run(["dehaze", *map(str, paths), "-o", f"{tmp_path / 'closed'}/", "--method", "dcp"])
        next(steps)
        (process,) = running._running
        running.close()
        assert not alive(process.pid)
        *_, last = steps
        assert last.status == -signal.SIGKILL
    finally:
        running.close()
    assert running._waiting is None
    with pytest.raises(RuntimeError, match="closed"):
        next(running.run(["models"]))


PARENT = """
import sys, time
from latens.app.runner import _start
print(_start().pid, flush=True)
time.sleep(60)
"""


def test_a_worker_ends_with_its_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 120  # it may still load torch
    while alive(worker) and time.monotonic() < end:
        time.sleep(0.1)
    assert not alive(worker)


def test_lines_that_are_no_objects_are_kept_as_text() -> None:
    assert runner._row('{"a": 1}') == {"a": 1}
    assert runner._row("[1]") == {"text": "[1]"}
    assert runner._row("free text") == {"text": "free text"}
