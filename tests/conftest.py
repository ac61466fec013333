"""A small codec with seeded weights, and synthetic images."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from latens.hub import save_model
from latens.systems.image_codec.config import HyperpriorConfig
from latens.systems.image_codec.model import MeanScaleHyperprior
from latens.systems.image_codec.objective import export_codec
from latens.systems.image_codec.predict import ImageCodec, load
from latens.systems.image_codec.recipes import tiny

# Under nohup and in the background of a script these signals are ignored, also by the processes that tests start.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)


def image(height: int, width: int) -> np.ndarray:
    """A colorful image (H, W, 3) uint8 with smooth and sharp parts."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    waves = [np.sin((rows * a + columns * b) / 17) for a, b in ((1.0, 0.3), (0.2, -1.0), (-0.5, 0.7))]
    edges = ((rows // 23 + columns // 31) % 2)[..., None] * 40
    pixels: np.ndarray = np.clip(np.stack(waves, axis=-1) * 80 + 110 + edges, 0, 255).astype(np.uint8)
    return pixels


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    """(1, 3, H, W) float in [0, 1]."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


class LargestTensor(TorchDispatchMode):
    """Context that records the bytes of the largest tensor that torch makes, on any device, without views."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {part.untyped_storage().data_ptr() for part in tree_leaves((args, kwargs)) if isinstance(part, torch.Tensor)}
        for made in tree_leaves(result):
            if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() not in given:
                self.bytes = max(self.bytes, made.untyped_storage().nbytes())
        return result


@pytest.fixture
def largest_tensor() -> type[LargestTensor]:
    return LargestTensor


@pytest.fixture(scope="session")
def codec_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of the tiny recipe with seeded, untrained weights: it starts as a block transform codec."""
    torch.manual_seed(0)
    config = tiny().model
    assert isinstance(config, HyperpriorConfig)
    model = MeanScaleHyperprior(config).eval()
    export = export_codec(model, [as_tensor(image(128, 192))])
    folder = tmp_path_factory.mktemp("model") / "tiny"
    described = {"system": "image_codec", "model": dataclasses.asdict(config), **export.config}
    save_model(folder, described, export.weights, export.coding)
    return folder


@pytest.fixture(scope="session")
def codec(codec_folder: Path) -> ImageCodec:
    return load(codec_folder, device="cpu")


@pytest.fixture(scope="session")
def bundled() -> ImageCodec:
    """The codec with the weights that ship with the package."""
    return load("image_codec", device="cpu")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Length of the campaigns of tests/campaigns: `make kill SECONDS=60` and alike run them for longer. Documents to run."""
    parser.addoption("--all-documents", action="store_true", help="run the commands of all pages: make docs-test")
    campaigns = parser.getgroup("campaigns")
    campaigns.addoption("--campaign-seconds", type=float, default=0.0, help="seconds for every verb, at least one run")
    campaigns.addoption("--campaign-seed", default="0", help="chooses and orders the faults and the fuzzed files")


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Names that are not UTF-8 stand in log records as they are, and the workers of xdist send UTF-8 only."""
    return _in_utf8((yield))


def _in_utf8(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {key: _in_utf8(item) for key, item in value.items()}
    return type(value)(_in_utf8(item) for item in value) if isinstance(value, list | tuple) else value
