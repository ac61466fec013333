"""The segmenter's section of the demo: its files, its numbers, and that it appears once weights are in the catalogue."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from latens.inference.demo import write_demo
from PIL import Image

from latens import catalogue
from latens.data.annotations import read_annotations
from latens.data.instances import Layers, paint
from latens.hub import load_model
from latens.inference.page import Gallery, Links, Table
from latens.systems.amodal import demo
from latens.systems.amodal.draw import DIM, hidden_parts
from latens.systems.amodal.predict import AmodalSegmenter, Segmentation
from latens.data.instances import Sample
from latens.systems.amodal.sources import Simulated


def test_pictures_files_and_links(segmenter: AmodalSegmenter, tmp_path: Path) -> None:
    said: list[str] = []
    section = demo.show(segmenter, tmp_path / "amodal", size=64, progress=said.append)
    assert len(section.parts) == len(said) == len(demo.NUMBERS)
    for number, part in zip(demo.NUMBERS, section.parts, strict=True):
        sample = Simulated("embryo").held_out("test", number + 1, 64)[number]
        gallery, table, links = part.blocks
        assert isinstance(gallery, Gallery)
        assert isinstance(table, Table)
        assert isinstance(links, Links)
        assert all((tmp_path / link).is_file() for link in links.links)
        shown = [np.asarray(Image.open(io.BytesIO(figure.image))) for figure in gallery.figures]
        assert np.array_equal(shown[0], sample.image)
        assert not np.array_equal(shown[3], sample.image)
        assert part.heading == f"Embryo of {len(sample.layers.layer)} cells"
        scene = read_annotations(tmp_path / "amodal" / f"embryo-{number}.json").scenes[0]
        assert len(scene.instances) == len(table.rows) == len(segmenter.segment(sample.image))


def sample() -> Sample:
    masks = np.zeros((3, 20, 30), dtype=bool)
    masks[0, :10, :10] = masks[1, :10, 5:15] = masks[2, 12:, :10] = True
    return Sample(np.full((20, 30, 3), 100, dtype=np.uint8), paint(masks, np.array([0, 1, 2])))


def test_table_is_what_was_found_beside_the_truth() -> None:
    truth = sample()
    amodal = truth.layers.amodal[[1, 0]].copy()
    amodal[1, :, 9] = False  # a column short
    layers = Layers(amodal, amodal.copy(), np.array([0, 1]), np.zeros(2, dtype=np.int64))
    alone = demo.cells(Segmentation(layers=layers, scores=np.array([0.9, 0.75]), classes=("cell",)), truth)
    assert alone.rows[0] == ["1", "0.90", "0", "100", "11.3", "0", "100", "50", "1.000"]
    assert alone.rows[1][3:] == ["90", "10.7", "0", "100", "0", "0.900"]
    assert alone.caption.endswith("not found: 1.")
    nothing = Segmentation(layers=paint(np.ones((1, 20, 30), dtype=bool), np.zeros(1)), scores=np.ones(1), classes=("cell",))
    assert demo.cells(nothing, truth).rows[0][-3:] == ["-", "-", "-"]


def test_hidden_parts_alone_are_coloured() -> None:
    truth = sample()
    drawn = hidden_parts(truth.image, truth.layers)
    plain = (drawn == round(100 * DIM)).all(2)
    assert np.array_equal(~plain, truth.layers.occlusion)


def test_the_section_appears_with_weights_in_the_catalogue(
    amodal_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = replace(
        catalogue.MODELS["image_codec"], name="amodal", system="amodal", folder=amodal_folder,
        sha256=load_model(amodal_folder).sha256,
    )  # fmt: skip
    for module in ("latens.catalogue", "latens.systems.amodal.predict"):
        monkeypatch.setattr(f"{module}.MODELS", {"amodal": entry})
    report = write_demo(tmp_path, device="cpu")
    assert set(report.seconds) == {"amodal"}
    html = report.page.read_text(encoding="utf-8")
    assert "Whole outlines of overlapping cells" in html
    assert html.count("<img") == 4 * len(demo.NUMBERS)
