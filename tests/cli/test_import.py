"""`latens import` makes a model folder that other verbs accept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from latens.cli.main import main

CHECKPOINT = Path(__file__).parents[1] / "golden" / "compressai_tiny.safetensors"


def test_an_imported_model_compresses(tmp_path: Path, album: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "imported"
    assert main(["import", str(CHECKPOINT), "-o", str(folder), "--format", "json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["hidden"], record["latent"]) == (8, 12)
    image, blob = album / "a.png", tmp_path / "a.ltn"
    assert main(["compress", str(image), "-o", str(blob), "--model", str(folder)]) == 0
    assert main(["decompress", str(blob), "-o", str(tmp_path / "a.png"), "--model", str(folder)]) == 0
    assert main(["import", str(CHECKPOINT), "-o", str(folder)]) == 2  # there already
    assert "name another folder" in capsys.readouterr().err


def test_other_files_than_checkpoints_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "x.pth"
    other.write_bytes(b"not a checkpoint")
    assert main(["import", str(other), "-o", str(tmp_path / "out")]) in (3, 6)
    assert "x.pth" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
