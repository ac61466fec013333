"""Small codecs of every kind of model, and a stand-in that encodes with WebP.

The stand-in is fast, and the results of its evaluation are known.
"""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from latens.catalogue import recipe_of
from latens.data.tensors import to_tensor
from latens.hub import save_model
from latens.systems.image_codec.baselines import Encoder, available
from latens.systems.image_codec.config import ContextHyperpriorConfig
from latens.systems.image_codec.context_model import ContextNetwork
from latens.systems.image_codec.networks import build_network
from latens.systems.image_codec.objective import RateDistortion
from latens.systems.image_codec.predict import ImageCodec, load


@pytest.fixture(scope="session", params=["hyperprior", "context", "context_hyperprior"])
def codec_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of every kind of network with seeded, untrained weights, and with random filters of the context."""
    plain, context = (recipe_of("image_codec", name) for name in ("tiny", "context_tiny"))
    configs = {
        "hyperprior": plain.model,
        "context": context.model,
        "context_hyperprior": ContextHyperpriorConfig(base=plain.model, features=6, strong=7, slice_width=5),
    }
    config = configs[request.param]
    torch.manual_seed(0)
    model = build_network(config).eval()
    if isinstance(model, ContextNetwork):
        for parameter in model.context.parameters():
            nn.init.normal_(parameter, std=0.05)
    waves = np.stack([np.sin(np.mgrid[0:128, 0:192].sum(axis=0) / step) for step in (5, 11, 23)], axis=-1)
    batches = [{"image": to_tensor((110 + 90 * waves).astype(np.uint8))}]
    export = RateDistortion(context.objective, config.lambdas).export(model, batches)
    folder = tmp_path_factory.mktemp("model") / str(request.param)
    described = {"system": "image_codec", "model": dataclasses.asdict(config), **export.config}
    save_model(folder, described, export.weights, export.coding)
    return folder


@pytest.fixture(scope="session")
def codec(codec_folder: Path) -> ImageCodec:
    """The codec in the folder above. pytest would reuse the `codec` of tests/conftest.py, which is from another folder."""
    return load(codec_folder, device="cpu")


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
