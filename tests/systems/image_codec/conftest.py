"""A stand-in codec that encodes with WebP: it is fast, and the results of its evaluation are known."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latens.systems.image_codec.baselines import Encoder, available


class WebPInDisguise:
    """Quality 1, 2, 3, ... are the qualities of the WebP baseline; the estimated size is `excess` bytes too low."""

    name = "disguise"
    model_id = "0123456789abcdef"

    def __init__(self) -> None:
        self.encoder: Encoder = available(("WebP",))[0]
        self.best_quality = float(len(self.encoder.qualities))
        self.excess = 0.0
        self.calls = 0

    def compress(self, image: Any, *, quality: float | None = None) -> bytes:
        from latens.data.images import read_image

        self.calls += 1
        return self.encoder.encode(read_image(image), self.encoder.qualities[int(quality or 1) - 1])

    def decompress(self, blob: bytes) -> Image.Image:
        return Image.open(io.BytesIO(blob)).convert("RGB")

    def code_length(self, image: Any, *, quality: float) -> float:
        size = len(self.compress(image, quality=quality))
        self.calls -= 1
        return 8 * (size - self.excess)


@pytest.fixture
def disguise() -> WebPInDisguise:
    return WebPInDisguise()


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Two small noisy images, one of them gray."""
    folder = tmp_path / "album"
    folder.mkdir()
    rng = np.random.default_rng(1)
    rows, columns = np.mgrid[0:48, 0:64]
    waves = np.stack([np.sin((rows * a + columns * b) / 9) for a, b in ((1, 0.2), (0.4, 1), (-0.6, 0.8))], axis=-1)
    pixels = np.clip(120 + 80 * waves + rng.normal(0, 8, waves.shape), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "waves.png")
    Image.fromarray(pixels[:40, :50, 0]).save(folder / "gray.png")
    return folder
