"""The parts section of the demo: its files and numbers, and that it appears once weights are in the catalogue."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latens.data.samples import Photograph
from latens.experiments.demo import write_demo
from latens.inference.page import Figure, Links, Table
from latens.systems.parts import demo
from latens.systems.parts.gallery import PRESENT, peaks
from latens.systems.parts.predict import Parts


@pytest.fixture
def photos(tmp_path: Path) -> list[Photograph]:
    rng = np.random.default_rng(0)
    found = []
    for name in ("plain", "other"):
        path = tmp_path / f"{name}.png"
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(path)
        found.append(Photograph(name, name.title(), "made here", path))
    return found


def test_maps_patches_and_links(parts: Parts, photos: list[Photograph], tmp_path: Path) -> None:
    section = demo.section(parts, tmp_path / "parts", photos=photos)
    assert [part.heading for part in section.parts] == ["Plain (made here)", "Other (made here)"]
    for photo, part in zip(photos, section.parts, strict=True):
        maps, patches, table, links = part.blocks
        assert isinstance(maps, Figure)
        assert isinstance(patches, Figure)
        assert isinstance(table, Table)
        assert isinstance(links, Links)
        assert [(tmp_path / link).is_file() for link in links.links] == [True, True]
        (code,) = parts.at(32).encode(photo.path)
        assert "map of 4 × 5 cells" in maps.caption
        counts = [int(row[1]) for row in table.rows]
        assert counts == sorted(counts, reverse=True)
        assert counts == [int((code.occurrence[int(row[0])] > PRESENT).sum()) for row in table.rows]


def test_places_of_a_part_do_not_touch() -> None:
    sure = np.full((5, 6), 0.1)
    sure[0, 0], sure[0, 1], sure[0, 2], sure[4, 5] = 0.9, 0.8, 0.7, 0.95
    assert peaks(sure, 9) == [((4, 5), 0.95), ((0, 0), 0.9), ((0, 2), 0.7)]
    assert peaks(sure, 2) == [((4, 5), 0.95), ((0, 0), 0.9)]
    assert peaks(np.full((2, 2), PRESENT), 9) == []


def test_a_gallery_of_one_picture_agrees_with_its_map(parts: Parts, photos: list[Photograph]) -> None:
    (code,) = parts.encode(photos[0].path)
    galleries = parts.places(photos[0].path, most=3)
    assert sorted(gallery.part for gallery in galleries) == sorted(code.present())
    for gallery in galleries:
        scores = [patch.score for patch in gallery.patches]
        assert scores[0] == code.occurrence[gallery.part].max()
        assert scores == sorted(scores, reverse=True)
        assert all(code.occurrence[gallery.part][patch.cell] == patch.score for patch in gallery.patches)


def test_the_section_is_on_the_page(parts: Parts, photos: list[Photograph], tmp_path: Path) -> None:
    report = write_demo(tmp_path, [("parts", lambda folder: demo.section(parts, folder, photos=photos))])
    assert set(report.seconds) == {"parts"}
    assert "Parts that repeat, found without labels" in report.page.read_text(encoding="utf-8")
