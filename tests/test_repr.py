"""Objects that a user holds print as one short line with their name and sizes, not as arrays and bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import latens
from latens.data.instances import Layers, placed_of
from latens.experiments.report import Report
from latens.inference.page import Figure


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("image_codec", "quality 1 to 8"),
        ("amodal", "classes cell"),
        ("haze", "method physical"),
        ("haze_mmd", "method mmd"),
        ("parts", "patchvae, resolution 64"),
        ("video_codec", "quality 1 to 8"),
        ("flow_moons", "vector"),
        ("seedlings", "classes failure, success"),
    ],
)
def test_loaded_models(name: str, end: str) -> None:
    loaded = latens.load(name, device="cpu")
    weights = f"weights {loaded.model_id[:12]}, " if loaded.model_id else ""
    assert repr(loaded) == f"{type(loaded).__name__}({loaded.name}, {weights}cpu, {end})"


def test_packer() -> None:
    from latens.systems.flow.pack.packer import load

    packer = load("flow_pack")
    assert repr(packer) == f"Packer(flow_pack, weights {packer.model_id[:12]}, cpu, integers)"


def test_results() -> None:
    from latens.systems.amodal.predict import Segmentation
    from latens.systems.image_codec.results import Encoded
    from latens.systems.parts.predict import PartCode

    masks = np.zeros((3, 300, 400), bool)
    layers = Layers(masks, masks, np.arange(3), np.zeros(3, int))
    code = PartCode(np.full((32, 8, 12), 0.9), np.zeros((32, 4)), (300, 400))
    figure = Figure(b"x" * 12_345, "Curves")
    report = Report(name="table1", title="Table 1", about="", blocks=[figure], rows=[{"a": 1}] * 500)
    assert repr(layers) == "Layers(3 objects, 400 x 300)"
    assert (
        repr(Segmentation(size=(300, 400), placed=placed_of(layers), scores=np.ones(3), classes=("cell",)))
        == "Segmentation(3 objects, 400 x 300)"
    )
    assert repr(Encoded(b"x" * 30_000, 400, 300, 4.0, 240_000, ())) == "Encoded(30,000 bytes, 400 x 300, quality 4, 2.000 bpp)"
    assert repr(code) == "PartCode(32 of 32 parts present, 12 x 8 cells, image 400 x 300)"
    assert repr(figure) == "Figure(Curves, 12,345 bytes)"
    assert repr(report) == "Report(table1: Table 1, 500 rows, 0 failures)"


def test_a_graded_tray() -> None:
    from latens.systems.seedlings.names import Shot
    from latens.systems.seedlings.predict import GradedTray

    values: dict[str, Any] = dict.fromkeys(GradedTray._fields)
    tray = GradedTray(**values | {"shot": Shot("A", 6), "seen": np.array([True] * 4 + [False] * 2)})
    assert repr(tray) == "GradedTray(A, day 6, 4 of 6 plants seen)"


def test_encode_returns_a_record_and_compress_its_bytes() -> None:
    codec = latens.load("image_codec", device="cpu")
    image = (np.add.outer(np.arange(48), np.arange(64))[..., None] * np.array([1, 2, 3]) % 256).astype(np.uint8)
    made = codec.encode(image, quality=2.5)
    assert codec.compress(image, quality=2.5) == made.data
    assert (made.width, made.height, made.quality, made.bits, made.notes) == (64, 48, 2.5, 8 * len(made.data), ())
    assert codec.decompress(made.data).size == (64, 48)
    deep = codec.encode(image.astype(np.uint16) * 257, quality=1)
    assert any("16" in note for note in deep.notes)
