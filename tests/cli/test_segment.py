"""`latens segment` from the command line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latens.cli.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from latens.hub import save_model
    from latens.systems.amodal.pipeline import AmodalRCNN
    from latens.systems.amodal.recipes import tiny

    torch.manual_seed(0)
    model = AmodalRCNN(dataclasses.replace(tiny().model, classes=("cell",)))
    target = tmp_path_factory.mktemp("model") / "tiny"
    save_model(target, {"system": "amodal", "model": dataclasses.asdict(model.config)}, model.state_dict())
    return target


def test_images_stacks_and_bad_files(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    pages = [Image.fromarray(rng.integers(0, 256, (40, 50), dtype=np.uint8)) for _ in range(3)]
    (tmp_path / "in").mkdir()
    pages[0].save(tmp_path / "in" / "a.png")
    pages[0].save(tmp_path / "in" / "s.tif", save_all=True, append_images=pages[1:])
    (tmp_path / "in" / "bad.png").write_text("no image")
    words = ["segment", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", str(folder), "--format", "json"]
    assert main(words) == 3
    lines = {Path(json.loads(line)["input"]).name: json.loads(line) for line in capsys.readouterr().out.splitlines()}
    assert lines["a.png"]["frames"] == 1
    assert lines["s.tif"]["frames"] == 3
    assert lines["bad.png"]["status"] == "failed"
    assert (tmp_path / "out" / "s.cells.csv").is_file()
    assert len(json.loads((tmp_path / "out" / "s.json").read_text())["images"]) == 3
    assert main(words) == 3
    again = [json.loads(line)["status"] for line in capsys.readouterr().out.splitlines()]
    assert sorted(again) == ["failed", "skipped", "skipped"]


def test_hand_drawn_annotations_are_named_before_they_are_lost(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loop of labelme, and a result without cells next to masks of another program."""
    Image.fromarray(np.zeros((40, 50, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    own = {"a.json": '{"version": "5.0.1", "shapes": []}', "a.masks.tif": "masks", "a.cells.csv": "cells"}
    for name, text in own.items():
        (tmp_path / name).write_text(text)
    words = ["segment", str(tmp_path), "--model", str(folder)]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert all(name in said for name in own)
    assert {name: (tmp_path / name).read_text() for name in own} == own
    assert main([*words, "--force"]) == 0
    said = capsys.readouterr().err
    assert "replaced by --force" in said
    assert all(name in said for name in own)
    assert not (tmp_path / "a.masks.tif").exists()  # the new result has no cells
    assert main(words) == 0
    assert "skipped, finished" in capsys.readouterr().err


def test_places_that_cannot_hold_the_result_are_refused(folder: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    assert main(["segment", str(tmp_path / "a.png"), "-o", str(tmp_path / "a.txt"), "--model", str(folder)]) == 2
    assert main(["segment", str(tmp_path / "a.png"), "-o", "-", "--model", str(folder)]) == 2
    assert main(["segment", str(tmp_path / "none.png"), "--model", str(folder)]) == 3
    assert main(["segment", str(tmp_path / "a.png"), "--model", str(tmp_path)]) == 6
