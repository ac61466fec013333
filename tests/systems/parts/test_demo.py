"""The demo section on two photographs: layers, patches and numbers; galleries of one image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latens.data.samples import Photograph
from latens.inference.page import Columns, Gallery, Overlays
from latens.systems.parts.demo import LAYERS, cells_of, show
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


def test_layers_and_patches_are_those_of_the_largest_parts(parts: Parts, photos: list[Photograph], tmp_path: Path) -> None:
    section = show(parts, tmp_path / "parts", photos)
    assert [(part.heading, part.folded) for part in section.parts] == [
        ("Plain (made here)", False),
        ("Other (made here)", True),
    ]
    present = set()
    for photo, part in zip(photos, section.parts, strict=True):
        (columns,) = part.blocks
        assert isinstance(columns, Columns)
        overlays, strips = columns.blocks
        assert isinstance(overlays, Overlays)
        assert isinstance(strips, Gallery)
        (code,) = parts.at(32).encode(photo.path)
        assert "map of 4 × 5 cells" in overlays.base.caption
        names = [layer.figure.title for layer in overlays.layers]
        counts = [cells_of(code)[int(name.removeprefix("part "))] for name in names]
        assert counts == sorted((count for count in cells_of(code) if count), reverse=True)[:LAYERS]
        assert [strip.title.lower() for strip in strips.figures] == names
        assert [int(strip.caption.split()[0]) for strip in strips.figures] == counts
        assert (tmp_path / "parts" / f"{photo.name}_maps.png").is_file()
        assert (tmp_path / "parts" / f"{photo.name}_parts.png").is_file()
        present |= set(code.present())
    assert section.summary is not None
    assert section.summary.number == f"{len(present)} part{'s' if len(present) != 1 else ''}"


def test_occurrences_of_an_image_agree_with_its_map(parts: Parts, photos: list[Photograph]) -> None:
    (code,) = parts.encode(photos[0].path)
    galleries = parts.occurrences(photos[0].path, most=3)
    assert sorted(gallery.part for gallery in galleries) == sorted(code.present())
    for gallery in galleries:
        scores = [patch.score for patch in gallery.patches]
        assert scores[0] == code.occurrence[gallery.part].max()
        assert scores == sorted(scores, reverse=True)
        assert all(code.occurrence[gallery.part][patch.cell] == patch.score for patch in gallery.patches)
