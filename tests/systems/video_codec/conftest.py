from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latens.systems.video_codec.config import (
    ChunkConfig,
    CodecSize,
    Implicit,
    LatentScaling,
    Method,
    Obic,
    Plain,
    RoiLoss,
    ScaleSpaceFlowConfig,
)

GAIN = CodecSize(hidden=8, latent=8, hyper=8)
METHODS: tuple[Method, ...] = (Plain(), RoiLoss(), Obic(), Implicit(), LatentScaling(gain=GAIN, amplified_share=1.0))


def small_flow(method: Method, transforms: str = "compact") -> ScaleSpaceFlowConfig:
    size = CodecSize(hidden=12, latent=16, hyper=8)
    base = ScaleSpaceFlowConfig(intra=size, motion=CodecSize(hidden=8, latent=8, hyper=8), residual=size, lambdas=(0.005, 0.02))
    if transforms == "paper":
        base = replace(base, transforms="paper", search=0, levels=5)
    return replace(base, method=method)


def small_chunk() -> ChunkConfig:
    return ChunkConfig(latent=24, hyper=16, trunk=24, blocks=1, head=12, fine=8, lambdas=(0.005, 0.02), region_share=1.0)


@pytest.fixture
def clips(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder of clips: a bright disk that moves over a pattern, and its masks."""

    def write(names: tuple[str, ...] = ("one", "two"), frames: int = 6, height: int = 72, width: int = 96) -> Path:
        rng = np.random.default_rng(0)
        rows, columns = np.mgrid[:height, :width]
        for name in names:
            for folder in ("frames", "masks"):
                (tmp_path / "clips" / name / folder).mkdir(parents=True)
            pattern = 90 + 50 * np.sin(rows[..., None] / rng.uniform(3, 9, 3) + columns[..., None] / rng.uniform(3, 9, 3))
            for index in range(frames):
                disk = (rows - height // 2) ** 2 + (columns - 30 - 3 * index) ** 2 < 15**2
                frame = np.where(disk[..., None], (230, 200, 120), np.roll(pattern, index, axis=1)).astype(np.uint8)
                Image.fromarray(frame).save(tmp_path / "clips" / name / "frames" / f"{index:05d}.png")
                Image.fromarray(255 * disk.astype(np.uint8)).save(tmp_path / "clips" / name / "masks" / f"{index:05d}.png")
        return tmp_path / "clips"

    return write
