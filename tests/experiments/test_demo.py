"""The frame of `latens demo`, around sections made up here."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from PIL import Image

from latens.data.samples import photographs
from latens.experiments.demo import write_demo
from latens.inference.page import Section


def test_sections_are_made_in_their_folders_and_collected(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def section(folder: Path) -> Section:
        folder.mkdir()
        (folder / "made.txt").write_text("made")
        return Section(f"section of {folder.name}", ["text"])

    with caplog.at_level(logging.INFO, "latens"):
        report = write_demo(tmp_path / "out", [("flowers", section), ("stones", section)])
    assert caplog.messages == ["flowers ...", "stones ..."]
    page = report.page.read_text()
    assert report.page == tmp_path / "out" / "index.html"
    assert "section of flowers" in page
    assert "section of stones" in page
    assert set(report.seconds) == {"flowers", "stones"}
    assert (tmp_path / "out" / "stones" / "made.txt").is_file()


def test_the_photographs_are_there_and_credited() -> None:
    for photo in photographs():
        with Image.open(photo.path) as image:
            assert min(image.size) >= 300
        assert photo.credit
