"""Memory of haze and dehaze: 8-bit images are converted to floats in bands or tiles, however tall they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from latens.systems.haze import translation
from latens.systems.haze.predict import Haze, load
from latens.systems.haze.rules import ROWS

WIDTH = 256
BANDS = 16


@pytest.fixture(scope="module")
def haze() -> Haze:
    return load(device="cpu", threads=1)


def tall(rows: int) -> np.ndarray:
    waves = np.sin(np.mgrid[:rows, :WIDTH].sum(0)[..., None] / np.array([17.0, 23.0, 31.0]))
    pixels: np.ndarray = (128 + 90 * waves).astype(np.uint8)
    return pixels


def test_haze_makes_no_floats_of_the_colors(haze: Haze, largest_tensor: Any) -> None:
    image = tall(BANDS * ROWS)
    depth = np.full(image.shape[:2], 50, np.float32)
    with largest_tensor() as made:
        haze.haze(image, depth=depth)
    assert made.bytes <= depth.nbytes


def test_dehaze_makes_no_floats_of_the_image(haze: Haze, largest_tensor: Any) -> None:
    image = tall(BANDS * ROWS)
    with largest_tensor() as made:
        haze.dehaze(image, method="dcp")
    assert made.bytes <= image.nbytes


def test_translators_convert_tiles(haze: Haze, largest_tensor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translation, "TILE", 64)
    monkeypatch.setattr(translation, "WHOLE_PIXELS", 4000)
    peaks = []
    for rows in (512, 1024):
        with largest_tensor() as made:
            haze.haze(tall(rows)[:, :64], method="mmd")
        peaks.append(made.bytes)
    assert peaks[1] <= peaks[0]
