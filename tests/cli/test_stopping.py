"""Ctrl-C, SIGTERM and a closed terminal: one line, status 130, and no temporary file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from latens import __main__ as script
from latens.cli.stopping import ended_by_signals


def stop(*_: object) -> int:
    raise KeyboardInterrupt


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_command_leaves_no_temporary_file(number: int, tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "latens", "parts", "-", "-o", "-"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        while process.poll() is None and not list(tmp_path.iterdir()):  # its folder, where it waits for the image
            time.sleep(0.01)
        process.send_signal(number)
        shown, told = process.communicate()
    assert (process.returncode, shown, told) == (130, "", "latens: stopped; finished results are kept\n")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_before_the_command_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("latens.cli.main.main", stop)
    assert script.main() == 130
    assert capsys.readouterr().err == "latens: stopped\n"


def test_ignored_signals_stay_ignored() -> None:
    earlier = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup
    try:
        with ended_by_signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, earlier)
