"""Identical inputs are counted once in every evaluation."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latens.cli.main import main
from latens.data.duplicates import Distinct, digest_of, digest_of_files
from latens.data.labeled import open_labeled
from latens.data.source import Source


def test_the_first_of_equal_inputs_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    seen = Distinct()
    assert [seen.is_new(digest, name) for digest, name in (("1", "a"), ("2", "b"), ("1", "c"), ("1", "d"))] == [
        True, True, False, False,
    ]  # fmt: skip
    assert seen.lines == ["c: the same as a, counted once", "d: the same as a, counted once"]
    assert len(caplog.messages) == 2


def test_shapes_and_types_are_part_of_the_contents(tmp_path: Path) -> None:
    zeros = np.zeros(8, np.uint8)
    assert len({digest_of(zeros), digest_of(zeros.reshape(2, 4)), digest_of(zeros.view(np.int8)), digest_of(zeros, zeros)}) == 4
    assert digest_of_files(tmp_path / "a", tmp_path / "b") != digest_of_files(tmp_path / "a", tmp_path / "c")  # missing


@pytest.fixture
def doubled(tmp_path: Path) -> Path:
    """Three images, the last two equal."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    shutil.copy(tmp_path / "b.png", tmp_path / "copy.png")
    return tmp_path


def test_sets_of_images_without_duplicates(doubled: Path) -> None:
    found = open_labeled(Source("", str(doubled)), "test").distinct()
    assert sorted(found.keys) == ["a.png", "b.png"]
    assert found.read(1).shape == (48, 48, 3)
    assert found.distinct() is found


def test_evaluate_counts_a_copy_once_and_reports_it(doubled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = doubled.parent / f"{doubled.name}-out"
    words = [
        "evaluate",
        "image_codec",
        "--data",
        str(doubled),
        "-o",
        str(out),
        "--set",
        "qualities=1",
        "--set",
        "baselines=JPEG",
    ]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert "copy.png: the same as b.png, counted once" in shown.err
    assert "2 images" in shown.out
    assert "counted once" in (out / "evaluation.html").read_text()
