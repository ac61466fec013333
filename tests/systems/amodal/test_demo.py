"""Demo section of the amodal segmenter: files, images and numbers."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latens.data.annotations import read_annotations
from latens.data.image_output import changed_pixels
from latens.data.instances import Layers, Sample, paint, placed_of
from latens.inference.page import Columns, Figure, Overlays, Table
from latens.systems.amodal import demo
from latens.systems.amodal.dataset import Simulated
from latens.systems.amodal.draw import TINT, color, hidden_parts
from latens.systems.amodal.predict import AmodalSegmenter, Segmentation


def pixels(figure: Figure) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(figure.image)))


def test_images_files_and_tables(segmenter: AmodalSegmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SIZE", 64)
    section = demo.section(segmenter, tmp_path / "amodal")
    nuclei, embryos = (block for block in section.blocks if isinstance(block, Columns))
    tables = section.parts[0].blocks
    assert len(nuclei.blocks) == len(demo.NUCLEI)
    for number, shown, table in zip(demo.NUMBERS, embryos.blocks, tables, strict=True):
        sample = Simulated("embryo").held_out("test", number + 1, 64)[number]
        assert isinstance(shown, Overlays)
        assert isinstance(table, Table)
        assert np.array_equal(pixels(shown.base), sample.image)
        layers = {layer.figure.title: pixels(layer.figure) for layer in shown.layers}
        assert list(layers) == ["found", "hidden parts", "truth"]
        assert layers["truth"][..., 3].any()
        scene = read_annotations(tmp_path / "amodal" / f"embryo-{number}.json").scenes[0]
        assert len(scene.instances) == len(table.rows) == len(segmenter.segment(sample.image))


@pytest.mark.parametrize(("name", "count"), [("fluorescent", 46), ("stained", 33)])
def test_the_bundled_nuclei_have_their_labels(name: str, count: int) -> None:
    sample = demo.nuclei_sample(name)
    assert len(sample.layers.layer) == count
    assert sample.layers.amodal.shape[1:] == sample.image.shape[:2]
    assert not sample.layers.occlusion.any()
    inside = sample.image[sample.layers.amodal.any(0)].mean()
    assert (inside > sample.image.mean()) == (name == "fluorescent")


def sample() -> Sample:
    masks = np.zeros((3, 20, 30), dtype=bool)
    masks[0, :10, :10] = masks[1, :10, 5:15] = masks[2, 12:, :10] = True
    return Sample(np.full((20, 30, 3), 100, dtype=np.uint8), paint(masks, np.array([0, 1, 2])))


def found(layers: Layers, scores: list[float]) -> Segmentation:
    return Segmentation(size=(20, 30), placed=placed_of(layers), scores=np.array(scores), classes=("cell",))


def test_table_compares_detections_with_the_truth() -> None:
    truth = sample()
    amodal = truth.layers.amodal[[1, 0]].copy()
    amodal[1, :, 9] = False  # one column too small
    layers = Layers(amodal, amodal.copy(), np.array([0, 1]), np.zeros(2, dtype=np.int64))
    alone = demo.measurements(found(layers, [0.9, 0.75]), truth)
    assert alone.rows[0] == ["1", "0.90", "0", "100", "11.3", "0", "100", "50", "1.000"]
    assert alone.rows[1][3:] == ["90", "10.7", "0", "100", "0", "0.900"]
    assert alone.caption.endswith("Missed cells: 1.")
    nothing = found(paint(np.ones((1, 20, 30), dtype=bool), np.zeros(1)), [1.0])
    assert demo.measurements(nothing, truth).rows[0][-3:] == ["-", "-", "-"]


def test_only_hidden_parts_are_colored() -> None:
    layers = sample().layers
    drawn = hidden_parts(layers)
    assert np.array_equal(drawn[..., 3] > 0, layers.occlusion)
    assert drawn[5, 7].tolist() == [*color(1), TINT]


def test_a_layer_holds_the_changed_pixels() -> None:
    before = np.full((4, 5, 3), 100, dtype=np.uint8)
    after = before.copy()
    after[1, 2] = (100, 100, 7)
    layer = changed_pixels(before, after)
    assert layer[1, 2].tolist() == [100, 100, 7, 255]
    assert (layer[..., 3] > 0).sum() == 1
