"""Small flows with a few steps of training, and images by arithmetic."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latens.data.source import Source
from latens.systems.flow.build import build
from latens.systems.flow.config import ImageFlow, IntegerFlow, PointsConfig, VectorFlow
from latens.systems.flow.pack.frozen import FrozenFlow, freeze
from latens.systems.flow.pack.model import IntegerFlowNet
from latens.systems.flow.pack.packer import Packer
from latens.systems.flow.predict import DensityModel, load
from latens.systems.flow.recipes import FlowTraining, tiny, toy
from latens.training.run import train


def image(number: int, size: int = 12) -> np.ndarray:
    """A smooth color image (S, S, 3) uint8."""
    rng = np.random.default_rng(number)
    rows, columns = np.mgrid[0:size, 0:size] / size
    waves = [np.sin(rng.uniform(1, 4) * rows + rng.uniform(1, 4) * columns + rng.uniform(0, 6)) for _ in range(3)]
    pixels: np.ndarray = np.rint(120 + 80 * np.stack(waves, axis=-1)).astype(np.uint8)
    return pixels


def short_toy(steps: int) -> FlowTraining:
    made = toy()
    run = replace(made.run, steps=steps, validate_every=steps, checkpoint_every=steps)
    optim = replace(made.optim, warmup=10, ema=0.9, lr=1e-2)
    return replace(made, model=VectorFlow(blocks=3), run=run, optim=optim, data=PointsConfig(batch=200, validation_limit=2000))


@pytest.fixture(scope="session")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("album")
    for number in range(40):
        (folder / str(number % 2)).mkdir(exist_ok=True)
        Image.fromarray(image(number)).save(folder / str(number % 2) / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def image_model(album: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hybrid model of 8 x 8 images."""
    config = tiny()
    assert isinstance(config.model, ImageFlow)
    config = replace(config, model=replace(config.model, classes=2, head_width=8))
    folder = tmp_path_factory.mktemp("image-run")
    train(build, config, [Source("", str(album))], folder, device="cpu")
    return folder / "best"


@pytest.fixture(scope="session")
def table_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the two moons."""
    folder = tmp_path_factory.mktemp("table-run")
    train(build, short_toy(60), [Source("", "moons")], folder, device="cpu")
    return folder / "best"


@pytest.fixture(scope="session")
def images(image_model: Path) -> DensityModel:
    return load(image_model, device="cpu")


@pytest.fixture(scope="session")
def table(table_model: Path) -> DensityModel:
    return load(table_model, device="cpu")


def smooth(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Random images of low frequencies."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (count, 3, 4, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((width, height), Image.Resampling.BICUBIC)) for one in small])


@pytest.fixture(scope="session")
def net() -> IntegerFlowNet:
    torch.manual_seed(0)
    return IntegerFlowNet(IntegerFlow(levels=2, width=8, depth=1))


@pytest.fixture(scope="session")
def flow(net: IntegerFlowNet) -> FrozenFlow:
    return freeze(net, torch.from_numpy(smooth(8, 32, 32).transpose(0, 3, 1, 2).copy()))


@pytest.fixture(scope="session")
def packer(flow: FrozenFlow) -> Packer:
    return Packer(flow, name="test", sha256="0123456789abcdef")


def png(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()
