"""`latens int8` on a bundled model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from latens.cli.main import main
from latens.hub import load_model


def test_a_model_is_stored_in_eight_bits_and_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "small"
    assert main(["int8", "haze_dehazenet", "-o", str(out), "--format", "json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert 0 < record["bytes"] <= record["bytes_before"]
    assert load_model(out).config["system"] == "haze"
    assert main(["int8", "haze_dehazenet", "-o", str(out)]) == 2
    assert "already holds a model" in capsys.readouterr().err
    assert main(["int8", "haze_dehazenet", "-o", str(out), "--force"]) == 0
    assert main(["int8", "image_codec_context", "-o", str(tmp_path / "whole")]) == 0
    assert "not smaller" in capsys.readouterr().err
    assert main(["int8", str(tmp_path / "none"), "-o", str(tmp_path / "x")]) == 6
