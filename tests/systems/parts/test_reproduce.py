"""Which pictures the figures are made of, and what they are called."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from latens.data.source import Source
from latens.errors import UnreadableInput
from latens.systems.parts.artifacts import read_all


def test_pictures_of_a_folder_of_classes_are_mixed_and_named(labelled: Path) -> None:
    pictures, names = read_all(Source("", str(labelled)), 8)
    assert len(pictures) == len(names) == 8
    assert set(names) == {"a", "b"}
    assert len(read_all(Source("", str(labelled)), 500)[0]) == 24  # without a test split all may be shown


def test_pictures_are_those_of_the_test_split(labelled: Path, tmp_path: Path) -> None:
    shutil.copytree(labelled, tmp_path / "train")
    shutil.copytree(labelled, tmp_path / "test", ignore=shutil.ignore_patterns("1*.png"))
    assert len(read_all(Source("", str(tmp_path)), 500)[0]) == 13


def test_pictures_of_a_plain_folder_keep_their_order_and_names(labelled: Path, tmp_path: Path) -> None:
    for name in ("10", "9", "deep/11"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(labelled / "a" / "0.png", tmp_path / f"{name}.png")
    assert read_all(Source("", str(tmp_path)), 2)[1] == ["9", "10"]
    assert read_all(Source("", str(tmp_path)), 500)[1] == ["9", "10", "11"]
    assert read_all(Source("", str(tmp_path / "deep")), 500)[1] == ["11"]
    (tmp_path / "none").mkdir()
    with pytest.raises(UnreadableInput, match="none"):
        read_all(Source("", str(tmp_path / "none")), 500)


def test_pictures_without_a_label_are_called_by_their_key(labelled: Path, tmp_path: Path) -> None:
    coded = np.frombuffer((labelled / "a" / "0.png").read_bytes(), np.uint8)
    offsets = np.array([0, len(coded), 2 * len(coded)])
    np.savez(tmp_path / "x.npz", jpeg=np.r_[coded, coded], offsets=offsets, labels=np.array([0, -1]), classes=["ash", "elm"])
    assert read_all(Source("", str(tmp_path / "x.npz")), 500)[1] == ["ash", "x-1"]
