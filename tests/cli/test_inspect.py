"""`latens inspect` of files from pipes and of damaged files."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest

from latens.cli.main import main

FILE = Path(__file__).parents[1] / "golden" / "bundled" / "image_codec.ltn"


def test_a_pipe_is_read_once(capsys: pytest.CaptureFixture[str]) -> None:
    end, start = os.pipe()
    os.write(start, FILE.read_bytes())
    os.close(start)
    try:
        assert main(["inspect", f"/dev/fd/{end}", "--format", "json"]) == 0
    finally:
        os.close(end)
    assert json.loads(capsys.readouterr().out)["model"] == "image_codec"


def test_the_next_step_is_a_command_for_any_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = FILE.read_bytes()
    damaged = tmp_path / "our photo.ltn"
    damaged.write_bytes(data[:-1] + bytes([data[-1] ^ 255]))
    assert main(["inspect", str(damaged), "--format", "json"]) == 4
    step = json.loads(capsys.readouterr().out)["next_step"]
    assert shlex.split(step.partition(":")[0])[1:3] == ["decompress", str(damaged)]
