"""Demo section of the amodal segmenter: files, images and numbers."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latens.data.annotations import read_annotations
from latens.data.instances import Layers, Sample, paint
from latens.inference.page import Gallery, Links, Table
from latens.systems.amodal import demo
from latens.systems.amodal.dataset import Simulated
from latens.systems.amodal.draw import DIM, hidden_parts
from latens.systems.amodal.predict import AmodalSegmenter, Segmentation


def test_images_files_and_links(segmenter: AmodalSegmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SIZE", 64)
    section = demo.section(segmenter, tmp_path / "amodal")
    assert len(section.parts) == len(demo.NUMBERS)
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


def test_table_compares_detections_with_the_truth() -> None:
    truth = sample()
    amodal = truth.layers.amodal[[1, 0]].copy()
    amodal[1, :, 9] = False  # one column too small
    layers = Layers(amodal, amodal.copy(), np.array([0, 1]), np.zeros(2, dtype=np.int64))
    alone = demo.cells(Segmentation(layers=layers, scores=np.array([0.9, 0.75]), classes=("cell",)), truth)
    assert alone.rows[0] == ["1", "0.90", "0", "100", "11.3", "0", "100", "50", "1.000"]
    assert alone.rows[1][3:] == ["90", "10.7", "0", "100", "0", "0.900"]
    assert alone.caption.endswith("Missed cells: 1.")
    nothing = Segmentation(layers=paint(np.ones((1, 20, 30), dtype=bool), np.zeros(1)), scores=np.ones(1), classes=("cell",))
    assert demo.cells(nothing, truth).rows[0][-3:] == ["-", "-", "-"]


def test_only_hidden_parts_are_colored() -> None:
    truth = sample()
    drawn = hidden_parts(truth.image, truth.layers)
    plain = (drawn == round(100 * DIM)).all(2)
    assert np.array_equal(~plain, truth.layers.occlusion)
