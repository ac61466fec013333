"""Figures: selection of images, unreadable images, output."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latens.data.source import Source
from latens.errors import InputError, UnreadableInput
from latens.experiments.lab import ExperimentRunner
from latens.experiments.report import Report
from latens.inference.page import Figure
from latens.systems.parts.figures import FIGURES, FigureScale, read_album
from latens.systems.parts.predict import Parts
from latens.systems.parts.system import build


def album_of(path: Path, most: int) -> tuple[list[np.ndarray], list[str], list[str]]:
    return tuple(read_album(Source("", str(path)), most))  # type: ignore[return-value]


def figure(name: str, parts: Parts, data: Path, folder: Path) -> Report:
    """A figure of `parts` in a `ExperimentRunner` without training."""
    lab = ExperimentRunner[Parts, FigureScale](
        build=build,
        open_model=lambda place: parts,
        sources=[Source("", str(data))],
        scale=FIGURES[name].scales["tiny"],
        recipe="tiny",
        folder=folder,
        device="cpu",
    )
    return FIGURES[name].make(lab)


def test_images_of_a_folder_of_classes_have_class_names(labeled: Path) -> None:
    images, names, _ = album_of(labeled, 8)
    assert len(images) == len(names) == 8
    assert set(names) == {"a", "b"}
    assert len(album_of(labeled, 500)[0]) == 24  # without a test split, all images are available


def test_images_are_from_the_test_split(labeled: Path, tmp_path: Path) -> None:
    shutil.copytree(labeled, tmp_path / "train")
    shutil.copytree(labeled, tmp_path / "test", ignore=shutil.ignore_patterns("1*.png"))
    assert len(album_of(tmp_path, 500)[0]) == 13


def test_images_of_a_plain_folder_keep_their_order_and_names(labeled: Path, tmp_path: Path) -> None:
    for name in ("10", "9", "deep/11"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(labeled / "a" / "0.png", tmp_path / f"{name}.png")
    assert album_of(tmp_path, 2)[1] == ["9", "10"]
    assert album_of(tmp_path, 500)[1] == ["9", "10", "11"]
    assert album_of(tmp_path / "deep", 500)[1] == ["11"]
    (tmp_path / "none").mkdir()
    with pytest.raises(UnreadableInput, match="none"):
        album_of(tmp_path / "none", 500)


def test_images_without_a_label_have_their_key_as_name(labeled: Path, tmp_path: Path) -> None:
    coded = np.frombuffer((labeled / "a" / "0.png").read_bytes(), np.uint8)
    offsets = np.array([0, len(coded), 2 * len(coded)])
    np.savez(tmp_path / "x.npz", jpeg=np.r_[coded, coded], offsets=offsets, labels=np.array([0, -1]), classes=["ash", "elm"])
    assert album_of(tmp_path / "x.npz", 500)[1] == ["ash", "x-1"]


def test_figures_skip_unreadable_images(parts: Parts, labeled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    album = tmp_path / "album"
    album.mkdir()
    for name in ("1", "3"):
        Image.open(labeled / "b" / f"{name}.png").save(album / f"{name}.png")
    (album / "2.png").write_text("no image")
    found = figure("figure1", parts, album, tmp_path / "out")
    assert found.facts["images"] == ["1", "3"]
    assert len(found.failures) == caplog.text.count("left out") == 1
    assert "2.png" in found.failures[0]
    for name in ("1", "3"):
        (album / f"{name}.png").unlink()
    with pytest.raises(UnreadableInput, match=r"2\.png"):
        figure("figure1", parts, album, tmp_path / "out")


def test_a_swap_needs_two_images(parts: Parts, labeled: Path, tmp_path: Path) -> None:
    (tmp_path / "album").mkdir()
    Image.open(labeled / "a" / "0.png").save(tmp_path / "album" / "0.png")
    with pytest.raises(InputError, match="two images"):
        figure("figure5", parts, tmp_path / "album", tmp_path)


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_made(name: str, parts: Parts, labeled: Path, tmp_path: Path) -> None:
    found = figure(name, parts, labeled, tmp_path)
    assert any(isinstance(block, Figure) and block.image for block in found.blocks)
